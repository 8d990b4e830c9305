"""Where a job runs: in this process, or on Dask workers that are processes of their own. Tasks read the lake themselves.

A worker that is killed takes its task with it; the scheduler gives the task to another one. A task that keeps killing workers,
or raises, is reported as failed with its words; the others complete.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import structlog

log = structlog.get_logger(__name__)
Part = TypeVar("Part")
DEADLINE_S = 600.0


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Part]):
    """What became of one partition: a result, or the words of its error."""

    part: Part
    result: Any = None
    error: str = ""


class Runner(Protocol):
    """Applies a function to each part; outcomes come as they are ready."""

    def map(self, function: Callable[..., Any], parts: Sequence[Part], *arguments: Any) -> Iterator[Outcome[Part]]:
        """`function(part, *arguments)` for each part; function and arguments must be importable and picklable."""
        ...

    def close(self) -> None:
        """Give the workers back."""
        ...


class HereRunner:
    """In this process, one after the other."""

    def map(self, function: Callable[..., Any], parts: Sequence[Part], *arguments: Any) -> Iterator[Outcome[Part]]:
        for part in parts:
            try:
                yield Outcome(part, result=function(part, *arguments))
            except Exception as error:  # noqa: BLE001 - a partition that fails is set aside with its words
                yield Outcome(part, error=f"{type(error).__name__}: {error}"[:500])

    def close(self) -> None:
        """Nothing is held."""


class DaskRunner:
    """Dask workers on this machine, started with the first job. Safe to use from several threads."""

    def __init__(self, *, workers: int, memory_bytes: int) -> None:
        self._workers, self._memory = workers, memory_bytes
        self._cluster: Any = None
        self._client: Any = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the workers ahead of the first job."""
        self._ensure()

    def map(self, function: Callable[..., Any], parts: Sequence[Part], *arguments: Any) -> Iterator[Outcome[Part]]:
        from distributed import as_completed  # noqa: PLC0415 - a second of import that only a job pays

        client = self._ensure()
        futures = {client.submit(function, part, *arguments, pure=False, retries=1): part for part in parts}
        for future in as_completed(futures, timeout=DEADLINE_S):
            part = futures[future]
            try:
                yield Outcome(part, result=future.result(timeout=DEADLINE_S))
            except Exception as error:  # noqa: BLE001 - as above; KilledWorker is one of them
                yield Outcome(part, error=f"{type(error).__name__}: {error}"[:500])

    @property
    def pids(self) -> list[int]:
        """The workers' process ids."""
        client = self._ensure()
        return sorted(client.run(_pid).values())

    def close(self) -> None:
        """End the workers; bounded in time."""
        with self._lock:
            if self._client is not None:
                self._client.close(timeout=5)
                self._cluster.close(timeout=5)
            self._client = self._cluster = None

    def _ensure(self) -> Any:
        with self._lock:
            if self._client is None:
                import dask  # noqa: PLC0415
                from distributed import Client, LocalCluster  # noqa: PLC0415

                dask.config.set(
                    {
                        "distributed.scheduler.allowed-failures": 1,
                        "distributed.scheduler.worker-ttl": "15s",
                        "distributed.comm.timeouts.tcp": "12s",
                        # A killed worker's nanny starts it anew, at another address. Looking for the old one after a while,
                        # the cluster would take the worker for lost and end its nanny: never look.
                        "distributed.deploy.lost-worker-timeout": "3650 days",
                        "distributed.worker.multiprocessing-method": "spawn",
                        "distributed.logging.distributed": "error",
                    }
                )
                self._cluster = LocalCluster(
                    n_workers=self._workers,
                    threads_per_worker=1,
                    processes=True,
                    memory_limit=self._memory,
                    host="127.0.0.1",
                    dashboard_address=None,
                    silence_logs=50,
                )
                self._client = Client(self._cluster)
                log.info("workers started", workers=self._workers)
            elif len(self._cluster.workers) < self._workers:
                log.warning("workers were lost", workers=len(self._cluster.workers))
                self._cluster.scale(self._workers)
            return self._client


def _pid() -> int:
    import os  # noqa: PLC0415

    return os.getpid()
