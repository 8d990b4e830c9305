"""The resident training worker against learners that misbehave: real processes, real kills. Each is one failed training."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from wardround.edge import Edge
from wardround.learn.learners import make_learner
from wardround.learn.limits import NICE, Limits, cores_for
from wardround.learn.messages import Done
from wardround.learn.models import decode_model, encode_model
from wardround.learn.study import LearnerSettings, ScoreSettings, TrainingSettings, encode_training
from wardround.learn.trainer import Source, Trainer, TrainingFailed, Work
from wardround.records import Examples

FEATURES, CLASSES = 4, 2
LEARNER = LearnerSettings(hidden=(), epochs=1)
MEMORY = 3_000_000_000


def examples_of(home: str, _task: str) -> Examples:
    """In the worker: what an edge has, after doing what the first word of `home` says."""
    what, _, where = home.partition(" ")
    if what == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "hog":
        kept = []
        while True:
            kept.append(np.empty(50_000_000))  # the limit counts what is asked for, touched or not
    elif what == "loop":
        write_whole(where, str(os.getpid()))
        while True:
            pass
    elif what == "garbage":
        os.write(1, bytes(range(256)) * 1_000)
        print("\x00{]" * 1_000, file=sys.stderr)
    elif what == "fork":
        os.fork()  # parent and child both come back, as they do from a careless library
    elif what == "leave-a-child":
        child = os.fork()
        if child == 0:
            time.sleep(600)
        write_whole(where, str(child))
        os.kill(os.getpid(), signal.SIGKILL)
    elif what == "raise":
        raise RuntimeError("no data today")
    rng = np.random.default_rng(0)
    return Examples(
        features=rng.normal(size=(40, FEATURES)).astype(np.float32),
        labels=rng.integers(0, CLASSES, 40).astype(np.int32),
        subjects=np.full(40, "someone"),
        t_us=np.arange(40),
        feature_names=tuple("abcd"),
    )


def write_whole(where: str, text: str) -> None:
    """Whoever sees the file sees the text in it."""
    Path(f"{where}.partial").write_text(text)
    Path(f"{where}.partial").replace(where)


def drilled(home: str, _work: Work) -> Done:
    """In the worker: a drill's, which says that it has begun, and ends when it may."""
    write_whole(home, "begun")
    while not Path(f"{home}.may-end").exists():
        time.sleep(0.01)
    return Done(b"", 1)


def limits_of(home: str, task: str) -> Examples:
    """In the worker: fails with what it is held to."""
    facts = (len(os.sched_getaffinity(0)), os.nice(0), os.environ["OMP_NUM_THREADS"], os.getpgid(0) == os.getpid())
    raise RuntimeError(str(facts))


def work(what: str = "train", where: str = "", function: str = "examples_of") -> Work:
    settings = TrainingSettings(
        task="t", learner=LEARNER, score=ScoreSettings(held_back=0.0), examples_min=1, features="", classes=CLASSES
    )
    source = Source(f"{__name__}:{function}", f"{what} {where}", "edge-1")
    model = encode_model(make_learner(LEARNER, FEATURES, CLASSES).initial(0))
    return Work(source, "train", encode_training(settings), model, 1)


@pytest.fixture(scope="module")
def trainer():
    trainer = Trainer(limits=Limits(MEMORY, 0.5), deadline_s=60.0)
    yield trainer
    trainer.close()


def good(trainer: Trainer) -> bytes:
    done = trainer.run(work())
    assert done.examples == 40
    assert all(np.isfinite(t).all() for t in decode_model(done.data).values())
    return done.data


