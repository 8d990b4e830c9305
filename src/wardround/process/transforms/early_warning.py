"""National Early Warning Score 2: points, total, what is missing. Decision support from given numbers, never a guess.

Source: Royal College of Physicians, National Early Warning Score (NEWS) 2, London 2017, chart 1 (the scoring system). The
second scale for oxygen saturation is for patients with confirmed hypercapnic respiratory failure, by a clinician's order alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

PARAMETERS = ("respiratory-rate", "spo2", "oxygen", "systolic", "pulse", "consciousness", "temperature")
HORIZON_US: Mapping[str, int] = {  # how old a value may be: a monitor's is of now, a cuff's and a thermometer's of the round
    "respiratory-rate": 3_600_000_000,
    "spo2": 3_600_000_000,
    "pulse": 3_600_000_000,
    "systolic": 12 * 3_600_000_000,
    "temperature": 12 * 3_600_000_000,
    "oxygen": 12 * 3_600_000_000,
    "consciousness": 12 * 3_600_000_000,
}
# (highest value of the step, points), rising; the last step has no end
_RESPIRATION = ((8, 3), (11, 1), (20, 0), (24, 2), (float("inf"), 3))
_SPO2_1 = ((91, 3), (93, 2), (95, 1), (float("inf"), 0))
_SPO2_2_AIR = ((83, 3), (85, 2), (87, 1), (float("inf"), 0))
_SPO2_2_OXYGEN = ((83, 3), (85, 2), (87, 1), (92, 0), (94, 1), (96, 2), (float("inf"), 3))
_SYSTOLIC = ((90, 3), (100, 2), (110, 1), (219, 0), (float("inf"), 3))
_PULSE = ((40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (float("inf"), 3))
_TEMPERATURE = ((35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (float("inf"), 2))


@dataclass(frozen=True, slots=True)
class Vitals:
    """The newest values, None where there is none. Consciousness is one of A, C, V, P, U."""

    respiratory_rate: float | None = None  # /min
    spo2: float | None = None  # %
    oxygen: bool | None = None  # breathes supplemental oxygen
    systolic: float | None = None  # mm[Hg]
    pulse: float | None = None  # /min
    consciousness: Literal["A", "C", "V", "P", "U"] | None = None
    temperature: float | None = None  # Cel


@dataclass(frozen=True, slots=True)
class Score:
    """Points by parameter, of those that are there. `total` is the score only when nothing is missing."""

    points: Mapping[str, int]
    missing: tuple[str, ...] = field(default=())

    @property
    def total(self) -> int:
        """The sum of what is there: with something missing, the score is at least this."""
        return sum(self.points.values())

    @property
    def complete(self) -> bool:
        """Whether every parameter was there."""
        return not self.missing

    @property
    def red(self) -> bool:
        """Whether a single parameter has 3 points, which calls for an urgent look whatever the total."""
        return any(p == 3 for p in self.points.values())


def news2(vitals: Vitals, *, spo2_scale: Literal[1, 2] = 1) -> Score:
    """The score of these values. Values are rounded as the chart has them: whole numbers, temperature to a tenth."""
    points: dict[str, int] = {}
    if vitals.respiratory_rate is not None:
        points["respiratory-rate"] = _step(_RESPIRATION, round(vitals.respiratory_rate))
    if vitals.spo2 is not None:
        points |= _saturation(round(vitals.spo2), vitals.oxygen, spo2_scale)
    if vitals.oxygen is not None:
        points["oxygen"] = 2 if vitals.oxygen else 0
    if vitals.systolic is not None:
        points["systolic"] = _step(_SYSTOLIC, round(vitals.systolic))
    if vitals.pulse is not None:
        points["pulse"] = _step(_PULSE, round(vitals.pulse))
    if vitals.consciousness is not None:
        points["consciousness"] = 0 if vitals.consciousness == "A" else 3
    if vitals.temperature is not None:
        points["temperature"] = _step(_TEMPERATURE, round(vitals.temperature, 1))
    return Score(points, tuple(p for p in PARAMETERS if p not in points))


def _saturation(percent: float, oxygen: bool | None, scale: int) -> dict[str, int]:
    """On the second scale a high saturation scores on oxygen alone: without knowing, nothing is said of it."""
    if scale == 1:
        return {"spo2": _step(_SPO2_1, percent)}
    if oxygen is None and percent > 92:
        return {}
    return {"spo2": _step(_SPO2_2_OXYGEN if oxygen else _SPO2_2_AIR, percent)}


def _step(steps: tuple[tuple[float, int], ...], value: float) -> int:
    return next(points for highest, points in steps if value <= highest)
