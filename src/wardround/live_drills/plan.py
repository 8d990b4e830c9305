"""What a live drill is asked to be, what it shows of itself, and what a hub refuses: plain values.

`wardround drill --live` makes the plan and reads what is shown; the hub knows no fault but by its name.
"""

from __future__ import annotations

import re
from collections.abc import Collection

import msgspec

from wardround.errors import StudyError
from wardround.learn.drills import SLOWER_S_MAX
from wardround.learn.privacy.modes import PrivacySettings
from wardround.learn.study import Study
from wardround.malformed import MALFORMED

TOPIC, SHOWN = "drills", "drill-shown"
NAME = r"drill\.[a-z0-9][a-z0-9-]{0,59}"
FAULT = r"[a-z0-9-]{0,40}"
EDGES_MIN, EDGES_MAX = 3, 256
ROUNDS_MAX, MINUTES_MAX, DEADLINE_S_MAX = 2_000, 120.0, 300.0
MODELS_KEPT, MODEL_BYTES_MAX = 10, 65_536
HAPPENED_MAX = 20_000  # lines of each kind that are shown


class Plan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One run: the sandbox's study, who takes part, who is struck, and by what."""

    study: Study
    training: bytes  # TrainingSettings as MessagePack, in JSON as base64
    shape: tuple[int, int]  # features, classes
    seed: int
    edges: tuple[str, ...]
    struck: tuple[str, ...] = ()
    fault: str = ""
    from_round: int = 0
    slower_s: float = 0.0
    absent: float = 0.0
    minutes: float = 30.0  # after which it ends, wherever it stands
    deliver: bool = False  # its alerts go to people; else to the console alone
    keep: bool = False  # its folder stays


class Verdict(msgspec.Struct, frozen=True):
    """A screen has set an update aside."""

    number: int  # of the round
    edge: str
    reason: str
    score: float
    threshold: float


class Noticed(msgspec.Struct, frozen=True):
    """The watch of the training has noticed something of a round: a Deviation's facts."""

    number: int
    state: str
    kind: str
    sign: str
    edge: str
    edges: tuple[str, ...]
    score: float
    threshold: float


class Shown(msgspec.Struct, kw_only=True):
    """What has come of a run so far."""

    study: str
    sandbox: bool = True
    fault: str
    seed: int
    state: str  # running, done, stopped, failed
    why: str = ""
    round_number: int = 0
    rounds: int
    from_round: int
    edges: tuple[str, ...]
    struck: tuple[str, ...]
    began_us: int
    ended_us: int = 0
    told: bool = False  # its alerts go to people
    verdicts: list[Verdict] = []
    noticed: list[Noticed] = []
    refused: list[tuple[int, str, str]] = []  # round, edge, reason
    abandoned: list[int] = []
    aside: dict[str, int] = {}
    alerts: dict[str, str] = {}  # id, title
    models: list[bytes] = []  # of the newest rounds, in JSON as base64
    folder: str = ""  # what is kept of it


def read_plan(body: object) -> Plan:
    """A plan as it is asked for.

    Raises:
        StudyError: it is none.
    """
    try:
        return msgspec.convert(body, Plan)
    except MALFORMED as exc:
        raise StudyError(f"the drill's plan cannot be read: {exc}", remedy="bring hub and command to the same version") from exc


def check_plan(plan: Plan, able: Collection[str]) -> None:
    """Whether a hub whose edges in `able` allow drills may run it.

    Raises:
        StudyError: it may not, and why.
    """
    study = plan.study

    def must(holds: bool, what: str, remedy: str) -> None:
        if not holds:
            raise StudyError(what, remedy=remedy)

    must(re.fullmatch(NAME, study.name) is not None, f"a drill is not called {study.name[:60]!r}", "its name begins with drill.")
    must(re.fullmatch(FAULT, plan.fault) is not None, f"no fault is called {plan.fault[:40]!r}", "see `wardround drill --list`")
    plain = study.kind == "model" and not study.learner.module and not study.learner.dp_sgd.on and not study.relay.children
    must(plain and study.privacy == PrivacySettings(), "a drill's study is a plain one", "it has no code, noise, masks or relays")
    missing = sorted(set(plan.edges) - set(able))
    must(not missing, f"not connected, or not for drills: {', '.join(missing)}", "edge.toml allows it: learning.drills = true")
    size = len(plan.edges)
    must(EDGES_MIN <= size <= EDGES_MAX, f"{size} edges take part", f"a drill needs {EDGES_MIN} to {EDGES_MAX} that allow it")
    must(len(set(plan.edges)) == size, "an edge is named twice", "name it once")
    must(set(plan.struck) < set(plan.edges), "who is struck is one of the edges, and some are not", "strike fewer")
    bounded = 0 <= plan.from_round < study.rounds.count <= ROUNDS_MAX and 0 < plan.minutes <= MINUTES_MAX
    bounded = bounded and 0 < study.rounds.deadline_s <= DEADLINE_S_MAX
    must(bounded, "the drill has no end", f"at most {ROUNDS_MAX:,} rounds and {MINUTES_MAX:.0f} minutes")
    must(0 <= plan.slower_s <= SLOWER_S_MAX and 0 <= plan.absent <= 1, "the fault is beyond what is allowed", "lower it")
