"""The models that an edge holds, on what its devices measured in the last minutes, asked in the training worker.

Once a minute, and only while the worker has nothing to train: a round never waits longer for it than one prediction takes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from wardround.collect.local_store import LocalStore
from wardround.errors import WardroundError
from wardround.learn.held import HeldModels
from wardround.learn.messages import Done
from wardround.learn.models import encode_model
from wardround.learn.study import decode_training
from wardround.learn.trainer import Source, Work
from wardround.process.transforms import TASKS

log = structlog.get_logger(__name__)
FUNCTION = "wardround.training_data:live_of"  # named, not imported: it belongs to the worker
BACK_US = 300_000_000  # so much is looked at: a patient's own median beat needs it
SETTLED_US = 5_000_000  # what is newer may still change with what comes next
DEADLINE_S = 30.0
WALKING = ("walking", "upstairs", "downstairs")
Run = Callable[[Work, float], Done | None]


class _Answer(msgspec.Struct):
    task: str
    subjects: list[str]
    t_us: list[int]
    p: bytes
    classes: int


@dataclass(frozen=True, slots=True)
class Said:
    """What a model says of one subject's windows, in order. `p` has shape (n, n_classes)."""

    task: str
    subject: str
    t_us: list[int]
    p: NDArray[np.float32]


class HeldOnLive:
    """The held models of one edge."""

    def __init__(self, edge: str, home: str, *, held: HeldModels, local: LocalStore, run: Run) -> None:
        """`run(work, deadline_s)` has the worker do it; None: it is busy."""
        self._edge, self._home, self._held, self._local, self._run = edge, home, held, local, run

    def look(self, now_us: int) -> Iterator[Said]:
        """What every held model says of the last minutes; one that cannot be asked is logged and left out."""
        for study in self._held.studies():
            try:
                yield from self._ask(study, now_us)
            except WardroundError as error:
                log.warning("a model could not be asked", edge_id=self._edge, study=study, reason=str(error))

    def _ask(self, study: str, now_us: int) -> Iterator[Said]:
        held = self._held.open(study)
        if held is None:
            return
        release = held.release
        task = TASKS.get(decode_training(release.settings).task)
        since_us = now_us - BACK_US
        if task is None or not self._local.has_since(task.signals - {task.label_code}, since_us):
            return
        ask = msgspec.msgpack.encode({"since_us": since_us, "temperature": release.temperature})
        source = Source(FUNCTION, self._home, self._edge)
        model = encode_model(held.parameters)
        done = self._run(Work(source, "live", release.settings, model, release.number, ask), DEADLINE_S)
        if done is None:
            return
        answer = msgspec.msgpack.decode(done.data, type=_Answer)
        p = np.frombuffer(answer.p, np.float32).reshape(-1, answer.classes)
        subjects, times = np.array(answer.subjects, np.str_), np.array(answer.t_us, np.int64)
        for subject in np.unique(subjects):
            rows = (subjects == subject) & (times <= now_us - SETTLED_US)
            order = np.lexsort((times[rows],))
            yield Said(answer.task, str(subject), times[rows][order].tolist(), p[rows][order])
