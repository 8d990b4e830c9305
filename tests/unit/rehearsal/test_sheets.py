"""A wearable's CSV: what its columns are, and what is said of each thing that does not hold."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.errors import StudyError
from wardround.learn.study import ScoreSettings
from wardround.process.transforms import TASKS
from wardround.rehearsal.data import recorded_population
from wardround.rehearsal.sheet_columns import load_columns, propose
from wardround.rehearsal.sheets import read_sheet

TASK = TASKS["activity"]
HEADER = "time_ms,who,acc_x_g,acc_y_g,acc_z_g,gyro_x_dps,gyro_y_dps,gyro_z_dps,label"


def rows(n=600, who="P1", period_ms=20.0, label="Walk", t0=1_700_000_000_000, g=1.0):
    made = []
    for i in range(n):
        wave = math.sin(2 * math.pi * 2 * i * period_ms / 1e3)
        accel = [f"{g * (1 + 0.3 * wave):.4f}", "0.01", f"{0.1 * wave:.4f}"]
        made.append([f"{t0 + i * period_ms:.3f}", who, *accel, "1", "2", "3", label])
    return made


def sheet(tmp_path, lines, header=HEADER, separator=","):
    path = tmp_path / "walk.csv"
    path.write_text("\n".join([header.replace(",", separator), *(separator.join(line) for line in lines)]) + "\n")
    return path


def mapping(tmp_path, path, *changes):
    text = propose(path)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "columns.toml").write_text(text)
    return load_columns(tmp_path / "columns.toml", TASKS)


WHO = ('subject = ""', 'subject = "who"')


def made(tmp_path, lines, *changes, header=HEADER, separator=","):
    path = sheet(tmp_path, lines, header, separator)
    return read_sheet(path, *mapping(tmp_path, path, WHO, *changes), heard=lambda _done: None)


def test_samples_become_windows_of_their_label(tmp_path):
    found = made(tmp_path, rows(300) + rows(300, who="P2", label="Sit"))
    assert {n: set(e.labels) for n, e in found.edges.items()} == {"P1": {0}, "P2": {3}}
    assert len(found.edges["P1"]) == (300 - 128) // 64 + 1
    assert found.rates_hz["P1"] == pytest.approx(50)


@pytest.mark.parametrize("unit", ["s", "us", "ns", "iso"])
def test_every_unit_of_time_is_told_and_gives_the_same(tmp_path, unit):
    usual = made(tmp_path, rows(300))
    times = np.datetime64(1_700_000_000_000, "ms") + np.arange(300) * np.timedelta64(20, "ms")
    factor = {"s": 1e-3, "us": 1e3, "ns": 1e6}.get(unit, 1)
    lines = [
        [f"{t}+00:00" if unit == "iso" else f"{t.astype(np.int64) * factor:.3f}", *row[1:]]
        for t, row in zip(times, rows(300), strict=True)
    ]
    again = made(tmp_path, lines)
    np.testing.assert_allclose(again.edges["P1"].features, usual.edges["P1"].features, atol=1e-3)


def test_g_and_metres_a_second_squared_are_one_thing(tmp_path):
    usual = made(tmp_path, rows(300))
    lines = [[*row[:2], *(f"{float(cell) * 9.80665:.5f}" for cell in row[2:5]), *row[5:]] for row in rows(300)]
    metric = made(tmp_path, lines, header=HEADER.replace("_g", "_ms2"))
    apart = np.abs(metric.edges["P1"].features - usual.edges["P1"].features)
    assert np.median(apart) < 1e-4  # where a signal is still, rounding in the file is all that its spectrum shows
    assert apart[:, [i for i, name in enumerate(TASK.feature_names) if name.endswith(" mean")]].max() < 1e-3


def test_semicolons_and_decimal_commas_are_read(tmp_path):
    usual = made(tmp_path, rows(300))
    comma = made(tmp_path, [[cell.replace(".", ",") for cell in row] for row in rows(300)], separator=";")
    np.testing.assert_array_equal(comma.edges["P1"].features, usual.edges["P1"].features)


def test_a_gap_is_left_a_gap_and_no_window_spans_it(tmp_path):
    lines = rows(400)
    for row in lines[120:180]:
        row[3] = ""
    found = made(tmp_path, lines)
    assert found.gaps == 60
    assert len(found.edges["P1"]) == (220 - 128) // 64 + 1


def test_an_uneven_clock_is_put_on_an_even_grid(tmp_path):
    rng = np.random.default_rng(1)
    lines = rows(600)
    for row in lines:
        row[0] = f"{float(row[0]) + rng.uniform(-4, 4):.3f}"
    jittered, usual = made(tmp_path, lines), made(tmp_path, rows(600))
    assert abs(len(jittered.edges["P1"]) - len(usual.edges["P1"])) <= 1
    at = TASK.feature_names.index("gravity-x mean")
    assert np.median(jittered.edges["P1"].features[:, at]) == pytest.approx(9.8, abs=0.2)


def spoilt(line, place, cell):
    lines = rows(300)
    lines[line - 2][place] = cell
    return lines


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (spoilt(17, 2, "abc"), r"line 17: accel-x in column 'acc_x_g': 'abc' is no number"),
        (spoilt(17, 2, "nan"), r"line 17: .* is no number"),
        (spoilt(17, 0, "1700000000000"), "line 17: the time of P1 does not go on"),
        (spoilt(17, 0, "-5"), "line 17: time .* is no time since 1970"),
        (spoilt(17, 1, ""), "line 17: no subject"),
        (spoilt(17, 5, "9999"), "gyro-x of P1 goes from .* outside of -2000 to 2000"),
        (rows(300, g=9.8), "acceleration of P1 has a median of .* gravity alone gives 9.8"),
        (rows(300, g=0.01), "acceleration of P1 has a median of .* gravity alone gives 9.8"),
        (rows(300, period_ms=90.0), "P1 has 11.1 samples a second"),
        (rows(100), "gives no labelled window"),
        (rows(1), "P1 has one row alone"),
        ([*rows(300), ["1", "2"]], "line 302: 2 cells under 9 columns"),
    ],
)
def test_what_does_not_hold_is_said_with_its_place(tmp_path, lines, said):
    changes = [('unit = "?"', 'unit = "ms"')] if len(lines) == 1 else []
    with pytest.raises(StudyError, match=said) as refused:
        made(tmp_path, lines, *changes)
    assert refused.value.remedy


def test_a_label_in_no_class_is_refused_until_it_is_placed(tmp_path):
    lines = rows(300) + rows(300, label="hopping", t0=1_700_000_100_000)
    assert set(made(tmp_path, lines).edges["P1"].labels) == {-1, 0}  # proposed as one to ignore
    with pytest.raises(StudyError, match="line 302: label 'hopping' is in no class"):
        made(tmp_path, lines, ('ignore = ["hopping"]', "ignore = []"))


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"acc_x_g"', '"speed"', "signals.accel-x: no column 'speed'"),
        ('unit = "deg/s"', 'unit = "km"', "gyro-x in 'km' does not convert to deg/s"),
        ('unit = "deg/s"', 'unit = "?"', 'signals.gyro-x.unit.* is still "?"'),
        ("gyro-z =", "heart-rate =", "lacks gyro-z"),
        ("walking =", "flying =", r"\[labels\] flying is no class"),
        ("sitting = []", 'sitting = ["Walk"]', "label Walk stands in two places"),
        ('task = "activity"', 'task = "ventricular-beats"', "samples in CSV are read for the task `activity` alone"),
        ('task = "activity"', 'task = "sleep"', "there is no task 'sleep'"),
        ('decimal = "."', 'decimals = "."', "unknown field `decimals`"),
        ('decimal = "."', "decimal = ", "does not hold"),
    ],
)
def test_a_mapping_that_does_not_hold_is_refused(tmp_path, old, new, said):
    with pytest.raises(StudyError, match=said) as refused:
        made(tmp_path, rows(300), (old, new))
    assert refused.value.remedy


def test_a_unit_that_the_header_does_not_say_is_left_open(tmp_path):
    text = propose(sheet(tmp_path, rows(300), HEADER.replace("_g", "").replace("_dps", "")))
    assert 'accel-x = { column = "acc_x", unit = "?" }' in text
    assert 'gyro-z = { column = "gyro_z", unit = "?" }' in text


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "no header"), (b"time,x\n", "no rows"), (b"a,b\n\xff\xfe,1\n", "no CSV in UTF-8")],
)
def test_what_is_no_csv_is_said(tmp_path, content, said):
    (tmp_path / "x.csv").write_bytes(content)
    with pytest.raises(StudyError, match=said):
        propose(tmp_path / "x.csv")
    with pytest.raises(StudyError, match="cannot be read"):
        propose(tmp_path / "absent.csv")


def test_the_table_is_what_a_rehearsal_reads_and_a_dry_run_writes_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = sheet(tmp_path, rows(300) + rows(300, who="P2", label="Sit"))
    mapping(tmp_path, path, WHO)
    command = ["study", "examples", path.name, "--out", "examples"]
    looked = CliRunner().invoke(app, [*command, "--dry-run"])
    assert "nothing written" in looked.output
    assert not (tmp_path / "examples").exists()
    assert CliRunner().invoke(app, command).exit_code == 0
    frame = pl.read_parquet(tmp_path / "examples" / "walk.parquet")
    assert set(frame["label"]) == {"walking", "sitting"}
    population = recorded_population(
        tmp_path / "examples", TASK, ScoreSettings(held_back=0.0), edges=None, alpha=1.0, seed=0, heard=lambda *_: None
    )
    direct = read_sheet(path, *load_columns(tmp_path / "columns.toml", TASKS), heard=lambda _done: None)
    for name, examples in direct.edges.items():
        np.testing.assert_array_equal(population.edges[name].features, examples.features)
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, StudyError)
    assert "is there already" in str(again.exception)
