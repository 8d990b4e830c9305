"""Where a job runs: in this process, or on Dask workers; those beside the hub are here, those on nodes in nodes/runner.py.

Tasks read the lake themselves and give their rows back. A worker that is killed takes its task with it, and the scheduler gives
the task to another one. A task that keeps killing workers, raises, or does not end in time is reported as failed with its
words; the others complete. When every worker is gone, or the scheduler itself, it is tried anew, a bounded number of times.
"""

from __future__ import annotations

import abc
import collections
import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import structlog

from wardround.errors import ProcessError
from wardround.ports import LOOPBACK

log = structlog.get_logger(__name__)
Part = TypeVar("Part")
Function = Callable[..., Any]
Stop = Callable[[], bool]
TASK_S = 600.0  # nothing came back for so long: what is in work hangs
FETCH_S = 30.0  # for the results that are done to come; then their worker is taken for lost, and the tasks go again
FETCH_MORE_S = 1.0  # for each other result of the same look: a dead worker's results are not waited for one after the other
FETCHES_MAX = 3
NO_WORKER_S = 60.0
STARTS_MAX = 3  # of a cluster, within one job
IN_FLIGHT = 3  # tasks a worker, so that none waits for the next; more would only fill memory
LOOK_S = 0.5
RETIRE_S = 30.0
MALLOC = {"MALLOC_ARENA_MAX": 2, "MALLOC_TRIM_THRESHOLD_": 256 << 20, "MALLOC_MMAP_THRESHOLD_": 64 << 20}


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Part]):
    """What became of one part: a result, or the words of its error. `killed`: it cost a worker its life, or hung."""

    part: Part
    result: Any = None
    error: str = ""
    killed: bool = False


def never() -> bool:
    """Nobody wants to stop."""
    return False


class Runner(Protocol):
    """Applies a function to each part; outcomes come as they are ready."""

    @property
    def place(self) -> str:
        """Where it runs, in words for people."""
        ...

    def map(
        self, function: Function, parts: Sequence[Part], uri: str, *arguments: Any, stop: Stop = never, alone: bool = False
    ) -> Iterator[Outcome[Part]]:
        """`function(part, uri, *arguments)` for each part; function and arguments must be importable and picklable.

        Args:
            uri: the lake, as this process sees it; the function gets it as its worker sees it.
            alone: one part at a time, so that a worker's death is the doing of the part it had in hand: those that wait
                behind it on the same worker are under the same suspicion otherwise.
            stop: asked now and then; once it says yes, what is in work is dropped and no more outcome comes.
        """
        ...

    def close(self) -> None:
        """Give the workers back."""
        ...


class HereRunner:
    """In this process, one after the other."""

    place = "in this process"

    def map(
        self,
        function: Function,
        parts: Sequence[Part],
        uri: str,
        *arguments: Any,
        stop: Stop = never,
        alone: bool = False,  # noqa: ARG002
    ) -> Iterator[Outcome[Part]]:
        for part in parts:
            if stop():
                return
            try:
                yield Outcome(part, result=function(part, uri, *arguments))
            except Exception as error:  # noqa: BLE001 - a part that fails is set aside with its words
                yield Outcome(part, error=_words(error))

    def close(self) -> None:
        """Nothing is held."""


class ClusterRunner(abc.ABC):
    """What both kinds of Dask cluster share. Safe to use from several threads."""

    def __init__(self) -> None:
        self._cluster: Any = None
        self._client: Any = None
        self._lock = threading.RLock()

    def start(self) -> None:
        """Start the workers ahead of the first job."""
        self._ensure()

    def map(
        self, function: Function, parts: Sequence[Part], uri: str, *arguments: Any, stop: Stop = never, alone: bool = False
    ) -> Iterator[Outcome[Part]]:
        waiting = collections.deque(parts)
        for attempt in range(STARTS_MAX):
            flight: _Flight[Part] = _Flight(self._ensure(), function, (self._sees(uri), *arguments))
            try:
                yield from self._fly(flight, waiting, stop, alone=alone)
            except _ClusterLost as lost:
                waiting.extendleft(flight.parts())
                log.warning("workers are lost", attempt=attempt + 1, parts_left=len(waiting), error=str(lost))
                self._lost()
            else:
                return
            finally:
                flight.cancel()
        raise WorkersLost(f"{self.place}: the workers were lost {STARTS_MAX} times", parts=tuple(waiting))

    def close(self) -> None:
        """End the workers; bounded in time."""
        with self._lock:
            client, cluster = self._client, self._cluster
            self._client = self._cluster = None
        for part in (client, cluster):
            if part is not None:
                part.close(timeout=5)

    def _fly(
        self, flight: _Flight[Part], waiting: collections.deque[Part], stop: Stop, *, alone: bool
    ) -> Iterator[Outcome[Part]]:
        heard = alive = time.monotonic()
        while (waiting or flight) and not stop():
            workers = flight.workers()
            now = time.monotonic()
            alive = now if workers else alive
            if now - alive > NO_WORKER_S:
                raise _ClusterLost(f"no worker for {NO_WORKER_S:.0f} s")
            flight.fill(waiting, 1 if alone else IN_FLIGHT * max(1, len(workers)))
            for outcome in flight.landed():
                heard = time.monotonic()
                yield outcome
            if not workers:
                heard = time.monotonic()  # nothing can come back: that is not the tasks' fault
            elif time.monotonic() - heard > TASK_S:
                heard = time.monotonic()
                for outcome, worker in flight.hanging():
                    self._end_worker(worker)
                    yield outcome

    @property
    @abc.abstractmethod
    def place(self) -> str:
        """Where it runs, in words for people."""

    @abc.abstractmethod
    def _ensure(self) -> Any:
        """A client of the cluster, which is started when it is not there."""

    @abc.abstractmethod
    def _lost(self) -> None:
        """Every worker, or the scheduler, is gone: the next `_ensure` is to find another."""

    @abc.abstractmethod
    def _sees(self, uri: str) -> str:
        """The lake as the workers see it."""

    @abc.abstractmethod
    def _end_worker(self, address: str) -> None:
        """A worker hangs: another one is to take its place."""


