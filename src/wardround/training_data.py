"""What an edge may train on: its local store, through the same transforms as the hub's lake.

Runs in the training worker, which names "wardround.training_data:examples_of" or "...:values_of" and has the edge's home.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.learn.survey import SurveySettings
from wardround.process.transforms import TASKS
from wardround.process.transforms.alignment import usable
from wardround.records import Examples, Floats

SHARE = 10.0  # features are made anew at most a tenth of the time: rounds can follow each other faster than data come


@dataclass
class _Cached:
    version: int
    made_s: float
    took_s: float
    examples: Examples


_stores: dict[str, LocalStore] = {}
_cache: dict[tuple[str, str], _Cached] = {}


def local_store(home: str) -> LocalStore:
    """The local store of an edge's home, opened once in this process."""
    if home not in _stores:
        _stores[home] = LocalStore(FolderStorage(Path(home) / "local"))
    return _stores[home]


def examples_of(home: str, task: str) -> Examples:
    """The examples of an edge for a task, made anew when there are new observations and it is time."""
    store = local_store(home)
    version = store.version()
    cached = _cache.get((home, task))
    started = time.monotonic()
    if cached is not None and (cached.version == version or started - cached.made_s < SHARE * cached.took_s):
        return cached.examples
    examples = TASKS[task].examples(store.read(TASKS[task].signals))
    ended = time.monotonic()
    _cache[home, task] = _Cached(version, ended, ended - started, examples)
    return examples


def values_of(home: str, survey: SurveySettings) -> Mapping[str, Mapping[str, Floats]]:
    """The values of the signals of a survey, by code and subject; flagged as unusable ones are left out."""
    codes = [signal.code for signal in survey.signals]
    since_us = round(time.time() * 1e6 - survey.last_days * 86_400e6) if survey.last_days > 0 else 0
    found: dict[str, dict[str, list[Floats]]] = {code: {} for code in codes}
    for o in local_store(home).stream(codes, since_us=since_us):
        if usable(o):
            found[o.code].setdefault(o.subject, []).append(o.samples())
    return {code: {subject: np.concatenate(runs) for subject, runs in own.items()} for code, own in found.items()}
