"""The code table: names and codes to signals, and units to the one unit each signal is stored in.

A unit that does not convert is refused, never guessed. Factors are static: a general unit library costs 1.5 ms a unit and
does not know that milligrams of glucose become millimoles.
Source of SenML's unit symbols: RFC 8428 section 12.1, RFC 8798. Of UCUM: ucum.org.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from msgspec.structs import replace

from wardround.collect.devices.reading import Reading
from wardround.errors import DecodeError
from wardround.records import Quality


@dataclass(frozen=True, slots=True)
class Signal:
    """One row of signals.toml."""

    key: str
    title: str
    code: str
    unit: str
    status: str
    source: str
    also: tuple[str, ...] = ()
    low: float | None = None
    high: float | None = None
    molar_mass_g_per_mol: float | None = None
    alarm: bool = False  # a device's own (IEC 60601-1-8)
    every_s: float = 0.0  # how often a value is to be expected; 0: whenever it comes


@dataclass(frozen=True, slots=True)
class Conversion:
    """value in the signal's unit = value * factor + offset."""

    factor: float = 1.0
    offset: float = 0.0

    @property
    def identity(self) -> bool:
        """Whether nothing changes."""
        return self.factor == 1.0 and self.offset == 0.0


IDENTITY = Conversion()
_DEGREES_PER_RADIAN = 57.29577951308232
_CONVERSIONS: dict[str, dict[str, Conversion]] = {
    "/min": dict.fromkeys(("/min", "beat/min", "1/min", "{beats}/min", "{breaths}/min", "bpm"), IDENTITY)
    | dict.fromkeys(("beat/s", "1/s", "/s", "Hz"), Conversion(60.0)),
    "%": dict.fromkeys(("%", "%EL"), IDENTITY) | dict.fromkeys(("/", "1"), Conversion(100.0)),
    "1": dict.fromkeys(("1", "/", "count"), IDENTITY),
    "mV": {"mV": IDENTITY, "V": Conversion(1e3), "uV": Conversion(1e-3), "nV": Conversion(1e-6)},
    "ms": {"ms": IDENTITY, "s": Conversion(1e3), "us": Conversion(1e-3)},
    "Cel": {
        "Cel": IDENTITY,
        "K": Conversion(1.0, -273.15),
        "[degF]": Conversion(5 / 9, -160 / 9),
        "Far": Conversion(5 / 9, -160 / 9),
    },
    "mm[Hg]": {
        "mm[Hg]": IDENTITY,
        "mmHg": IDENTITY,
        "kPa": Conversion(7.500616827),
        "Pa": Conversion(0.007500616827),
    },
    "mg/dL": {"mg/dL": IDENTITY, "g/L": Conversion(100.0)},
    "m/s2": {
        "m/s2": IDENTITY,
        "m/s^2": IDENTITY,
        "[g]": Conversion(9.80665),
        "g0": Conversion(9.80665),
        "mg0": Conversion(9.80665e-3),
    },
    "deg/s": {"deg/s": IDENTITY, "rad/s": Conversion(_DEGREES_PER_RADIAN), "mrad/s": Conversion(_DEGREES_PER_RADIAN * 1e-3)},
    "{steps}": dict.fromkeys(("{steps}", "count", "1"), IDENTITY),
    "kg": {"kg": IDENTITY, "g": Conversion(1e-3), "[lb_av]": Conversion(0.45359237)},
    "cm": {"cm": IDENTITY, "m": Conversion(100.0), "[in_i]": Conversion(2.54), "[ft_i]": Conversion(30.48)},
    "h": {"h": IDENTITY, "min": Conversion(1 / 60), "s": Conversion(1 / 3600)},
    "kcal": {"kcal": IDENTITY, "kJ": Conversion(1 / 4.184), "J": Conversion(1 / 4184)},
    "uS": {"uS": IDENTITY, "S": Conversion(1e6)},
    "m/s": {"m/s": IDENTITY, "km/h": Conversion(1 / 3.6), "[mi_i]/h": Conversion(0.44704)},
    "m": {"m": IDENTITY, "km": Conversion(1e3), "[mi_i]": Conversion(1609.344)},
    "kg/m2": dict.fromkeys(("kg/m2", "kg/m^2"), IDENTITY),
}


