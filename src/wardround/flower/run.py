"""The hub's side of one Flower run: rounds of messages over edges, with quorum, deadline and triage. The shell moves bytes.

What a ServerApp pushes at once is one round of `learn.rounds`: it is decided when all have answered, or at its deadline, and
then handed over whole; fewer than the quorum, and the Strategy gets errors alone, so that its model stays as it was. A reply is
on disk before its edge has the receipt. What was asked lives with the ServerApp: a hub that restarts is told again.
"""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec
import structlog

from wardround.clock import Clock
from wardround.errors import StudyError, UpdateRefused
from wardround.flower.check import Checked, check_reply, far_off
from wardround.flower.parcel import decode
from wardround.learn import rounds
from wardround.learn.announcements import check_signed
from wardround.learn.blobs import Blobs
from wardround.learn.condition import Condition
from wardround.learn.messages import Order, RoundEvent, Upload, UploadReceipt
from wardround.learn.study import TriageSettings
from wardround.learn.triage import check_claim
from wardround.records import EdgeId

log = structlog.get_logger(__name__)
TASK = "flower"
INLINE_BYTES = 1_000_000  # a message up to here travels inside its order
BATCHES_MAX, MESSAGES_MAX = 1_000, 10_000
NORMS_KEPT = 20
QUORUM_OF = ("train", "evaluate")  # categories of messages whose replies are folded
CRASHED = "the ClientApp's process ended"
UNKNOWN, RAISED, REPLY_UNAVAILABLE, NODE_UNAVAILABLE, APP_CRASHED = 0, 2, 4, 5, 8  # Flower's ErrorCode

Scalar = bool | int | float | str


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a run's rounds keep to; `wardround flower run` has an option for each."""

    quorum: int = 3  # replies without which a Strategy gets none
    deadline_s: float = 600.0  # of a round
    same_shapes: bool = True  # a train reply's arrays are like those that were sent
    triage: TriageSettings = TriageSettings()


class Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What of an edge's own data its app is given; an empty task: nothing."""

    task: str = ""
    held_back: float = 0.2  # share of subjects whose examples are left out, chosen as studies choose them


