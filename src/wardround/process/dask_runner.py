"""Where a job runs: in this process, on Dask workers beside it, or on workers in containers of several nodes.

Tasks read the lake themselves and give their rows back. A worker that is killed takes its task with it, and the scheduler gives
the task to another one. A task that keeps killing workers, raises, or does not end in time is reported as failed with its
words; the others complete. When every worker is gone, or the scheduler itself, it is tried anew, a bounded number of times.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import structlog

from wardround.errors import ProcessError
from wardround.process.nodes.containers import LAKE
from wardround.process.nodes.fleet import Fleet
from wardround.process.relays import LOOPBACK
from wardround.trust.certificates import Authority, key_pem, new_key, write_private

log = structlog.get_logger(__name__)
Part = TypeVar("Part")
Function = Callable[..., Any]
Stop = Callable[[], bool]
TASK_S = 600.0  # nothing came back for so long: what is in work hangs
NO_WORKER_S = 60.0
STARTS_MAX = 3  # of a cluster, within one job
IN_FLIGHT = 3  # tasks a worker, so that none waits for the next; more would only fill memory
LOOK_S = 0.5
RETIRE_S = 30.0
MALLOC = {"MALLOC_ARENA_MAX": 2, "MALLOC_TRIM_THRESHOLD_": 256 << 20, "MALLOC_MMAP_THRESHOLD_": 64 << 20}
SCHEDULER_HOURS = 24.0 * 90


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


class _DaskRunner:
    """What both kinds of Dask cluster share. Safe to use from several threads."""

    place = ""

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
        if client is not None:
            client.close(timeout=5)
            cluster.close(timeout=5)

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

    def _ensure(self) -> Any:
        raise NotImplementedError

    def _lost(self) -> None:
        """Every worker or the scheduler is gone: the next `_ensure` makes the cluster anew."""
        with contextlib.suppress(Exception):
            self.close()

    def _sees(self, uri: str) -> str:
        return uri

    def _end_worker(self, address: str) -> None:
        raise NotImplementedError


class _Flight(Generic[Part]):
    """Tasks on their way, by future."""

    def __init__(self, client: Any, function: Function, arguments: tuple[Any, ...]) -> None:
        self._client, self._function, self._arguments = client, function, arguments
        self._futures: dict[Any, Part] = {}

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
        for future in [f for f in self._futures if f.done()]:
            part = self._futures[future]
            try:
                outcome = Outcome(part, result=future.result(timeout=TASK_S))
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


class DaskRunner(_DaskRunner):
    """Worker processes on this machine, started with the first job."""

    def __init__(self, *, workers: int, memory_bytes: int) -> None:
        super().__init__()
        self._workers, self._memory = workers, memory_bytes
        self.place = f"hub, {_count(workers, 'worker')}"

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        client = self._ensure()
        return sorted(client.run(_pid).values())

    def _ensure(self) -> Any:
        with self._lock:
            if self._client is None:
                from distributed import Client, LocalCluster  # noqa: PLC0415

                _configure()
                self._cluster = LocalCluster(
                    n_workers=self._workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=self._memory,
                    host=LOOPBACK,
                    dashboard_address=f"{LOOPBACK}:0",
                    silence_logs=50,
                )
                self._client = Client(self._cluster)
                log.info("workers started", workers=self._workers)
            elif len(self._cluster.workers) < self._workers:
                log.warning("workers were lost", workers=len(self._cluster.workers))
                self._cluster.scale(self._workers)
            return self._client

    def _end_worker(self, address: str) -> None:
        self._ensure().restart_workers([address], timeout=RETIRE_S, raise_for_error=False)


class NodesRunner(_DaskRunner):
    """Workers in containers on nodes, TLS 1.3 both ways, under an authority made for nothing else."""

    def __init__(self, fleet: Fleet, folder: Path, authority: Authority) -> None:
        super().__init__()
        self._fleet, self._folder, self._authority = fleet, folder, authority

    @property
    def place(self) -> str:  # type: ignore[override]
        """How many containers on how many nodes."""
        names = self._registered()
        nodes = {name.rsplit("-", 1)[0] for name in names}
        return f"{_count(len(nodes), 'node')}, {_count(len(names), 'worker')}"

    def wait_ready(self, seconds: float, *, workers: int = 1) -> bool:
        """Whether so many workers have joined in time; no longer waited for once no node can be reached."""
        self._ensure()
        until = time.monotonic() + seconds
        while len(self._registered()) < workers:
            if time.monotonic() > until or not self._fleet.hopeful:
                return False
            time.sleep(0.1)
        return True

    def close(self) -> None:
        """End containers, scheduler and client."""
        self._fleet.close()
        super().close()

    def _lost(self) -> None:
        """The fleet goes on trying by itself; its scheduler stays."""

    def _ensure(self) -> Any:
        with self._lock:
            if self._client is None:
                from distributed import Client, Scheduler, SpecCluster  # noqa: PLC0415

                _configure()
                security = self._security()
                options = {
                    "host": LOOPBACK,
                    "port": 0,
                    "protocol": "tls",
                    "security": security,
                    "dashboard": False,
                    "dashboard_address": f"{LOOPBACK}:0",  # without routes: see _configure
                }
                self._cluster = SpecCluster(
                    workers={}, scheduler={"cls": Scheduler, "options": options}, security=security, silence_logs=50
                )
                self._client = Client(self._cluster, security=security)
                port = int(str(self._cluster.scheduler_address).rsplit(":", 1)[1])
                self._fleet.start(port, registered=self._registered, retire=self._retire)
                log.info("scheduler started", port=port)
            return self._client

    def _security(self) -> Any:
        from distributed.security import Security  # noqa: PLC0415

        key, folder = new_key(), self._folder
        write_private(folder / "scheduler.key", key_pem(key))
        write_private(
            folder / "scheduler.pem", self._authority.issue_worker("scheduler", key.public_key(), SCHEDULER_HOURS), 0o644
        )
        write_private(folder / "authority.pem", self._authority.pem, 0o644)
        files = {
            f"tls_{role}_{kind}": str(folder / f"scheduler.{suffix}")
            for role in ("scheduler", "client")
            for kind, suffix in (("cert", "pem"), ("key", "key"))
        }
        return Security(
            require_encryption=True,
            tls_ca_file=str(folder / "authority.pem"),
            tls_min_version=ssl.TLSVersion.TLSv1_3,
            **files,
        )

    def _registered(self) -> Collection[str]:
        cluster = self._cluster
        return {str(w.name) for w in list(cluster.scheduler.workers.values())} if cluster is not None else set()

    def _retire(self, names: Sequence[str]) -> None:
        """Workers finish what they have in hand, as long as that is not too long, and leave."""
        client, cluster = self._client, self._cluster
        if client is None or cluster is None:
            return
        addresses = [a for a, w in list(cluster.scheduler.workers.items()) if str(w.name) in names]
        if addresses:
            with contextlib.suppress(Exception):  # it is a courtesy: a task that is cut off runs again elsewhere
                client.sync(client.scheduler.retire_workers, workers=addresses, callback_timeout=RETIRE_S)

    def _sees(self, uri: str) -> str:  # noqa: ARG002 - wherever it is, it is mounted there
        return LAKE

    def _end_worker(self, address: str) -> None:
        worker = self._cluster.scheduler.workers.get(address)
        if worker is not None:
            self._fleet.end_worker(str(worker.name))


class HubRunner:
    """Containers on nodes while there are any; else workers on the hub itself, and it says so."""

    def __init__(self, nodes: NodesRunner, fleet: Fleet, here: Runner, *, say: Callable[[str, str], None]) -> None:
        self._nodes, self._fleet, self._here, self._say = nodes, fleet, here, say
        self._place = here.place

    @property
    def place(self) -> str:
        """Where the last job ran, or runs."""
        return self._place

    def map(
        self, function: Function, parts: Sequence[Part], uri: str, *arguments: Any, stop: Stop = never, alone: bool = False
    ) -> Iterator[Outcome[Part]]:
        left: Sequence[Part] = parts
        if self._fleet.active and "://" in uri:
            self._say("The hub itself prepares the data", "a container has no network, so it cannot read an object store")
        elif self._fleet.active:
            if self._nodes.wait_ready(NO_WORKER_S):
                self._place = self._nodes.place
                try:
                    for outcome in self._nodes.map(function, parts, uri, *arguments, stop=stop, alone=alone):
                        self._place = max(self._place, self._nodes.place)  # a node may join in the middle
                        yield outcome
                except WorkersLost as lost:
                    left = lost.parts
                else:
                    return
            self._say("No node answers: the hub itself prepares the data", "see `wardround node list`")
        self._place = self._here.place
        yield from self._here.map(function, left, uri, *arguments, stop=stop, alone=alone)

    def close(self) -> None:
        """Both."""
        self._nodes.close()
        self._here.close()


class WorkersLost(ProcessError):
    """There is nobody left to work; `parts` are not done."""

    def __init__(self, message: str, *, parts: tuple[Any, ...]) -> None:
        super().__init__(message, remedy="see `wardround node list`; what is done is kept, the next run goes on from there")
        self.parts = parts


class _ClusterLost(Exception):
    """Scheduler or workers are gone; what is in flight goes again."""


def _configure() -> None:
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
            "distributed.logging.distributed": "error",
            "distributed.scheduler.http.routes": [],  # a scheduler opens an HTTP port whether asked to or not: nothing is there
            "distributed.worker.http.routes": [],
        }
    )


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"[:500]


def _pid() -> int:
    import os  # noqa: PLC0415

    return os.getpid()
