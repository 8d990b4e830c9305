"""The audit log: who saw, exported, changed, deleted or was denied what; a hash chain whose heads others keep.

A line is the SHA-256 of (the line before's hash, this line's JSON), a blank, and the JSON. Every CHECKPOINT_ENTRIES lines
stands a checkpoint: the program's signature over (number, hash), with its certificate. So a line that was changed, taken out, put
in or moved is seen by anybody who has the authority's certificate. That the end was cut off is seen only against a head that
lies elsewhere: edges keep the hub's, and a person may note one.

An entry is on the disk when `add` returns: what is to be recorded is recorded first and done then. Names of patients and clinical
values never stand here; a subject stands as a digest, so that the log need not change when a subject is erased.
Source: Schneier and Kelsey, Secure Audit Logs, ACM TISSEC 2(2), 1999; checkpoints as RFC 9162's signed tree heads.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import struct
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from wardround.clock import Clock
from wardround.errors import CertificateRefused, StorageFull, TrustError
from wardround.trust.erasures import digest_of

CHECKPOINT_ENTRIES = 64
CONTEXT = b"wardround audit head v1\0"
FIRST = bytes(32)
FACTS_BYTES_MAX = 8_192
KINDS = ("view", "export", "change", "delete", "denied", "system")


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line. `what` is a constant, such as "consent changed"; `kind` is one of KINDS."""

    n: int
    t_us: int
    kind: str
    what: str
    who: str
    facts: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Head:
    """The log as it stood after `entries` lines."""

    entries: int
    hash: bytes  # of the last line, 32 bytes
    signature: bytes = b""  # over `signed_part`

    @property
    def signed_part(self) -> bytes:
        """What is signed."""
        return CONTEXT + struct.pack(">Q", self.entries) + self.hash


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a verification found. `wrong` is empty when the log holds."""

    entries: int
    checkpoints: int
    head: bytes
    unsigned: int  # lines after the last checkpoint: the chain alone holds them
    wrong: tuple[str, ...] = ()


class AuditBroken(TrustError):
    """The log on the disk is not the one this program wrote."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(
            f"the audit log {path} does not hold: {why}", remedy="keep the file as evidence; `wardround audit verify`"
        )


def subject_ref(subject: str) -> str:
    """How a subject stands in the log."""
    return "subject:" + digest_of(subject).hex()[:24]


class AuditLog:
    """One home's log. Several processes may write it: the file's lock keeps them in line. Safe to use from several threads."""

    def __init__(self, folder: Path, clock: Clock, sign: Callable[[bytes], bytes], certificate: Callable[[], bytes]) -> None:
        """`sign(data)` and `certificate()` (PEM) are those of the program whose log it is."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = folder / "audit.log"
        self._clock, self._sign, self._certificate = clock, sign, certificate
        self._lock = threading.Lock()
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size = self._entries = 0
        self._hash = FIRST

    def add(self, kind: str, what: str, who: str, **facts: object) -> int:
        """Record, on the disk when this returns; the entry's number.

        Raises:
            StorageFull: the disk refused; nothing was recorded, and what was to be recorded must not be done.
            AuditBroken: somebody else has changed the file.
        """
        if kind not in KINDS:
            raise ValueError(f"{kind!r} is no kind of entry")
        with self._lock, self._alone():
            number = self._put(kind, what, who, facts)
            if self._entries % CHECKPOINT_ENTRIES == 0:
                self._put("system", "checkpoint", "", self._checkpoint())
            return number

    def head(self) -> Head:
        """The newest line's hash, signed."""
        with self._lock, self._alone():
            bare = Head(self._entries, self._hash)
            return Head(bare.entries, bare.hash, self._sign(bare.signed_part))

    def entries(self) -> Iterator[Entry]:
        """Every entry, oldest first, as it stands; `verify` says whether it may be believed."""
        for line in self.path.read_bytes().splitlines():
            yield msgspec.json.decode(line[65:], type=Entry)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._fd)

    # -- how

    def _alone(self) -> _Locked:
        return _Locked(self._fd, self._catch_up)

    def _catch_up(self) -> None:
        """Take in what other processes have written since, and cut off what a kill left half written."""
        size = os.fstat(self._fd).st_size
        if size < self._size:
            raise AuditBroken(self.path, f"it had {self._size} bytes and has {size}")
        new = os.pread(self._fd, size - self._size, self._size)
        whole = new[: new.rfind(b"\n") + 1]
        for line in whole.splitlines():
            number, digest = _link(self._hash, line)
            if digest is None or number != self._entries:
                raise AuditBroken(self.path, f"entry {self._entries} does not follow the one before it")
            self._hash, self._entries = digest, self._entries + 1
        self._size += len(whole)
        if len(whole) < len(new):
            os.ftruncate(self._fd, self._size)
            self._put("system", "log recovered", "", {"torn_bytes": len(new) - len(whole)})

    def _put(self, kind: str, what: str, who: str, facts: Mapping[str, object]) -> int:
        entry = Entry(n=self._entries, t_us=self._clock.now_us(), kind=kind, what=what, who=who, facts=dict(facts))
        body = msgspec.json.encode(entry)
        if len(body) > FACTS_BYTES_MAX:
            raise ValueError("an entry says what happened; it is no place for data")
        digest = hashlib.sha256(self._hash + body).digest()
        line = digest.hex().encode() + b" " + body + b"\n"
        try:
            _write_whole(self._fd, line, self._size)
        except OSError as exc:
            os.ftruncate(self._fd, self._size)
            raise StorageFull(f"the audit log cannot be written: {exc}", remedy="free the disk; nothing was done") from exc
        self._hash, self._entries, self._size = digest, self._entries + 1, self._size + len(line)
        return entry.n

    def _checkpoint(self) -> dict[str, object]:
        bare = Head(self._entries, self._hash)
        return {"signature": self._sign(bare.signed_part).hex(), "certificate": self._certificate().decode()}


