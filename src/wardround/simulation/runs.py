"""Hub and edges in one process: memory links, a clock and faults that follow from a seed. The same seed gives the same run, to
the last byte of the model.

The parts are the product's own: gateway, spool, forwarder, intake, inbox, committer; coordinator, journal, participant. Only
disks, links, time and the training are simulated. Processes die before or after any durable step, links are cut, requests and
answers are lost or come twice, an edge is slow, an edge sends what cannot count. Then the faults end, and everything must come
to its end with nothing lost, nothing twice, and every model exactly the fold of the updates it names.
"""

from __future__ import annotations

import contextlib
import heapq
import itertools
import random
import zlib
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from wardround.clock import ManualClock
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.forwarder import Batch, Forwarder, may_leave
from wardround.collect.gateway import Gateway, Receipt
from wardround.collect.inbox import Inbox, InboxBatch, InboxRow
from wardround.collect.intake import Committer, ForwardReceipt, Intake
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import Device
from wardround.collect.signals import load_signals
from wardround.collect.spool import Spool
from wardround.collect.storage import MemoryStorage
from wardround.errors import StudyError
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.condition import Condition
from wardround.learn.coordinator import Coordinator
from wardround.learn.journal import Committed, Journal, model_name
from wardround.learn.messages import Order, Upload, UploadReceipt
from wardround.learn.participant import Participant, Ready
from wardround.learn.rollbacks import Asked
from wardround.learn.rounds import Cancel
from wardround.learn.strategies import make_strategy
from wardround.learn.study import Study, parse_study
from wardround.records import Consent, EdgeId, SubjectId, decode_observation
from wardround.settings import SpoolSettings
from wardround.simulation.promises import Train, broken_promises
from wardround.simulation.toy import CLASSES, FEATURES, signed, spoil, toy_model, toy_training
from wardround.trust.consent import ConsentRegister
from wardround.watch.detectors.screens import Screens

T = TypeVar("T")
Process = Generator[float, None, None]  # yields how many seconds to wait
HUB = "hub"
CHUNK_BYTES = 256
DRAIN_S = 180.0
TRIES = 10
EVENTS_MAX = 400_000


class Killed(BaseException):
    """A process died here. Not an Exception: no handler of the product may survive its own death."""

    def __init__(self, who: str) -> None:
        super().__init__(who)
        self.who = who


class Unreachable(Exception):
    """A request or its answer was lost."""


@dataclass(frozen=True, slots=True)
class Faults:
    """How often what goes wrong, as chances of each step or exchange, until `until_s` of simulated time."""

    kill: float = 0.0  # a durable step dies, before or after it is done
    lose: float = 0.0  # a request does not arrive
    lose_answer: float = 0.0  # a request arrives, its answer does not
    twice: float = 0.0  # a request arrives twice
    partition: float = 0.0  # of an edge, looked at once a second
    slow: float = 0.0  # an edge's training takes longer than a round may
    bad_update: float = 0.0  # an update that must not count
    roll_back: float = 0.0  # the study goes back to some older model, looked at twice a second
    doubt: float = 0.0  # an edge is set aside, and an update that was is replayed; looked at four times a second
    unplugged: float = 0.0  # an edge is without mains, looked at once a second; the study's schedule then asks for mains
    until_s: float = 12.0


