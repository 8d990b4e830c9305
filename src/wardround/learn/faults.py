"""What virtual edges are like, and what goes wrong with them on purpose.

Who is struck, and when, follows from the study's seed, the edge and the round: the same rehearsal has the same faults. Times are
virtual seconds; nobody waits for them.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, fields
from statistics import NormalDist

import msgspec
import numpy as np

from wardround.errors import StudyError
from wardround.learn.condition import Condition
from wardround.records import Examples

TRAIN_S, TRAIN_SPREAD = 1.0, 0.25  # of an edge in health: the median, and sigma of its logarithm
SLOW_DEADLINES = 2.0  # a slow edge takes so many times the study's deadline
DAY_S = 86_400.0
_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares, 0 to 1."""

    absent: float = 0.0  # chance that an edge that was asked goes away before it delivers
    slow: float = 0.0  # share of edges that take twice the deadline of a round
    nan: float = 0.0  # chance that an update holds NaN
    label_flip: float = 0.0  # share of edges whose labels are each the next class

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) > 0 for f in fields(self))


def parse_faults(text: str) -> Faults:
    """`absent=0.1,slow=0.2,nan=0.02,label-flip=0.1`; empty: none.

    Raises:
        StudyError: an unknown fault, or a share that is none.
    """
    known = {f.name.replace("_", "-"): f.name for f in fields(Faults)}
    given: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        name, _, value = part.partition("=")
        remedy = f"write it like {','.join(f'{n}=0.1' for n in known)}"
        if name.strip() not in known:
            raise StudyError(f"--faults: there is no fault {name.strip()!r}", remedy=remedy)
        try:
            share = float(value)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise StudyError(f"--faults: {name.strip()} is {value.strip()!r}, which is no share from 0 to 1", remedy=remedy)
        given[known[name.strip()]] = share
    return Faults(**given)


def struck(share: float, *what: object) -> bool:
    """Whether a fault of this chance strikes here; `what` names the place, the seed first."""
    return share > 0 and _uniform(*what) < share


def flipped(examples: Examples, classes: int) -> Examples:
    """Each label is the next class's."""
    labels = np.where(examples.labels >= 0, (examples.labels + 1) % classes, examples.labels).astype(np.int32)
    return msgspec.structs.replace(examples, labels=labels)


def duration_s(faults: Faults, deadline_s: float, seed: int, edge: str, number: int) -> float:
    """Virtual seconds from an order to its update."""
    usual = TRAIN_S * math.exp(TRAIN_SPREAD * _NORMAL.inv_cdf(_uniform(seed, "time", edge, number)))
    return usual + (SLOW_DEADLINES * deadline_s if struck(faults.slow, seed, "slow", edge) else 0.0)


def condition_at(seed: int, edge: str, now_s: float) -> Condition:
    """What state a virtual edge's machine is in: a tablet or a phone, on mains for some hours of every night, elsewhere by day.

    Each has its own hours: on mains from between 20:00 and 24:00 UTC, for 6 to 10 hours, over unmetered Wi-Fi; then its battery
    falls from full to a fifth, and for half of the edges the network costs by the byte. A quarter of all are busy by day.
    """
    plugged_s, hours = (20 + 4 * _uniform(seed, "plugged", edge)) * 3600, 6 + 4 * _uniform(seed, "hours", edge)
    signal_dbm = -80 + 35 * _uniform(seed, "signal", edge)
    metered, busy = struck(0.5, seed, "metered", edge), struck(0.25, seed, "busy", edge)
    since_s = (now_s - plugged_s) % DAY_S
    charging = since_s < hours * 3600
    away = 0.0 if charging else (since_s - hours * 3600) / (DAY_S - hours * 3600)
    battery = 100.0 - 80.0 * away
    return Condition(charging, battery, "wifi", signal_dbm, metered and not charging, 0.8 if busy and not charging else 0.05)


def _uniform(*what: object) -> float:
    """A number between 0 and 1, neither of them included: a hash, as a generator takes 25 us to be seeded."""
    found = hashlib.blake2b("/".join(map(str, what)).encode(), digest_size=8).digest()
    return (int.from_bytes(found, "big") + 0.5) / (2**64 + 1)
