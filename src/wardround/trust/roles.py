"""Roles of people, and the one table of who may do what.

The console asks it at every act, with the role that the person has at that moment in the hub's store. Whoever runs commands on
the hub's machine holds its keys, and stands above it.
"""

from __future__ import annotations

from enum import StrEnum

from wardround.errors import NotAllowed, TrustError


class Role(StrEnum):
    """What someone is here."""

    VIEWER = "viewer"
    CLINICIAN = "clinician"
    OPERATOR = "operator"
    DATA_OFFICER = "data-officer"
    ADMIN = "admin"


class Act(StrEnum):
    """What someone may be allowed to do."""

    LOOK = "look"
    ACKNOWLEDGE = "acknowledge an alert"
    UNDO = "undo what was done about an alert"
    STUDIES = "start, stop and roll back studies"
    EDGES = "invite and revoke edges"
    JOBS = "run and retry jobs"
    CONSENT = "change consent"
    ERASE = "erase a patient"
    PATIENTS = "see patients' data"
    EXPORT = "export data"
    INGEST = "bring in data of patients"
    AUDIT = "read the audit trail"
    PEOPLE = "change who may sign in"


_BEDSIDE = {Act.LOOK, Act.ACKNOWLEDGE}
MAY: dict[Role, frozenset[Act]] = {
    Role.VIEWER: frozenset({Act.LOOK}),
    Role.CLINICIAN: frozenset(_BEDSIDE | {Act.PATIENTS}),
    Role.OPERATOR: frozenset(_BEDSIDE | {Act.UNDO, Act.STUDIES, Act.EDGES, Act.JOBS}),
    Role.DATA_OFFICER: frozenset({Act.LOOK, Act.CONSENT, Act.ERASE, Act.EXPORT, Act.INGEST, Act.AUDIT}),
    Role.ADMIN: frozenset(Act),
}


def parse_role(text: str) -> Role:
    """The role of this name.

    Raises:
        TrustError: there is none.
    """
    try:
        return Role(text)
    except ValueError as exc:
        raise TrustError(f"role {text!r} is not known", remedy=f"choose one of: {', '.join(Role)}") from exc


def check_act(name: str, role: str, act: Act) -> None:
    """Whether someone of this role may do this; a role that nobody knows may do nothing.

    Raises:
        NotAllowed: they may not.
    """
    if role not in set(Role) or act not in MAY[Role(role)]:
        able = ", ".join(r for r in Role if act in MAY[r])
        raise NotAllowed(f"{name} ({role or 'no role'}) may not {act}", remedy=f"ask someone with the role {able}")
