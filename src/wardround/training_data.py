"""What an edge may train on: its local store, through the same transforms as the hub's lake.

Consent is asked again here, at the moment a round picks its examples: a withdrawal changes the next round, whoever wrote it.

Runs in the training worker, which names "wardround.training_data:examples_of", "...:values_of" or "...:live_of" and has the
edge's home.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.errors import LearnError
from wardround.learn.calibration import scaled
from wardround.learn.learners import Learner, make_learner
from wardround.learn.messages import Done
from wardround.learn.models import decode_model
from wardround.learn.study import decode_training, features_digest
from wardround.learn.survey import SurveySettings
from wardround.learn.trainer import Work
from wardround.process.transforms import TASKS
from wardround.process.transforms.alignment import usable
from wardround.records import Consent, Examples, Floats, Observation, Purpose
from wardround.trust.at_rest import open_seal
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
_learners: dict[tuple[bytes, int], Learner] = {}  # of the model that predicted last


def local_store(home: str) -> LocalStore:
    """The local store of an edge's home, opened once in this process."""
    if home not in _stores:
        _stores[home] = LocalStore(FolderStorage(Path(home) / "local"), open_seal(Path(home)))
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


class Live(msgspec.Struct):
    """What a model says of what was measured lately: row by row, by subject and time. `p` has shape (n, n_classes), float32."""

    task: str
    subjects: list[str]
    t_us: list[int]
    p: bytes
    classes: int


class LiveAsk(msgspec.Struct):
    """What of: observations since then, with probabilities scaled by this temperature."""

    since_us: int
    temperature: float


def live_of(home: str, work: Work) -> Done:
    """Predict with a released model from the live windows of subjects who allow to be watched; the answer is a Live, encoded.

    `work.kept` is a LiveAsk, encoded; settings and model are those of the release.

    Raises:
        LearnError: the model does not fit the task here.
    """
    settings, ask = decode_training(work.settings), msgspec.msgpack.decode(work.kept, type=LiveAsk)
    task, register = TASKS[settings.task], consents(home)
    if settings.features != features_digest(task.feature_names):
        raise LearnError(f"the model's features of {task.name} are not those here", remedy="bring edge and hub to one version")
    rows = local_store(home).read(task.signals - {task.label_code}, since_us=ask.since_us)
    examples = task.examples([o for o in rows if not o.imported and _allowed(register, o, Purpose.CARE)])
    p = np.empty((0, settings.classes), np.float32)
    if len(examples):
        key = (work.settings, len(task.feature_names))
        if key not in _learners:
            _learners.clear()
            _learners[key] = make_learner(settings.learner, len(task.feature_names), settings.classes, code=settings.code)
        p = scaled(_learners[key].predict(decode_model(work.model), examples.features), ask.temperature).astype(np.float32)
    live = Live(task.name, [str(s) for s in examples.subjects], examples.t_us.tolist(), p.tobytes(), settings.classes)
    return Done(msgspec.msgpack.encode(live), len(examples))


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
