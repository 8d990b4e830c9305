"""From observations to the vital signs that the early warning score and the patient's own usual are judged by.

Readings are of the corrected time, and never later than the edge took them: a clock that runs ahead must not shut out what
comes next. What a device or the gate calls questionable is for people to look at; no alert rests on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Literal

from wardround.process.transforms.early_warning import HORIZON_US, Vitals, news2
from wardround.records import Observation, Validity
from wardround.watch.bedside import Total

CODES: Mapping[str, str] = MappingProxyType(
    {
        "loinc:8867-4": "pulse",  # by ECG
        "mdc:149530": "pulse",  # by oximeter
        "mdc:149546": "pulse",  # by cuff
        "loinc:9279-1": "respiratory-rate",
        "loinc:59408-5": "spo2",
        "loinc:8480-6": "systolic",
        "loinc:8310-5": "temperature",
        "wr:acvpu": "consciousness",
        "loinc:3151-8": "oxygen",  # flow, L/min
    }
)
ALERT, NOT_ALERT = 0.0, 1.0  # consciousness as a number, so that the median of the last minutes has a meaning
Scale = Literal[1, 2]


def readings(o: Observation) -> Iterator[tuple[str, int, float]]:
    """Vital sign, time and value of each usable sample of an observation."""
    vital = CODES.get(o.code)
    if vital is None or o.imported or o.validity >= Validity.QUESTIONABLE or o.clock_error_us > HORIZON_US[vital]:
        return
    if vital == "consciousness":
        if o.value_text in ("A", "C", "V", "P", "U"):
            yield vital, min(o.t0_us, o.t_edge_us), ALERT if o.value_text == "A" else NOT_ALERT
        return
    for t_us, value in zip(o.times_us().tolist(), o.samples().tolist(), strict=True):
        yield vital, min(t_us, o.t_edge_us), value


def vitals_of(values: Mapping[str, float]) -> Vitals:
    """The vital signs by their names, as the score takes them. Half or more of "not alert" is not alert."""
    oxygen, consciousness = values.get("oxygen"), values.get("consciousness")
    return Vitals(
        respiratory_rate=values.get("respiratory-rate"),
        spo2=values.get("spo2"),
        oxygen=None if oxygen is None else oxygen > 0.0,
        systolic=values.get("systolic"),
        pulse=values.get("pulse"),
        consciousness=None if consciousness is None else "A" if consciousness < 0.5 else "C",
        temperature=values.get("temperature"),
    )


def scorer(scale_of: Callable[[str], Scale]) -> Callable[[str, Mapping[str, float]], Total]:
    """NEWS2 of a patient's vital signs; `scale_of(subject)` is the scale of oxygen saturation that a clinician has ordered."""

    def score(subject: str, values: Mapping[str, float]) -> Total:
        found = news2(vitals_of(values), spo2_scale=scale_of(subject))
        return Total(found.total, found.red)

    return score
