"""What the edges of a drilled blind study see of their own updates, and what the hub sees beside that: sums.

Each edge has the watch that a live one has (watch/own_watch.py). An attacker lies: the faults in ATTACKS are played by edges that
say nothing of themselves and sit nothing out. All others happen to edges that mean well. What an edge tries its update on are the
rows that it trains on, as a drill's held-back rows are nobody's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from wardround.drill.hearing import Hearing
from wardround.learn.learners import Learner
from wardround.learn.models import MemoryTensors, Parameters
from wardround.learn.privacy.modes import screens_itself
from wardround.learn.privacy.rehearsed import sees_updates
from wardround.learn.study import Study
from wardround.learn.triage import load
from wardround.learn.tried import AFTER, BEFORE, tried
from wardround.learn.virtual_edges import Made
from wardround.records import Examples
from wardround.watch.detectors.seen import EdgeSeen, RoundSeen
from wardround.watch.detectors.updates import Sketcher
from wardround.watch.own_watch import OwnWatch, own_signs

ATTACKS = ("alie", "creeping-update", "free-rider-stale", "free-rider-zero", "sybil")


class OwnEyes:
    """Of the edges of one run. Implements learn.interference.OwnScreens."""

    def __init__(self, study: Study, edges: int, liars: frozenset[str], examples: Callable[[], Mapping[str, Examples]]) -> None:
        """`liars` say nothing; `examples()` is what each edge trains on now."""
        self._budget = study.watch.false_alarms_per_1000 / max(1, edges)
        self._liars, self._examples = liars, examples
        self.screens = frozenset(own_signs()) if screens_itself(study) else frozenset[str]()
        self._blind = not sees_updates(study.privacy)
        self._by: tuple[Hearing, Learner] | None = None
        self._watches: dict[str, OwnWatch] = {}
        self._sketchers: dict[str, Sketcher] = {}
        self._said: list[tuple[int, str, str, float, float]] = []

    def see_by(self, hearing: Hearing, learner: Learner) -> None:
        """What counts the rows of edges on the study's scale, and what they train by; before the first round."""
        self._by = hearing, learner

    def told(self) -> list[tuple[int, str, str, float, float]]:
        """What was found since it was asked last: round, edge, screen, score, threshold."""
        said, self._said = self._said, []
        return said

    def sits_out(self, number: int, edge: str, base: Parameters, made: Made) -> str:
        if not self.screens or edge in self._liars:
            return ""
        watch = self._watches.setdefault(edge, OwnWatch("drill", budget_per_1000=self._budget))
        update = load(made.tensors)
        finite = all(bool(np.isfinite(t).all()) for t in update.values())
        looked = watch.look(number, self._seen(edge, base, update, made) if finite else EdgeSeen(), finite=finite)
        self._said += [(number, edge, screen, *looked.scores[screen]) for screen in looked.found]
        return looked.sits_out

    def left_of(self, seen: RoundSeen) -> RoundSeen:
        """What the hub hears of a round: in a blind study who answered and when, and its own step."""
        if not self._blind:
            return seen
        edges = {edge: EdgeSeen(examples=1, seconds=own.seconds) for edge, own in seen.edges.items()}
        return replace(seen, edges=edges)

    def _seen(self, edge: str, base: Parameters, update: Parameters, made: Made) -> EdgeSeen:
        assert self._by is not None  # noqa: S101 - said before a round is played
        hearing, learner = self._by
        rows = self._examples()[edge]
        own = rows.where(rows.labels >= 0)
        losses = tried(learner, base, update, own.where(np.zeros(len(own), bool)), own)
        sketcher = self._sketchers.setdefault(edge, Sketcher(edge))
        return EdgeSeen(
            examples=made.examples,
            loss=made.metrics.get("loss_before", made.metrics.get("loss")),
            inputs=hearing.inputs(edge, rows),
            update=sketcher.sketch(MemoryTensors(update)),
            tried_before=losses.get(BEFORE),
            tried_after=losses.get(AFTER),
        )