CALM = Faults(until_s=0.0)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `violations` are broken promises, in words; empty is good."""

    seed: int
    model: str
    committed: tuple[Committed, ...]
    receipted: int
    stored: int
    kills: int
    simulated_s: float
    violations: tuple[str, ...]
    refused: tuple[str, ...] = ()
    declined: int = 0
    replays: int = 0


STUDY = """\
name = "rehearsal"
task = "activity"
[rounds]
count = {rounds}
edges_min = {quorum}
edges_max = {wanted}
over_selection = 1.5
deadline_s = 4.0
examples_min = 1
mode = "{mode}"
buffer = {buffer}
staleness_max = 3
[schedule]
charging = {charging}
"""


class Simulation:
    """One run. Build it with a seed, then `run` once."""

    def __init__(
        self,
        seed: int,
        *,
        edges: int = 4,
        rounds: int = 3,
        wanted: int = 0,
        buffer: int = 0,
        messages: int = 6,
        faults: Faults = CALM,
        train: Train | None = None,
    ) -> None:
        """`wanted` updates are enough for a round (0: all); with `buffer` the study is buffered, and so many make a model.

        `messages` are those of each of two devices of an edge; `train(edge, order, model, kept)` makes updates, a toy by default.
        """
        self.seed, self.faults = seed, faults
        self.random = random.Random(seed)  # noqa: S311 - a schedule, not a secret
        self.clock = ManualClock()
        self.signals = load_signals()
        mode = "buffered" if buffer else "synchronous"
        quorum = min(buffer, edges // 2) if buffer else max(1, edges // 2)
        charging = str(faults.unplugged > 0).lower()
        text = STUDY.format(rounds=rounds, quorum=quorum, wanted=wanted, mode=mode, buffer=max(1, buffer), charging=charging)
        self.study: Study = parse_study(text, where="simulation")
        self.train: Train = train if train is not None else toy_training
        self.lake = _Lake()
        self.kills = 0
        self.violations: list[str] = []
        self.refused: list[str] = []
        self.declined = self.replays = 0
        self.accepted: set[tuple[str, int]] = set()
        self.hub_consents = ConsentRegister(":memory:")
        self.hub_storage, self.hub_blobs = MemoryStorage(), MemoryBlobs()
        self.hub: _Hub | None = None
        self.edges = {name: _Edge(self, name, slow=i == 0) for i, name in enumerate(f"edge-{i}" for i in range(edges))}
        self.devices = [_Device(self, edge, i, messages) for edge in self.edges.values() for i in range(2)]
        self._life: Counter[str] = Counter()
        self._queue: list[tuple[float, int, str, int, Process]] = []
        self._numbers = itertools.count()

    # -- running

    def run(self) -> Outcome:
        """Play it to its end."""
        self._start_hub()
        for edge in self.edges.values():
            edge.start()
        for device in self.devices:
            self.spawn("world", device.play())
        self.spawn("world", self._partitions())
        self.spawn("world", self._roll_backs())
        self.spawn("world", self._doubts())
        limit_s = self.faults.until_s + DRAIN_S
        for _ in range(EVENTS_MAX):
            if not self._queue or self.clock.monotonic_s() > limit_s or self._done():
                break
            self._next()
        if not self._done():
            self.violations.append(f"not at its end after {self.clock.monotonic_s():.0f} simulated seconds: {self._where()}")
        self._check_data()
        committed = self._check_models()
        outcome = Outcome(
            seed=self.seed,
            model=committed[-1].model if committed else "",
            committed=committed,
            receipted=sum(len(d.receipted) for d in self.devices),
            stored=len(self.lake.rows),
            kills=self.kills,
            simulated_s=self.clock.monotonic_s(),
            violations=tuple(self.violations),
            refused=tuple(self.refused),
            declined=self.declined,
            replays=self.replays,
        )
        self._close()
        return outcome

    def spawn(self, owner: str, process: Process, after_s: float = 0.0) -> None:
        """Start a process that dies with its owner."""
        entry = (self.clock.monotonic_s() + after_s, next(self._numbers), owner, self._life[owner], process)
        heapq.heappush(self._queue, entry)

    def chance(self, probability: float) -> bool:
        """Whether a fault strikes now."""
        return self.clock.monotonic_s() < self.faults.until_s and self.random.random() < probability

    def latency_s(self) -> float:
        """One way."""
        return self.random.uniform(0.002, 0.05)

    def exchange(self, edge: _Edge, call: Callable[[_Hub], T]) -> T:
        """One request to the hub and its answer.

        Raises:
            Unreachable: either was lost, or there is no hub.
        """
        hub = self.hub
        if hub is None or edge.cut or self.chance(self.faults.lose):
            raise Unreachable
        try:
            answer = call(hub)
            if self.chance(self.faults.twice):
                answer = call(hub)
        except Killed as killed:
            self.kill(killed.who)
            raise Unreachable from None
        if self.chance(self.faults.lose_answer):
            raise Unreachable
        return answer

    def kill(self, who: str) -> None:
        """SIGKILL: everything in memory is gone, and comes back from disk a moment later."""
        self.kills += 1
        self._life[who] += 1
        if who == HUB:
            self.hub = None
            self.hub_blobs.crash()
            self.spawn("world", self._later(self.random.uniform(0.1, 2.0), self._start_hub))
        else:
            self.edges[who].stop()
            self.spawn("world", self._later(self.random.uniform(0.1, 2.0), self.edges[who].start))

    def fragile(self, part: T, who: str, *steps: str) -> T:
        """The part, whose steps may be the death of its process."""
        return cast(T, _Fragile(part, steps, lambda: self._maybe_die(who)))

    def step_lake(self, batches: Sequence[InboxBatch], app: str, version: int) -> None:
        """A commit to the lake, which is atomic."""
        self._maybe_die(HUB)
        self.lake.append(batches, app, version)
        self._maybe_die(HUB)

    def _maybe_die(self, who: str) -> None:
        if self.chance(self.faults.kill):
            raise Killed(who)

    def _start_hub(self) -> None:
        self.hub = _Hub(self)
        for process in (self.hub.ticks(), self.hub.commits()):
            self.spawn(HUB, process)

    def _next(self) -> None:
        at_s, _, owner, life, process = heapq.heappop(self._queue)
        self.clock.advance(max(0.0, at_s - self.clock.monotonic_s()))
        if self._life[owner] != life:
            return
        try:
            wait_s = next(process)
        except StopIteration:
            return
        except Killed as killed:
            self.kill(killed.who)
            return
        heapq.heappush(self._queue, (self.clock.monotonic_s() + wait_s, next(self._numbers), owner, life, process))

    @staticmethod
    def _later(after_s: float, action: Callable[[], None]) -> Process:
        yield after_s
        action()

    def _partitions(self) -> Process:
        while self.clock.monotonic_s() < self.faults.until_s:
            for edge in self.edges.values():
                edge.cut = self.chance(self.faults.partition)
                edge.mains = not self.chance(self.faults.unplugged)
            yield 1.0
        for edge in self.edges.values():
            edge.cut, edge.mains = False, True

    def _roll_backs(self) -> Process:
        """An operator goes back, and asks again when the hub died meanwhile."""
        for number in itertools.count():
            yield 0.5
            if self.clock.monotonic_s() >= self.faults.until_s:
                return
            if self.hub is None or not self.chance(self.faults.roll_back):
                continue
            to = self.random.randrange(max(1, len(self.hub.coordinator.committed())))
            for _ in range(TRIES):
                try:
                    if self.hub is not None and self.hub.coordinator.committed():
                        self.hub.coordinator.roll_back(Asked(to, "operator", "schedule", str(number)))
                        break
                except Killed as killed:
                    self.kill(killed.who)
                yield 0.5

    def _doubts(self) -> Process:
        """An operator sets edges aside, and calls some of their updates innocent; asks again when the hub died meanwhile."""
        for number in itertools.count():
            yield 0.25
            if self.clock.monotonic_s() >= self.faults.until_s:
                return
            if not self.faults.doubt or self.hub is None or not self.chance(self.faults.doubt):
                continue
            edge = EdgeId(self.random.choice(sorted(self.edges)))
            aside = [(e, c.number) for c in self.hub.coordinator.committed() for e in c.aside]
            for _ in range(TRIES):
                try:
                    if self.hub is not None:
                        if self.random.random() < 0.2 or not aside:
                            self.hub.coordinator.quarantine(edge, self.random.randint(1, 2), "doubt")
                        else:
                            of, from_round = self.random.choice(aside)
                            self.hub.coordinator.replay(EdgeId(of), from_round, Asked(from_round, "operator", "", f"r{number}"))
                            self.replays += 1
                        break
                except StudyError:  # it is replayed already, or rolled back since
                    break
                except Killed as killed:
                    self.kill(killed.who)
                yield 0.5

    def _done(self) -> bool:
        if self.hub is None or self.clock.monotonic_s() < self.faults.until_s or not all(d.done for d in self.devices):
            return False
        spooled = any(e.spool is None or e.spool.facts().observations for e in self.edges.values())
        return not spooled and not self.hub.inbox.waiting() and self.hub.coordinator.finished

    def _where(self) -> str:
        rounds = self.hub.coordinator.committed() if self.hub is not None else []
        waiting = sum(not d.done for d in self.devices)
        return f"{len(rounds)} rounds committed, {waiting} devices without all their receipts"

    def _close(self) -> None:
        for storage in (self.hub_storage, *(e.storage for e in self.edges.values())):
            storage.close()
        for register in (self.hub_consents, *(e.consents for e in self.edges.values())):
            register.close()

    # -- what must hold

    def _check_data(self) -> None:
        """Every receipted message of a subject with consent `raw` is in the lake once, unchanged; no other is there."""
        promised = {(d.name, seq): d.value(seq) for d in self.devices if d.consent is Consent.RAW for seq in d.receipted}
        stored: Counter[tuple[str, int]] = Counter()
        local = {d.subject for d in self.devices if d.consent is not Consent.RAW}
        for row in self.lake.rows:
            observation = decode_observation(row.data)
            key = (observation.device, observation.device_seq)
            stored[key] += 1
            if observation.subject in local:
                self.violations.append(f"{key} left its edge without consent")
            if key in promised and observation.value != promised[key]:
                self.violations.append(f"{key} was altered")
        self.violations += [f"{key} was receipted and is lost" for key in promised if key not in stored]
        self.violations += [f"{key} is in the lake {n} times" for key, n in stored.items() if n > 1]

    def _check_models(self) -> tuple[Committed, ...]:
        journal = Journal(self.hub_storage.connect)
        self.violations += broken_promises(self.study, journal, self.hub_blobs, self.train, self.accepted)
        return tuple(journal.committed())


class _Fragile:
    """Stands before a part; some of its methods may die, before or after they are done."""

    def __init__(self, part: Any, steps: Sequence[str], die: Callable[[], None]) -> None:
        self._part, self._steps, self._die = part, frozenset(steps), die

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self._part, name)
        if name not in self._steps:
            return attribute

        def step(*arguments: Any, **named: Any) -> Any:
            self._die()
            result = attribute(*arguments, **named)
            self._die()
            return result

        return step


class _Lake:
    """Rows and the last version of each application, changed together: what Delta Lake's transactions promise."""

    def __init__(self) -> None:
        self.rows: list[InboxRow] = []
        self._versions: dict[str, int] = {}

    def version(self, app: str) -> int:
        return self._versions.get(app, -1)

    def append(self, batches: Sequence[InboxBatch], app: str, version: int) -> None:
        if self.version(app) < version:
            self.rows += [row for batch in batches for row in batch.rows()]
            self._versions[app] = version


