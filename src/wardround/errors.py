"""Every error a person can meet: what happened, where, and what to do about it.

    WardroundError
      SettingsError        a settings or study file that does not hold
      PortTaken            a listener could not be opened
      HomeTaken            another process works in an edge's home
      StorageFull          a disk or a byte cap is at its limit
      CollectError         DecodeError (a payload)
      ProcessError         a lake or a job
      LearnError           StudyError, UpdateRefused, RoundGivenUp
      TrustError           JoinRefused, CertificateRefused, LoginRefused, NotAllowed, KeyRefused, Unreadable

The command line prints `str(error)` and the remedy, and exits with `exit_code`; a traceback shows with --debug alone.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path


class WardroundError(Exception):
    """The root of the tree. `remedy` is one sentence that says what to do next."""

    exit_code = 1

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy


class SettingsError(WardroundError):
    """A file that a program reads at its door is missing, malformed, or has an unknown key."""

    exit_code = 2


class PortTaken(WardroundError):
    """A listener could not be opened because another process holds the port."""

    def __init__(self, host: str, port: int, *, setting: str) -> None:
        super().__init__(
            f"port {port} on {host} is already taken",
            remedy=f"stop the program that holds it, or choose another port with `{setting}`",
        )
        self.host, self.port, self.setting = host, port, setting


class HomeTaken(WardroundError):
    """An edge's home is in use: two processes would give the same sequences away."""

    def __init__(self, home: Path) -> None:
        super().__init__(
            f"another process works in {home}", remedy="an edge runs once: stop the other one, or give this one its own --home"
        )


class StorageFull(WardroundError):
    """A disk, or the byte cap of a spool, is at its limit: new data is refused rather than old data forgotten."""


class CollectError(WardroundError):
    """Something between device and hub went wrong."""


class DecodeError(CollectError):
    """A payload that cannot be read. `reason` is a short constant that can be counted."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, remedy="the payload is kept in quarantine with this reason; correct the device or map it")
        self.reason = reason


class ProcessError(WardroundError):
    """The lake or a job failed."""


class LearnError(WardroundError):
    """Something in a study or a round went wrong."""


class StudyError(LearnError):
    """A study that cannot be run as it is written."""

    exit_code = 2


class UpdateRefused(LearnError):
    """An update that may not count. `reason` is a short constant, shown to the operator and to the edge."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message, remedy="the update is set aside, the round goes on without it")
        self.reason = reason


class RoundGivenUp(LearnError):
    """A rehearsed round came to nothing in every attempt: the edges whose updates could not count, and those whose did."""

    def __init__(self, message: str, remedy: str, attempts: int, spoilt: Collection[str], delivered: Collection[str]) -> None:
        super().__init__(message, remedy=remedy)
        self.attempts, self.spoilt, self.delivered = attempts, frozenset(spoilt), frozenset(delivered)


class TrustError(WardroundError):
    """Identity, consent or permission stands in the way."""


class JoinRefused(TrustError):
    """An edge may not join with this token."""


class CertificateRefused(TrustError):
    """A certificate is missing, expired, revoked or of another authority."""


class LoginRefused(TrustError):
    """A person could not be signed in."""


class NotAllowed(TrustError):
    """Someone's role does not cover what they want to do."""


class KeyRefused(TrustError):
    """The key-encryption key, or the keys that it wraps, cannot be had: what is encrypted at rest stays as it is."""


class Unreadable(TrustError):
    """What is encrypted at rest does not open. `reason`: "destroyed" (its patient was erased), "unknown-key" or "damaged"."""

    def __init__(self, reason: str, what: str) -> None:
        super().__init__(
            f"{what} cannot be read: {reason}", remedy="it is kept as it is; `wardround keys status` counts such rows"
        )
        self.reason = reason
