"""The hub's side of a study: opens rounds, takes updates, folds them, makes models. Synchronous; the shell around it moves bytes.

Round 0 adds up federated sums for the scaling; rounds 1 to `count` train. Everything that is said is on disk first
(journal.py), so a hub that is killed goes on in the same round with what had arrived, as soon as its edges are back.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

import numpy as np
import structlog

from wardround.clock import Clock
from wardround.errors import UpdateRefused
from wardround.learn import rounds
from wardround.learn.blobs import Blobs
from wardround.learn.journal import Accepted, Committed, Journal, OpenRound, model_name, partial_name, update_name
from wardround.learn.models import Parameters, decode_model, digest, encode_model
from wardround.learn.scaling import check_sums, fold_sums, with_scaling
from wardround.learn.strategies import Strategy, WeightedUpdate
from wardround.learn.study import Study
from wardround.learn.survey import SurveySettings, check_summary
from wardround.learn.triage import Screen, Verdict, check_claim, check_update, examples_counted, load
from wardround.records import EdgeId, ModelDigest

log = structlog.get_logger(__name__)
SETTLE_S = 1.0  # at the start of a study, once a quorum is attached: how long others may still come
RETRY_S = 1.0  # after an abandoned round


@dataclass(frozen=True, slots=True)
class Order:
    """What an edge is asked to do. `settings` is TrainingSettings, or SurveySettings for a survey, as MessagePack."""

    study: str
    round_number: int
    attempt: int
    task: str  # survey, statistics, train
    base: str
    settings: bytes
    deadline_s: float
    model: bytes = b""


@dataclass(frozen=True, slots=True)
class Upload:
    """What an upload announces."""

    study: str
    round_number: int
    task: str
    base: str
    size: int
    sha256: str
    examples: int
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UploadReceipt:
    """The answer to a finished upload; `reason` is a constant, empty when accepted."""

    accepted: bool
    reason: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class RoundEvent:
    """What the rest of the hub is told. Fields that do not apply are empty.

    `kind`: opened, accepted, refused, failed, committed, abandoned, quarantined, released, finished.
    """

    kind: str
    study: str
    round_number: int
    t_us: int
    edge: str = ""
    reason: str = ""
    detail: str = ""
    participants: tuple[str, ...] = ()
    model: str = ""
    base: str = ""
    seconds: float = 0.0
    folded: Mapping[str, int] = field(default_factory=dict)
    aside: tuple[str, ...] = ()
    metrics: Mapping[str, float] = field(default_factory=dict)
    score: float = 0.0
    threshold: float = 0.0
    until_round: int = 0
    screen: Mapping[str, float] = field(default_factory=dict)  # the screen's score of every update, on commit


class Coordinator:
    """One study. Safe to use from several threads: uploads are checked side by side, the round moves under one lock."""

    def __init__(
        self,
        study: Study,
        *,
        settings: bytes,
        initial: Callable[[], Parameters],
        shape: tuple[int, int],
        strategy: Strategy,
        screen: Screen,
        journal: Journal,
        blobs: Blobs,
        clock: Clock,
        send: Callable[[EdgeId, Order | rounds.Cancel], None],
        on_event: Callable[[RoundEvent], None],
        survey: SurveySettings | None = None,
        inline_bytes_max: int = 1_000_000,
    ) -> None:
        """`settings` goes to the edges; `initial()` is the first model; `shape` is (features, classes).

        With `survey`, round 0 is all there is: its sums are the result, kept as the model is.

        `send` and `on_event` must return at once; they are called under the lock.
        """
        self.study = study
        self._settings, self._initial, self._shape = settings, initial, shape
        self._strategy, self._screen, self._survey = strategy, screen, survey
        self._journal, self._blobs, self._clock = journal, blobs, clock
        self._send, self._on_event = send, on_event
        self._inline_bytes_max = inline_bytes_max
        self._lock = threading.RLock()
        self._attached: set[EdgeId] = set()
        self._open: OpenRound | None = None
        self._state: rounds.RoundState | None = None
        self._deadline_s = 0.0
        self._not_before_s = 0.0
        self._quorum_since_s: float | None = None
        self._base: tuple[str, Parameters, bytes] | None = None
        self._screen_scores: dict[str, float] = {}
        if held := journal.screen_state():
            screen.restore(held)
        self._resume()

    # -- what the shell calls

    def attach(self, edge: EdgeId) -> None:
        """An edge's stream is open; it gets its order again if it owes an update."""
        with self._lock:
            self._attached.add(edge)
            self._step(rounds.Attached(edge))

    def lose(self, edge: EdgeId) -> None:
        """An edge's stream has ended."""
        with self._lock:
            self._attached.discard(edge)
            self._step(rounds.Lost(edge))

    def fail(self, edge: EdgeId, round_number: int, reason: str) -> None:
        """An edge says that it will not deliver."""
        with self._lock:
            if self._open is not None and self._open.number == round_number and edge in self._open.participants:
                self._emit("failed", edge=edge, reason=reason[:200])
                self._step(rounds.Failed(edge, reason))

    def tick(self) -> None:
        """Look at the clock: a deadline, or a round that may open. Call it a few times a second."""
        with self._lock:
            if self._state is not None:
                if self._clock.monotonic_s() >= self._deadline_s:
                    self._step(rounds.Deadline())
            else:
                self._maybe_open()

    def position(self, edge: EdgeId, upload: Upload) -> tuple[int, bool]:
        """How many bytes of an upload are here, and whether it has been accepted already."""
        with self._lock:
            known = self._journal.accepted(upload.round_number).get(edge)
        if known is not None:
            return upload.size, True
        return self._blobs.size(partial_name(upload.round_number, edge, upload.sha256)), False

    def begin(self, edge: EdgeId, upload: Upload, offset: int = -1) -> None:
        """Check what an upload announces; at offset 0 it starts anew, whatever was here.

        Raises:
            UpdateRefused: it cannot count, whatever its bytes are.
        """
        with self._lock:
            self._check_round(edge, upload)
        check_claim(size=upload.size, examples=upload.examples, settings=self.study.triage)
        if offset == 0:
            self._blobs.delete(partial_name(upload.round_number, edge, upload.sha256))

    def append(self, edge: EdgeId, upload: Upload, offset: int, data: bytes) -> int:
        """Keep bytes of an upload; how many are here now."""
        return self._blobs.append(partial_name(upload.round_number, edge, upload.sha256), offset, data)

    def finish(self, edge: EdgeId, upload: Upload) -> UploadReceipt:
        """Check a whole upload, make it durable, count it. Refusals are answers here, not errors.

        Raises:
            StorageFull: the hub's disk refused; the edge keeps its update and tries again.
        """
        partial = partial_name(upload.round_number, edge, upload.sha256)
        try:
            self.begin(edge, upload)
            with self._lock:
                if edge in self._journal.accepted(upload.round_number):
                    return UploadReceipt(accepted=True)
            norm = self._check_bytes(edge, upload, partial)
        except UpdateRefused as error:
            self._blobs.delete(partial)
            self._refused(edge, upload, error)
            return UploadReceipt(accepted=False, reason=error.reason, detail=str(error))
        with self._lock:
            if edge not in self._journal.accepted(upload.round_number):
                self._blobs.finish(partial, update_name(upload.round_number, edge))
        with self._lock:
            if self._open is None or self._open.number != upload.round_number:
                return UploadReceipt(accepted=False, reason="late", detail="the round was over when the update was complete")
            counted = examples_counted(upload.examples, self._journal.registered(edge), self.study.triage)
            accepted = Accepted(edge, upload.sha256, counted, norm, upload.metrics)
            self._journal.accept(upload.round_number, accepted)
            self._emit("accepted", edge=edge, metrics=upload.metrics)
            self._step(rounds.Delivered(edge))
        return UploadReceipt(accepted=True)

    def release(self, edge: EdgeId) -> bool:
        """Let an edge that was set aside count again, from its next update on."""
        with self._lock:
            released = self._journal.release(edge)
            if released:
                self._emit("released", edge=edge)
            return released

    def quarantine(self, edge: EdgeId, rounds_: int, reason: str) -> int:
        """Set an edge's updates aside from now on; the last round for which this holds."""
        with self._lock:
            until = self._next_number() + rounds_ - 1
            self._journal.quarantine(edge, until, reason)
            return until

    def model(self, digest_: str) -> bytes:
        """The bytes of a model.

        Raises:
            FileNotFoundError: there is no such model.
        """
        return self._blobs.read(model_name(digest_))

    @property
    def finished(self) -> bool:
        """Whether every round of the study is committed."""
        last = self._journal.last()
        return last is not None and (self._survey is not None or last.number >= self.study.rounds.count)

    @property
    def open_round(self) -> tuple[OpenRound, rounds.RoundState] | None:
        """The round in progress."""
        with self._lock:
            return (self._open, self._state) if self._open is not None and self._state is not None else None

    def committed(self) -> list[Committed]:
        """Every round that is over."""
        return self._journal.committed()

    def quarantined(self) -> dict[EdgeId, str]:
        """Who is set aside now, and why."""
        return self._journal.quarantined(self._next_number())

    # -- opening

    def _next_number(self) -> int:
        last = self._journal.last()
        return 0 if last is None else last.number + 1

    def _resume(self) -> None:
        """Take up the round that a kill interrupted."""
        open_ = self._journal.current()
        if open_ is None:
            return
        self._open = open_
        delivered = frozenset(self._journal.accepted(open_.number))
        self._deadline_s = self._clock.monotonic_s() + self.study.rounds.deadline_s
        state = rounds.RoundState(frozenset(open_.participants), open_.quorum, open_.wanted, delivered=delivered)
        self._state = state
        self._emit("opened", participants=open_.participants, detail="taken up again")
        if len(delivered) >= open_.wanted:
            state, commands = rounds.open_round(
                state.participants, frozenset(), quorum=open_.quorum, wanted=open_.wanted, delivered=delivered
            )
            self._state = state
            self._do(commands)

    def _maybe_open(self) -> None:
        now = self._clock.monotonic_s()
        if self.finished or now < self._not_before_s:
            return
        settings = self.study.rounds
        eligible = sorted(e for e in self._attached if e not in self.study.score.held_back_edges)
        if len(eligible) < settings.edges_min:
            self._quorum_since_s = None
            return
        if self._quorum_since_s is None:
            self._quorum_since_s = now
        number = self._next_number()
        if number == 0 and now - self._quorum_since_s < SETTLE_S:
            return
        participants, wanted = self._choose(eligible, number)
        delivered = frozenset(self._journal.accepted(number))  # of an abandoned attempt: acknowledged, so they count
        if delivered:
            participants = tuple(sorted(delivered.union(participants)))
            wanted = len(participants) if settings.edges_max == 0 else max(wanted, len(delivered))
        last = self._journal.last()
        previous = self._open
        attempt = previous.attempt + 1 if previous is not None and previous.number == number else 1
        self._open = OpenRound(
            number=number,
            attempt=attempt,
            task="train" if number else "survey" if self._survey is not None else "statistics",
            base="" if last is None else last.model,
            participants=participants,
            quorum=settings.edges_min,
            wanted=wanted,
            opened_us=self._clock.now_us(),
        )
        self._journal.open_round(self._open)
        self._deadline_s = now + settings.deadline_s
        self._emit("opened", participants=participants)
        self._state, commands = rounds.open_round(
            frozenset(participants), frozenset(self._attached), quorum=settings.edges_min, wanted=wanted, delivered=delivered
        )
        self._do(commands)

    def _choose(self, eligible: Sequence[EdgeId], number: int) -> tuple[tuple[EdgeId, ...], int]:
        """Who is asked, and how many deliveries are enough: the least often asked first, ties by the study's seed."""
        settings = self.study.rounds
        if settings.edges_max == 0 or number == 0:
            return tuple(eligible), len(eligible)
        taken: dict[str, int] = {}
        for done in self._journal.committed():
            for edge in done.folded:
                taken[edge] = taken.get(edge, 0) + 1
        shuffled = list(eligible)
        random.Random(f"{self.study.learner.seed}/{number}").shuffle(shuffled)  # noqa: S311 - fairness, not secrecy
        shuffled.sort(key=lambda e: taken.get(e, 0))
        wanted = min(settings.edges_max, len(eligible))
        asked = min(len(eligible), int(np.ceil(wanted * settings.over_selection)))
        return tuple(sorted(shuffled[:asked])), wanted

    # -- moving

    def _step(self, event: rounds.Event) -> None:
        if self._state is None:
            return
        self._state, commands = rounds.step(self._state, event)
        self._do(commands)

    def _do(self, commands: Sequence[rounds.Command]) -> None:
        for command in commands:
            if isinstance(command, rounds.Dispatch):
                self._send(command.edge, self._order())
            elif isinstance(command, rounds.Cancel):
                self._send(command.edge, command)
            elif isinstance(command, rounds.Commit):
                self._commit_or_abandon(command.edges)
            else:
                self._abandon(command.reason)

    def _order(self) -> Order:
        assert self._open is not None  # noqa: S101 - a dispatch belongs to an open round
        model = self._base_bytes() if self._open.task == "train" else b""
        return Order(
            study=self.study.name,
            round_number=self._open.number,
            attempt=self._open.attempt,
            task=self._open.task,
            base=self._open.base,
            settings=self._settings,
            deadline_s=self.study.rounds.deadline_s,
            model=model if len(model) <= self._inline_bytes_max else b"",
        )

    def _base_bytes(self) -> bytes:
        return self._base_model()[1]

    def _base_model(self) -> tuple[Parameters, bytes]:
        """The open round's base, kept in memory for the round."""
        assert self._open is not None  # noqa: S101
        if self._base is None or self._base[0] != self._open.base:
            data = self._blobs.read(model_name(self._open.base))
            self._base = (self._open.base, decode_model(data), data)
        return self._base[1], self._base[2]

    def _abandon(self, reason: str) -> None:
        self._emit("abandoned", reason=reason)
        self._state = None
        self._not_before_s = self._clock.monotonic_s() + RETRY_S

    def _commit_or_abandon(self, edges: Sequence[EdgeId]) -> None:
        """A fold that fails (a full disk, a fault in a strategy) is an abandoned round, loudly; never a round that hangs."""
        try:
            self._commit(edges)
        except Exception as error:
            log.exception("round could not be committed", study=self.study.name)
            self._abandon(f"the hub could not commit it: {type(error).__name__}: {error}"[:300])

    def _commit(self, edges: Sequence[EdgeId]) -> None:
        """Screen, fold, keep the model, and move the study to it."""
        open_ = self._open
        assert open_ is not None  # noqa: S101
        accepted = {e: a for e, a in self._journal.accepted(open_.number).items() if e in edges}
        aside = set(self._journal.quarantined(open_.number)) & set(accepted) if open_.task == "train" else set()
        if open_.task == "train":
            aside |= self._screened(open_, accepted)
        folded = {e: a.examples for e, a in accepted.items() if e not in aside}
        if not folded:
            self._abandon("every update was set aside")
            return
        parameters = self._fold(open_, folded)
        data = encode_model(parameters)
        name = digest(data)
        self._blobs.write(model_name(name), data)
        now_us = self._clock.now_us()
        done = Committed(
            number=open_.number,
            model=name,
            base=open_.base,
            t_us=now_us,
            seconds=max(0.0, (now_us - open_.opened_us) / 1e6),
            folded={str(edge): n for edge, n in folded.items()},
            aside=tuple(sorted(aside)),
        )
        self._journal.commit_round(done, self._screen.state())
        self._base = (name, parameters, data)
        metrics = _weighted_metrics(accepted, folded)
        self._emit(
            "committed",
            model=name,
            base=done.base,
            seconds=done.seconds,
            folded=done.folded,
            aside=done.aside,
            metrics=metrics,
            screen=self._screen_scores,
        )
        self._open = self._state = None
        self._not_before_s = self._clock.monotonic_s() + self.study.rounds.interval_s
        for old in (open_.number - 2,):  # updates are kept for two rounds, for a look at what was refused
            if old >= 0:
                self._blobs.delete(f"updates/{old}")
                self._blobs.delete(f"partial/{old}")
        if self.finished:
            self._emit("finished", round_number=done.number, model=name)
        else:
            self._maybe_open()

    def _screened(self, open_: OpenRound, accepted: Mapping[EdgeId, Accepted]) -> set[EdgeId]:
        """Ask the screen; whom it refuses is set aside and quarantined."""
        updates = _LazyUpdates(self._blobs, open_.number, sorted(accepted))
        verdicts: Mapping[str, Verdict] = self._screen.judge_round(open_.number, updates)
        self._screen_scores = {edge: verdict.score for edge, verdict in verdicts.items()}
        refused: set[EdgeId] = set()
        for edge, verdict in sorted(verdicts.items()):
            if verdict.accepted or edge not in accepted:
                continue
            refused.add(EdgeId(edge))
            until = open_.number + self.study.triage.quarantine_rounds
            self._journal.quarantine(EdgeId(edge), until, verdict.reason)
            self._emit(
                "quarantined",
                edge=edge,
                reason=verdict.reason,
                score=verdict.score,
                threshold=verdict.threshold,
                until_round=until,
            )
        return refused

    def _fold(self, open_: OpenRound, folded: Mapping[EdgeId, int]) -> Parameters:
        with ExitStack() as opened:
            sources = {
                edge: opened.enter_context(self._blobs.tensors(update_name(open_.number, edge))) for edge in sorted(folded)
            }
            if open_.task != "train":
                sums = fold_sums(load(source) for source in sources.values())
                if self._survey is not None:
                    return sums
                return with_scaling(self._initial(), sums, class_weighting=self.study.learner.class_weighting)
            base, _ = self._base_model()
            return self._strategy.fold(base, [WeightedUpdate(source, folded[edge]) for edge, source in sources.items()])

    # -- checking

    def _check_round(self, edge: EdgeId, upload: Upload) -> None:
        open_ = self._open
        if upload.study != self.study.name:
            raise UpdateRefused("study", f"this hub runs {self.study.name}, the update is for {upload.study[:60]!r}")
        if open_ is None or open_.number != upload.round_number or self._state is None:
            raise UpdateRefused("round", f"round {upload.round_number} is not open")
        if edge not in open_.participants:
            raise UpdateRefused("participant", f"{edge} was not asked in round {open_.number}")
        if upload.base != open_.base or upload.task != open_.task:
            raise UpdateRefused("base", f"the update is not based on model {open_.base[:12] or '(none)'} of this round")

    def _check_bytes(self, edge: EdgeId, upload: Upload, partial: str) -> float:
        """Check the tensors of a whole upload; its norm (0 for sums)."""
        size = self._blobs.size(partial)
        if size != upload.size:
            raise UpdateRefused("truncated", f"{size} of {upload.size} bytes arrived")
        if self._blobs.sha256(partial) != upload.sha256:
            raise UpdateRefused("digest", "the bytes do not have the digest that was announced")
        with self._blobs.tensors(partial) as tensors:
            if self._survey is not None:
                check_summary(load(tensors), self._survey)
                return 0.0
            if upload.task == "statistics":
                check_sums(load(tensors), *self._shape)
                return 0.0
            with self._lock:
                base, _ = self._base_model()
                norms = self._journal.past_norms(edge, upload.round_number)
            return check_update(tensors, base, norms, self.study.triage)

    def _refused(self, edge: EdgeId, upload: Upload, error: UpdateRefused) -> None:
        with self._lock:
            if error.reason == "round":  # late: known, answered, nobody's fault
                return
            self._emit("refused", edge=edge, reason=error.reason, detail=str(error))
            if self._open is not None and self._open.number == upload.round_number and edge in self._open.participants:
                self._step(rounds.Failed(edge, error.reason))

    def _emit(self, kind: str, *, round_number: int | None = None, **facts: object) -> None:
        number = round_number if round_number is not None else self._open.number if self._open else self._next_number()
        event = RoundEvent(kind, self.study.name, number, self._clock.now_us(), **facts)  # type: ignore[arg-type]  # its fields
        self._on_event(event)


