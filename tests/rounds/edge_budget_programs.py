"""An edge's training worker in a process of its own, that writes down what it does and dies where it is told."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path

import numpy as np

from wardround.learn.learners import dp_sgd, make_learner
from wardround.learn.models import encode_model
from wardround.learn.privacy import chain
from wardround.learn.privacy.patient_budget import name_of
from wardround.learn.study import (
    DpSgdSettings,
    LearnerSettings,
    LocalRule,
    ScoreSettings,
    Study,
    WatchSettings,
    encode_training,
    is_held_back,
    training_settings,
)
from wardround.learn.trainer import Source, Work, Worker
from wardround.records import Examples

STUDY = "kept"
HELD_BACK = {name_of(f"s{i}") for i in range(6) if is_held_back(ScoreSettings(), f"s{i}", "e")}
CLASSES, N = 2, 48
FEATURES = tuple(f"f{i}" for i in range(3))
DELTA = 1e-5
TRAIN, WRITE, SYNC, DRAW = "train", "write", "sync", "draw"
NOISE = 0.3  # so little that the accountant takes its quick way (RDP)


class Shape:
    classes, feature_names, metric = ("a", "b"), FEATURES, "accuracy"


def examples(_home, _task):
    """What the edge holds, as Source.function names it."""
    rng = np.random.default_rng(5)
    labels = rng.integers(0, CLASSES, N).astype(np.int32)
    features = rng.normal(size=(N, len(FEATURES))).astype(np.float32)
    subjects, t_us = np.array([f"s{i % 6}" for i in range(N)]), np.arange(N, dtype=np.int64)
    return Examples(features=features, labels=labels, subjects=subjects, t_us=t_us, feature_names=FEATURES)


class Diary:
    """One line for each thing that was done, in order; the process dies as it is about to do the `dies_at`-th."""

    def __init__(self, path: Path, dies_at: int) -> None:
        self._out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._left = dies_at

    def about(self, *, dies=lambda: None) -> None:
        self._left -= 1
        if self._left == 0:
            dies()
            os.kill(os.getpid(), signal.SIGKILL)

    def done(self, what: str) -> None:
        real_write(self._out, f"{what}\n".encode())


real_write, real_fsync, real_drawn = os.write, os.fsync, dp_sgd.drawn


class LedgerFiles:
    """`os` as the ledger sees it."""

    def __init__(self, diary: Diary, *, torn: bool) -> None:
        self._diary, self._torn = diary, torn

    def __getattr__(self, name):
        return getattr(os, name)

    def write(self, file, line):
        half = (lambda: real_write(file, line[: len(line) // 2])) if self._torn else lambda: None
        self._diary.about(dies=half)
        written = real_write(file, line)
        self._diary.done(WRITE)
        return written

    def fsync(self, file):
        self._diary.about()
        real_fsync(file)
        self._diary.done(SYNC)


def main(home: Path, diary_path: Path, first: int, rounds: int, dies_at: int, torn: bool) -> None:
    """Train `rounds` rounds from `first` on; die at the `dies_at`-th step of ledger or training (0: never)."""
    diary = Diary(diary_path, dies_at)
    chain.os = LedgerFiles(diary, torn=torn)

    def drawn(steps, source):
        diary.about()
        diary.done(DRAW)
        return real_drawn(steps, source)

    dp_sgd.drawn = drawn
    own = LearnerSettings(
        hidden=(), batch=16, epochs=2, momentum=0.0, l2=0.0, dp_sgd=DpSgdSettings(noise=NOISE, epsilon_max=1e4, delta=DELTA)
    )
    study = Study(name=STUDY, task="activity", learner=own, watch=WatchSettings(row_counts=False))
    settings = encode_training(training_settings(study, Shape(), LocalRule()))
    model = encode_model(make_learner(own, len(FEATURES), CLASSES).initial(0))
    worker, source = Worker(), Source(f"{__name__}:examples", str(home), "e")
    for number in range(first, first + rounds):
        diary.done(TRAIN)
        done = worker.run(Work(source, "train", settings, model, number, study=STUDY))
        with (home / "said").open("a") as out:
            out.write(f"{number} {done.metrics['dp_epsilon']!r}\n")


def nursery(pipe) -> None:
    """Has the imports done once, then for each order that comes through the pipe: main in a fork, and how that ended."""
    import dp_accounting.rdp  # noqa: F401

    import wardround.learn.learners.jax_learner  # noqa: F401

    while True:
        try:
            order = pipe.recv()
        except EOFError:
            return
        child = os.fork()
        if child == 0:
            try:
                main(*order)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        pipe.send(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