class _Hub:
    """The hub's process."""

    def __init__(self, sim: Simulation) -> None:
        self._sim = sim
        inbox = sim.fragile(Inbox(sim.hub_storage), HUB, "put", "retire")
        self.inbox = inbox
        self._intake = Intake(
            inbox=inbox,
            consent=lambda edge, subject, code: sim.hub_consents.choose(subject, code, edge=edge)[0],
            clock=sim.clock,
            on_refused=lambda edge, reason, detail: sim.violations.append(f"the hub refused data of {edge}: {reason} {detail}"),
            on_committed=lambda _observations: None,
        )
        self._committer = Committer(inbox=inbox, lake_version=sim.lake.version, lake_append=sim.step_lake, rows_max=100)
        self.attached: dict[str, int] = {}  # edge -> number of its connection
        self.coordinator = Coordinator(
            sim.study,
            settings=b"",
            initial=lambda: toy_model(sim.study.learner.seed),
            shape=(FEATURES, CLASSES),
            strategy=make_strategy(sim.study.strategy, sim.study.learner),
            screen=Screens("simulation"),
            journal=sim.fragile(
                Journal(sim.hub_storage.connect), HUB, "accept", "refuse", "replay", "open_round", "commit_round"
            ),
            blobs=sim.fragile(sim.hub_blobs, HUB, "write", "sync", "name"),
            clock=sim.clock,
            send=self._send,
            on_event=lambda event: sim.refused.append(event.reason) if event.kind == "refused" else None,
            commit_later=True,
        )

    def ticks(self) -> Process:
        while True:
            self.coordinator.tick()
            yield 0.1

    def commits(self) -> Process:
        while True:
            self._committer.run_once()
            yield 0.5

    def attach(self, edge: str, connection: int, condition: Condition) -> None:
        self.attached[edge] = connection
        self.coordinator.note(EdgeId(edge), condition)
        self.coordinator.attach(EdgeId(edge))

    def lose(self, edge: str, connection: int) -> None:
        """The end of an older connection than the newest says nothing."""
        if self.attached.get(edge) == connection:
            del self.attached[edge]
            self.coordinator.lose(EdgeId(edge))

    def deliver(self, edge: str, batch: Batch) -> ForwardReceipt:
        self._sim.hub_consents.apply(batch.consents, edge)
        return self._intake.receive(edge, batch.boot, batch.first_seq, batch.observations, batch.gaps)

    def _send(self, edge: EdgeId, message: Order | Cancel) -> None:
        connection = self.attached.get(edge)
        if connection is not None:
            self._sim.spawn(edge, self._sim.edges[edge].hear(message, connection), self._sim.latency_s())


