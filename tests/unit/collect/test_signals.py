"""The code table holds together."""

from __future__ import annotations

import re
import tomllib
from importlib import resources

import pytest

from wardround.collect.names import SignalNames
from wardround.collect.signals import load_signals
from wardround.errors import DecodeError, SettingsError

ROWS = list(load_signals().rows.values())
# Partition of ISO/IEEE 11073-10101 by what it names: 2 is physiology (SCADA), 4 dimensions, 128 personal health.
PARTITIONS = {2, 128}
UCUM = {"/min", "ms", "%", "1", "mV", "Cel", "mm[Hg]", "mg/dL", "{steps}", "kg", "cm", "h", "kcal", "Ohm", "uS", "m/s2", "deg/s"}
UCUM |= {"dB[mW]", "m/s", "m", "W", "kg/m2", "L/min"}


@pytest.mark.parametrize("row", ROWS, ids=lambda r: r.key)
def test_a_row_is_whole(row):
    assert re.fullmatch(r"[a-z][a-z0-9-]*", row.key)
    assert row.unit in UCUM
    assert row.status in ("v", "2", "u")
    assert row.title
    assert row.source
    assert (row.low is None) == (row.high is None)
    assert row.low is None or row.low < row.high


@pytest.mark.parametrize("code", [c for r in ROWS for c in (r.code, *r.also)])
def test_a_code_has_the_form_of_its_system(code):
    system, _, rest = code.partition(":")
    if system == "loinc":
        digits, check = rest.split("-")
        assert check == luhn(digits), f"{code} is not a LOINC code: its check digit would be {luhn(digits)}"
    elif system == "mdc":
        assert int(rest) >> 16 in PARTITIONS
    else:
        assert re.fullmatch(r"wr:[a-z][a-z-]*", code)


def luhn(digits):
    """LOINC's check digit (mod 10)."""
    doubled = [int(d) * 2 if i % 2 == 0 else int(d) for i, d in enumerate(reversed(digits))]
    return str(-sum(d // 10 + d % 10 for d in doubled) % 10)


def test_no_name_stands_for_two_signals():
    names = [n for r in ROWS for n in (r.key, r.code, *r.also)]
    assert len(names) == len(set(names))


def test_every_row_is_read():
    text = resources.files("wardround.collect").joinpath("signals.toml").read_text()
    assert set(tomllib.loads(text)) == {r.key for r in ROWS}


def test_a_name_is_mapped_once_and_by_a_known_key(tmp_path):
    names = SignalNames(tmp_path / "names.toml")
    with pytest.raises(DecodeError):
        names.table().resolve('h"r')
    names.add('h"r', "loinc:8867-4")
    assert names.table().resolve('h"r').key == "heart-rate"
    assert names.changed()
    assert not names.changed()
    with pytest.raises(SettingsError):
        names.add("pulse", "no-such-signal")
    with pytest.raises(SettingsError):
        names.add("spo2", "heart-rate")