class Hello(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a ServerApp's process says when it connects."""

    op: str
    run: str
    run_id: int
    app: str
    digest: str
    run_config: dict[str, Scalar]
    limits: Limits = Limits()
    data: Data = Data()


class MessageFacts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A Flower message's own metadata."""

    id: str
    type: str
    group: str
    ttl: float
    created_at: float


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One message to one edge."""

    number: int
    node: int
    content: str  # digest of its parcel
    message: MessageFacts


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a ServerApp pushed at once."""

    op: str
    batch: int
    taken: int
    timeout_s: float
    messages: tuple[Asked, ...]


class EdgeOrder(msgspec.Struct, frozen=True):
    """Order.settings of a Flower message, as MessagePack."""

    app: str
    digest: str
    run_id: int
    node_id: int
    run_config: dict[str, Scalar]
    message: MessageFacts
    data: Data = Data()


@dataclass(frozen=True, slots=True)
class Decided:
    """A round that is over."""

    batch: int
    replies: tuple[tuple[int, str], ...]  # message number, blob
    failed: tuple[tuple[int, int, str], ...]  # message number, Flower's error code, words
    words: str


@dataclass
class _Open:
    """The round in progress."""

    batch: Batch
    asked: Mapping[EdgeId, Asked]
    state: rounds.RoundState
    deadline_s: float
    began_s: float
    failed: dict[EdgeId, tuple[int, str]] = field(default_factory=dict)
    checked: dict[EdgeId, Checked] = field(default_factory=dict)


class FlowerRun:
    """One run. Safe to use from several threads; the link asks it what it asks of a study's coordinator."""

    due = False  # nothing is folded here

    def __init__(
        self,
        hello: Hello,
        *,
        blobs: Blobs,
        clock: Clock,
        node_of: Callable[[EdgeId], int],
        known: Callable[[], Collection[EdgeId]],
        send: Callable[[EdgeId, Order | rounds.Cancel], None],
        on_event: Callable[[RoundEvent], None],
        decided: Callable[[Decided], None],
    ) -> None:
        """`node_of(edge)` is its node id, `known()` the edges of this hub, here or not.

        `send`, `on_event` and `decided` return at once, and are called under the lock.
        """
        self.name, self._hello, self._limits = hello.run, hello, hello.limits
        self._blobs, self._clock, self._node_of, self._known = blobs, clock, node_of, known
        self._send, self._on_event, self._decided = send, on_event, decided
        self._lock = threading.RLock()
        self._checking = threading.Lock()  # one at a time: memory for two models, however many edges
        self._attached: set[EdgeId] = set()
        self._conditions: dict[EdgeId, Condition] = {}
        self._waiting: collections.deque[Batch] = collections.deque()
        self._open: _Open | None = None
        self._asked_for: collections.deque[tuple[str, str]] = collections.deque(maxlen=64)  # kinds and groups of rounds so far
        self._norms: dict[str, collections.deque[float]] = {}
        self._contents: dict[str, int] = {}  # the round that used one last
        self._numbers: dict[int, set[int]] = {}  # messages of each round
        self._counts: dict[EdgeId, int] = {}  # each edge's newest message of which a reply is here: it stays

    # -- what the ServerApp asks

    def nodes(self) -> list[tuple[int, str]]:
        """The edges that may be asked now."""
        with self._lock:
            return [(self._node_of(e), str(e)) for e in sorted(self._attached) if not self.why_not(e)]

    def content(self, digest: str, data: bytes) -> None:
        """Keep the content of messages that come next.

        Raises:
            StorageFull: the hub's disk refused.
        """
        if not self._blobs.size(_content(digest)):
            self._blobs.write(_content(digest), data)

    def push(self, batch: Batch) -> None:
        """Take a round; it begins when those before it are decided.

        Raises:
            StudyError: it cannot be one.
        """
        with self._lock:
            if not batch.messages or len(batch.messages) > MESSAGES_MAX or len(self._waiting) >= BATCHES_MAX:
                raise StudyError("a round of so many messages cannot be kept", remedy=f"at most {MESSAGES_MAX}, and pull replies")
            if len({m.node for m in batch.messages}) != len(batch.messages):
                raise StudyError("two messages of one round go to one edge", remedy="push them one after the other")
            if len(batch.messages) < self._quorum(batch):
                raise StudyError(
                    f"the app asks {len(batch.messages)} edges, and the quorum is {self._limits.quorum}",
                    remedy="ask more edges, or lower --quorum",
                )
            for m in batch.messages:
                if not self._blobs.size(_content(m.content)):
                    raise StudyError(f"the content of message {m.number} did not come", remedy="this is a fault of the Grid")
                self._contents[m.content] = batch.batch
            self._numbers[batch.batch] = {m.number for m in batch.messages}
            self._forget(batch.taken)
            self._asked_for.append(_kind(batch))
            self._waiting.append(batch)
            self._next()

    def end(self) -> None:
        """The ServerApp is through, or gone: nobody works for it any more."""
        with self._lock:
            self._waiting.clear()
            if self._open is not None:
                for edge in sorted(self._open.state.outstanding & self._open.state.attached):
                    self._send(edge, rounds.Cancel(edge, "the run has ended"))
            self._open = None

    # -- what the link asks

    def attach(self, edge: EdgeId) -> None:
        """An edge's stream is open; it gets its order again if it owes a reply."""
        with self._lock:
            self._attached.add(edge)
            self._step(rounds.Attached(edge))

    def lose(self, edge: EdgeId) -> None:
        """An edge's stream has ended."""
        with self._lock:
            self._attached.discard(edge)
            self._step(rounds.Lost(edge))

    def note(self, edge: EdgeId, condition: Condition) -> None:
        """What an edge says of its machine."""
        self._conditions[edge] = condition

    def why_not(self, edge: EdgeId) -> str:
        """Why an edge is not offered to the ServerApp; empty: it is."""
        condition = self._conditions.get(edge)
        return condition.unwilling if condition is not None else ""

    def fail(self, edge: EdgeId, round_number: int, reason: str, *, declined: bool = False) -> None:
        """An edge says that it has no reply."""
        with self._lock:
            if self._asked(edge, round_number) is None:
                return
            crashed = CRASHED in reason or "worker died" in reason
            code = NODE_UNAVAILABLE if declined else APP_CRASHED if crashed else RAISED
            self._failed(edge, code, reason[:1_000])
            self._emit("declined" if declined else "failed", edge=edge, reason=reason[:200])
            self._step(rounds.Failed(edge, reason))

    def advance(self) -> None:
        """Nothing waits here."""

    def tick(self) -> None:
        """Look at the clock."""
        with self._lock:
            if self._open is not None and self._clock.monotonic_s() >= self._open.deadline_s:
                self._step(rounds.Deadline())

    def position(self, edge: EdgeId, upload: Upload) -> tuple[int, bool]:
        """How many bytes of an upload are here, and whether it has been accepted already."""
        if self._blobs.size(_reply(upload.round_number, edge)):
            return upload.size, True
        return self._blobs.size(_partial(edge, upload)), False

    def begin(self, edge: EdgeId, upload: Upload, offset: int = -1) -> None:
        """Check what an upload announces; at offset 0 it starts anew.

        Raises:
            UpdateRefused: its edge has not signed it, it answers nothing that was asked, or is too large.
        """
        check_signed(edge, upload)
        with self._lock:
            self._check_order(edge, upload)
        check_claim(size=upload.size, examples=max(1, upload.examples), settings=self._limits.triage)
        if offset == 0:
            self._blobs.delete(_partial(edge, upload))

    def append(self, edge: EdgeId, upload: Upload, offset: int, data: bytes | memoryview) -> int:
        """Keep bytes of an upload; how many are here now."""
        return self._blobs.append(_partial(edge, upload), offset, data)

    def finish(self, edge: EdgeId, upload: Upload) -> UploadReceipt:
        """Check a whole reply, make it durable, count it. Refusals are answers here.

        Raises:
            StorageFull: the hub's disk refused; the edge keeps its reply and tries again.
        """
        if self._blobs.size(_reply(upload.round_number, edge)):
            return UploadReceipt(accepted=True)
        try:
            self.begin(edge, upload)
            with self._lock:
                asked = self._check_order(edge, upload)
            checked = self._check(edge, upload, asked)
        except UpdateRefused as error:
            self._blobs.delete(_partial(edge, upload))
            with self._lock:
                if error.reason != "round":
                    self._failed(edge, REPLY_UNAVAILABLE, f"refused: {error.reason}: {error}")
                    self._emit("refused", edge=edge, reason=error.reason, detail=str(error))
                    self._step(rounds.Failed(edge, error.reason))
            return UploadReceipt(accepted=False, reason=error.reason, detail=str(error))
        with self._lock:
            if self._asked(edge, upload.round_number) is None or self._open is None:
                return UploadReceipt(accepted=False, reason="late", detail="the round was over when the reply was complete")
            self._blobs.finish(_partial(edge, upload), _reply(upload.round_number, edge))
            self._count(edge, upload.round_number)
            self._open.checked[edge] = checked
            self._emit("accepted", edge=edge, metrics=checked.metrics)
            self._step(rounds.Delivered(edge))
        return UploadReceipt(accepted=True)

    def model(self, digest_: str, offset: int = 0, size: int = -1) -> bytes:
        """The bytes of a message's content from an offset on.

        Raises:
            FileNotFoundError: there is none of this name.
        """
        return self._blobs.read(_content(digest_), offset, size)

    def model_size(self, digest_: str) -> int:
        """The bytes of a message's content; 0 when there is none."""
        return self._blobs.size(_content(digest_))

    # -- rounds

    def _quorum(self, batch: Batch) -> int:
        """Replies without which a round gives none: of what is folded, train and evaluate.

        A round that follows one of the same kind and group is part of it, and needs no more.
        """
        if _category(batch.messages[0]) not in QUORUM_OF:
            return 1
        return 1 if _kind(batch) in self._asked_for else self._limits.quorum

    def _next(self) -> None:
        """Open the next round, if none is."""
        while self._open is None and self._waiting:
            batch = self._waiting.popleft()
            nodes = {self._node_of(e): e for e in {*self._known(), *self._attached}}
            asked = {nodes[m.node]: m for m in batch.messages if m.node in nodes}
            quorum = min(self._limits.quorum, len(batch.messages)) if _category(batch.messages[0]) in QUORUM_OF else 1
            if len(asked) < quorum:
                self._abandoned(batch, f"{len(asked)} of the edges asked are known here, {quorum} are needed")
                continue
            now_s = self._clock.monotonic_s()
            limit_s = min([self._limits.deadline_s, *(m.message.ttl for m in asked.values())])
            limit_s = min(limit_s, batch.timeout_s) if batch.timeout_s > 0 else limit_s
            here = frozenset(e for e, m in asked.items() if self._blobs.size(_reply(m.number, e)))
            for edge in here:
                self._count(edge, asked[edge].number)
            participants = frozenset(asked)
            state, commands = rounds.open_round(
                participants,
                frozenset(self._attached),
                quorum=quorum,
                wanted=len(participants),
                delivered=here,
            )
            self._open = _Open(batch, asked, state, now_s + limit_s, now_s)
            self._emit("opened", participants=tuple(sorted(participants)))
            self._do(commands)

    def _step(self, event: rounds.Event) -> None:
        if self._open is None:
            return
        self._open.state, commands = rounds.step(self._open.state, event)
        self._do(commands)

    def _do(self, commands: Sequence[rounds.Command]) -> None:
        for command in commands:
            if isinstance(command, rounds.Dispatch):
                self._send(command.edge, self._order(command.edge))
            elif isinstance(command, rounds.Cancel):
                self._send(command.edge, command)
            else:
                self._decide(command.reason if isinstance(command, rounds.Abandon) else "")

    def _order(self, edge: EdgeId) -> Order:
        assert self._open is not None  # noqa: S101 - a dispatch belongs to an open round
        asked, hello = self._open.asked[edge], self._hello
        size = self._blobs.size(_content(asked.content))
        settings = EdgeOrder(hello.app, hello.digest, hello.run_id, asked.node, hello.run_config, asked.message, hello.data)
        return Order(
            study=self.name,
            round_number=asked.number,
            attempt=1,
            task=TASK,
            base=asked.content,
            settings=msgspec.msgpack.encode(settings),
            deadline_s=self._limits.deadline_s,
            model=self._blobs.read(_content(asked.content)) if size <= INLINE_BYTES else b"",
        )

    def _decide(self, abandoned: str) -> None:
        """Hand over what came of the open round, and begin the next."""
        open_ = self._open
        assert open_ is not None  # noqa: S101 - only an open round is decided
        there = sorted(open_.state.delivered - self._set_aside(open_))
        if not abandoned and len(there) < open_.state.quorum:
            abandoned = f"{len(there)} of {open_.state.quorum} needed are left"
        self._open = None
        if abandoned:
            self._abandoned(open_.batch, abandoned, {open_.asked[e].number: f for e, f in open_.failed.items()})
        else:
            replies = tuple((open_.asked[e].number, _reply(open_.asked[e].number, e)) for e in there)
            came = {number for number, _ in replies}
            words = {open_.asked[e].number: f for e, f in open_.failed.items()}
            late = (NODE_UNAVAILABLE, "no reply before the round was decided")
            failed = tuple((m.number, *words.get(m.number, late)) for m in open_.batch.messages if m.number not in came)
            seconds = self._clock.monotonic_s() - open_.began_s
            folded = {str(e): open_.checked[e].examples for e in there if e in open_.checked}
            self._emit("committed", round_number=open_.batch.batch, seconds=seconds, folded=folded)
            said = f"round {open_.batch.batch} ({_what(open_.batch)}): {len(replies)} of {len(open_.batch.messages)} edges"
            self._decided(Decided(open_.batch.batch, replies, failed, f"{said}, {seconds:.2f} s{_reasons(failed)}"))
        self._next()

    def _set_aside(self, open_: _Open) -> set[EdgeId]:
        """Who is far off in the round that is being decided; the norms of the others become their past."""
        norms = {str(e): c.norm for e, c in open_.checked.items() if _is_train(open_.asked[e])}
        aside = far_off(norms, self._norms, self._limits.triage)
        for edge, norm in norms.items():
            if (words := aside.get(edge)) is None:
                self._norms.setdefault(edge, collections.deque(maxlen=NORMS_KEPT)).append(norm)
            else:
                self._failed(EdgeId(edge), REPLY_UNAVAILABLE, f"refused: norm: {words}")
                self._emit("refused", edge=edge, reason="norm", detail=words)
        return {EdgeId(edge) for edge in aside}

    def _abandoned(self, batch: Batch, reason: str, known: Mapping[int, tuple[int, str]] | None = None) -> None:
        self._emit("abandoned", round_number=batch.batch, reason=reason)
        words = known or {}
        none = (REPLY_UNAVAILABLE, f"the round was given up: {reason}")
        failed = tuple((m.number, *words.get(m.number, none)) for m in batch.messages)
        self._decided(
            Decided(batch.batch, (), failed, f"round {batch.batch} ({_what(batch)}) given up: {reason}{_reasons(failed)}")
        )

    def _forget(self, taken: int) -> None:
        """What the ServerApp has received is not kept, but for each edge's newest; nor are contents that older rounds used."""
        for digest, batch in list(self._contents.items()):
            if batch <= taken:
                del self._contents[digest]
                self._blobs.delete(_content(digest))
        newest = set(self._counts.values())
        for batch in [b for b in self._numbers if b <= taken]:
            for number in self._numbers.pop(batch):
                if number not in newest:
                    self._blobs.delete(f"replies/{number}")
                self._blobs.delete(f"partial/{number}")

    def _count(self, edge: EdgeId, number: int) -> None:
        """A reply is here. An edge that missed the receipt asks about its newest when its next order comes, which can be after
        the ServerApp has taken it: it stays until the edge's next one is here."""
        before = self._counts.get(edge, number)
        self._counts[edge] = number
        if before != number and all(before not in numbers for numbers in self._numbers.values()):
            self._blobs.delete(f"replies/{before}")

    # -- checking

    def _asked(self, edge: EdgeId, number: int) -> Asked | None:
        asked = self._open.asked.get(edge) if self._open is not None else None
        return asked if asked is not None and asked.number == number else None

    def _check_order(self, edge: EdgeId, upload: Upload) -> Asked:
        asked = self._asked(edge, upload.round_number)
        if asked is None or self._open is None or self._open.state.phase is not rounds.Phase.OPEN:
            raise UpdateRefused("round", f"message {upload.round_number} is not open")
        if upload.base != asked.content or upload.task != TASK:
            raise UpdateRefused("base", "the reply does not answer the message that was sent")
        return asked

    def _check(self, edge: EdgeId, upload: Upload, asked: Asked) -> Checked:
        partial = _partial(edge, upload)
        if (size := self._blobs.size(partial)) != upload.size:
            raise UpdateRefused("truncated", f"{size} of {upload.size} bytes arrived")
        if self._blobs.sha256(partial) != upload.sha256:
            raise UpdateRefused("digest", "the bytes do not have the digest that was announced")
        with self._checking:
            return check_reply(
                decode(self._blobs.read(partial)),
                decode(self._blobs.read(_content(asked.content))) if _is_train(asked) else (),
                train=_is_train(asked),
                same_shapes=self._limits.same_shapes,
                settings=self._limits.triage,
            )

    def _failed(self, edge: EdgeId, code: int, reason: str) -> None:
        if self._open is not None:
            self._open.failed[edge] = (code, reason)

    def _emit(self, kind: str, *, round_number: int | None = None, **facts: object) -> None:
        number = round_number if round_number is not None else self._open.batch.batch if self._open is not None else 0
        self._on_event(RoundEvent(kind, self.name, number, self._clock.now_us(), **facts))  # type: ignore[arg-type]  # its fields


def _is_train(asked: Asked) -> bool:
    return _category(asked) == "train"


def _category(asked: Asked) -> str:
    """A message's type without its action."""
    return asked.message.type.partition(".")[0]


def _kind(batch: Batch) -> tuple[str, str]:
    """What a round is: a message's type and group (a strategy's round number)."""
    return batch.messages[0].message.type, batch.messages[0].message.group


def _what(batch: Batch) -> str:
    return " and ".join(sorted({m.message.type for m in batch.messages}))


def _reasons(failed: Sequence[tuple[int, int, str]]) -> str:
    """Why some gave nothing, in words for the terminal."""
    counts = collections.Counter(reason[:200] for _, _, reason in failed)
    return "".join(f"\n  {n} x {reason}" for reason, n in counts.most_common(5))


def _content(digest: str) -> str:
    return f"contents/{digest}"


def _reply(number: int, edge: str) -> str:
    return f"replies/{number}/{edge}"


def _partial(edge: str, upload: Upload) -> str:
    return f"partial/{upload.round_number}/{edge}-{upload.sha256[:16]}"