class _Edge:
    """An edge's process, and its disk."""

    def __init__(self, sim: Simulation, name: str, *, slow: bool) -> None:
        self._sim, self.name, self._slow = sim, name, slow
        self.storage, self._blobs = MemoryStorage(), MemoryBlobs()
        self.consents = ConsentRegister(":memory:")
        self.registered: dict[str, Device] = {}
        self.devices: dict[str, _Device] = {}
        self.cut = False
        self.mains = True
        self.connection = 0
        self.spool: Spool | None = None
        self.gateway: Gateway | None = None
        self._order: Order | None = None
        self._work_number = 0

    def start(self) -> None:
        """Everything from disk."""
        sim, who = self._sim, self.name
        self.spool = sim.fragile(Spool(self.storage, SpoolSettings()), who, "commit", "acknowledge")
        self.gateway = Gateway(
            edge=self.name,
            registry=self.registered,
            signals=sim.signals,
            consent=self.consents.choose,
            pseudonym=SubjectId,
            spool=self.spool,
            local_store=sim.fragile(LocalStore(self.storage), who, "keep"),
            quarantine=Quarantine(self.storage),
            clock=sim.clock,
            simulated=True,
        )
        self._participant = Participant(sim.fragile(self._blobs, who, "write"), sim.clock)
        self._forwarder = Forwarder(
            self.spool,
            lambda: (self.consents.generation, self.consents.records()),
            lambda observation: may_leave(observation, self.consents.choose),
        )
        self._order = None
        for process in (self._gate(), self._forward(), self._stay_attached()):
            sim.spawn(who, process)

    def stop(self) -> None:
        """Its process is gone; the hub sees the connection end a little later."""
        self._blobs.crash()
        self.spool = self.gateway = None
        self._order = None
        self._sim.spawn("world", self._end_of(self.connection), self._sim.latency_s())

    def hear(self, message: Order | Cancel, connection: int) -> Process:
        """A message of the hub arrives, if its connection still stands."""
        if connection != self.connection or self.cut:
            return
        if isinstance(message, Cancel):
            self._order, self._work_number = None, self._work_number + 1
            return
        running = self._order
        if running is not None and (running.round_number, running.base) == (message.round_number, message.base):
            return
        self._order, self._work_number = message, self._work_number + 1
        self._sim.spawn(self.name, self._work(message, self._work_number))
        yield 0.0

    def _end_of(self, connection: int) -> Process:
        if self._sim.hub is not None:
            try:
                self._sim.hub.lose(self.name, connection)
            except Killed as killed:
                self._sim.kill(killed.who)
        yield 0.0

    # -- data

    def _gate(self) -> Process:
        while True:
            assert self.gateway is not None  # noqa: S101 - this process ends with it
            for receipt in self.gateway.commit():
                self._sim.spawn("world", self._receipt(receipt), self._sim.latency_s())
            yield 0.1

    def _receipt(self, receipt: Receipt) -> Process:
        if not self._sim.chance(self._sim.faults.lose_answer):
            self.devices[receipt.device].take(receipt)
        yield 0.0

    def _forward(self) -> Process:
        while True:
            batch = self._forwarder.next_batch()
            if batch is None:
                yield 0.3
                continue
            yield self._sim.latency_s()
            try:
                self._forwarder.receipted(self._sim.exchange(self, lambda hub, b=batch: hub.deliver(self.name, b)))  # type: ignore[misc]  # bound now
            except Unreachable:
                self._forwarder.reset()
                yield 0.4

    # -- rounds

    def _stay_attached(self) -> Process:
        while True:
            self.connection += 1
            number = self.connection
            try:
                self._sim.exchange(self, lambda hub, n=number: hub.attach(self.name, n, self._condition()))  # type: ignore[misc]  # bound now
            except Unreachable:
                yield 0.3
                continue
            hub = self._sim.hub
            while self._sim.hub is hub and not self.cut and not self._sim.chance(self._sim.faults.lose):
                yield 1.0
                with contextlib.suppress(Unreachable):
                    self._sim.exchange(self, lambda hub: hub.coordinator.note(EdgeId(self.name), self._condition()))
            self._sim.spawn("world", self._end_of(number), self._sim.latency_s())
            yield 0.2

    def _work(self, order: Order, number: int) -> Process:
        """Train or take up what is kept, then upload until there is a receipt."""
        ready = self._participant.ready(order)
        if ready is None and (reason := self._condition().unwilling):
            self._order = None
            with contextlib.suppress(Unreachable):
                self._sim.exchange(self, lambda hub: self._decline(hub, order, reason))
            return
        if ready is None:
            late = self._slow and self._sim.chance(self._sim.faults.slow)
            yield self._sim.random.uniform(0.05, 0.3) + (self._sim.study.rounds.deadline_s * 2 if late else 0.0)
            if number != self._work_number:
                return
            model = order.model if order.model else self._sim.hub_blobs.read(model_name(order.base)) if order.base else b""
            while (unsettled := self._participant.unsettled(order.study)) is not None:
                try:
                    _, counts = self._sim.exchange(
                        self,
                        lambda hub, u=unsettled: hub.coordinator.position(EdgeId(self.name), u),  # type: ignore[misc]  # bound now
                    )
                except Unreachable:
                    yield 0.4
                    if number != self._work_number:
                        return
                else:
                    self._participant.settle(order.study, counts=counts)
            done = self._sim.train(self.name, order, model, self._participant.kept(order.study, order.kept_since))
            if order.task == "train" and self._sim.chance(self._sim.faults.bad_update):
                done = spoil(done, self._sim.random)
            ready = self._participant.keep(order, done)
        while number == self._work_number and self._order is order:
            try:
                receipt = yield from self._upload(ready, number)
            except Unreachable:
                yield 0.4
                continue
            self._participant.answered(order, receipt)
            if receipt.accepted:
                self._sim.accepted.add((self.name, order.round_number))
            self._order = None

    def _condition(self) -> Condition:
        """On mains or not; every other edge has a schedule of its own, which forbids training without."""
        own = "not-charging" if not self.mains and self.name.endswith(("1", "3")) else ""
        return Condition(self.mains, None if self.mains else 50.0, "wired", None, metered=False, load=0.0, unwilling=own)

    def _decline(self, hub: _Hub, order: Order, reason: str) -> None:
        self._sim.declined += 1
        hub.coordinator.fail(EdgeId(self.name), order.round_number, reason, declined=True)

    def _upload(self, ready: Ready, number: int) -> Generator[float, None, UploadReceipt]:
        upload: Upload = signed(self.name, ready.upload)
        offset, accepted = self._sim.exchange(self, lambda hub: hub.coordinator.position(EdgeId(self.name), upload))
        if accepted:
            return UploadReceipt(accepted=True)
        for start in range(offset, len(ready.data), CHUNK_BYTES):
            yield self._sim.latency_s()
            if number != self._work_number:
                raise Unreachable
            part = ready.data[start : start + CHUNK_BYTES]
            size = self._sim.exchange(
                self,
                lambda hub, at=start, data=part: hub.coordinator.append(EdgeId(self.name), upload, at, data),  # type: ignore[misc]
            )
            if size != start + len(part):
                raise Unreachable  # another copy of the same request came between: ask for the position again
        yield self._sim.latency_s()
        return self._sim.exchange(self, lambda hub: hub.coordinator.finish(EdgeId(self.name), upload))


