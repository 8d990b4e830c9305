"""What an edge may train on: its local store, through the same transforms as the hub's lake.

Runs in the training worker, which names it "wardround.training_data:examples_of" and has the edge's home.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.process.transforms import TASKS
from wardround.records import Examples

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
