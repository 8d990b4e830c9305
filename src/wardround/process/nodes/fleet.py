"""The worker containers on the nodes, kept up: one thread a node, a bounded number of starts, and a state people can read.

A node that does not answer costs its own thread a longer and longer wait, and nobody else anything. A worker that ended is
removed and started again, at most STARTS_MAX times in ten minutes. Containers that an earlier life of this hub left behind
are removed when its node is reached again, so they never pile up.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import structlog

from wardround.errors import ProcessError, WardroundError
from wardround.ports import LOOPBACK
from wardround.process.nodes import image
from wardround.process.nodes.containers import KILLED, NodeApi, WorkerSpec
from wardround.process.nodes.links import Link, make_link
from wardround.process.nodes.store_way import StoreWay, store_way
from wardround.process.relays import STORE, STORE_AUTHORITIES, Relays
from wardround.records import NodeRecord
from wardround.trust.certificates import Authority, key_pem, new_key

log = structlog.get_logger(__name__)
LOOK_S = 0.5
STARTS_MAX, STARTS_WITHIN_S = 10, 600.0
JOIN_S = 60.0  # a started worker that the scheduler does not know by then is taken for dead
WAITS_S = (1.0, 2.0, 5.0, 10.0, 30.0)
END_S = 30.0
WORKER_HOURS = 24.0 * 90


@dataclass(frozen=True, slots=True)
class NodeStatus:
    """A node as its keeper sees it: connecting, copying, starting, ready, failing, unreachable or drained."""

    name: str
    state: str
    workers: int  # that run now
    wanted: int
    words: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What every keeper needs to know."""

    hub_id: str
    keys: Path
    authority: Authority
    lake: str  # the hub's own path or URI
    store: StoreWay | None  # the way to it, when it is in an object store
    scheduler_port: int
    relays: Relays
    registered: Callable[[], Collection[str]]  # names of the workers that the scheduler knows
    retire: Callable[[Sequence[str]], None]  # asks them to finish what they do and take nothing more


@dataclass(slots=True)
class _Running:
    name: str
    started_s: float
    joined: bool = False


