"""From the updates of a round that were accepted: who counts, and the next model on disk. Under the coordinator's lock.

The screen says whom it refuses, the strategy folds the others, and those that are replayed; of a blind study there is only the
sum. What is written here is nobody's model until the journal says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from wardround.learn.blobs import Blobs
from wardround.learn.journal import Accepted, Journal, Judged, Kept, OpenRound, Replay, memory_name, model_name, update_name
from wardround.learn.models import MemoryTensors, Parameters, Step, TensorSource, decode_model, digest, model_parts
from wardround.learn.privacy.blind import Blind
from wardround.learn.privacy.central import Central
from wardround.learn.reception import Models, Reception
from wardround.learn.rollbacks import is_paired
from wardround.learn.scaling import check_sums, fold_sums, with_scaling
from wardround.learn.strategies import Fold, Folded, Strategy, WeightedUpdate
from wardround.learn.study import Study
from wardround.learn.survey import SurveySettings
from wardround.learn.triage import ON_TRIAL, Screen, Verdict, load
from wardround.records import EdgeId, ModelDigest

IN_QUARANTINE = "quarantined"  # why an update is set aside that the screen had nothing against
Reference = Callable[[Parameters, int], Parameters | None]
Told = Callable[[str, str, Verdict, int], None]  # kind of event, edge, verdict, until which round


class Making:
    """Of one study."""

    def __init__(
        self,
        study: Study,
        *,
        initial: Callable[[], Parameters],
        strategy: Strategy,
        screen: Screen,
        survey: SurveySettings | None,
        reference: Reference,
        journal: Journal,
        blobs: Blobs,
        models: Models,
        reception: Reception,
        blind: Blind | None,
        central: Central | None,
    ) -> None:
        """As Coordinator, which hands everything on."""
        self._study, self._initial, self._strategy, self._screen = study, initial, strategy, screen
        self._survey, self._reference, self._journal, self._blobs = survey, reference, journal, blobs
        self._models, self._reception, self._blind, self._central = models, reception, blind, central

    def judged(self, open_: OpenRound, accepted: Mapping[EdgeId, Accepted], told: Told) -> dict[EdgeId, Judged]:
        """What becomes of each update: whom the screen refuses is set aside, as is who was quarantined before, or is on trial.

        `told` hears of each edge that the screen sets aside now ("quarantined"), and whose trial begins ("on-trial") or has ended
        well ("admitted").
        """
        if open_.task != "train":
            return {e: Judged("") for e in accepted}
        before = self._journal.quarantined(open_.number)
        verdicts = self._screened(open_, accepted, told)
        judged: dict[EdgeId, Judged] = {}
        for edge in accepted:
            verdict = verdicts.get(edge)
            score, threshold = (verdict.score, verdict.threshold) if verdict is not None else (0.0, 0.0)
            if verdict is not None and verdict.reason == ON_TRIAL:
                judged[edge] = Judged(ON_TRIAL, f"update {verdict.score:.0f} of {verdict.threshold:.0f} of its trial")
            elif verdict is not None and not verdict.accepted:
                judged[edge] = Judged(verdict.reason, f"score {score:.3g}, threshold {threshold:.3g}", score, threshold)
            elif before.get(edge, ON_TRIAL) != ON_TRIAL:
                judged[edge] = Judged(IN_QUARANTINE, before[edge], score, threshold)
            else:
                judged[edge] = Judged("", "", score, threshold)
        return judged

    def made(self, open_: OpenRound, counted: Sequence[Accepted], late: Sequence[tuple[Replay, Kept]]) -> ModelDigest:
        """The next model, on disk. Where every update was set aside it is the base: the round is over, so quarantines run out."""
        if not counted and not late:
            return ModelDigest(open_.base)
        made = self._folded(open_, counted, late)
        parts = model_parts(made.model)
        name = digest(parts)
        self._blobs.write(model_name(name), parts)
        if made.memory:
            self._blobs.write(memory_name(name), model_parts(made.memory))
        if open_.task == "train" and not self._strategy.rule.trees:
            with self._models.tensors(open_.base) as base:
                self._screen.stepped(Step(base, made.model))
        return name

    def _screened(self, open_: OpenRound, accepted: Mapping[EdgeId, Accepted], told: Told) -> Mapping[str, Verdict]:
        """Ask the screen; whom it refuses is quarantined. Trees have no coordinates that it could compare.

        Where noise hides each unit nobody is set aside beside the others: one edge could change who counts, and by more than the
        noise hides. An edge can move the model by its clip, whatever it sends.
        """
        if self._strategy.rule.trees or self._blind is not None or self._central is not None:
            return {}
        with ExitStack() as opened:
            stored = {e: opened.enter_context(self._blobs.tensors(update_name(open_.number, e))) for e in sorted(accepted)}
            updates = {str(e): self._reception.decoded(tensors, open_.base) for e, tensors in stored.items()}
            before = self._journal.quarantined(open_.number)
            aside = {str(e) for e, why in before.items() if why != ON_TRIAL}
            verdicts: Mapping[str, Verdict] = self._screen.judge_round(open_.number, updates, aside)
        until = open_.number + self._study.triage.quarantine_rounds
        for name, verdict in sorted(verdicts.items()):
            edge = EdgeId(name)
            if edge not in accepted:
                continue
            if verdict.reason == ON_TRIAL:
                self._tried(edge, verdict, until, before.get(edge, ""), told)
            elif not verdict.accepted:
                self._journal.quarantine(edge, until, verdict.reason)
                told("quarantined", name, verdict, until)
            elif before.get(edge) == ON_TRIAL:  # the round was judged before, and admitted it
                self._journal.release(edge)
        return verdicts

    def _tried(self, edge: EdgeId, verdict: Verdict, until: int, why: str, told: Told) -> None:
        """An edge's trial has gone on by an update. Who is set aside for another reason (`why`) stays it."""
        if why not in ("", ON_TRIAL):
            return
        if verdict.score >= verdict.threshold:
            self._journal.release(edge)
            told("admitted", edge, verdict, until)
            return
        self._journal.quarantine(edge, until, ON_TRIAL)
        if not why:
            told(ON_TRIAL, edge, verdict, until)

    def _folded(self, open_: OpenRound, accepted: Sequence[Accepted], late: Sequence[tuple[Replay, Kept]]) -> Folded:
        """The next model, of this round's updates and of older ones that are replayed."""
        with ExitStack() as opened:
            sources = [opened.enter_context(self._blobs.tensors(update_name(open_.number, a.edge))) for a in accepted]
            if self._blind is not None:
                return self._folded_blind(self._blind, open_, {a.edge: s for a, s in zip(accepted, sources, strict=True)}, opened)
            if open_.task != "train":
                sums = fold_sums(load(source) for source in sources)
                if self._survey is not None:
                    return Folded(sums)
                return Folded(with_scaling(self._initial(), sums, class_weighting=self._study.learner.class_weighting))
            base = opened.enter_context(self._models.tensors(open_.base))
            if self._central is not None:  # of an open hub: a blind one is above
                self._central.check_due([a.edge for a in accepted])
                decoded = [self._reception.decoded(source, open_.base) for source in sources]
                names = self._reception.expected(open_.base, base)
                mean = self._central.mean(open_.number, open_.attempt, base, names, decoded)
                return self._strategy.fold(
                    Fold(base, [WeightedUpdate(MemoryTensors(mean), 1)], self._memory(open_.base), self._journal.fleet())
                )
            updates = [
                WeightedUpdate(self._reception.decoded(source, open_.base), a.examples, a.metrics, open_.number - a.based_on)
                for source, a in zip(sources, accepted, strict=True)
            ]
            for replay, kept in late:
                source = opened.enter_context(self._blobs.tensors(update_name(replay.from_round, replay.edge)))
                own = self._reception.decoded(source, open_.base)
                stale = open_.number - replay.based_on
                updates.append(WeightedUpdate(own, replay.examples, kept.update.metrics, stale))
            reference = self._reference(load(base), open_.number) if self._strategy.wants_reference else None
            return self._strategy.fold(Fold(base, updates, self._memory(open_.base), self._journal.fleet(), reference))

    def _folded_blind(self, blind: Blind, open_: OpenRound, sources: Mapping[EdgeId, TensorSource], opened: ExitStack) -> Folded:
        """The next model, of the sum of masked updates alone, or of the sums of groups."""
        if self._central is not None:
            with self._models.tensors(open_.base) as base:
                parameters = sum(math.prod(base.shapes()[n]) for n in self._reception.expected(open_.base, base))
            self._central.spend(open_.number, open_.attempt, parameters)
        totals = blind.unmasked(sources)
        if open_.task == "statistics":
            sums = blind.sums(totals[0], self._reception.shape)
            check_sums(sums, *self._reception.shape)
            return Folded(with_scaling(self._initial(), sums, class_weighting=self._study.learner.class_weighting))
        base = opened.enter_context(self._models.tensors(open_.base))
        means = [blind.mean(total, base, self._reception.expected(open_.base, base)) for total in totals]
        updates = [WeightedUpdate(MemoryTensors(mean), examples) for mean, examples in means]
        return self._strategy.fold(Fold(base, updates, self._memory(open_.base), self._journal.fleet()))

    def _memory(self, model: str) -> Parameters:
        """What the strategy remembers beside a model; nothing at the start, and nothing without its other half."""
        last, rollbacks = self._journal.last(), self._journal.rollbacks()
        if rollbacks and last is not None and last.number == rollbacks[-1].number and is_paired(self._strategy.rule):
            return {}
        try:
            return decode_model(self._blobs.read(memory_name(model)))
        except FileNotFoundError:
            return {}


def weighted_metrics(accepted: Mapping[EdgeId, Accepted], folded: Mapping[EdgeId, int]) -> dict[str, float]:
    """The participants' own metrics, averaged by examples."""
    total = sum(folded.values())
    names = {name for edge in folded for name in accepted[edge].metrics}
    return {
        name: sum(accepted[e].metrics.get(name, 0.0) * n for e, n in folded.items()) / total
        for name in sorted(names)
        if all(name in accepted[e].metrics for e in folded)
    }
