"""A study rehearsed over virtual edges in this process: the same selection, rounds, learner, rules, triage and folds as a live
study, without links and disks, on a clock that nobody waits for. Of a blind study the hub has sums alone, here as well.

With the same edges, examples and seed a rehearsal gives the model of the live study, to float tolerance. With a screen every
update passes triage and the screen before it counts, as live; without one, and where a strategy needs the mean update alone, no
single update is ever formed, which is many times faster and finds nobody out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import numpy as np

from wardround.clock import ManualClock
from wardround.errors import LearnError, RoundGivenUp, UpdateRefused
from wardround.learn import rounds
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.faults import Faults, condition_at, duration_s, struck
from wardround.learn.interference import Answer, Interference, OwnScreens, overshot
from wardround.learn.journal import PAST_NORMS
from wardround.learn.learners import Learner
from wardround.learn.local import personal_model, sent_names
from wardround.learn.models import CONTROL_PREFIX, MemoryTensors, Parameters, Step, Tensor, with_controls
from wardround.learn.pace import RETRY_S, RETRY_S_MAX
from wardround.learn.privacy.dp_rounds import made_central, with_public_scale
from wardround.learn.privacy.ledger import MemoryLedger
from wardround.learn.privacy.rehearsed import grouped, mean_of_sum, sees_updates, words_of
from wardround.learn.rollbacks import is_paired
from wardround.learn.scaling import fold_sums, with_scaling
from wardround.learn.schedule import is_open, lacks, opens_us
from wardround.learn.selection import Turns, choose
from wardround.learn.spread import Spread
from wardround.learn.strategies import Fold, WeightedUpdate, make_strategy
from wardround.learn.study import Study
from wardround.learn.trees import check_trees
from wardround.learn.triage import ON_TRIAL, Screen, check_facts, check_norm, check_update, examples_most
from wardround.learn.virtual_edges import Made, VirtualEdges
from wardround.records import EdgeId, Examples
from wardround.settings import ScheduleSettings

BEGIN_S = datetime(2024, 1, 1, tzinfo=UTC).timestamp()  # a Monday, of the virtual clock
ATTEMPTS_MAX = 20  # at one round
MODELS_KEPT = 10  # newest models of a drill, to which it can go back
LOOK_S, LOOKS_MAX = 900.0, 1_400  # for edges that may train: every quarter of an hour, for two weeks


@dataclass(frozen=True, slots=True)
class RehearsedRound:
    """A round that is over."""

    number: int
    participants: tuple[str, ...]  # whose updates are in the model
    lost: tuple[str, ...]  # asked, and no update came in time
    model: Parameters
    metrics: Mapping[str, float] = field(default_factory=dict)
    refused: Mapping[str, str] = field(default_factory=dict)  # asked, and triage says why not
    aside: tuple[str, ...] = ()  # the screen's, now or before
    attempts: int = 1
    virtual_s: float = 0.0  # from its first opening to its commit, on the virtual clock
    asked: tuple[str, ...] = ()  # by its last attempt
    answers: Mapping[str, Answer] = field(default_factory=dict)  # of those that triage accepted, in the model or not


@dataclass(slots=True)
class _Work:
    """What an edge has in hand: an order, when it is done, and how it ends."""

    number: int
    until_s: float
    seconds: float = 0.0
    ends: str = ""  # empty: delivered; "lost", or why it is refused
    made: Made | None = None  # none yet, where updates are trained together at the commit


class Fleet:
    """Virtual edges and their examples."""

    def __init__(
        self,
        study: Study,
        edges: Mapping[str, Examples],
        *,
        classes: int,
        faults: Faults = Faults(),  # noqa: B008 - frozen
        screen: Screen | None = None,
        reference: Examples | None = None,
        spread: Spread | None = None,
        interference: Interference | None = None,
        usual: tuple[Tensor, Tensor] | None = None,
        own_screens: OwnScreens | None = None,
    ) -> None:
        """`reference` are examples that the hub itself holds, for strategies that ask for them; `spread` trains elsewhere.

        `interference` is a drill's, as are `own_screens`, which are asked in a blind study alone. `usual` is a public scaling
        (mean and spread of each feature), for a study with a budget.

        Raises:
            LearnError: no edge has enough labelled examples.
        """
        self.study = study
        self._strategy = make_strategy(study.strategy, study.learner)
        self.edges = VirtualEdges(study, edges, classes=classes, strategy=self._strategy, spread=spread)
        self._blind = not sees_updates(study.privacy)
        self._faults, self._screen, self._reference = faults, None if self._blind else screen, reference
        self.sent_bytes = 0  # of compressed updates
        self._interference, self._own_screens = interference, own_screens if self._blind else None
        self._central = made_central(study, MemoryLedger(), ManualClock(), MemoryBlobs(), ())
        self._usual = usual if usual is not None else (np.zeros(self.edges.shape[0]), np.ones(self.edges.shape[0]))
        plain = screen is None and interference is None and self._central is None and not self._blind
        self._means_do = self.edges.means_do and plain

    @property
    def names(self) -> tuple[str, ...]:
        """The edges that have enough examples."""
        return self.edges.names

    @property
    def learner(self) -> Learner:
        """What trains."""
        return self.edges.learner

    @property
    def screened(self) -> bool:
        """Whether a screen looks at every update: there is one, and the study lets its hub see them."""
        return self._screen is not None

    @property
    def model(self) -> Parameters:
        """The model that the next round starts from, once `run` has begun."""
        return self._model

    def first_model(self) -> Parameters:
        """The model that round 0 makes: first values, and scaling from the sums of all edges."""
        initial = self.learner.initial(self.study.learner.seed)
        if self.study.begins_public:
            return with_public_scale(initial, self.study, self._usual)
        sums = fold_sums(self.edges.sums())
        if self._strategy.rule.controls:
            initial = with_controls(initial)
        return with_scaling(initial, sums, class_weighting=self.study.learner.class_weighting)

    def personal(self, model: Parameters, edge: str) -> Parameters:
        """The model that an edge uses itself: the shared one with what it keeps of its own."""
        return personal_model(model, self.edges.kept.get(edge, {}))

    def run(self) -> Iterator[RehearsedRound]:
        """Round by round, as the study says.

        Raises:
            LearnError: a round cannot be had: too few edges deliver, or their schedules never let enough of them train.
        """
        self._model, self._memory = self.first_model(), Parameters()
        self._bases = {0: self._model}  # by the round that starts from it, while somebody works on it
        self._made = {0: (self._model, self._memory)}  # by the round that made it, where a drill may go back
        self._turns = Turns([self.names])  # round 0 asks everybody
        self._now_s = BEGIN_S
        self._at_work: dict[str, _Work] = {}
        self._delivered: dict[str, _Work] = {}  # acknowledged, and not yet in a model
        self._past_norms: dict[str, list[float]] = {}
        self._quarantined: dict[str, int] = {}
        self._circle = 0  # edges whose masks cancel, in a blind study
        yield from self.go_on(1)

    def go_on(self, number: int) -> Iterator[RehearsedRound]:
        """The rounds from `number` on, from the model that stands: after one that was given up, as a hub goes on.

        Raises:
            LearnError: as `run`.
        """
        for each in range(number, self.study.rounds.count + 1):
            yield self._round(each)

    def roll_back(self, number: int) -> Parameters:
        """Between two rounds: the model of round `number`, one of the newest MODELS_KEPT of a drill; the next starts from it.

        As learn/rollbacks.py has it: updates that have arrived are dropped, and where the hub's memory and what edges keep are
        halves of one thing, both begin anew. Rounds keep their numbers, as there is no journal to note it in.

        Raises:
            LearnError: that model is not kept.
        """
        if number not in self._made:
            raise LearnError(f"the model of round {number} is not kept", remedy=f"go back to one of {sorted(self._made)}")
        self._model, self._memory = self._made[number]
        if is_paired(self._strategy.rule):
            zeroed = {n: np.zeros_like(t) for n, t in self._model.items() if n.startswith(CONTROL_PREFIX)}
            self._model, self._memory = {**self._model, **zeroed}, Parameters()
            self.edges.kept.clear()
        self._at_work, self._delivered = {}, {}
        return self._model

    # -- one round

    def _round(self, number: int) -> RehearsedRound:
        """As learn/coordinator.py opens, moves and commits it."""
        settings = self.study.rounds
        self._bases[number] = self._model
        began_s: float | None = None
        lost, refused = set[str](), dict[str, str]()
        reason = ""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            eligible = self._eligible()
            began_s = self._now_s if began_s is None else began_s
            asked, wanted = choose(self.study, eligible, self._turns.counts(self.study, len(eligible)), number)
            quorum = settings.edges_min
            if self._central is not None:
                self._delivered = {}
                asked = self._central.choose([EdgeId(e) for e in eligible])
                wanted, quorum = len(asked), max(1, min(quorum, len(asked)))
            carries = settings.mode == "buffered"
            owed = {e for e, w in self._at_work.items() if carries and number - w.number <= settings.staleness_max}
            self._at_work = {e: w for e, w in self._at_work.items() if e in owed}
            participants = frozenset({*asked, *owed, *self._delivered})
            if self._delivered:
                everybody = settings.edges_max == 0 and not carries
                wanted = len(participants) if everybody else max(wanted, len(self._delivered))
            if wanted < quorum or len(participants) < quorum:
                raise LearnError(
                    f"round {number}: {len(participants)} edges are asked, and rounds.edges_min is {settings.edges_min}",
                    remedy="rehearse more edges, or lower the quorum",
                )
            state, commands = rounds.open_round(
                frozenset(EdgeId(e) for e in participants),
                frozenset(EdgeId(e) for e in self.names),
                quorum=quorum,
                wanted=wanted,
                delivered=frozenset(EdgeId(e) for e in self._delivered),
                carry=carries,
            )
            self._circle = len(participants)
            self._begin(number, attempt, [c.edge for c in commands if isinstance(c, rounds.Dispatch)])
            end = self._play(state, commands, lost, refused)
            if isinstance(end, rounds.Commit):
                self._turns.add(participants)
                done = self._commit(number, end.edges)
                if isinstance(done, RehearsedRound):
                    seconds = self._now_s - began_s
                    self._now_s += settings.interval_s
                    missed = tuple(sorted(lost - set(end.edges)))
                    ended = replace(done, lost=missed, refused=refused, attempts=attempt, virtual_s=seconds)
                    return replace(ended, asked=tuple(sorted(participants)))
                reason = done
            else:
                self._turns.add(participants - set(self._delivered))
                reason = end.reason
            self._now_s += min(RETRY_S_MAX, RETRY_S * 2.0 ** (attempt - 1))
        raise RoundGivenUp(
            f"round {number} was given up {ATTEMPTS_MAX} times: {reason}",
            "fewer faults, more edges, a lower rounds.edges_min, or a longer rounds.deadline_s",
            attempts=ATTEMPTS_MAX,
            spoilt=set(refused).difference(self._delivered),
            delivered=self._delivered,
        )

    def _eligible(self) -> tuple[str, ...]:
        """Who may be asked; the clock moves on until that is a quorum."""
        schedule = self.study.schedule
        if schedule == ScheduleSettings():
            return self.names
        seed = self.study.learner.seed
        for _ in range(LOOKS_MAX):
            now_us = round(self._now_s * 1e6)
            if is_open(schedule, now_us):
                found = tuple(e for e in self.names if not lacks(schedule, condition_at(seed, e, self._now_s), now_us))
                if len(found) >= self.study.rounds.edges_min:
                    return found
                self._now_s += LOOK_S
            else:
                self._now_s = opens_us(schedule, now_us) / 1e6
        raise LearnError(
            f"for two weeks the study's schedule never lets {self.study.rounds.edges_min} edges train at a time",
            remedy="ask for less in [schedule]; docs/rehearse.md says what virtual edges are like",
        )

    def _begin(self, number: int, attempt: int, edges: Sequence[str]) -> None:
        """Orders go out: who has none in hand begins."""
        seed, faults, deadline_s = self.study.learner.seed, self._faults, self.study.rounds.deadline_s
        begun = [e for e in edges if e not in self._at_work]
        meddles = self._interference
        for edge in begun:
            seconds = duration_s(faults, deadline_s, seed, edge, number)
            lost = struck(faults.absent, seed, "absent", edge, number, attempt)
            if meddles is not None:
                seconds = meddles.seconds(number, edge, seconds)
                lost = lost or meddles.stays_away(number, edge, attempt)
            self._at_work[edge] = _Work(number, self._now_s + seconds, seconds, "lost" if lost else "")
        spoilt = [e for e in begun if not self._at_work[e].ends and struck(faults.nan, seed, "nan", e, number, attempt)]
        base = self._bases[number]
        if self._means_do:
            for edge in spoilt:
                self._at_work[edge].ends = "not-finite"
            return
        train = [e for e in begun if not self._at_work[e].ends]
        if meddles is not None:
            self.edges.replace(meddles.examples(number, train))
        results = dict(self.edges.each(base, train, number))
        if meddles is not None:
            sound = {e: m for e, m in results.items() if isinstance(m, Made)}
            results = {**results, **meddles.updates(number, base, sound)}
        for edge, made in results.items():
            work = self._at_work[edge]
            if isinstance(made, str):
                work.ends = made
                continue
            work.made = _spoilt(made) if edge in spoilt else made

    def _play(
        self, state: rounds.RoundState, commands: Sequence[rounds.Command], lost: set[str], refused: dict[str, str]
    ) -> rounds.Commit | rounds.Abandon:
        """Events in the order of the virtual clock, until the round ends."""
        deadline_s = self._now_s + self.study.rounds.deadline_s
        ahead = sorted((self._at_work[e].until_s, e) for e in state.outstanding if e in self._at_work)
        gone = 0
        while True:
            for command in commands:
                if isinstance(command, rounds.Cancel):
                    self._at_work.pop(command.edge, None)
                elif isinstance(command, rounds.Commit | rounds.Abandon):
                    return command
            event: rounds.Event = rounds.Deadline()
            if gone < len(ahead) and ahead[gone][0] < deadline_s:
                self._now_s, edge = max(self._now_s, ahead[gone][0]), ahead[gone][1]
                gone += 1
                event = self._ends(EdgeId(edge), refused)
                if isinstance(event, rounds.Lost):
                    lost.add(edge)
            else:
                self._now_s = deadline_s
                lost |= set() if state.carry else state.outstanding
            state, commands = rounds.step(state, event)

    def _ends(self, edge: EdgeId, refused: dict[str, str]) -> rounds.Event:
        """An edge has come to the end of its work."""
        work = self._at_work.pop(edge)
        if work.ends == "lost":
            return rounds.Lost(edge)
        reason = work.ends
        if not reason and work.made is not None:
            try:
                self._triage(edge, work, work.made)
            except UpdateRefused as error:
                reason = error.reason
        if reason:
            refused[edge] = reason
            return rounds.Failed(edge, reason)
        if work.made is not None and work.made.keep:
            self.edges.kept[edge] = work.made.keep
        self.sent_bytes += work.made.bytes if work.made is not None else 0
        self._delivered[edge] = work
        return rounds.Delivered(edge)

    def _triage(self, edge: str, work: _Work, made: Made) -> None:
        """As learn/reception.py checks an update.

        Raises:
            UpdateRefused: it cannot count.
        """
        if self._blind:
            base = self._bases[work.number]
            if self._own_screens is not None and (screen := self._own_screens.sits_out(work.number, edge, base, made)):
                raise UpdateRefused(screen, "its own edge gives none")
            words_of(made.tensors, made.examples, self.study.privacy, self._circle)  # or it cannot be masked
            return
        triage, past = self.study.triage, self._past_norms.get(edge, [])
        check_facts(made.metrics, self._strategy.needs)
        if self._strategy.rule.trees:
            norm = check_trees(made.tensors, self.edges.shape, self.study.learner)
            check_norm(norm, past, triage)
        else:
            base = self._bases[work.number]
            names = sent_names(self._strategy.rule, list(base))
            norm = check_update(made.tensors, MemoryTensors(base), names, past, triage)
        self._past_norms[edge] = [norm, *past][:PAST_NORMS]

    # -- the commit

    def _commit(self, number: int, edges: Sequence[str]) -> RehearsedRound | str:
        """Screen and fold what was delivered; or why that cannot be."""
        accepted = {e: self._delivered[e] for e in sorted(edges)}
        aside = self._aside(number, accepted)
        folded = {e: w for e, w in accepted.items() if e not in aside}
        if not folded:
            self._delivered = {}
            return "every update was set aside"
        base = self._bases[number]
        if self._central is not None and not self._central.fits():
            return "the privacy budget is spent"
        if self._central is not None and not self._blind:
            names = sent_names(self._strategy.rule, list(base))
            sources = [w.made.tensors for w in folded.values() if w.made is not None]
            mean = self._central.mean(number, 1, MemoryTensors(base), names, sources)
            updates, metrics = [WeightedUpdate(MemoryTensors(mean), 1)], dict[str, float]()
        else:
            if self._central is not None:
                self._central.spend(number, 1, 0)
            try:
                updates, metrics = self._updates(folded, number, self._most(accepted))
            except UpdateRefused as error:
                return str(error)
        reference = self._reference_update(base, number) if self._strategy.wants_reference else None
        try:
            done = self._strategy.fold(Fold(MemoryTensors(base), updates, self._memory, len(self.names), reference))
        except UpdateRefused as error:
            return str(error)
        if self._interference is not None:
            done = replace(done, model=overshot(base, done.model, self._interference.step_factor(number)))
        if self._screen is not None and not self._strategy.rule.trees:
            self._screen.stepped(Step(MemoryTensors(base), done.model))
        self._model, self._memory, self._delivered = done.model, done.memory, {}
        if self._interference is not None:
            made_now = {**self._made, number: (done.model, done.memory)}
            self._made = {n: m for n, m in made_now.items() if n > number - MODELS_KEPT}
        in_use = {w.number for w in self._at_work.values()}
        self._bases = {n: m for n, m in self._bases.items() if n in in_use}
        made = {e: (w.made, w.seconds) for e, w in accepted.items()}
        answers = {e: Answer(m.examples, m.metrics, s) for e, (m, s) in made.items() if m is not None}
        return RehearsedRound(number, tuple(folded), (), done.model, metrics, aside=tuple(sorted(aside)), answers=answers)

    def _aside(self, number: int, accepted: Mapping[str, _Work]) -> set[str]:
        """Who is in quarantine, and whom the screen refuses now."""
        aside = {e for e, until in self._quarantined.items() if until >= number and e in accepted}
        if self._screen is None or self._strategy.rule.trees or self._central is not None:
            return aside
        made = {e: w.made.tensors for e, w in accepted.items() if w.made is not None}
        for edge, verdict in sorted(self._screen.judge_round(number, made, frozenset(aside)).items()):
            if not verdict.accepted and edge in accepted:
                aside.add(edge)
                if verdict.reason != ON_TRIAL:
                    self._quarantined[edge] = number + self.study.triage.quarantine_rounds
        return aside

    def _most(self, accepted: Mapping[str, _Work]) -> int:
        """What an edge of this round may weigh, as the hub reckons it."""
        counts = [self.edges.counts[e] if w.made is None else w.made.examples for e, w in accepted.items()]
        return examples_most(counts, self.study.triage)

    def _updates(self, folded: Mapping[str, _Work], number: int, most: int) -> tuple[list[WeightedUpdate], dict[str, float]]:
        """What the strategy folds; those of one base together where means do."""
        if self._blind:
            made_all = [w.made for w in folded.values() if w.made is not None]
            seed = f"{self.study.learner.seed}/{number}"
            groups, circle = grouped(made_all, self.study.privacy, self._circle, seed)
            return [self._sum(group, self._bases[number], circle) for group in groups], {}
        if not self._means_do:
            made = [(w.made, min(w.made.examples, most), number - w.number) for w in folded.values() if w.made is not None]
            total = sum(n for _, n, _ in made)
            names = sorted(set.intersection(*(set(m.metrics) for m, _, _ in made)))
            metrics = {name: sum(m.metrics[name] * n for m, n, _ in made) / total for name in names}
            return [WeightedUpdate(m.tensors, n, m.metrics, late) for m, n, late in made], metrics
        updates: list[WeightedUpdate] = []
        loss, examples = 0.0, 0
        for based_on in sorted({w.number for w in folded.values()}):
            members = [e for e, w in folded.items() if w.number == based_on]
            usual = [e for e in members if self.edges.counts[e] <= most]
            for group in filter(None, (usual, *([e] for e in members if self.edges.counts[e] > most))):
                for mean in self.edges.means(self._bases[based_on], group, based_on):
                    weight = mean.examples if group is usual else most
                    updates.append(WeightedUpdate(MemoryTensors(mean.update), weight, {}, number - based_on))
                    loss, examples = loss + mean.loss * weight, examples + weight
        return updates, {"loss": loss / examples}

    def _sum(self, made: Sequence[Made], base: Parameters, circle: int) -> WeightedUpdate:
        """All that the hub of a blind study has of a round, or of a group."""
        own, names = [(m.tensors, m.examples) for m in made], sent_names(self._strategy.rule, list(base))
        mean, weight = mean_of_sum(own, self.study.privacy, circle, MemoryTensors(base), names)
        return WeightedUpdate(MemoryTensors(mean), weight)

    def _reference_update(self, base: Parameters, number: int) -> Parameters | None:
        if self._reference is None:
            return None
        return self.learner.train(base, self._reference, seed=self.study.learner.seed, round=number).update


def _spoilt(made: Made) -> Made:
    """The same with NaN in every tensor of numbers with a point."""
    given = made.tensors
    shapes = {name: (shape, given.dtype(name)) for name, shape in given.shapes().items()}
    broken = {name: np.full(shape, np.nan if dtype.kind == "f" else 0, dtype) for name, (shape, dtype) in shapes.items()}
    return Made(MemoryTensors(broken), made.examples, made.metrics, {}, made.bytes)
