"""What an edge may train on: its local store, through the same transforms as the hub's lake.

Consent is asked again here, at the moment a round picks its examples: a withdrawal changes the next round, whoever wrote it.

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
from wardround.records import Consent, Examples, Floats, Observation, Purpose
from wardround.trust.consent import ConsentRegister

SHARE = 10.0  # features are made anew at most a tenth of the time: rounds can follow each other faster than data come


@dataclass
class _Cached:
    version: int
    consents: int
    made_s: float
    took_s: float
    examples: Examples


_stores: dict[str, LocalStore] = {}
_registers: dict[str, ConsentRegister] = {}
_cache: dict[tuple[str, str], _Cached] = {}


def local_store(home: str) -> LocalStore:
    """The local store of an edge's home, opened once in this process."""
    if home not in _stores:
        _stores[home] = LocalStore(FolderStorage(Path(home) / "local"))
    return _stores[home]


def consents(home: str) -> ConsentRegister:
    """The consents of an edge's patients as they are now, whichever process changed them."""
    if home not in _registers:
        _registers[home] = ConsentRegister(Path(home) / "consent.sqlite")
    _registers[home].refresh()
    return _registers[home]


def examples_of(home: str, task: str) -> Examples:
    """The examples of an edge for a task, of subjects who allow training now.

    Made anew when there are new observations and it is time, and always when somebody's consent has changed.
    """
    store, register = local_store(home), consents(home)
    version, generation = store.version(), register.generation
    cached = _cache.get((home, task))
    started = time.monotonic()
    known = cached if cached is not None and cached.consents == generation else None
    if known is not None and (known.version == version or started - known.made_s < SHARE * known.took_s):
        return known.examples
    allowed = [o for o in store.read(TASKS[task].signals) if _allowed(register, o, Purpose.TRAINING)]
    examples = TASKS[task].examples(allowed)
    ended = time.monotonic()
    _cache[home, task] = _Cached(version, generation, ended, ended - started, examples)
    return examples


def _allowed(register: ConsentRegister, o: Observation, purpose: Purpose) -> bool:
    return register.choose(o.subject, o.code, purpose)[0] is not Consent.NONE


def values_of(home: str, survey: SurveySettings) -> Mapping[str, Mapping[str, Floats]]:
    """The values of the signals of a survey, by code and subject who allows research; unusable ones are left out."""
    register = consents(home)
    codes = [signal.code for signal in survey.signals]
    since_us = round(time.time() * 1e6 - survey.last_days * 86_400e6) if survey.last_days > 0 else 0
    found: dict[str, dict[str, list[Floats]]] = {code: {} for code in codes}
    for o in local_store(home).stream(codes, since_us=since_us):
        if usable(o) and _allowed(register, o, Purpose.RESEARCH):
            found[o.code].setdefault(o.subject, []).append(o.samples())
    return {code: {subject: np.concatenate(runs) for subject, runs in own.items()} for code, own in found.items()}