class _LazyUpdates(Mapping[str, Parameters]):
    """The updates of a round, each read when it is looked at and then forgotten: one update in memory at a time."""

    def __init__(self, blobs: Blobs, round_number: int, edges: Sequence[EdgeId]) -> None:
        self._blobs, self._number, self._edges = blobs, round_number, edges

    def __getitem__(self, edge: str) -> Parameters:
        if edge not in self._edges:
            raise KeyError(edge)
        with self._blobs.tensors(update_name(self._number, edge)) as tensors:
            return load(tensors)

    def __iter__(self) -> Iterator[str]:
        return iter(self._edges)

    def __len__(self) -> int:
        return len(self._edges)


def _weighted_metrics(accepted: Mapping[EdgeId, Accepted], folded: Mapping[EdgeId, int]) -> dict[str, float]:
    """The participants' own metrics, averaged by examples."""
    total = sum(folded.values())
    names = {name for edge in folded for name in accepted[edge].metrics}
    return {
        name: sum(accepted[e].metrics.get(name, 0.0) * n for e, n in folded.items()) / total
        for name in sorted(names)
        if all(name in accepted[e].metrics for e in folded)
    }


def new_upload(order: Order, data: bytes, examples: int, metrics: Mapping[str, float]) -> Upload:
    """What an edge announces for its update."""
    return Upload(
        study=order.study,
        round_number=order.round_number,
        task=order.task,
        base=order.base,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        examples=examples,
        metrics=metrics,
    )


def model_digest(text: str) -> ModelDigest:
    """A digest that came over the wire.

    Raises:
        ValueError: it is not 64 hexadecimal digits.
    """
    if len(text) != 64 or not set(text) <= set("0123456789abcdef"):
        raise ValueError("not a model digest")
    return ModelDigest(text)
