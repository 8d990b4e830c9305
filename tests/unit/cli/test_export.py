"""`wardround process export --lake-names`: out of a lake, and in again at an edge."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from wardround.cli.edge import app as edge_app
from wardround.cli.process import app
from wardround.errors import SettingsError
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Observation

T_US = 1_772_150_395_000_000  # five seconds before midnight


@pytest.fixture
def home(tmp_path):
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "hub.toml").write_text('site = "Test"\n')
    waves = [wave(i) for i in range(3)]
    pulse = Observation(
        subject="s1", device="d", edge="e", code="loinc:8867-4", unit="/min", t0_us=T_US, t0_device_us=T_US, value=61.5
    )
    other = Observation(
        subject="s2", device="d", edge="e", code="loinc:8867-4", unit="/min", t0_us=T_US, t0_device_us=T_US, value=99.0
    )
    rows = observation_rows([(o, "b", i + 1, T_US) for i, o in enumerate([*waves, pulse, other])])
    Lake(folder / "lake").append(BRONZE, rows, app="test", version=1)
    return folder


def wave(i):
    counts = (np.arange(1250) + i).astype("<i2")
    t0_us = T_US + i * 5_000_000
    grid = {"n": 1250, "period_us": 4_000.0, "values": counts.tobytes(), "scale": 0.005}
    who = {"subject": "s1", "device": "d", "edge": "e", "code": "mdc:131330", "unit": "mV"}
    return Observation(**who, t0_us=t0_us, t0_device_us=t0_us, **grid)


def export(home, out, *more):
    result = CliRunner().invoke(app, ["export", "s1", "--lake-names", "--home", str(home), "--out", str(out), "--json", *more])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return json.loads(result.stdout)


@pytest.mark.parametrize(("format_", "left"), [("fhir", {}), ("senml", {}), ("wfdb", {"no-waveform": 1})])
def test_what_goes_out_comes_in_again(home, tmp_path, format_, left):
    facts = export(home, tmp_path / "out", "--format", format_)
    assert (facts["observations"], facts["samples"], facts["left_out"]) == (4, 3 * 1250 + 1, left)
    files = [str(p) for p in sorted((tmp_path / "out").rglob("*")) if p.is_file() and p.suffix != ".dat"]
    result = CliRunner().invoke(edge_app, ["import", *files, "--dry-run", "--json", "--time-zone", "UTC"])
    assert result.exit_code == 0, result.output
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    ecg = sorted((line for line in lines if line["signal"] == "ecg-ii"), key=lambda line: line["t_us"])
    np.testing.assert_allclose(
        [v for line in ecg for v in line["samples"]], np.concatenate([wave(i).samples() for i in range(3)])
    )
    assert ecg[0]["t_us"] == T_US
    assert [line["samples"] for line in lines if line["signal"] == "heart-rate"] == ([] if format_ == "wfdb" else [[61.5]])


def test_parquet_has_one_patient_and_the_signals_asked_for(home, tmp_path):
    export(home, tmp_path / "out", "--format", "parquet", "--signal", "heart-rate")
    [path] = (tmp_path / "out").rglob("*.parquet")
    [row] = pq.read_table(path).to_pylist()
    assert (row["subject"], row["samples"]) == ("s1", [61.5])


def test_a_span_of_time(home, tmp_path):
    facts = export(home, tmp_path / "out", "--since", "2026-02-27T00:00")
    assert facts["observations"] == 2


def test_a_folder_with_something_in_it_is_left_alone(home, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(SettingsError, match="not empty"):
        export(home, tmp_path / "out")
