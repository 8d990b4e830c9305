"""The faults of the drill, by name, in the order of its table."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from wardround.drill.data_faults import ConceptDrift, CovariateDrift, CreepingSensor, DeadSensor, LabelFlip, UnitError
from wardround.drill.faults import Fault
from wardround.drill.fleet_faults import Participation, ServerStep, Straggler
from wardround.drill.update_faults import (
    Alie,
    CreepingUpdate,
    Noise,
    NotFinite,
    Scaling,
    SignFlip,
    StaleFreeRider,
    Sybil,
    ZeroFreeRider,
)
from wardround.errors import StudyError

_ALL: tuple[type[Fault], ...] = (
    LabelFlip,
    SignFlip,
    Scaling,
    Noise,
    Alie,
    NotFinite,
    CreepingUpdate,
    StaleFreeRider,
    ZeroFreeRider,
    Sybil,
    ConceptDrift,
    CovariateDrift,
    UnitError,
    DeadSensor,
    CreepingSensor,
    Straggler,
    ServerStep,
    Participation,
)
FAULTS: Mapping[str, Fault] = MappingProxyType({f.name: f() for f in _ALL})
FROM_THE_START = ("label-flip", "scaling", "alie", "sybil", "sign-flip", "noise", "free-rider-stale", "free-rider-zero", "nan")


def chosen(text: str, every: tuple[str, ...] = tuple(FAULTS)) -> list[Fault]:
    """Faults by their names, separated by commas; `all` is `every`.

    Raises:
        StudyError: there is none of that name.
    """
    names = [n.strip() for n in text.split(",") if n.strip()]
    found: list[Fault] = []
    for name in every if names == ["all"] else names:
        if name not in FAULTS:
            near = difflib.get_close_matches(name, FAULTS, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise StudyError(f"there is no fault {name!r}", remedy=f"{hint}`wardround drill --list` shows all of them")
        found.append(FAULTS[name])
    if not found:
        raise StudyError("no fault is named", remedy="name one, several with commas, or `all`")
    return found