class _Flight(Generic[Part]):
    """Tasks on their way, by future."""

    def __init__(self, client: Any, function: Function, arguments: tuple[Any, ...]) -> None:
        self._client, self._function, self._arguments = client, function, arguments
        self._futures: dict[Any, Part] = {}
        self._fetches: dict[str, int] = {}  # of results that did not come, by the task's name

    def __bool__(self) -> bool:
        return bool(self._futures)

    def parts(self) -> list[Part]:
        """What has not come back."""
        return list(self._futures.values())

    def workers(self) -> Collection[str]:
        """Addresses of the workers that the scheduler has now."""
        if self._client.status != "running":
            raise _ClusterLost(f"the scheduler's connection is {self._client.status}")
        return list(self._client.cluster.scheduler.workers)

    def fill(self, waiting: collections.deque[Part], most: int) -> None:
        """Send more, up to so many on their way."""
        while waiting and len(self._futures) < most:
            part = waiting.popleft()
            self._futures[self._client.submit(self._function, part, *self._arguments, pure=False, retries=1)] = part

    def landed(self) -> Iterator[Outcome[Part]]:
        """What has come back; waits a moment when nothing has."""
        from concurrent.futures import CancelledError  # noqa: PLC0415

        from distributed import wait  # noqa: PLC0415 - a second of import that only a job pays
        from distributed.comm.core import CommClosedError  # noqa: PLC0415
        from distributed.scheduler import KilledWorker  # noqa: PLC0415

        if not self._futures:
            time.sleep(LOOK_S)
            return
        with contextlib.suppress(TimeoutError):
            wait(list(self._futures), timeout=LOOK_S, return_when="FIRST_COMPLETED")
        patience_s = FETCH_S
        for future in [f for f in self._futures if f.done()]:
            part = self._futures[future]
            try:
                outcome = Outcome(part, result=future.result(timeout=patience_s))
            except TimeoutError as error:
                if future.status != "error":
                    patience_s = FETCH_MORE_S
                    self._send_again(future, part)
                    continue
                outcome = Outcome(part, error=_words(error))  # the task's own
            except (CancelledError, CommClosedError) as error:
                raise _ClusterLost(_words(error)) from error  # the part is still in flight: it goes again
            except KilledWorker as error:
                words = f"its worker was killed, or out of memory, {error.allowed_failures + 1} times"
                outcome = Outcome(part, error=words, killed=True)
            except Exception as error:  # noqa: BLE001 - a part that fails is set aside with its words
                outcome = Outcome(part, error=_words(error))
            del self._futures[future]
            future.release()
            yield outcome

    def _send_again(self, future: Any, part: Part) -> None:
        """A task that is done and whose result does not come: its worker died with it, and the scheduler may have forgotten it.

        Raises:
            _ClusterLost: it happens again and again.
        """
        tries = self._fetches.pop(future.key, 0) + 1
        if tries > FETCHES_MAX:
            raise _ClusterLost(f"a result did not come {tries} times")
        del self._futures[future]
        self._forget_holders(future)
        with contextlib.suppress(Exception):  # whatever the scheduler still knows of it
            self._client.cancel([future], force=True)
        sent = self._client.submit(self._function, part, *self._arguments, pure=False, retries=1)
        self._futures[sent], self._fetches[sent.key] = part, tries
        log.warning("a result was lost with its worker", tries=tries)

    def _forget_holders(self, future: Any) -> None:
        """Whoever holds a result and does not give it is lost: a worker behind a node's dead service still takes tasks, over the
        connection it has, and nobody can fetch what it makes. The scheduler forgets it, and gives its tasks to others."""
        scheduler = self._client.cluster.scheduler
        task = scheduler.tasks.get(future.key)
        for worker in list((task.who_has if task is not None else None) or ()):
            scheduler.loop.add_callback(scheduler.remove_worker, address=worker.address, stimulus_id=f"no-result-{future.key}")
            log.warning("a worker does not give its results", worker=str(worker.name))

    def hanging(self) -> list[tuple[Outcome[Part], str]]:
        """What workers have in hand now, given up, with each one's worker."""
        by_key = {f.key: f for f in self._futures}
        found: list[tuple[Outcome[Part], str]] = []
        for address, keys in dict(self._client.processing()).items():
            future = by_key.get(keys[0]) if keys else None  # the first is in hand, the others wait behind it
            if future is not None:
                part = self._futures.pop(future)
                self._client.cancel([future], force=True)
                found.append((Outcome(part, error=f"did not end in {TASK_S:.0f} s", killed=True), address))
        return found

    def cancel(self) -> None:
        """Drop what is still on its way."""
        if self._futures:
            with contextlib.suppress(Exception):
                self._client.cancel(list(self._futures), force=True)
        self._futures = {}


