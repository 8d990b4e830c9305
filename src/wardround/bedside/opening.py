"""An edge's bedside watch from its settings: what it is handed, and where its alerts go."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from wardround.bedside.ledger import BedsideLedger
from wardround.bedside.watching import FOLDER, MEMORY, PREFIX, SILENCES, BedsideWatch, Certificates
from wardround.clock import Clock
from wardround.collect.local_store import LocalStore
from wardround.collect.signals import load_signals
from wardround.collect.storage import FolderStorage
from wardround.errors import DecodeError, WardroundError
from wardround.records import Consent, Purpose
from wardround.settings import EdgeSettings
from wardround.trust.audit import AuditLog
from wardround.trust.certificates import describe, write_private
from wardround.trust.consent import ConsentRegister
from wardround.watch.alerts import AlertBook
from wardround.watch.delivery.messages import Origin
from wardround.watch.delivery.routes import routes

_FILES: tuple[tuple[Literal["identity", "listener"], str], ...] = (("identity", "edge.pem"), ("listener", "listener.pem"))


def open_bedside(
    home: Path, settings: EdgeSettings, *, local: LocalStore, consents: ConsentRegister, audit: AuditLog, clock: Clock
) -> BedsideWatch | None:
    """The bedside watch of an edge's home; None where the settings say that this edge watches no patient.

    Raises:
        SettingsError: a notify entry cannot work.
    """
    if not settings.bedside.watch:
        return None
    origin = Origin(hub=settings.name, site=f"edge {settings.name}", simulated=settings.simulated, console=settings.public_url)
    (home / FOLDER).mkdir(exist_ok=True)
    return BedsideWatch(
        settings.name,
        home,
        local=local,
        routes=routes(settings.notify, home, origin, write_private),
        watches=lambda subject, code: consents.choose(subject, code, Purpose.CARE)[0] is not Consent.NONE,
        certificates=lambda: _certificates(home / "identity"),
        signal_title=_title,
        record=audit.add,
        clock=clock,
        may_tell=lambda subject, codes: consents.allows(subject, codes, Purpose.CARE, Consent.RAW),
        trends=settings.bedside.trends,
    )


def forget_at_bedside(home: Path, subject: str) -> int:
    """Take a patient out of what a watch that is not open any more has kept; how many alerts went."""
    if not (home / FOLDER).exists():
        return 0
    ledger = BedsideLedger(FolderStorage(home / FOLDER))
    try:
        book = AlertBook(prefix=PREFIX)
        ledger.load(book)
        gone = book.forget(subject)
        ledger.keep(book, {MEMORY: b"", SILENCES: b"[]"})
        ledger.forget(subject)
    finally:
        ledger.close()
    return len(gone)


def _certificates(identity: Path) -> Certificates:
    """From when to when each certificate of this edge holds; one that is just being replaced is looked at the next time."""
    found: dict[Literal["identity", "listener"], tuple[int, int]] = {}
    for what, name in _FILES:
        try:
            facts = describe((identity / name).read_bytes())
        except (OSError, WardroundError):
            continue
        found[what] = (facts.not_before_us, facts.not_after_us)
    return found


def _title(code: str) -> str:
    try:
        return load_signals().resolve(code).title
    except DecodeError:
        return code