class _Device:
    """A device: it numbers its messages and sends each until it has the receipt."""

    def __init__(self, sim: Simulation, edge: _Edge, index: int, messages: int) -> None:
        self._sim, self._edge, self._messages = sim, edge, messages
        self.name = f"{edge.name}-device-{index}"
        self.subject = f"subject-of-{self.name}"
        self.consent = Consent.RAW if index == 0 else Consent.LOCAL
        self.boot = f"boot-{index}"
        self.receipted: set[int] = set()
        edge.registered[self.name] = Device(self.name, self.subject, "", "")
        edge.devices[self.name] = self
        edge.consents.set(self.subject, "*", self.consent)

    @property
    def done(self) -> bool:
        """Whether everything is receipted."""
        return len(self.receipted) == self._messages

    def value(self, seq: int) -> float:
        """What message `seq` says."""
        return 60.0 + zlib.crc32(f"{self.name}/{seq}".encode()) % 60

    def play(self) -> Process:
        """Send, and send again what has no receipt."""
        sent = 0
        while not self.done:
            sent = min(self._messages, sent + 1)
            for seq in range(1, sent + 1):
                if seq not in self.receipted:
                    self._send(seq)
            yield 0.5

    def take(self, receipt: Receipt) -> None:
        """Everything up to here is durable at the edge."""
        self.receipted |= set(range(1, min(receipt.seq, self._messages) + 1))

    def _send(self, seq: int) -> None:
        now_us = self._sim.clock.now_us()
        reading = Reading(name="heart-rate", unit="/min", t_us=now_us, value=self.value(seq))
        payload = encode_pack([reading], base_name=f"urn:dev:{self.name}:", form="json")
        for _ in range(2 if self._sim.chance(self._sim.faults.twice) else 1):
            if not self._sim.chance(self._sim.faults.lose):
                self._sim.spawn(self._edge.name, self._arrive(seq, payload), self._sim.latency_s())

    def _arrive(self, seq: int, payload: bytes) -> Process:
        if self._edge.gateway is not None:
            self._edge.gateway.receive(self.name, self.boot, seq, payload)
        yield 0.0