def gone(pid: int) -> bool:
    """Whether a process is dead; one that nobody has waited for is."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def wait(holds, seconds: float = 60.0) -> bool:
    until = time.monotonic() + seconds
    while not holds() and time.monotonic() < until:
        time.sleep(0.05)
    return holds()


@pytest.mark.timeout(120)
@pytest.mark.parametrize(("what", "said"), [("die", "died"), ("hog", "out of memory|died"), ("raise", "no data today")])
def test_it_is_one_failed_training_and_the_next_one_works(trainer, what, said):
    before = good(trainer)
    with pytest.raises(TrainingFailed, match=said):
        trainer.run(work(what))
    assert good(trainer) == before


@pytest.mark.timeout(120)
@pytest.mark.parametrize("what", ["garbage", "fork"])
def test_what_a_learner_prints_or_forks_changes_no_answer(trainer, what, capfd):
    before = good(trainer)
    assert trainer.run(work(what)).data == before
    with pytest.raises(TrainingFailed, match="no data today"):  # the very next answer is that of the next work
        trainer.run(work("raise"))
    assert good(trainer) == before
    capfd.readouterr()


@pytest.mark.timeout(120)
def test_a_child_that_holds_the_pipe_of_a_dead_worker_keeps_nobody_waiting(trainer, tmp_path):
    good(trainer)
    with pytest.raises(TrainingFailed, match="died"):  # and not: took longer than 60 s
        trainer.run(work("leave-a-child", str(tmp_path / "pid")))
    assert wait(lambda: gone(int((tmp_path / "pid").read_text()))), "what the worker had started outlived it"


@pytest.mark.timeout(120)
def test_an_endless_training_ends_at_the_deadline(tmp_path):
    trainer = Trainer(limits=Limits(MEMORY), deadline_s=60.0)
    try:
        good(trainer)
        trainer._deadline_s = 0.25
        while not (tmp_path / "pid").exists():  # on a busy machine, a worker may not even have begun
            trainer._deadline_s *= 2
            with pytest.raises(TrainingFailed, match="longer than"):
                trainer.run(work("loop", str(tmp_path / "pid")))
        assert wait(lambda: gone(int((tmp_path / "pid").read_text())))
    finally:
        trainer.close()


@pytest.mark.timeout(120)
def test_a_training_that_is_no_longer_wanted_ends_soon(trainer, tmp_path):
    good(trainer)
    unwanted, pid = threading.Event(), tmp_path / "pid"

    def stop() -> None:
        wait(pid.exists)
        unwanted.set()

    thread = threading.Thread(target=stop)
    thread.start()
    with pytest.raises(TrainingFailed, match="no longer wanted"):
        trainer.run(work("loop", str(pid)), unwanted)
    thread.join()
    assert wait(lambda: gone(int(pid.read_text())))
    with pytest.raises(TrainingFailed, match="no longer wanted"):
        trainer.run(work(), unwanted)  # it had not begun
    good(trainer)


class Drill:
    """A drill's order at an edge, in work."""

    def __init__(self, trainer: Trainer, home: Path) -> None:
        self.trainer, self.home = trainer, home
        self.handed, self.over = threading.Event(), threading.Event()

    async def cancelled_once(self, holds) -> None:
        """Have the edge carry it out, and cancel it once this holds."""
        own = Work(Source(f"{__name__}:drilled", str(self.home), "edge-1"), "drill", b"", b"", 1)
        task = asyncio.create_task(Edge._work(SimpleNamespace(_trainer=self), own))
        assert await asyncio.to_thread(wait, holds)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def run(self, *arguments, **named) -> Done:
        """The trainer's, in the thread that the edge has begun."""
        self.handed.set()
        try:
            return self.trainer.run(*arguments, **named)
        finally:
            self.over.set()


@pytest.mark.timeout(120)
def test_a_drill_that_is_dropped_while_it_waits_for_the_worker_never_begins(trainer, tmp_path):
    stop, pid, drill = threading.Event(), tmp_path / "pid", Drill(trainer, tmp_path / "drill")
    (tmp_path / "drill.may-end").touch()

    def study() -> None:
        with pytest.raises(TrainingFailed, match="no longer wanted"):
            trainer.run(work("loop", str(pid)), stop)

    thread = threading.Thread(target=study)
    thread.start()
    assert wait(pid.exists)

    async def run() -> None:
        await drill.cancelled_once(drill.handed.is_set)
        stop.set()

    asyncio.run(run())
    thread.join(60)
    assert drill.over.wait(60)
    assert not drill.home.exists()
    good(trainer)


@pytest.mark.timeout(120)
def test_a_drill_that_has_begun_ends_by_itself_and_costs_no_study_its_worker(tmp_path):
    trainer = Trainer(limits=Limits(MEMORY), deadline_s=60.0, grace_s=0.0)
    drill = Drill(trainer, tmp_path / "drill")

    async def run() -> None:
        await drill.cancelled_once(drill.home.exists)
        pid = trainer.pid
        assert not await asyncio.to_thread(wait, drill.over.is_set, 0.5)
        (tmp_path / "drill.may-end").touch()
        assert await asyncio.to_thread(good, trainer)
        assert trainer.pid == pid

    try:
        asyncio.run(run())
    finally:
        trainer.close()


@pytest.mark.timeout(120)
def test_the_worker_is_held_to_its_share(trainer):
    cores = cores_for(0.5, len(os.sched_getaffinity(0)))
    with pytest.raises(TrainingFailed) as caught:
        trainer.run(work(function="limits_of"))
    assert str((cores, min(19, os.nice(0) + NICE), str(cores), True)) in str(caught.value)


@pytest.mark.parametrize(
    ("share", "available", "cores"), [(1.0, 4, 4), (0.5, 4, 2), (0.3, 4, 1), (0.01, 8, 1), (0.75, 4, 3), (0.7, 10, 7)]
)
def test_shares_are_whole_cores(share, available, cores):
    assert cores_for(share, available) == cores


EDGE = """
    import sys
    sys.path[:0] = {path!r}
    from {module} import Limits, MEMORY, Trainer, work
    if __name__ == "__main__":
        Trainer(limits=Limits(MEMORY), deadline_s=600.0).run(work("loop", sys.argv[1]))
"""


@pytest.mark.timeout(120)
def test_a_worker_in_an_endless_training_does_not_outlive_its_edge(tmp_path):
    program, pid = tmp_path / "edge.py", tmp_path / "pid"
    program.write_text(textwrap.dedent(EDGE.format(path=[p for p in sys.path if p], module=__name__)))
    edge = subprocess.Popen([sys.executable, str(program), str(pid)])
    try:
        assert wait(lambda: pid.exists() and pid.read_text() != "", 60)
        edge.send_signal(signal.SIGKILL)
        edge.wait(10)
        assert wait(lambda: gone(int(pid.read_text())))
    finally:
        edge.kill()
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int(pid.read_text()), signal.SIGKILL)
