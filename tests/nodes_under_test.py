"""What the tests of nodes share: leads of ECG, the rows that a job made, a hub's processing opened as the command line does."""

from __future__ import annotations

import random
import time

import numpy as np

from wardround.clock import SystemClock
from wardround.hub import open_processing
from wardround.process.catalogue import JOBS
from wardround.process.tables import SCHEMAS
from wardround.records import Observation
from wardround.settings import HubSettings, load_settings
from wardround.store import open_store

JOB = JOBS["examples-ventricular-beats"]
T0 = 1_700_000_000_000_000


def ecg(subject, seed, *, seconds=1800, rate_hz=250.0, t0_us=T0):
    """A lead with a beat a second."""
    rng, n = np.random.default_rng(seed), round(seconds * rate_hz)
    t = np.arange(n) / rate_hz
    x = rng.normal(0, 0.01, n) + np.exp(-np.square((t % 1.0 - 0.5) / 0.012) / 2)
    counts = np.round(x * 200).astype("<i2")
    common = {"subject": subject, "device": "d", "edge": "e", "unit": "mV", "t0_device_us": 0, "period_us": 1e6 / rate_hz}
    return Observation(**common, code="mdc:131330", t0_us=t0_us, n=n, values=counts.tobytes(), scale=1 / 200)


def rows(lake, job=JOB):
    columns = [c for c in SCHEMAS[job.target].names if c != "made"]
    found = lake.read(job.target, columns=columns, jobs=[job.name]).to_pylist()
    return sorted(found, key=lambda r: (r["part"], r["t_us"]))


def differences(found, expected):
    """What is not the same, row by row. A container's linear algebra may round the last bit otherwise: features to 1e-5."""
    exact = [{k: v for k, v in row.items() if k != "features"} for rows_ in (found, expected) for row in rows_]
    half = len(found)
    wrong = [(a, b) for a, b in zip(exact[:half], exact[half:], strict=False) if a != b]
    wrong += [("rows", len(found), len(expected))] if len(found) != len(expected) else []
    if not wrong:
        a, b = (np.array([r["features"] for r in rows_]) for rows_ in (found, expected))
        wrong = [(found[i], expected[i]) for i in np.flatnonzero(~np.isclose(a, b, rtol=1e-5, atol=1e-5).all(axis=1))]
    return wrong[:3]


def forget(lake):
    """As if the job had never run."""
    lake.delete(JOB.target, f"job = '{JOB.name}'")


class Home:
    """The hub's processing, opened as `wardround process run` opens it."""

    def __init__(self, home):
        self.store = open_store(home / "hub.sqlite")
        self.said = []
        settings = load_settings(home / "hub.toml", HubSettings)
        self.processing = open_processing(home, settings, self.store, SystemClock(), say=lambda *words: self.said.append(words))
        self.processing.look()

    def ready(self, workers=3):
        """Wait until every node is; the hub looks so every second."""
        until = time.monotonic() + 60
        while {s.state for s in self.processing.fleet.statuses()} != {"ready"}:
            assert time.monotonic() < until, self.processing.fleet.statuses()
            self.processing.look()
            time.sleep(0.2)
        assert self.processing.nodes.wait_ready(10, workers=workers)

    def close(self):
        self.processing.close()
        self.store.close()


def again(opened, watch=lambda _done, _all: None):
    """Run the job over everything, from nothing; `watch` hears how many parts are done."""
    forget(opened.processing.lake)
    jobs = opened.processing._jobs
    staged = jobs._staging / JOB.name
    assert not staged.exists()
    jobs._known_digest = f"{random.randrange(1 << 24):06x}"  # as other code would: all is made anew
    return opened.processing.run(JOB, watch=watch)
