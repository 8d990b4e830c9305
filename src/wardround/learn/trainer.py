"""The resident training worker: one process beside the edge, started once, never one per round.

Training cannot take the edge down: the worker has limits (limits.py) and a deadline, and when it dies that is one failed
participant in one round; the next order starts it again. It ends by itself when its edge is gone. A training that is no longer
wanted has a moment to end by itself, then the worker is killed with whatever it has started. Several edges of one process may
share a worker; their orders queue up.
"""

from __future__ import annotations

import importlib
import multiprocessing as mp
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from wardround.errors import LearnError, WardroundError
from wardround.learn.by_patient import train_by_patient
from wardround.learn.compression import compress
from wardround.learn.learners import Learner, make_learner
from wardround.learn.learners.dp_sgd import steps_of
from wardround.learn.limits import Limits, apply_limits, end_group, end_with, lead_group
from wardround.learn.local import train_locally
from wardround.learn.messages import Done
from wardround.learn.models import decode_model, encode_model
from wardround.learn.privacy.dp_sgd_checks import check_order
from wardround.learn.privacy.edge_budget import spend
from wardround.learn.privacy.patient_budget import LEFT_OUT, NO_BOUND, Bound, admit, exposures, pay
from wardround.learn.rows_said import rows_said
from wardround.learn.study import LearnerSettings, TrainingSettings, decode_training, is_held_back
from wardround.learn.survey import decode_survey, summarise
from wardround.learn.tried import tried
from wardround.records import Examples

RESTART_S_MIN, RESTART_S_MAX = 0.2, 10.0
LOOK_S = 0.05  # how soon a cancel, or the death of a worker whose children hold its pipe, is seen
GRACE_S = 1.0  # a cancelled training that ends by itself within it spares the start of another worker


@dataclass(frozen=True, slots=True)
class Source:
    """Where the worker gets an edge's data: a function by name, called in the worker with (home, task or survey)."""

    function: str  # "module:function" -> records.Examples; values by code and subject for a survey; of a Flower message, Done
    home: str
    edge: str


@dataclass(frozen=True, slots=True)
class Work:
    """One training."""

    source: Source
    task: str  # survey, statistics, train, flower, live, drill
    settings: bytes
    model: bytes
    round_number: int
    kept: bytes = b""  # what the edge keeps for this study: learn/local.py
    study: str = ""  # its name, by which the edge's own ledgers know it
    bound: Bound = NO_BOUND  # of what studies may spend of a patient
    tried: bool = False  # the update is tried on rows of this edge, for what watches it here


class TrainingFailed(LearnError):
    """A training ended without an update; the round goes on without this edge."""