class _Locked:
    """The file's lock, and the file taken in."""

    def __init__(self, fd: int, catch_up: Callable[[], None]) -> None:
        self._fd, self._catch_up = fd, catch_up

    def __enter__(self) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        try:
            self._catch_up()
        except BaseException:
            fcntl.flock(self._fd, fcntl.LOCK_UN)
            raise

    def __exit__(self, *_: object) -> None:
        fcntl.flock(self._fd, fcntl.LOCK_UN)


def verify(data: bytes, check: Callable[[bytes, bytes, bytes, int], None], anchors: Sequence[Head] = ()) -> Verdict:
    """Go through a log from its first byte.

    Args:
        check: (what was signed, signature, certificate as PEM, when) -> raises CertificateRefused when it was not signed so.
        anchors: heads that were kept elsewhere; the log must reach each of them, and have its hash there.
    """
    wrong: list[str] = []
    wanted: dict[int, set[bytes]] = {}
    for anchor in anchors:
        wanted.setdefault(anchor.entries, set()).add(anchor.hash)
    digest, number, checkpoints, unsigned = FIRST, 0, 0, 0
    lines = data.split(b"\n")
    if lines.pop():
        wrong.append("the last line is not whole")
    for line in lines:
        before = digest
        found, linked = _link(digest, line)
        if linked is None:
            wrong.append(f"entry {number} was changed, or does not follow the one before it")
            break
        if found != number:
            wrong.append(f"where entry {number} should be stands {found}")
            break
        entry = msgspec.json.decode(line[65:], type=Entry)
        digest, number, unsigned = linked, number + 1, unsigned + 1
        if (entry.kind, entry.what) == ("system", "checkpoint"):
            why = _refused(entry, Head(number - 1, before), check)
            wrong += [f"the checkpoint at entry {entry.n} does not hold: {why}"] if why else []
            checkpoints, unsigned = checkpoints + 1, 0
        if wanted.get(number, {digest}) != {digest}:
            wrong.append(f"the log up to entry {number - 1} is not the one whose head was kept elsewhere")
    if not wrong and any(n > number for n in wanted):
        wrong.append(
            f"the log ends at entry {number - 1}; a head kept elsewhere is of {max(wanted)} entries: its end was cut off"
        )
    return Verdict(number, checkpoints, digest, unsigned, tuple(wrong))


def _write_whole(fd: int, line: bytes, at: int) -> None:
    """Onto the disk; on a full one a write may be short without an exception."""
    if os.pwrite(fd, line, at) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fdatasync(fd)


def _link(before: bytes, line: bytes) -> tuple[int, bytes | None]:
    """A line's number, and its hash if it follows `before`."""
    digest = hashlib.sha256(before + line[65:]).digest()
    try:
        number = int(msgspec.json.decode(line[65:])["n"])
    except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
        return -1, None
    return number, digest if line[:65] == digest.hex().encode() + b" " else None


def _refused(entry: Entry, head: Head, check: Callable[[bytes, bytes, bytes, int], None]) -> str:
    try:
        signature = bytes.fromhex(str(entry.facts["signature"]))
        check(head.signed_part, signature, str(entry.facts["certificate"]).encode(), entry.t_us)
    except (CertificateRefused, TrustError) as error:
        return str(error)
    except (KeyError, ValueError):
        return "it is not one"
    return ""
