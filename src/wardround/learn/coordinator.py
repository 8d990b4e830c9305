"""The hub's side of a study: opens rounds, takes updates, folds them, makes models. Synchronous; the shell around it moves bytes.

Round 0 adds up federated sums for the scaling; rounds 1 to `count` train. Everything that is said is on disk first
(journal.py), so a hub that is killed goes on in the same round with what had arrived, as soon as its edges are back.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace

import structlog

from wardround.clock import Clock
from wardround.errors import StudyError, UpdateRefused
from wardround.learn import rounds
from wardround.learn.abilities import in_words
from wardround.learn.arrivals import Arrivals
from wardround.learn.blobs import Blobs
from wardround.learn.condition import Condition
from wardround.learn.extensions import Extensions
from wardround.learn.in_progress import InProgress
from wardround.learn.journal import (
    Accepted,
    Committed,
    Journal,
    Judged,
    Kept,
    OpenRound,
    Refusal,
    Replay,
    Rollback,
    model_name,
    update_name,
)
from wardround.learn.making import Making, Reference, weighted_metrics
from wardround.learn.messages import MaskStep, Order, RoundEvent, Upload, UploadReceipt
from wardround.learn.models import Parameters
from wardround.learn.noted import Noted
from wardround.learn.opening import Opening
from wardround.learn.own_report import SignedReport, check_report
from wardround.learn.pace import NOBODY, Abilities, Held, Pace
from wardround.learn.privacy.blind import Masking, make_blind
from wardround.learn.privacy.central import Central
from wardround.learn.privacy.dp_rounds import first_row, made_central, without_facts
from wardround.learn.privacy.ledger import Ledger
from wardround.learn.privacy.wire import MasksRefused
from wardround.learn.reception import Models, Reception
from wardround.learn.replays import Asides, check_allowed, find, late_updates, new_replay, refused_again
from wardround.learn.reported import reported
from wardround.learn.rollbacks import Asked, Retention, is_paired, prepare
from wardround.learn.spans import NO_SPANS, Spans, span
from wardround.learn.strategies import Strategy
from wardround.learn.study import Study
from wardround.learn.survey import SurveySettings
from wardround.learn.triage import Screen, Verdict, examples_most
from wardround.records import EdgeId, ModelDigest

log = structlog.get_logger(__name__)
DECLINED, FAILED = "declined", "failed"
SETTLE_S = 1.0  # at the start of a study, once a quorum is attached: how long others may still come


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
        reference: Reference = lambda _base, _round: None,
        weights: Callable[[], Mapping[str, float]] = lambda: NOBODY,
        commit_later: bool = False,
        spans: Spans = NO_SPANS,
        masking: Masking | None = None,
        ledger: Ledger | None = None,
        abilities: Abilities | None = None,
        held: Held = lambda _edge: "",
    ) -> None:
        """`settings` goes to the edges; `initial()` is the first model; `shape` is (features, classes).

        With `survey`, round 0 is all there is: its sums are the result, kept as the model is. `reference(base, round)` is an
        update trained on data that the hub holds, for strategies that ask for one; None when it holds none.

        `weights()` is how much each edge is wanted when edges are chosen (selection.py).

        `send` and `on_event` must return at once; they are called under the lock. `masking` carries the
        masks of a blind study, `ledger` keeps what one of mode `clear-dp` has spent. `abilities(edge)` is what it can train,
        `held(edge)` why the hub asks nothing of it now, or empty.

        Raises:
            StudyError: the study is blind, and nothing here can carry its masks; or it has a budget, and no ledger that holds.
        """
        self._blind = make_blind(study, masking, blobs=blobs, clock=clock)
        self.study = study
        self._settings, self._strategy, self._screen, self._survey, self._initial = settings, strategy, screen, survey, initial
        self._journal, self._blobs, self._clock = journal, blobs, clock
        self._send, self._on_event, self._spans = send, on_event, spans
        committed = journal.committed()
        self._central: Central | None = made_central(study, ledger, clock, blobs, committed)
        self._models = Models(blobs)
        self._reception = Reception(study, blobs=blobs, models=self._models, strategy=strategy, shape=shape, survey=survey)
        self._making = Making(
            study,
            initial=initial,
            strategy=strategy,
            screen=screen,
            survey=survey,
            reference=reference,
            journal=journal,
            blobs=blobs,
            models=self._models,
            reception=self._reception,
            blind=self._blind,
            central=self._central,
        )
        self._lock = threading.RLock()
        self._attached: set[EdgeId] = set()
        self._now = InProgress(journal)
        self._noted = Noted(self._now)
        self._pace = Pace(study, clock, [{*c.folded, *c.aside} for c in committed], weights, abilities, held)
        self._opening = Opening(
            study, journal, self._pace, clock, surveys=survey is not None, blind=self._blind, central=self._central
        )
        self._arrivals = Arrivals(
            study,
            lock=self._lock,
            now=self._now,
            noted=self._noted,
            reception=self._reception,
            journal=journal,
            clock=clock,
            spans=spans,
            emit=self._emit,
            carry_out=self._do,
        )
        self._commit_later, self._due = commit_later, tuple[EdgeId, ...]()
        self._deadline_s = 0.0
        self._quorum_since_s: float | None = None
        self._paused = self._told_spent = False
        self._told: dict[EdgeId, tuple[int, int, str]] = {}  # by edge, of its newest report on itself: round, attempt, sits out
        self._asides = Asides(journal, blobs, study.triage)
        self._retention = Retention(journal, blobs, study.release.models_kept)
        self._extensions = Extensions(journal)
        self._rollbacks = journal.rollbacks()
        self._without_fold = sum(not c.folded and not c.replayed for c in committed if not self._begins_alone or c.number)
        self._unmoved = 0  # rounds in a row in which every update was set aside
        if saved := journal.screen_state():
            screen.restore(saved)
        self._resume()

    # -- what the shell calls

    @property
    def name(self) -> str:
        """The study's."""
        return self.study.name

    def attach(self, edge: EdgeId) -> None:
        """An edge's stream is open; it gets its order again if it owes an update."""
        with self._lock:
            self._attached.add(edge)
            self._pace.came()
            if unable := self._pace.unable(edge):
                self._emit("unable", edge=edge, reason=unable, detail=in_words(unable))
                if self._blind is not None:
                    self._blind.fail(edge)
                self._step(rounds.Failed(edge, unable))  # of a round from before it came back as it is
                self._go_on()
                return
            self._step(rounds.Attached(edge))
            if self._blind is not None:
                self._blind.attach(edge)

    def lose(self, edge: EdgeId) -> None:
        """An edge's stream has ended."""
        with self._lock:
            self._attached.discard(edge)
            if self._blind is not None:
                self._blind.lose(edge)
            self._step(rounds.Lost(edge))
            self._go_on()

    def note(self, edge: EdgeId, condition: Condition) -> None:
        """What an edge says of its machine. Waits for nothing: it comes with every heartbeat."""
        self._pace.note(edge, condition)

    def why_not(self, edge: EdgeId) -> str:
        """Why an edge is not asked now, as a constant; empty: it may be."""
        return self._pace.why_not(edge)

    def fail(self, edge: EdgeId, round_number: int, reason: str, *, declined: bool = False) -> None:
        """An edge says that it will not deliver: its training failed, or its own schedule forbids it (`declined`)."""
        with self._lock:
            if declined:
                self._pace.declined(edge, reason[:200])
            if self._now.asked(edge)[0] == round_number:
                if self._noted.is_first(edge, DECLINED if declined else FAILED):
                    self._note_failure(edge, round_number, reason[:200], declined=declined)
                if self._blind is not None:
                    self._blind.fail(edge)
                self._step(rounds.Failed(edge, reason))
                self._go_on()

    def _note_failure(self, edge: EdgeId, round_number: int, reason: str, *, declined: bool) -> None:
        if not declined:
            verdict = self._sat_out(edge, round_number) or ("failed", "training")
            self._journal.refuse(Refusal(self._clock.now_us(), round_number, edge, *verdict, reason))
        outcome = DECLINED if declined else FAILED
        self._spans.end("order", round_number, edge, outcome=outcome, reason=reason)
        self._emit(outcome, edge=edge, reason=reason)

    def masks(self, edge: EdgeId, step: MaskStep) -> None:
        """Take an edge's step of a masked round. What is not as agreed is refused by name, and its edge is out of the round."""
        with self._lock:
            if self._blind is None:
                return
            try:
                self._blind.receive(edge, step)
            except MasksRefused as error:
                if error.reason == "session":  # of an attempt that is over
                    return
                self._refuse_once(edge, f"masks-{error.reason}", str(error))
                if error.reason != "order":
                    self._blind.fail(edge)
                    self._step(rounds.Failed(edge, error.reason))
            self._go_on()

    def own_report(self, edge: EdgeId, signed: SignedReport, certificate: bytes) -> None:
        """Take what an edge says of itself in a masked round: one report an attempt, each newer than the one before. It is told
        to the watch and changes nothing here: an edge that sits a round out says so as any that fails."""
        with self._lock:
            if self._blind is None:
                return
            try:
                report = check_report(edge, signed, certificate)
            except UpdateRefused as error:
                self._refuse_once(edge, error.reason, str(error))
                return
            now = (report.round_number, report.attempt)
            if report.round_number > self._now.next_number or now <= self._told.get(edge, (-1, 0, ""))[:2]:
                return
            self._told[edge] = (*now, report.sits_out)
            self._emit("own-report", round_number=report.round_number, edge=edge, reason=report.sits_out, own_report=report)

    def _refuse_once(self, edge: EdgeId, reason: str, detail: str) -> None:
        """Once an attempt for each reason."""
        if not self._noted.is_first(edge, reason):
            return
        self._journal.refuse(Refusal(self._clock.now_us(), self._now.next_number, edge, "refused", reason, detail[:300]))
        self._emit("refused", edge=edge, reason=reason, detail=detail)

    def _sat_out(self, edge: EdgeId, round_number: int) -> tuple[str, str] | None:
        """The verdict on an edge that has said of itself why it gives nothing in this round; None: it has not."""
        number, _, screen = self._told.get(edge, (-1, 0, ""))
        return ("sat-out", screen) if number == round_number and screen else None

    def _go_on(self) -> None:
        """Move the masked half of the round, if there is something to move."""
        if self._blind is None or self._now.state is None:
            return
        try:
            out = self._blind.progress()
        except MasksRefused as error:
            self._give_up(str(error))
            return
        for edge in out:
            self._step(rounds.Failed(edge, "masks: no answer in time"))
        if self._blind.opened and self._now.state is not None and self._now.state.phase is rounds.Phase.COMMITTED:
            self._due = self._blind.survivors
            if not self._commit_later:
                self.advance()

    def _give_up(self, reason: str) -> None:
        """A masked round that cannot go on. Where edges may have opened its sum already, they will not open another of this
        round: it is over without a fold. Else it is tried again."""
        open_ = self._now.open
        assert open_ is not None  # noqa: S101 - a round that is given up was open
        spent = self._blind is not None and self._blind.asked_to_open
        cancelled = self._now.state.outstanding & self._now.state.attached if self._now.state is not None else frozenset[EdgeId]()
        for edge in sorted(cancelled):
            self._send(edge, rounds.Cancel(edge, reason))
        self._abandon(reason)
        if spent:
            if self._central is not None:
                self._central.spend_once(open_.number, open_.attempt)
            now_us = self._clock.now_us()
            seconds = max(0.0, (now_us - open_.opened_us) / 1e6)
            done = Committed(open_.number, ModelDigest(open_.base), open_.base, now_us, seconds, {}, ())
            self._journal.commit_round(done, self._screen.state())
            self._without_fold += 1
            self._now.open = None

    @property
    def due(self) -> bool:
        """Whether a round waits to be committed: see `advance`."""
        return bool(self._due)

    def advance(self) -> None:
        """Commit the round that has all it needs. With `commit_later` the shell calls this once the receipt is on its way."""
        with self._lock:
            edges, self._due = self._due, ()
            if edges and self._now.state is not None and self._now.state.phase is rounds.Phase.COMMITTED:
                self._commit_or_abandon(edges)

    def tick(self) -> None:
        """Look at the clock: a deadline, or a round that may open. Call it a few times a second."""
        self.advance()
        with self._lock:
            if self._now.state is not None:
                if self._clock.monotonic_s() >= self._deadline_s:
                    self._step(rounds.Deadline())
                self._go_on()
            else:
                self._maybe_open()

    def position(self, edge: EdgeId, upload: Upload) -> tuple[int, bool]:
        """How many bytes of an upload are here, and whether it has been accepted already."""
        return self._arrivals.position(edge, upload)

    def begin(self, edge: EdgeId, upload: Upload, offset: int = -1) -> None:
        """Check what an upload announces; at offset 0 it starts anew, whatever was here.

        Raises:
            UpdateRefused: it cannot count, whatever its bytes are.
        """
        self._arrivals.begin(edge, upload, offset)

    def append(self, edge: EdgeId, upload: Upload, offset: int, data: bytes | memoryview) -> int:
        """Keep bytes of an upload; how many are here now."""
        return self._arrivals.append(edge, upload, offset, data)

    def finish(self, edge: EdgeId, upload: Upload) -> UploadReceipt:
        """Check a whole upload, make it durable, count it. Refusals are answers here, not errors.

        Raises:
            StorageFull: the hub's disk refused; the edge keeps its update and tries again.
        """
        return self._arrivals.finish(edge, upload)

    def release(self, edge: EdgeId) -> bool:
        """Let an edge that was set aside count again, from its next update on; its trial, if it is on one, is over."""
        with self._lock:
            released = self._journal.release(edge)
            if released:
                self._screen.admit(edge)
                self._journal.keep_screen(self._screen.state())
                self._emit("released", edge=edge)
            return released

    def quarantine(self, edge: EdgeId, rounds_: int, reason: str, *, until: int = -1) -> int:
        """Set an edge's updates aside from now on, for some rounds or `until` one; the last round for which this holds."""
        with self._lock:
            until = until if until >= 0 else self._now.next_number + rounds_ - 1
            self._journal.quarantine(edge, until, reason)
            return until

    def replay(self, edge: EdgeId, round_number: int, asked: Asked) -> Replay:
        """Let an update that was set aside count after all, late, in the next round that ends. Once, however often it is asked.

        Raises:
            StudyError: it cannot count; the words say why.
        """
        with self._lock:
            known = [r for r in self._journal.replays() if asked.request and r.request == asked.request]
            if known:
                return known[0]
            check_allowed(self.study)
            if self.finished:
                raise StudyError(f"{self.study.name} has all its rounds: none is left to count in", remedy="start another study")
            number = self._now.next_number
            kept = find(self._journal, self._blobs, self.study, edge, round_number, number)
            self._judge_again(kept, self._journal.last())
            replay = new_replay(kept, asked, self._clock.now_us())
            if not self._journal.replay(replay):
                raise StudyError(
                    f"the update of {edge} in round {round_number} is replayed already", remedy="nothing is left to do"
                )
            return replay

    def _judge_again(self, kept: Kept, last: Committed | None) -> None:
        """Triage's hard rules, against the model of today: names, shapes, dtypes, finite.

        Raises:
            StudyError: they do not hold.
        """
        assert last is not None  # noqa: S101 - what was set aside was in a round that is over
        try:
            self._reception.check_again(kept.round_number, kept.update.edge, last.model)
        except UpdateRefused as error:
            raise refused_again(f"the update of {kept.update.edge} in round {kept.round_number}", error) from error

    def roll_back(self, asked: Asked) -> Committed:
        """Go back to the model of an older round: the next one starts from it. The same request again does nothing more.

        Raises:
            StudyError: there is no such model any more.
            StorageFull: the hub's disk refused; nothing has changed.
        """
        with self._lock:
            if self._survey is not None:
                raise StudyError("a study of kind `statistics` makes no model to go back to", remedy="start another one")
            known = [r.number for r in self._rollbacks if asked.request and r.request == asked.request]
            if known:
                return self._journal.committed_at(known[0])[0]
            number, now_us = self._now.next_number, self._clock.now_us()
            accepted = self._journal.accepted(number)
            rule = self._strategy.rule
            done, rollback = prepare(self._journal, self._blobs, asked, rule, number=number, now_us=now_us, accepted=accepted)
            judged = {e: Judged("rolled-back", asked.reason) for e in accepted}
            self._journal.commit_round(done, self._screen.state(), rollback=rollback, judged=judged)
            self._rollbacks.append(rollback)
            self._without_fold += 1
            self._drop_round("rolled back")
            self._end_masks(number)
            self._emit(
                "rolled-back", round_number=number, model=done.model, base=done.base, aside=done.aside, reason=asked.reason
            )
            self._forget(number - 2)
            self._retention.committed(number)
            return done

    def pause(self, *, paused: bool) -> None:
        """Open no round while paused; the one in progress comes to its end."""
        with self._lock:
            self._paused = paused

    @property
    def paused(self) -> bool:
        """Whether no round is opened."""
        return self._paused

    def extend(self, rounds_: int, request: str) -> int:
        """Give the study more rounds than it was written with, once for each request; how many it has now.

        Raises:
            StudyError: it is no study of models, its trees would be too many, or its privacy budget does not reach.
        """
        with self._lock:
            if self._central is not None and not self._extensions.known(request):
                last = self._journal.last()
                done = 0 if last is None else last.number - self._without_fold
                self._central.check_more(self.rounds_in_all + rounds_ - done)
            self._extensions.add(self.study, rounds_, request)
            return self.rounds_in_all

    def withdraw(self, request: str) -> int:
        """Take rounds back that `extend` gave; how many the study has now. Those that are over stay."""
        with self._lock:
            self._extensions.withdraw(request)
            return self.rounds_in_all

    @property
    def rounds_in_all(self) -> int:
        """How many rounds the study has in all."""
        return self.study.rounds.count + self._extensions.rounds

    def stop(self) -> None:
        """Pause, and give the round in progress up; what had arrived counts if the study ever goes on."""
        with self._lock:
            self._paused = True
            if self._now.state is not None:
                self._drop_round("the study was stopped")
                self._end_masks(self._now.next_number)
                self._emit("abandoned", reason="the study was stopped")

    def pin(self, models: Collection[str]) -> None:
        """These models stay on disk, however old; of the others the newest `release.models_kept` do."""
        with self._lock:
            self._retention.pin(models)

    def rollbacks(self) -> list[Rollback]:
        """Every time the study went back."""
        with self._lock:
            return list(self._rollbacks)

    def _drop_round(self, reason: str) -> None:
        """Tell those at work that it is over."""
        if self._now.state is not None:
            for edge in sorted(self._now.state.outstanding & self._now.state.attached):
                self._send(edge, rounds.Cancel(edge, reason))
        if self._now.open is not None:
            self._spans.end("round", self._now.open.number, outcome="dropped", reason=reason)
        self._now.over()

    def model(self, digest_: str, offset: int = 0, size: int = -1) -> bytes:
        """The bytes of a model from an offset on, at most `size` of them.

        Raises:
            FileNotFoundError: there is no such model.
        """
        return self._blobs.read(model_name(digest_), offset, size)

    def model_size(self, digest_: str) -> int:
        """The bytes of a model; 0 when there is none."""
        return self._blobs.size(model_name(digest_))

    @property
    def finished(self) -> bool:
        """Whether every round of the study is committed; one that folded nothing (going back, everything set aside) is none."""
        last = self._journal.last()
        if last is None:
            return False
        spent = self._central is not None and not self._central.fits()
        return spent or self._survey is not None or last.number - self._without_fold >= self.rounds_in_all

    @property
    def open_round(self) -> tuple[OpenRound, rounds.RoundState] | None:
        """The round in progress."""
        with self._lock:
            return (self._now.open, self._now.state) if self._now.open is not None and self._now.state is not None else None

    def committed(self) -> list[Committed]:
        """Every round that is over."""
        return self._journal.committed()

    def quarantined(self) -> dict[EdgeId, str]:
        """Who is set aside now, and why."""
        return self._journal.quarantined(self._now.next_number)

    def set_aside(self, edge: EdgeId) -> tuple[int, str] | None:
        """Until which round an edge is set aside, and why; None when it counts."""
        found = {e: (until, why) for e, until, why in self._journal.set_aside()}.get(edge)
        return found if found is not None and found[0] >= self._now.next_number else None

    # -- opening

    def _resume(self) -> None:
        """Take up the round that a kill interrupted."""
        open_ = self._journal.current()
        if open_ is None or (self._central is not None and not self._central.fits()):
            return
        self._now.open = open_
        delivered = frozenset(self._journal.accepted(open_.number))
        self._deadline_s = self._clock.monotonic_s() + self.study.rounds.deadline_s
        carry = self._opening.carries(open_.number)
        state = rounds.RoundState(frozenset(open_.participants), open_.quorum, open_.wanted, carry, delivered=delivered)
        self._now.state = state
        self._spans.begin("round", open_.number, edges_asked=len(open_.participants), attempt=open_.attempt)
        if self._blind is not None:
            self._blind.open(open_, self._settings)
            if self._blind.survivors:  # the list is said: no update comes any more
                self._now.state = replace(state, phase=rounds.Phase.COMMITTED)
                return
        self._emit("opened", participants=open_.participants, detail="taken up again")
        if len(delivered) >= open_.wanted:
            state, commands = rounds.open_round(
                state.participants,
                frozenset(),
                quorum=open_.quorum,
                wanted=open_.wanted,
                delivered=delivered,
                carry=carry,
            )
            self._now.state = state
            self._do(commands)

    def _maybe_open(self) -> None:
        now = self._clock.monotonic_s()
        if self._paused or self._pace.waits:
            return
        if self.finished:
            self._say_spent()
            return
        settings = self.study.rounds
        number = self._now.next_number
        eligible = self._opening.eligible(self._attached, number)
        if len(eligible) < settings.edges_min:
            self._quorum_since_s = None
            return
        if self._quorum_since_s is None:
            self._quorum_since_s = now
        if number == 0 and now - self._quorum_since_s < SETTLE_S:
            return
        if self._begins_alone and number == 0:
            self._begin_alone()
            return
        planned = self._opening.plan(eligible, number, self._now.open)
        if planned is None:
            self._pace.abandoned(1, ())
            return
        open_, delivered = planned
        self._now.open = open_
        self._journal.open_round(open_)
        if self._blind is not None:
            self._blind.open(open_, self._settings)
        self._deadline_s = now + settings.deadline_s
        self._spans.begin("round", number, edges_asked=len(open_.participants), attempt=open_.attempt)
        self._emit("opened", participants=open_.participants)
        self._now.state, commands = rounds.open_round(
            frozenset(open_.participants),
            frozenset(self._attached),
            quorum=open_.quorum,
            wanted=open_.wanted,
            delivered=delivered,
            carry=self._opening.carries(number),
        )
        self._do(commands)

    @property
    def _begins_alone(self) -> bool:
        """Whether round 0 asks nobody."""
        return self.study.begins_public

    def _say_spent(self) -> None:
        """A budget that a kill in the middle of a release has used up ends a study between two rounds."""
        last = self._journal.last()
        if self._central is not None and last is not None and not self._central.fits() and not self._told_spent:
            self._told_spent = True
            self._emit("finished", round_number=last.number, model=last.model)

    def _begin_alone(self) -> None:
        """The first model, without a word from any edge."""
        done = first_row(self._initial(), self._blobs, self._clock.now_us())
        self._journal.commit_round(done, self._screen.state())
        self._emit("committed", round_number=0, model=done.model, base="", seconds=0.0, participants=())
        self._pace.committed(())

    # -- moving

    def _step(self, event: rounds.Event) -> None:
        if self._now.state is None:
            return
        self._now.state, commands = rounds.step(self._now.state, event)
        self._do(commands)

    def _do(self, commands: Sequence[rounds.Command]) -> None:
        for command in commands:
            if isinstance(command, rounds.Dispatch):
                order = self._order(command.edge)
                self._spans.begin("order", order.round_number, command.edge)
                self._spans.begin("train", order.round_number, command.edge)
                self._send(command.edge, order)
            elif isinstance(command, rounds.Cancel):
                self._send(command.edge, command)
            elif isinstance(command, rounds.Commit):
                self._due = command.edges
                if not self._commit_later:
                    self.advance()
            else:
                self._abandon(command.reason)

    def _order(self, edge: EdgeId) -> Order:
        """What an edge is asked for: this round's work, or the older work that it has in hand."""
        assert self._now.open is not None  # noqa: S101 - a dispatch belongs to an open round
        number, base = self._now.asked(edge)
        train = self._now.open.task == "train"
        parent = EdgeId(self.study.relay.parent(edge)) if train else EdgeId("")
        children = self.study.relay.children.get(edge, ()) if train else ()
        relay = parent if parent in self._attached and parent in self._now.open.participants else ""
        return Order(
            study=self.study.name,
            round_number=number,
            attempt=self._now.open.attempt,
            task=self._now.open.task,
            base=base,
            settings=self._settings,
            deadline_s=self.study.rounds.deadline_s,
            model=self._models.inline(base) if train and not relay and not children and number == self._now.open.number else b"",
            relay=relay,
            children=children,
            kept_since=self._rollbacks[-1].number if self._rollbacks and is_paired(self._strategy.rule) else 0,
            masks=self._blind.settings if self._blind is not None else b"",
        )

    def _abandon(self, reason: str) -> None:
        self._emit("abandoned", reason=reason)
        assert self._now.open is not None  # noqa: S101 - a round that is given up was open
        self._spans.end("round", self._now.open.number, outcome="abandoned", reason=reason)
        assert self._now.state is not None  # noqa: S101
        self._pace.abandoned(self._now.open.attempt, self._now.state.participants - self._now.state.delivered)
        self._now.state = None
        self._end_masks(self._now.open.number)

    def _end_masks(self, number: int) -> None:
        """A masked attempt came to nothing: its updates are noise for ever, and go. Where a budget is kept they go too: who was
        drawn in this attempt would else be in the next one for certain."""
        if self._blind is not None:
            self._blind.close()
        if self._blind is not None or self._central is not None:
            self._journal.forget_accepted(number)
            self._blobs.delete(f"updates/{number}")

    def _commit_or_abandon(self, edges: Sequence[EdgeId]) -> None:
        """A fold that fails (a full disk, a fault in a strategy) is an abandoned round, loudly; never a round that hangs."""
        if self._blind is not None and not self._blind.opened:
            try:
                self._blind.survive(edges)
            except MasksRefused as error:
                self._give_up(str(error))
            return
        try:
            self._commit(self._blind.survivors if self._blind is not None else edges)
        except Exception as error:
            log.exception("round could not be committed", study=self.study.name)
            reason = f"the hub could not commit it: {type(error).__name__}: {error}"[:300]
            if self._blind is not None:
                self._give_up(reason)
            else:
                self._abandon(reason)

    def _commit(self, edges: Sequence[EdgeId]) -> None:
        """Screen, fold, keep the model, and move the study to it."""
        open_ = self._now.open
        assert open_ is not None  # noqa: S101
        accepted = self._weighed(open_, {e: a for e, a in self._journal.accepted(open_.number).items() if e in edges})
        with span(self._spans, "screen", open_.number):
            judged = self._making.judged(open_, accepted, self._set_aside_now)
        aside = {e for e, verdict in judged.items() if verdict.reason}
        shown = accepted if self._central is None else without_facts(accepted)
        folded = {e: a.examples for e, a in shown.items() if e not in aside}
        late = late_updates(self._journal, self._blobs) if open_.task == "train" else []
        with span(self._spans, "fold", open_.number, updates=len(folded) + len(late)):
            name = self._making.made(open_, [a for e, a in accepted.items() if e not in aside], late)
        now_us = self._clock.now_us()
        done = Committed(
            number=open_.number,
            model=name,
            base=open_.base,
            t_us=now_us,
            seconds=max(0.0, (now_us - open_.opened_us) / 1e6),
            folded={str(edge): n for edge, n in folded.items()},
            aside=tuple(sorted(aside)),
            staleness={str(e): open_.number - a.based_on for e, a in accepted.items() if a.based_on != open_.number},
            replayed=tuple(replace(replay, into_round=open_.number) for replay, _ in late),
        )
        self._journal.commit_round(done, self._screen.state(), self._at_work(open_), judged=judged)
        metrics = weighted_metrics(shown, folded)
        self._emit(
            "committed",
            model=name,
            base=done.base,
            seconds=done.seconds,
            folded=done.folded,
            aside=done.aside,
            metrics=metrics,
            replayed=done.replayed,
            participants=open_.participants,
            reported=reported(self._journal, open_, shown, {e: judged[e].reason for e in aside}),
            screen={str(e): verdict.score for e, verdict in judged.items() if verdict.threshold},
        )
        self._spans.end("round", open_.number, outcome="committed", edges=len(folded), aside=len(aside), model=name)
        self._now.over()
        if self._blind is not None:
            self._blind.close()
        self._pace.committed(open_.participants)
        self._unmoved = 0 if folded or late else self._unmoved + 1
        if self._unmoved:
            self._without_fold += 1
            self._pace.abandoned(self._unmoved, ())
        if self.finished:
            self._told_spent = True
            self._emit("finished", round_number=done.number, model=name)
        else:
            self._maybe_open()
        try:  # while the edges are at work
            self._forget(open_.number - 2)
            self._retention.committed(open_.number)
        except OSError as error:  # no reason to give up the round that has begun
            log.warning("old files could not be removed", study=self.study.name, reason=str(error))

    def _weighed(self, open_: OpenRound, accepted: dict[EdgeId, Accepted]) -> dict[EdgeId, Accepted]:
        """No edge weighs far more than the others, whatever it claims. Where sums are masked or noisy, claims weigh nothing."""
        if self._blind is not None or self._central is not None:
            return accepted
        most = examples_most([a.examples for a in accepted.values()], self.study.triage)
        over = any(a.examples > most for a in accepted.values())  # else nothing is written
        for edge in self._journal.weigh(open_.number, most) if over else ():
            log.warning("a claim of examples is bounded", study=self.study.name, round_number=open_.number, edge=edge, most=most)
        return {e: replace(a, examples=min(a.examples, most)) for e, a in accepted.items()}

    def _set_aside_now(self, kind: str, edge: str, verdict: Verdict, until: int) -> None:
        self._emit(
            kind,
            edge=edge,
            reason=verdict.reason,
            score=verdict.score,
            threshold=verdict.threshold,
            until_round=until,
        )

    def _at_work(self, open_: OpenRound) -> dict[str, tuple[int, str]]:
        """Who goes on after this round of a buffered study, and on which order."""
        if self._now.state is None or not self._opening.carries(open_.number):
            return {}
        return {str(e): open_.owed.get(e, (open_.number, open_.base)) for e in self._now.state.outstanding}

    def _forget(self, number: int) -> None:
        """Updates are kept for two rounds, for a look; what was set aside for longer, as it may be replayed."""
        if number < 0:
            return
        if aside := self._asides.keeps(number):
            for edge in set(self._journal.accepted(number)) - aside:
                self._blobs.delete(update_name(number, edge))
        else:
            self._blobs.delete(f"updates/{number}")
        self._asides.prune(number + 2)
        horizon = self.study.rounds.staleness_max if self._opening.carries(number) else 0
        if number >= horizon:
            self._blobs.delete(f"partial/{number - horizon}")

    def _emit(self, kind: str, *, round_number: int | None = None, **facts: object) -> None:
        number = round_number if round_number is not None else self._now.open.number if self._now.open else self._now.next_number
        event = RoundEvent(kind, self.study.name, number, self._clock.now_us(), **facts)  # type: ignore[arg-type]  # its fields
        self._on_event(event)