class Trainer:
    """Hands work to the worker process, one at a time. Safe to use from several threads."""

    def __init__(self, *, limits: Limits, deadline_s: float, grace_s: float = GRACE_S) -> None:
        self._limits, self._deadline_s, self._grace_s = limits, deadline_s, grace_s
        self._lock = threading.Lock()
        self._process: mp.process.BaseProcess | None = None
        self._pipe: Connection | None = None
        self._wait_s = RESTART_S_MIN

    def start(self) -> None:
        """Start the worker ahead of the first order. The study's learner is loaded by the first training that needs it."""
        with self._lock:
            self._ensure()

    def run(self, work: Work, unwanted: threading.Event | None = None, *, grace_s: float | None = None) -> Done:
        """Train; blocks until done, or until it is no longer wanted: then what has not begun does not.

        Args:
            grace_s: how long what has begun may go on then, within its deadline; None: as usual here.

        Raises:
            TrainingFailed: the learner refused, the worker died, the deadline passed, or it was no longer wanted.
        """
        with self._lock:
            grace_s = self._grace_s if grace_s is None else grace_s
            return self._run(work, unwanted or threading.Event(), self._deadline_s, grace_s)

    def run_if_free(self, work: Work, deadline_s: float) -> Done | None:
        """The same for what can wait until another time: None while the worker trains.

        Raises:
            TrainingFailed: as run.
        """
        if not self._lock.acquire(blocking=False):
            return None
        try:
            return self._run(work, threading.Event(), deadline_s, self._grace_s)
        finally:
            self._lock.release()

    def _run(self, work: Work, unwanted: threading.Event, deadline_s: float, grace_s: float) -> Done:
        if unwanted.is_set():
            raise TrainingFailed("no longer wanted", remedy="the next order starts a new training")
        pipe = self._ensure()
        try:
            pipe.send(work)
            self._wait(pipe, unwanted, deadline_s, grace_s)
            answer = pipe.recv()
        except (EOFError, OSError) as exc:
            self._stop()
            time.sleep(self._wait_s)
            self._wait_s = min(self._wait_s * 2, RESTART_S_MAX)
            raise TrainingFailed(
                "the training worker died", remedy="look for its memory limit: training_memory_bytes_max"
            ) from exc
        self._wait_s = RESTART_S_MIN
        if isinstance(answer, Done):
            return answer
        raise TrainingFailed(str(answer), remedy="see the edge's log")

    def _wait(self, pipe: Connection, unwanted: threading.Event, deadline_s: float, grace_s: float) -> None:
        """Until there is an answer.

        Raises:
            TrainingFailed: the deadline passed, or nobody wants one any more; the worker is gone then.
            EOFError: the worker is gone.
        """
        until_s = time.monotonic() + deadline_s
        cut_short = False
        while not pipe.poll(LOOK_S):
            if not cut_short and unwanted.is_set():
                cut_short, until_s = True, min(until_s, time.monotonic() + grace_s)
            if time.monotonic() >= until_s:
                self._stop()
                if not cut_short:
                    late = f"training took longer than {deadline_s:.0f} s"
                    raise TrainingFailed(late, remedy="raise training_deadline_s")
                self._ensure()  # the next order finds it ready
                raise TrainingFailed("no longer wanted", remedy="the next order starts a new training")
            if self._process is None or not self._process.is_alive():
                if pipe.poll(0):
                    return
                raise EOFError

    @property
    def pid(self) -> int | None:
        """The worker's process id."""
        return self._process.pid if self._process is not None else None

    def close(self) -> None:
        """End the worker, whatever it does."""
        self._stop()

    def _ensure(self) -> Connection:
        if self._process is None or not self._process.is_alive() or self._pipe is None:
            self._stop()
            context = mp.get_context("spawn")
            ours, theirs = context.Pipe()
            self._process = context.Process(target=_main, args=(theirs, self._limits, os.getpid()), name="training", daemon=True)
            self._process.start()
            theirs.close()
            self._pipe = ours
        return self._pipe

    def _stop(self) -> None:
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            if self._process.pid is not None:
                end_group(self._process.pid)
            self._process.join(5)
        self._process = self._pipe = None


def _main(pipe: Connection, limits: Limits, parent: int) -> None:
    """The worker: until the pipe closes, which it does when the edge is gone."""
    lead_group()
    end_with(parent)
    apply_limits(limits)
    own = os.getpid()
    worker = Worker()
    while True:
        try:
            work = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer: Done | str = worker.run(work)
        except MemoryError:
            answer = "out of memory"
        except Exception as error:  # noqa: BLE001 - whatever a learner does, the edge gets an answer
            answer = said(error)
        if os.getpid() != own:  # a learner has forked and its child has come back here: it answers for nobody
            os._exit(0)
        pipe.send(answer)


def said(error: Exception) -> str:
    """An error in one line, with its remedy: it is read at the hub, where the edge's log is not."""
    if not isinstance(error, WardroundError):
        return f"{type(error).__name__}: {error}"
    return f"{error} ({error.remedy})" if error.remedy else str(error)


