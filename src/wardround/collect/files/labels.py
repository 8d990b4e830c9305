"""What recorders call their channels and units, in the code table's keys and in UCUM.

A label that is not certain stays as it is: `wardround edge map` says what it means. A unit that is not known stays too, and is
refused where it would have to convert.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo

from wardround.collect.devices.ieee11073 import ZONE_UNKNOWN_US
from wardround.errors import DecodeError

LABEL_MAX = 80
_LEAD = re.compile(r"(?:(?:ecg|ekg)(?:[ _-]+lead)?|lead)?[ _-]*(ml)?(i{1,3}|avr|avl|avf|v[1-6]?)", re.IGNORECASE)
_AXIS = re.compile(r"(acc(?:el(?:eration)?)?|gyro?)[ _.-]*([xyz])", re.IGNORECASE)
_LABELS = {
    "ecg": "ecg", "ekg": "ecg",
    "pleth": "ppg", "ppg": "ppg",
    "spo2": "spo2", "sao2": "spo2", "%spo2": "spo2",
    "hr": "heart-rate", "heart rate": "heart-rate", "pulse": "pulse-rate", "pr": "pulse-rate", "pulse rate": "pulse-rate",
    "rr": "respiratory-rate", "resp rate": "respiratory-rate",
    "resp": "thoracic-impedance", "resp. imp.": "thoracic-impedance",
    "abp": "arterial-pressure", "art": "arterial-pressure", "pap": "pulmonary-pressure", "cvp": "venous-pressure",
    "eda": "eda", "gsr": "eda",
    "temp rectal": "body-temperature", "temp body": "body-temperature", "temp skin": "skin-temperature",
}  # fmt: skip
_UNITS = {
    "µV": "uV", "μV": "uV", "mmHg": "mm[Hg]", "NU": "1", "nu": "1", "bpm": "/min", "BPM": "/min", "1/min": "/min",
    "degC": "Cel", "°C": "Cel", "DegC": "Cel", "degF": "[degF]", "°F": "[degF]", "ohm": "Ohm", "Ohms": "Ohm", "ohms": "Ohm",
    "µS": "uS", "μS": "uS", "uS": "uS", "m/s^2": "m/s2",
}  # fmt: skip


def names(label: str) -> tuple[str, tuple[str, ...]]:
    """Names of a channel for the code table: its label as it stands, so that a mapping goes first, and what is known of it."""
    label = label.strip()[:LABEL_MAX]
    key = _LABELS.get(label.lower(), "")
    if lead := _LEAD.fullmatch(label):
        key = f"ecg-{lead[2].lower()}" if not lead[1] or lead[2].lower() == "ii" else ""
    elif axis := _AXIS.fullmatch(label):
        key = f"{'gyro' if axis[1].lower().startswith('g') else 'accel'}-{axis[2].lower()}"
    return label, (key,) if key else ()


def ucum(unit: str, also: Iterable[str] = ()) -> str:
    """The UCUM code of a recorder's unit; as it stands when it is not known."""
    unit = unit.strip()
    if unit in ("g", "G") and any(key.startswith("accel") for key in also):
        return "[g]"  # of an accelerometer; a gram elsewhere
    return _UNITS.get(unit, unit)


def once(label: str, seen: set[tuple[str, ...]]) -> None:
    """See that no two channels of one file are the same signal: their samples could not be told apart.

    Raises:
        DecodeError: "same-signal".
    """
    label, also = names(label)
    if (also or (label,)) in seen:
        raise DecodeError("same-signal", f"channel {label!r}: another channel of the file is the same signal")
    seen.add(also or (label,))


def local_time(at: datetime, zone: tzinfo | None) -> tuple[int, int]:
    """Microseconds since 1970 of a recorder's clock, and what is open of it: fourteen hours where its zone is not known."""
    local = at.replace(tzinfo=zone or UTC)
    whole = round(local.replace(microsecond=0).timestamp()) * 1_000_000 + local.microsecond
    return whole, 0 if zone is not None else ZONE_UNKNOWN_US
