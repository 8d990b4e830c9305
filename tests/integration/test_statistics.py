"""A study of kind `statistics` among real processes: the hub learns sums, and never a value."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest

from wardround.records import Observation

STUDY = """\
name = "heart-rates"
kind = "statistics"

[statistics]
signals = ["heart-rate", "spo2", "body-temperature"]
subjects_min = 3

[rounds]
edges_min = 3
"""


def values(edge, subject):
    return np.round(np.random.default_rng(edge * 10 + subject).normal(65 + 5 * subject, 5, 40))


def reported(edge):
    """What the edge's devices reported; three patients with a heart rate, two with a saturation."""
    common = {"device": "d", "edge": f"edge-{edge}", "t0_device_us": 0, "device_boot": "b"}
    now_us = time.time_ns() // 1_000
    rows = []
    for subject in range(3):
        for k, value in enumerate(values(edge, subject)):
            at = {"t0_us": now_us - k * 1_000_000, "device_seq": 1_000 * subject + k, "subject": f"p{edge}{subject}"}
            rows.append(Observation(**common, **at, code="loinc:8867-4", unit="/min", value=float(value)))
            if subject < 2:
                rows.append(Observation(**common, **at, device_index=1, code="loinc:59408-5", unit="%", value=97.0))
    return rows


@pytest.mark.timeout(360)
def test_statistics_of_three_edges(site, command, tmp_path):
    site.start_hub()
    for edge in range(3):
        program = site.edge(f"edge-{edge}")
        site.keep(f"edge-{edge}", reported(edge))
        program.start()
        program.wait_ready(150)
    file = tmp_path / "study.toml"
    file.write_text(STUDY)
    started = command("study", "start", str(file), "--home", str(site.home))
    assert started.returncode == 0, started.stderr
    until = time.monotonic() + 60
    while "finished" not in command("study", "status", "--home", str(site.home)).stdout:
        assert time.monotonic() < until, site.hub.tail()
        time.sleep(0.5)
    done = command("study", "result", "heart-rates", "--home", str(site.home), "--json")
    assert done.returncode == 0, done.stderr
    heart, saturation, temperature = json.loads(done.stdout)["signals"]
    pooled = np.concatenate([values(e, s) for e in range(3) for s in range(3)])
    assert (heart["count"], heart["subjects"]) == (len(pooled), 9)
    assert heart["mean"] == pytest.approx(pooled.mean())
    assert heart["std"] == pytest.approx(pooled.std())
    assert abs(heart["quantiles"][2] - np.median(pooled)) <= heart["width"]
    assert "count" not in saturation  # two patients at each edge: nobody answers
    assert "count" not in temperature
    shown = command("study", "result", "heart-rates", "--home", str(site.home)).stdout
    assert "heart-rate" in shown
    assert "spo2: not published, no edge has 3 patients" in shown
    assert site.store().rounds("heart-rates")[0].number == 0
