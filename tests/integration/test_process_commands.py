"""`wardround process` and `trend`, as a person uses them: with no hub running, with one, and with a file of the lake broken."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Observation, bucket_of

T0 = 1_700_006_400_000_000
SUBJECTS = [next(n for n in (f"p{k}" for k in range(1_000)) if bucket_of(n) == b) for b in (1, 2, 3)]


def fill(home, version=1, start_s=0):
    rng = np.random.default_rng(version)
    common = {"device": "d", "edge": "e", "unit": "/min", "code": "loinc:8867-4", "t0_device_us": 0}
    rows = [
        (
            Observation(**common, subject=s, t0_us=T0 + (start_s + k * 5) * 1_000_000, value=float(rng.integers(60, 90))),
            "b",
            k,
            T0,
        )
        for s in SUBJECTS
        for k in range(700)
    ]
    Lake(home / "lake").append(BRONZE, observation_rows(rows), app="inbox", version=version)


@pytest.mark.timeout(360)
def test_plan_run_status_retry_and_trend_without_a_hub(site, command):
    home = ["--home", str(site.home)]
    assert "Nothing has run yet" in command("process", "status", *home).stdout
    fill(site.home)
    planned = {p["job"]: p for p in json.loads(command("process", "plan", *home, "--json").stdout)}
    assert len(planned["vitals"]["parts"]) == 3
    assert planned["signals"]["whole"]
    ended = command("process", "run", "vitals", "signals", "trends", *home, "--json", timeout=120)
    assert ended.returncode == 0, ended.stderr
    runs = json.loads(ended.stdout)
    assert [(r["job"], r["state"], r["failed"]) for r in runs] == [(j, "done", 0) for j in ("vitals", "signals", "trends")]
    assert all(r["facts"]["code"] and r["facts"]["place"].startswith("hub") for r in runs)
    shown = command("trend", SUBJECTS[0], "heart-rate", "--last", "2h", *home)
    assert "by the minute" in shown.stdout
    facts = json.loads(command("trend", SUBJECTS[0], "heart-rate", "--last", "24h", *home, "--json").stdout)
    assert [w["n"] for w in facts["windows"]] == [700]
    assert facts["windows"][0]["completeness"] == pytest.approx(700 / 720, abs=0.01)
    assert json.loads(command("trend", "list", *home, "--json").stdout) == sorted(SUBJECTS)
    wrong = command("trend", "nobody", *home)
    assert (wrong.returncode, "pseudonyms are" in wrong.stderr) == (2, True)
    assert command("trend", SUBJECTS[0], "--last", "soon", *home).returncode == 2
    assert "jobs are: " in command("process", "run", "vital", *home).stderr


@pytest.mark.timeout(360)
def test_a_broken_file_is_named_and_made_good_by_retry(site, command):
    home = ["--home", str(site.home)]
    fill(site.home)
    [broken] = Path(site.home, "lake", BRONZE).glob("day=*/bucket=2/*.parquet")
    whole = broken.read_bytes()
    spoilt = bytearray(whole)
    spoilt[4 : len(whole) // 2] = bytes(len(whole) // 2 - 4)
    broken.write_bytes(spoilt)
    ended = command("process", "run", "vitals", *home, timeout=120)
    assert ended.returncode == 1
    assert "wardround process status" in ended.stderr
    status = json.loads(command("process", "status", *home, "--json").stdout)
    [(job, part, words)] = status["dead"]
    assert (job, part) == ("vitals", "file in bucket 2 from 2023-11-15 00:00 UTC")
    assert "cannot be read" in words
    broken.write_bytes(whole)
    again = command("process", "retry", "vitals", *home, timeout=120)
    assert again.returncode == 0, again.stderr
    status = json.loads(command("process", "status", *home, "--json").stdout)
    assert status["dead"] == []
    assert [(r["state"], r["parts"], r["failed"]) for r in status["runs"]] == [("done", 1, 0), ("done", 2, 1)]


@pytest.mark.timeout(360)
def test_a_running_hub_does_the_work_and_the_command_follows(site, command):
    home = ["--home", str(site.home)]
    with (site.home / "hub.toml").open("a") as file:
        file.write('jobs_off = ["vitals"]\n')  # the last table of the file is [processing]
    fill(site.home)
    site.start_hub()
    taken = command("hub", "run", *home)
    assert (taken.returncode, "runs in" in taken.stderr) == (1, True)
    ended = command("process", "run", "vitals", *home, "--json", timeout=120)
    assert ended.returncode == 0, ended.stderr
    [run] = json.loads(ended.stdout)
    assert (run["state"], run["parts_done"], run["rows"]) == ("done", 3, 177)
    assert "Nothing is new" in command("process", "run", "vitals", *home, timeout=60).stdout
    assert command("process", "stop", *home).returncode == 0
