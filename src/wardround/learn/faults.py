"""What goes wrong in a rehearsal, on purpose: edges that go away, edges whose labels are wrong.

Who is struck, and when, follows from the study's seed, the edge and the round: the same rehearsal has the same faults.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields

import msgspec
import numpy as np

from wardround.errors import StudyError
from wardround.records import Examples


@dataclass(frozen=True, slots=True)
class Faults:
    """Shares, 0 to 1."""

    absent: float = 0.0  # chance that an edge that was asked does not answer in a round
    label_flip: float = 0.0  # share of edges whose labels are each the next class

    def __bool__(self) -> bool:
        return any(getattr(self, f.name) > 0 for f in fields(self))


def parse_faults(text: str) -> Faults:
    """`absent=0.1,label-flip=0.1`; empty: none.

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
    return share > 0 and random.Random("/".join(map(str, what))).random() < share  # noqa: S311 - a fault, not a secret


def flipped(examples: Examples, classes: int) -> Examples:
    """Each label is the next class's."""
    labels = np.where(examples.labels >= 0, (examples.labels + 1) % classes, examples.labels).astype(np.int32)
    return msgspec.structs.replace(examples, labels=labels)
