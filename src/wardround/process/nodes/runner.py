"""Dask's scheduler on the hub, its workers in containers on nodes; and the choice between them and the hub's own workers."""

from __future__ import annotations

import contextlib
import ssl
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import structlog

from wardround.ports import LOOPBACK
from wardround.process.dask_runner import (
    NO_WORKER_S,
    RETIRE_S,
    ClusterRunner,
    Function,
    Outcome,
    Part,
    Runner,
    Stop,
    WorkersLost,
    configure,
    counted,
    never,
)
from wardround.process.nodes.containers import LAKE
from wardround.process.nodes.fleet import Fleet
from wardround.trust.certificates import Authority, key_pem, new_key, write_private

log = structlog.get_logger(__name__)
SCHEDULER_HOURS = 24.0 * 90


class NodesRunner(ClusterRunner):
    """Workers in containers on nodes, TLS 1.3 both ways, under an authority made for nothing else."""

    def __init__(self, fleet: Fleet, folder: Path, authority: Authority) -> None:
        super().__init__()
        self._fleet, self._folder, self._authority = fleet, folder, authority
        self._security: Any = None

    @property
    def place(self) -> str:
        names = self.registered()
        nodes = {name.rsplit("-", 1)[0] for name in names}
        return f"{counted(len(nodes), 'node')}, {counted(len(names), 'worker')}"

    def registered(self) -> Collection[str]:
        """Names of the workers that the scheduler knows."""
        cluster = self._cluster
        return {str(w.name) for w in list(cluster.scheduler.workers.values())} if cluster is not None else set()

    def wait_ready(self, seconds: float, *, workers: int = 1) -> bool:
        """Whether so many workers have joined in time; no longer waited for once no node can be reached."""
        self._ensure()
        until = time.monotonic() + seconds
        while len(self.registered()) < workers:
            if time.monotonic() > until or not self._fleet.hopeful:
                return False
            time.sleep(0.1)
        return True

    def close(self) -> None:
        """End containers, scheduler and client."""
        self._fleet.close()
        super().close()

    def _lost(self) -> None:
        """The fleet goes on trying by itself, and the scheduler stays; a client that has lost it is made anew."""
        from distributed import Client  # noqa: PLC0415

        with self._lock:
            if self._client is not None and self._client.status != "running":
                self._client = Client(self._cluster, security=self._security, direct_to_workers=True)

    def _ensure(self) -> Any:
        with self._lock:
            if self._client is None:
                from distributed import Client, Scheduler, SpecCluster  # noqa: PLC0415

                configure()
                self._security = security = self._make_security()
                options = {
                    "host": LOOPBACK,
                    "port": 0,
                    "protocol": "tls",
                    "security": security,
                    "dashboard": False,
                    "dashboard_address": f"{LOOPBACK}:0",  # without routes: see configure
                }
                self._cluster = SpecCluster(
                    workers={}, scheduler={"cls": Scheduler, "options": options}, security=security, silence_logs=50
                )
                self._client = Client(self._cluster, security=security, direct_to_workers=True)
                port = int(str(self._cluster.scheduler_address).rsplit(":", 1)[1])
                self._fleet.start(port, registered=self.registered, retire=self._retire)
                log.info("scheduler started", port=port)
            return self._client

    def _make_security(self) -> Any:
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

    def _retire(self, names: Sequence[str]) -> None:
        """Workers finish what they have in hand, as long as that is not too long, and leave."""
        client, cluster = self._client, self._cluster
        if client is None or cluster is None:
            return
        addresses = [a for a, w in list(cluster.scheduler.workers.items()) if str(w.name) in names]
        if addresses:
            with contextlib.suppress(Exception):  # it is a courtesy: a task that is cut off runs again elsewhere
                client.sync(client.scheduler.retire_workers, workers=addresses, callback_timeout=RETIRE_S)

    def _sees(self, uri: str) -> str:
        return uri if "://" in uri else LAKE  # wherever a folder is, it is mounted there

    def _end_worker(self, address: str) -> None:
        worker = self._cluster.scheduler.workers.get(address)
        if worker is not None:
            self._fleet.end_worker(str(worker.name))


class HubRunner:
    """Containers on nodes while there are any; else workers on the hub itself, and it says so."""

    def __init__(self, nodes: NodesRunner, fleet: Fleet, here: Runner, *, say: Callable[[str, str], None]) -> None:
        self._nodes, self._fleet, self._here, self._say = nodes, fleet, here, say
        self._place = here.place
        self._said = ""  # why the hub works itself though there are nodes: said once, until they work again

    @property
    def place(self) -> str:
        """Where the last job ran, or runs."""
        return self._place

    def map(
        self, function: Function, parts: Sequence[Part], uri: str, *arguments: Any, stop: Stop = never, alone: bool = False
    ) -> Iterator[Outcome[Part]]:
        left: Sequence[Part] = parts
        if self._fleet.active and self._fleet.barred:
            self._say_once(self._fleet.barred)
        elif self._fleet.active:
            if self._nodes.wait_ready(NO_WORKER_S):
                most = 0
                try:
                    for outcome in self._nodes.map(function, parts, uri, *arguments, stop=stop, alone=alone):
                        if len(self._nodes.registered()) > most:  # a node may join in the middle
                            most, self._place, self._said = len(self._nodes.registered()), self._nodes.place, ""
                        yield outcome
                except WorkersLost as lost:
                    left = lost.parts
                else:
                    return
            self._say_once("no node answers: see `wardround node list`")
        self._place = self._here.place
        yield from self._here.map(function, left, uri, *arguments, stop=stop, alone=alone)

    def close(self) -> None:
        """Both."""
        self._nodes.close()
        self._here.close()

    def _say_once(self, why: str) -> None:
        if why != self._said:
            self._said = why
            self._say("The hub itself prepares the data", why)
