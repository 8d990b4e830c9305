"""Where audit logs lie: a hub's, an edge's, and the heads of the hub's log that an edge keeps."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from wardround.clock import Clock
from wardround.errors import CertificateRefused, SettingsError
from wardround.trust.audit import AuditLog, Head, Verdict, verify
from wardround.trust.certificates import write_private
from wardround.trust.signatures import EdgeSigner, HubSigner, check_audit_signature

FOLDER = "audit"
AUTHORITIES = "audit/authorities.pem"  # earlier ones
END = b"-----END CERTIFICATE-----\n"
HEADS_STATE = "audit-heads"  # in the hub's store: the newest head that each edge has said it keeps
HEADS_MAX = 500


class KeptHead(msgspec.Struct, frozen=True):
    """A head as it lies at an edge, and as a person may carry it to `wardround audit verify`."""

    entries: int
    hash: str  # hex
    t_us: int


def open_log(home: Path, clock: Clock) -> AuditLog:
    """The audit log of a hub's or an edge's home. Keys are read when something is signed: they are renewed while programs run.

    Raises:
        SettingsError: it is no such home.
    """
    role = role_of(home)
    if role == "hub":
        pki = home / "pki"
        return AuditLog(home / FOLDER, clock, lambda head: HubSigner(pki).sign_audit(head), (pki / "hub.pem").read_bytes)
    identity = home / "identity"
    return AuditLog(home / FOLDER, clock, lambda head: EdgeSigner(identity).sign_audit(head), (identity / "edge.pem").read_bytes)


def verify_log(home: Path, anchors: Sequence[Head] = ()) -> Verdict:
    """Verify the audit log of a home against its authority, and against heads kept elsewhere.

    Raises:
        SettingsError: it is no such home, or it has no log.
    """
    role, path = role_of(home), home / FOLDER / "audit.log"
    if not path.exists():
        raise SettingsError(f"{path} does not exist", remedy="a hub or an edge writes it when it runs")
    authority = (home / ("pki" if role == "hub" else "identity") / "ca.pem").read_bytes()

    earlier = _authorities(home)

    def check(head: bytes, signature: bytes, certificate: bytes, t_us: int) -> None:
        for before in earlier:  # a home whose authority is another since a restore: what the older one signed still holds
            with contextlib.suppress(CertificateRefused):
                check_audit_signature(head, signature, certificate, before, role=role, now_us=t_us)
                return
        check_audit_signature(head, signature, certificate, authority, role=role, now_us=t_us)

    return verify(path.read_bytes(), check, anchors)


def role_of(home: Path) -> str:
    """Whose home it is, hub or edge.

    Raises:
        SettingsError: it is neither's.
    """
    for role in ("hub", "edge"):
        if (home / f"{role}.toml").exists():
            return role
    raise SettingsError(f"{home} is no hub's and no edge's folder", remedy="give --home the folder with hub.toml or edge.toml")


def remember_authority(home: Path, pem: bytes) -> None:
    """Keep the certificate (PEM) of an authority that is no longer this home's, for what it has signed in the audit log."""
    known = _authorities(home)
    if pem.strip() not in [k.strip() for k in known]:
        (home / FOLDER).mkdir(parents=True, exist_ok=True, mode=0o700)
        write_private(home / AUTHORITIES, b"".join([*known, pem]), 0o644)


def _authorities(home: Path) -> list[bytes]:
    try:
        data = (home / AUTHORITIES).read_bytes()
    except FileNotFoundError:
        return []
    return [before + END for before in data.split(END)[:-1]]


class KeptHeads:
    """The hub's heads at an edge, newest last. One thread at a time."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def all(self) -> list[KeptHead]:
        """What is kept."""
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=list[KeptHead])
        except FileNotFoundError:
            return []

    def keep(self, head: Head, now_us: int) -> str:
        """Keep a head; why it cannot be of the same log as the newest one kept, or empty."""
        kept = self.all()
        if kept and head.entries < kept[-1].entries:
            return f"the hub's audit log had {kept[-1].entries} entries and has {head.entries}"
        if kept and head.entries == kept[-1].entries:
            return "" if kept[-1].hash == head.hash.hex() else f"entry {head.entries - 1} of the hub's audit log has changed"
        kept = [*kept, KeptHead(head.entries, head.hash.hex(), now_us)]
        write_private(self._path, msgspec.json.encode(kept[-HEADS_MAX:]))
        return ""
