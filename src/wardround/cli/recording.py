"""Every command that sees, exports, changes or deletes something is in the audit log of its home before it begins.

One place instead of a line in each command: the words of the command say what it does. Values of options never stand in the log,
and of the other arguments those alone that name no patient: a pseudonym stands as a digest, a patient's identifier not at all.
"""

from __future__ import annotations

import getpass
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from wardround.clock import SystemClock
from wardround.trust.audit import subject_ref
from wardround.trust.audit_files import open_log

PSEUDONYM = re.compile(r"[a-z2-7]{4}(-[a-z2-7]{4}){4}")
ARGUMENT_MAX = 80


@dataclass(frozen=True, slots=True)
class _Act:
    """What a command is to the log. `named`: its arguments may stand there; `subject`: the first of them is a pseudonym."""

    kind: str
    named: bool = True
    subject: bool = False


CHANGE, VIEW, EXPORT = _Act("change"), _Act("view"), _Act("export")
_SECRET = _Act("change", named=False)
ACTS: dict[tuple[str, ...], _Act] = {
    ("backup",): EXPORT,
    ("erase",): _Act("delete", subject=True),
    ("trend",): _Act("view", subject=True),
    ("alert", "ack"): CHANGE,
    ("alert", "judge"): CHANGE,
    ("alert", "silence"): CHANGE,
    ("edge", "alerts", "ack"): CHANGE,
    ("edge", "alerts", "judge"): CHANGE,
    ("edge", "alerts", "list"): VIEW,  # of patients
    ("edge", "alerts", "scale"): _SECRET,
    ("edge", "alerts", "show"): VIEW,
    ("edge", "alerts", "silence"): _SECRET,  # it may name a patient
    ("edge", "alerts", "unsilence"): CHANGE,
    ("edge", "consent"): _SECRET,  # of a patient by the hospital's identifier
    ("edge", "device"): _SECRET,
    ("edge", "devices", "revoke"): CHANGE,
    ("edge", "drain"): CHANGE,
    ("edge", "export"): _Act("export", named=False),
    ("edge", "import"): _SECRET,
    ("edge", "key", "export"): _Act("export", named=False),
    ("edge", "key", "import"): _SECRET,
    ("edge", "map"): CHANGE,
    ("edge", "quarantine", "replay"): CHANGE,
    ("edge", "quarantine", "show"): VIEW,
    ("edge", "roster"): CHANGE,
    ("hub", "consent"): _Act("change", subject=True),
    ("hub", "invite"): CHANGE,
    ("hub", "password"): CHANGE,
    ("hub", "revoke"): CHANGE,
    ("hub", "roster"): CHANGE,
    ("keys", "rotate"): CHANGE,
    ("node", "add"): CHANGE,
    ("node", "drain"): CHANGE,
    ("node", "remove"): CHANGE,
    ("process", "export"): EXPORT,
    ("process", "exports"): VIEW,
    ("process", "retry"): CHANGE,
    ("process", "run"): CHANGE,
    ("process", "stop"): CHANGE,
    ("response", "undo"): CHANGE,
    ("study", "calibrate"): CHANGE,
    ("study", "export"): EXPORT,
    ("study", "pause"): CHANGE,
    ("study", "promote"): CHANGE,
    ("study", "release"): CHANGE,
    ("study", "result"): VIEW,
    ("study", "retrain"): CHANGE,
    ("study", "resume"): CHANGE,
    ("study", "rollback"): CHANGE,
    ("study", "start"): CHANGE,
    ("study", "stop"): CHANGE,
    ("token", "new"): CHANGE,
    ("token", "revoke"): CHANGE,
    ("user", "add"): CHANGE,
    ("user", "password"): CHANGE,
    ("user", "remove"): CHANGE,
    ("user", "reset-factor"): CHANGE,
    ("user", "role"): CHANGE,
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """A command that is in the log."""

    home: Path
    words: tuple[str, ...]

    def refused(self, error: Exception) -> None:
        """It was not carried out."""
        log = open_log(self.home, SystemClock())
        log.add("denied", f"wardround {' '.join(self.words)}", getpass.getuser(), error=type(error).__name__)
        log.close()


def record(arguments: Sequence[str]) -> Recorded | None:
    """Record a command before it begins; None when it is not one that is recorded, or has no home yet.

    Raises:
        StorageFull, AuditBroken: it cannot be recorded, and must not be carried out.
    """
    begin = next((i for i, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    arguments = arguments[begin:]  # options before the command, such as --debug, are not its own
    words = next((tuple(arguments[:n]) for n in (3, 2, 1) if tuple(arguments[:n]) in ACTS), None)
    if words is None or _asks_for_help(arguments):
        return None
    act, rest = ACTS[words], arguments[len(words) :]
    home = _home(words, rest)
    if not any((home / name).exists() for name in ("hub.toml", "edge.toml")):
        return None
    facts: dict[str, object] = {}
    if act.named and (named := _positional(rest)):
        facts = {"subject": subject_ref(named[0])} if act.subject else {"on": _shown(named[0])}
        facts |= {"more": [_shown(a) for a in named[1:4]]} if named[1:] else {}
    if options := sorted({a.partition("=")[0] for a in rest if a.startswith("--") and not a.startswith("--home")}):
        facts["options"] = options
    log = open_log(home, SystemClock())
    log.add(act.kind, f"wardround {' '.join(words)}", getpass.getuser(), **facts)
    log.close()
    return Recorded(home, words)


def _asks_for_help(arguments: Sequence[str]) -> bool:
    """Whether nothing is done for certain. After an option -h may be its value: that is recorded, perhaps once too often."""
    return any(a in ("--help", "-h") and not before.startswith("-") for before, a in pairwise(arguments))


def _home(words: Sequence[str], rest: Sequence[str]) -> Path:
    for i, argument in enumerate(rest):
        if argument == "--home" and i + 1 < len(rest):
            return Path(rest[i + 1])
        if argument.startswith("--home="):
            return Path(argument.removeprefix("--home="))
    return Path.home() / ".wardround" / ("edge" if words[0] == "edge" else "hub")


def _positional(rest: Sequence[str]) -> list[str]:
    """Arguments before the first option: after one, a value cannot be told from an argument without the command's own help."""
    return list(rest[: next((i for i, a in enumerate(rest) if a.startswith("-")), len(rest))])


def _shown(argument: str) -> str:
    return subject_ref(argument) if PSEUDONYM.fullmatch(argument) else argument[:ARGUMENT_MAX]