class NodeKeeper(threading.Thread):
    """Keeps one node's workers running."""

    def __init__(self, record: NodeRecord, around: Surroundings) -> None:
        super().__init__(name=f"node-{record.name}", daemon=True)
        self.record, self._around = record, around
        self._stopping = threading.Event()
        self._link: Link | None = None
        self._api: NodeApi | None = None
        self._workers: dict[int, _Running] = {}
        self._starts: collections.deque[float] = collections.deque(maxlen=STARTS_MAX * max(1, record.workers))
        self._number = 0
        self._failed_starts = 0  # one after the other; each makes the next one wait longer
        self._last_end = ""
        self._status = NodeStatus(record.name, "connecting", 0, record.workers)
        self._to_end: set[str] = set()  # names of workers to be ended now
        self._lock = threading.Lock()

    @property
    def status(self) -> NodeStatus:
        """As it is now."""
        return self._status

    def end_worker(self, name: str) -> None:
        """End one worker at the next look: it hangs."""
        with self._lock:
            self._to_end.add(name)

    def stop(self) -> None:
        """Finish what runs, remove everything of ours on the node, and end."""
        self._stopping.set()

    def run(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                self._tend()
                failures = 0
                wait_s = LOOK_S
            except WardroundError as error:
                if failures == 0:
                    log.warning("node failed", node=self.record.name, error=str(error))
                self._say("unreachable", str(error), error.remedy)
                self._forget()
                wait_s = WAITS_S[min(failures, len(WAITS_S) - 1)]
                failures += 1
            self._stopping.wait(wait_s)
        self._leave()

    def _tend(self) -> None:
        if self._link is None or self._api is None or not self._link.alive():
            self._forget()
            self._connect()
        if self._api is None or self._link is None:
            return
        self._end_asked(self._api)
        for slot in range(self.record.workers):
            running = self._workers.get(slot)
            if running is not None and self._ended(self._api, running):
                self._remove(running.name)
                del self._workers[slot]
                running = None
            if running is None and self._may_start():
                self._workers[slot] = self._start(self._api, self._link)
        self._say_how_it_is()

    def _connect(self) -> None:
        around, record = self._around, self.record
        if self._status.state != "unreachable":
            self._say("connecting")
        self._link = make_link(record.url, name=record.name, hub_id=around.hub_id, keys=around.keys, relays=around.relays)
        self._api = NodeApi(self._link.open())
        for name in self._api.containers(around.hub_id, record.name):
            self._api.remove(name)
        if not self._api.has_image(image.reference()):
            self._say("copying", "the worker's image is on its way")
            self._api.load_image(image.archive())
            self._api.prune_images(image.REPOSITORY, image.reference())
        log.info("node reached", node=record.name)

    def _start(self, api: NodeApi, link: Link) -> _Running:
        around, record = self._around, self.record
        self._number += 1
        name = f"wardround-{around.hub_id}-{record.name}-{self._number}"
        self._starts.append(time.monotonic())
        self._say("starting")
        store = around.store
        sockets = link.open_worker(name, around.scheduler_port, (store.host, store.port) if store else None)
        try:
            key = new_key()
            leaf = around.authority.issue_worker(name, key.public_key(), WORKER_HOURS)
            api.start_worker(
                WorkerSpec(
                    name=name,
                    image=image.reference(),
                    hub=around.hub_id,
                    node=record.name,
                    contact=f"tls://{LOOPBACK}:{sockets.port}",
                    link=sockets.folder,
                    lake=lake_on(record, around.lake),
                    memory_bytes=record.memory_bytes,
                    cpus=record.cpus,
                    files={"ca.pem": around.authority.pem, "worker.pem": leaf, "worker.key": key_pem(key), **files_of(store)},
                    store_name=store.name if store else "",
                    store_port=store.port if store else 0,
                )
            )
        except ProcessError:
            link.close_worker(name)
            raise
        return _Running(name, time.monotonic())

    def _ended(self, api: NodeApi, running: _Running) -> bool:
        """Whether a worker is no more; why goes to the state's words."""
        code = api.exit_code(running.name)
        if code is not None:
            why = "killed, or out of its memory" if code == KILLED else f"exit code {code}: {api.last_words(running.name)}"
            self._last_end = f"a worker ended ({why})"
            self._failed_starts += not running.joined
            log.warning("worker ended", node=self.record.name, exit_code=code)
            return True
        if running.name in self._around.registered():
            running.joined = True
            self._failed_starts = 0
            return False
        if time.monotonic() - running.started_s < JOIN_S:
            return False
        # Podman calls a container running whose process is long gone, after a power cut: the scheduler knows better.
        self._last_end = "a worker was not heard of any more" if running.joined else "a worker did not join"
        self._failed_starts += not running.joined
        return True

    def _may_start(self) -> bool:
        wait_s = WAITS_S[min(self._failed_starts, len(WAITS_S)) - 1] if self._failed_starts else 0.0
        rested = not self._starts or time.monotonic() - self._starts[-1] >= wait_s
        return rested and self._in_budget()

    def _in_budget(self) -> bool:
        starts = self._starts
        return len(starts) < (starts.maxlen or 0) or time.monotonic() - starts[0] > STARTS_WITHIN_S

    def _end_asked(self, api: NodeApi) -> None:
        with self._lock:
            asked, self._to_end = self._to_end, set()
        for name in asked & {w.name for w in self._workers.values()}:
            api.kill(name)

    def _remove(self, name: str) -> None:
        if self._api is not None:
            self._api.remove(name)
        if self._link is not None:
            self._link.close_worker(name)

    def _forget(self) -> None:
        """The node is out of reach: what ran there is cleared away when it is back."""
        self._workers.clear()
        if self._api is not None:
            self._api.close()
        if self._link is not None:
            self._link.close()
        self._api = self._link = None

    def _leave(self) -> None:
        names = [w.name for w in self._workers.values()]
        try:
            if names:
                self._around.retire(names)
            for name in names:
                self._remove(name)
            if self._api is not None:
                for name in self._api.containers(self._around.hub_id, self.record.name):
                    self._api.remove(name)
        except WardroundError as error:
            log.warning("node left untidy", node=self.record.name, error=str(error))
        self._forget()

    def _say_how_it_is(self) -> None:
        joined = sum(1 for w in self._workers.values() if w.joined)
        if not self._in_budget() and len(self._workers) < self.record.workers:
            self._say("failing", f"{STARTS_MAX} starts a worker in ten minutes; {self._last_end}", "see `wardround node doctor`")
        else:
            self._say("ready" if joined == self.record.workers else "starting", self._last_end)

    def _say(self, state: str, words: str = "", remedy: str = "") -> None:
        joined = sum(1 for w in self._workers.values() if w.joined)
        self._status = NodeStatus(self.record.name, state, joined, self.record.workers, words, remedy)


class Fleet:
    """The keepers of all nodes. `set_nodes` may be called at any time with the nodes as they should be."""

    def __init__(
        self, *, hub_id: str, keys: Path, authority: Authority, lake: str, lake_options: Mapping[str, str] = MappingProxyType({})
    ) -> None:
        self._hub_id, self._keys, self._authority, self._lake = hub_id, keys, authority, lake
        self._store: StoreWay | None = None
        self.barred = ""  # why no container can reach the lake, wherever it runs
        try:
            self._store = store_way(lake, lake_options)
        except ProcessError as error:
            self.barred = f"{error}; {error.remedy}"
        self._relays: Relays | None = None
        self._around: Surroundings | None = None
        self._keepers: dict[str, NodeKeeper] = {}
        self._leaving: list[NodeKeeper] = []
        self._records: dict[str, NodeRecord] = {}
        self._lock = threading.Lock()

    @property
    def active(self) -> bool:
        """Whether any node should work."""
        return any(not r.drained for r in self._records.values())

    @property
    def hopeful(self) -> bool:
        """Whether any node works, or is on its way to."""
        return any(s.state in ("idle", "connecting", "copying", "starting", "ready") for s in self.statuses())

    def start(
        self, scheduler_port: int, *, registered: Callable[[], Collection[str]], retire: Callable[[Sequence[str]], None]
    ) -> None:
        """The scheduler is there: workers may be started."""
        with self._lock:
            self._relays = Relays()
            self._around = Surroundings(
                hub_id=self._hub_id,
                keys=self._keys,
                authority=self._authority,
                lake=self._lake,
                store=self._store,
                scheduler_port=scheduler_port,
                relays=self._relays,
                registered=registered,
                retire=retire,
            )
        self._follow()

    def set_nodes(self, records: Sequence[NodeRecord]) -> None:
        """Follow the nodes as they should be: new ones are started, drained and removed ones finish what they do."""
        with self._lock:
            self._records = {r.name: r for r in records}
        self._follow()

    def end_worker(self, name: str) -> None:
        """A worker hangs: end it, another one is started."""
        with self._lock:
            keepers = list(self._keepers.values())
        for keeper in keepers:
            keeper.end_worker(name)

    def statuses(self) -> list[NodeStatus]:
        """Every node, by name."""
        with self._lock:
            live = {k.record.name: k.status for k in self._keepers.values()}
            idle = {
                name: NodeStatus(name, "drained" if r.drained else "idle", 0, r.workers)
                for name, r in self._records.items()
                if name not in live
            }
        return sorted([*live.values(), *idle.values()], key=lambda s: s.name)

    def close(self) -> None:
        """Remove every container; bounded in time."""
        with self._lock:
            self._around = None
            keepers = [*self._keepers.values(), *self._leaving]
            self._keepers = {}
        for keeper in keepers:
            keeper.stop()
        until = time.monotonic() + END_S
        for keeper in keepers:
            keeper.join(max(0.1, until - time.monotonic()))
        if self._relays is not None:
            self._relays.close_all()

    def _follow(self) -> None:
        with self._lock:
            if self._around is None:
                return
            wanted: Mapping[str, NodeRecord] = {n: r for n, r in self._records.items() if not r.drained}
            for name, keeper in list(self._keepers.items()):
                if wanted.get(name) != keeper.record:
                    keeper.stop()
                    self._leaving.append(self._keepers.pop(name))
            self._leaving = [k for k in self._leaving if k.is_alive()]
            leaving = {k.record.name for k in self._leaving}
            for name, record in wanted.items():
                if name not in self._keepers and name not in leaving:  # one keeper a node at a time
                    self._keepers[name] = NodeKeeper(record, self._around)
                    self._keepers[name].start()


def files_of(store: StoreWay | None) -> dict[str, bytes]:
    """What a worker must be handed to reach the store."""
    if store is None:
        return {}
    return {STORE: store.secret} | ({STORE_AUTHORITIES: store.authorities} if store.authorities else {})


def lake_on(record: NodeRecord, lake: str) -> str:
    """Where a node sees the lake's folder; empty when the lake is an object store, which needs no folder."""
    return "" if "://" in lake else (record.lake or lake)