class Worker:
    """What runs in the worker process; plain enough to be used in this one by tests and the simulation."""

    def __init__(self) -> None:
        self._learners: dict[tuple[LearnerSettings, int, int, str], Learner] = {}
        self._functions: dict[str, Callable[[str, Any], Any]] = {}

    def run(self, work: Work) -> Done:
        """Train once.

        Raises:
            LearnError: there is nothing to train on, or the learner refuses.
        """
        if work.task == "survey":
            return self._survey(work)
        if work.task in ("flower", "live", "drill"):
            answered: Done = self._function(work.source)(work.source.home, work)
            return answered
        settings = decode_training(work.settings)
        examples = self._examples(work.source, settings.task)
        held_back = np.array([is_held_back(settings.score, str(s), work.source.edge) for s in examples.subjects], bool)
        usable = examples.where(~held_back & (examples.labels >= 0))
        if len(usable) < settings.examples_min:
            raise LearnError(f"too few examples: {len(usable)} of {settings.examples_min} needed", remedy="wait for more data")
        if work.task == "train":
            usable, left_out = admit(Path(work.source.home), settings, usable, work.bound)
            if len(usable) < max(1, settings.examples_min):
                raise LearnError(
                    f"too few examples: {len(usable)} of {settings.examples_min} needed, as {left_out} patients are left out",
                    remedy="they have given what this edge lets studies spend of a patient (privacy.patient_epsilon_max)",
                )
        learner = self._learner(settings.learner, len(usable.feature_names), settings.classes, settings.code)
        if work.task == "statistics":
            return Done(encode_model(learner.statistics(usable)), len(usable))
        kept = decode_model(work.kept) if work.kept else {}
        model, began_s = decode_model(work.model), time.monotonic()
        spent = self._spent(work, settings, usable) | ({LEFT_OUT: float(left_out)} if left_out else {})
        if settings.patient_clip > 0:
            own = (learner, settings.learner, settings.rule, model, usable)
            local = train_by_patient(*own, clip=settings.patient_clip, round_number=work.round_number)
        else:
            local = train_locally(
                learner,
                settings.learner,
                settings.rule,
                model,
                kept,
                usable,
                round_number=work.round_number,
            )
        metrics = {**local.metrics, **spent, "duration_s": time.monotonic() - began_s}
        if work.tried:
            metrics |= tried(learner, model, local.update, examples.where(held_back & (examples.labels >= 0)), usable)
        data, residual = compress(local.update, kept, settings.compression)
        keep = {**local.kept, **residual}
        rows = rows_said(learner, model, examples.where(~held_back)) if settings.row_counts else b""
        return Done(data, local.examples, metrics, encode_model(keep) if keep else b"", rows)

    def _spent(self, work: Work, settings: TrainingSettings, usable: Examples) -> dict[str, float]:
        """What DP-SGD has cost this edge with the training that follows: on its disk, with what each patient has spent, before an
        example is looked at."""
        learner = settings.learner
        if not learner.dp_sgd.on:
            self._pay(work, settings, usable)
            return {}
        check_order(settings)
        labelled = int(np.count_nonzero(usable.labels < settings.classes))  # as the learner counts: fewer are drawn more often
        if labelled == 0:
            raise LearnError("no example here is labelled", remedy="train when labels have arrived")
        steps = steps_of(learner, labelled)
        own = (Path(work.source.home), work.study, work.round_number)
        said = spend(*own, learner.dp_sgd, rate=steps.rate, steps=steps.number)  # first: it refuses what this study may not spend
        self._pay(work, settings, usable)
        return said

    def _pay(self, work: Work, settings: TrainingSettings, usable: Examples) -> None:
        """The same by patient, over all studies; nothing where no noise hides anybody, or nobody will see what comes of it."""
        if work.study and (costs := exposures(settings, usable)):
            pay(Path(work.source.home), work.study, work.round_number, costs)

    def _survey(self, work: Work) -> Done:
        """Small sums of what the edge keeps: see survey.py."""
        settings = decode_survey(work.settings)
        tensors, count = summarise(self._function(work.source)(work.source.home, settings), settings)
        if count == 0:
            raise LearnError(
                f"fewer than {settings.subjects_min} subjects for every signal asked for", remedy="wait for more data"
            )
        return Done(encode_model(tensors), count)

    def _examples(self, source: Source, task: str) -> Examples:
        examples: Examples = self._function(source)(source.home, task)
        return examples

    def _function(self, source: Source) -> Callable[[str, Any], Any]:
        if source.function not in self._functions:
            module, _, name = source.function.partition(":")
            self._functions[source.function] = getattr(importlib.import_module(module), name)
        return self._functions[source.function]

    def _learner(self, settings: LearnerSettings, n_features: int, n_classes: int, code: str) -> Learner:
        key = (settings, n_features, n_classes, code)
        if key not in self._learners:
            self._learners[key] = make_learner(settings, n_features, n_classes, code=code)
        return self._learners[key]
