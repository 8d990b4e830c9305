"""Pseudonyms: HMAC-SHA256 of the patient's identifier, under a key that stays at the edge.

Hospital numbers are few, so an unkeyed hash could be guessed; the key makes a pseudonym meaningless elsewhere. For what leaves
the hub for a study a subject has another name, under a key that the edge derives for that study (docs/decisions/0008).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from pathlib import Path

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from wardround.records import SubjectId
from wardround.trust.certificates import write_private


class Pseudonyms:
    """Patient identifiers to subject ids: 100 bits as 20 base32 characters in groups of four, `q7k4-m2xd-...`."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._known: dict[str, SubjectId] = {}

    @classmethod
    def open(cls, path: Path) -> Pseudonyms:
        """Read the key, or make it once (0600)."""
        if not path.exists():
            write_private(path, secrets.token_bytes(32))
        return cls(path.read_bytes())

    def of(self, patient: str) -> SubjectId:
        """The subject id of a patient."""
        found = self._known.get(patient)
        if found is None:
            found = _name(self._key, b"wardround subject\0" + patient.encode())
            if len(self._known) < 100_000:
                self._known[patient] = found
        return found

    def of_study(self, study: str) -> StudyPseudonyms:
        """What subjects are called in a study."""
        return StudyPseudonyms(HKDF(SHA256(), 32, salt=None, info=b"wardround study\0" + study.encode()).derive(self._key))


class StudyPseudonyms:
    """Names of the lake to names of one study. Without the edge's key no name leads to the other, nor to one of another study."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def of(self, subject: str) -> SubjectId:
        """The subject's name in this study."""
        return _name(self._key, b"wardround study subject\0" + subject.encode())

    def secret(self, subject: str) -> bytes:
        """What replaces the names of the subject's devices in this study: 32 bytes, for `hidden`."""
        return hmac.new(self._key, b"wardround study devices\0" + subject.encode(), hashlib.sha256).digest()


def hidden(secret: bytes, text: str) -> str:
    """A name that says nothing of `text`, the same each time under one secret: 60 bits as 12 base32 characters."""
    return base64.b32encode(hmac.new(secret, text.encode(), hashlib.sha256).digest()).decode().lower()[:12]


def _name(key: bytes, data: bytes) -> SubjectId:
    text = base64.b32encode(hmac.new(key, data, hashlib.sha256).digest()).decode().lower()[:20]
    return SubjectId("-".join(text[i : i + 4] for i in range(0, 20, 4)))