class DaskRunner(ClusterRunner):
    """Worker processes on this machine, started with the first job."""

    def __init__(self, *, workers: int, memory_bytes: int) -> None:
        super().__init__()
        self._workers, self._memory = workers, memory_bytes

    @property
    def place(self) -> str:
        return f"hub, {counted(self._workers, 'worker')}"

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        client = self._ensure()
        return sorted(client.run(os.getpid).values())

    def _ensure(self) -> Any:
        with self._lock:
            if self._client is None:
                from distributed import Client, LocalCluster  # noqa: PLC0415

                configure()
                try:
                    self._cluster = LocalCluster(
                        n_workers=self._workers,
                        threads_per_worker=1,
                        processes=True,
                        memory_limit=self._memory,
                        host=LOOPBACK,
                        dashboard_address=f"{LOOPBACK}:0",
                        silence_logs=50,
                    )
                    self._client = Client(self._cluster, direct_to_workers=True)
                except (RuntimeError, OSError) as error:  # no memory, no process or port, or a machine too busy to start one
                    self._lost()
                    raise ProcessError(
                        f"no worker could be started: {error}", remedy="free memory or processes; the next turn tries again"
                    ) from error
                log.info("workers started", workers=self._workers)
            elif len(self._cluster.workers) < self._workers:
                log.warning("workers were lost", workers=len(self._cluster.workers))
                self._cluster.scale(self._workers)
            return self._client

    def _lost(self) -> None:
        with contextlib.suppress(Exception):  # what is left of it may not answer any more
            self.close()

    def _sees(self, uri: str) -> str:
        return uri

    def _end_worker(self, address: str) -> None:
        self._ensure().restart_workers([address], timeout=RETIRE_S, raise_for_error=False)


class WorkersLost(ProcessError):
    """There is nobody left to work; `parts` are not done."""

    def __init__(self, message: str, *, parts: tuple[Any, ...]) -> None:
        super().__init__(message, remedy="see `wardround node list`; what is done is kept, the next run goes on from there")
        self.parts = parts


class _ClusterLost(Exception):
    """Scheduler or workers are gone; what is in flight goes again."""


def configure() -> None:
    """Settings of Dask, before a cluster is made. A client is to fetch results from the workers themselves
    (`direct_to_workers`): through the scheduler, which is in the same process, they are copied and unpacked once more.
    """
    import dask  # noqa: PLC0415

    logging.getLogger("distributed").setLevel(logging.ERROR)  # what matters of it, we say ourselves
    dask.config.set(
        {
            "distributed.scheduler.allowed-failures": 1,
            "distributed.scheduler.worker-ttl": "15s",
            "distributed.comm.timeouts.tcp": "12s",
            # A killed worker's nanny starts it anew, at another address. Looking for the old one after a while,
            # the cluster would take the worker for lost and end its nanny: never look.
            "distributed.deploy.lost-worker-timeout": "3650 days",
            "distributed.worker.multiprocessing-method": "spawn",
            # Dask's own value has glibc fetch and give back every array's pages: half of a worker's time, measured.
            "distributed.nanny.pre-spawn-environ": MALLOC | {"OMP_NUM_THREADS": 1, "OPENBLAS_NUM_THREADS": 1},
            # A look at the stack a hundred times a second, which nobody reads: a tenth of a worker's time, measured.
            "distributed.worker.profile.enabled": False,
            "distributed.logging.distributed": "error",
            # What Dask would keep of the past hour for its own pages, which nobody opens.
            "distributed.admin.low-level-log-length": 100,
            "distributed.admin.log-length": 100,
            "distributed.admin.system-monitor.log-length": 60,
            "distributed.scheduler.http.routes": [],  # a scheduler opens an HTTP port whether asked to or not: nothing is there
            "distributed.worker.http.routes": [],
        }
    )


def counted(n: int, what: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]