class Signals:
    """The table, by key and by every code."""

    def __init__(self, rows: list[Signal]) -> None:
        self.rows = {row.key: row for row in rows}
        self._by_name = {name: row for row in rows for name in (row.key, row.code, *row.also)}

    def names(self) -> list[str]:
        """Every key and code."""
        return sorted(self._by_name)

    def resolve(self, name: str) -> Signal:
        """A signal by its key or one of its codes.

        Raises:
            DecodeError: "unknown-code".
        """
        found = self._by_name.get(name)
        if found is None:
            raise DecodeError("unknown-code", f"signal {name[:80]!r} is not in the code table")
        return found

    def first(self, name: str, *also: str) -> Signal:
        """The first of several names for the same thing that the table knows.

        Raises:
            DecodeError: "unknown-code": it knows none.
        """
        for known in (name, *also):
            if known in self._by_name:
                return self._by_name[known]
        return self.resolve(name)

    def interval_s(self, code: str, declared_s: float) -> float:
        """How long one value stands for: what the device declares, or the signal; 0 where nothing is to be expected."""
        signal = self._by_name.get(code)
        expected_s = signal.every_s if signal is not None else 0.0
        return declared_s if declared_s and expected_s else expected_s

    def with_names(self, names: Mapping[str, str]) -> Signals:
        """The table with further names of its signals, by key.

        Raises:
            DecodeError: "unknown-code": a name stands for a signal that is not in the table.
        """
        table = Signals(list(self.rows.values()))
        table._by_name |= {name: self.resolve(key) for name, key in names.items()}
        return table

    def canonical(self, reading: Reading) -> tuple[Signal, Reading]:
        """The signal of a reading, and the reading in that signal's unit.

        Raises:
            DecodeError: "unknown-code" or "unit-does-not-convert".
        """
        signal = self.first(reading.name, *reading.also)
        worded = reading.text is not None and not reading.unit  # a word has no unit to be wrong about
        conversion = IDENTITY if worded else self.conversion(reading.unit, signal)
        converted = 0 if conversion.identity else Quality.UNIT_CONVERTED
        return signal, replace(
            reading,
            unit=signal.unit,
            value=None if reading.value is None else reading.value * conversion.factor + conversion.offset,
            scale=reading.scale * conversion.factor,
            origin=reading.origin * conversion.factor + conversion.offset,
            flags=int(reading.flags | converted),
        )

    def conversion(self, unit: str, signal: Signal) -> Conversion:
        """From a device's unit into the signal's own.

        Raises:
            DecodeError: "unit-does-not-convert".
        """
        if unit == signal.unit:
            return IDENTITY
        known = _CONVERSIONS.get(signal.unit, {})
        if unit in known:
            return known[unit]
        if unit == "mmol/L" and signal.unit == "mg/dL" and signal.molar_mass_g_per_mol:
            return Conversion(signal.molar_mass_g_per_mol / 10)
        allowed = ", ".join(sorted({signal.unit, *known}))
        raise DecodeError(
            "unit-does-not-convert", f"{signal.key} in {unit[:40]!r} does not convert to {signal.unit} (accepted: {allowed})"
        )


@cache
def load_signals() -> Signals:
    """The table that ships with Wardround."""
    data = tomllib.loads(resources.files(__package__).joinpath("signals.toml").read_text(encoding="utf-8"))
    return Signals([Signal(key=key, **{**row, "also": tuple(row.get("also", ()))}) for key, row in data.items()])


def find_signal(code: str) -> Signal | None:
    """The table's signal of a code or name, if it has one."""
    try:
        return load_signals().resolve(code)
    except DecodeError:
        return None


def signal_title(code: str) -> str:
    """What people call a signal; the code itself, where the table has none."""
    known = find_signal(code)
    return known.title if known is not None else code
