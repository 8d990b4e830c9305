"""Recordings of motion: half a minute of walking, then half a minute of lying, so that a model has something easy to learn; and a
hub with edges that have such recordings."""

from __future__ import annotations

import itertools
import time

import numpy as np

from wardround.process.tables import BRONZE, observation_rows
from wardround.process.transforms.activity import ACCELERATION, LABEL_CODE, ROTATION
from wardround.processing import open_lake
from wardround.records import Observation
from wardround.settings import HubSettings, load_settings


def recording(subject, edge, seed, *, still=False):
    """Half a minute of walking, then half a minute of lying; `still`: lying all the time."""
    rng = np.random.default_rng(seed)
    t0_us = time.time_ns() // 1_000 - 600_000_000
    n = 1_500
    t = np.arange(n) / 50
    walk = np.stack([9.8 + 3 * np.sin(2 * np.pi * 2 * t), 2 * np.sin(2 * np.pi * t), 1 + np.sin(2 * np.pi * 2 * t + 1)])
    lie = np.stack([0 * t, 0 * t, 9.8 + 0 * t])
    sequence = itertools.count(1)
    lying = (lie, 6, 1.0)
    for part, (signal, label, shake) in enumerate((lying if still else (walk, 1, 60.0), lying)):
        at_us = t0_us + part * 40_000_000
        common = {"subject": subject, "device": f"d-{subject}", "edge": edge, "t0_us": at_us, "t0_device_us": at_us}
        values = [*(signal + rng.normal(0, 0.2, signal.shape)), *(rng.normal(0, shake, (3, n)))]
        for code, run in zip((*ACCELERATION, *ROTATION), values, strict=True):
            unit = "m/s2" if code in ACCELERATION else "deg/s"
            counts = np.round(run / 0.01).astype("<i2").tobytes()
            yield Observation(
                **common,
                code=code,
                unit=unit,
                n=n,
                period_us=20_000.0,
                values=counts,
                scale=0.01,
                device_boot="b",
                device_seq=next(sequence),
            )
        labels = np.full(n, label, "<i2").tobytes()
        yield Observation(
            **common,
            code=LABEL_CODE,
            unit="1",
            n=n,
            period_us=20_000.0,
            values=labels,
            device_boot="b",
            device_seq=next(sequence),
        )


def lake_of(site):
    """The lake of a site's hub."""
    return open_lake(site.home, load_settings(site.home / "hub.toml", HubSettings))


def hold_back(site, subjects):
    """Subjects, each of an edge, who are in the hub's lake and may be there: a study scores its models on them."""
    rows = [
        (o, "boot", i, o.t0_us)
        for subject, edge in subjects.items()
        for i, o in enumerate(recording(subject, edge, subject[-1].encode()[0]))
    ]
    lake_of(site).append(BRONZE, observation_rows(rows), app="test", version=1)
    for subject, edge in subjects.items():
        site.allow_at_hub(edge, subject)


def start_edges(site, edges):
    """Edges, each with a recording of its own, that run."""
    for i, name in enumerate(edges):
        program = site.edge(name)
        site.keep(name, recording(f"p-{i}", name, i))
        program.start()
        program.wait_ready(150)


def start_study(site, command, folder, text):
    """A study that its hub has taken."""
    (folder / "study.toml").write_text(text)
    started = command("study", "start", str(folder / "study.toml"), "--home", str(site.home))
    assert started.returncode == 0, started.stderr
