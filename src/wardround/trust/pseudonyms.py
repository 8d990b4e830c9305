"""Pseudonyms: HMAC-SHA256 of the patient's identifier, under a key that stays at the edge.

Hospital numbers are few, so an unkeyed hash could be guessed; the key makes a pseudonym meaningless elsewhere.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from pathlib import Path

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
            digest = hmac.new(self._key, b"wardround subject\0" + patient.encode(), hashlib.sha256).digest()
            text = base64.b32encode(digest).decode().lower()[:20]
            found = SubjectId("-".join(text[i : i + 4] for i in range(0, 20, 4)))
            if len(self._known) < 100_000:
                self._known[patient] = found
        return found
