"""Who may be asked now, and when to ask again: the hub's half of pace steering, for one study.

An edge whose window is closed, whose condition does not do, or that has said no is not woken. Turns are counted over a window of
the newest rounds, whether an edge delivered or not: whoever was asked has had its turn, so that edges that never deliver do not
take the place of those that would. After an abandoned round the hub waits longer each time, and starts at once when a new edge is
there. Source: Bonawitz et al., Towards Federated Learning at Scale, MLSys 2019, arXiv:1902.01046, sections 2.2 and 2.3.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

from wardround.clock import Clock
from wardround.learn.abilities import why_unable
from wardround.learn.condition import Condition
from wardround.learn.schedule import lacks
from wardround.learn.selection import Turns, choose
from wardround.learn.study import Study
from wardround.records import EdgeId

RETRY_S, RETRY_S_MAX = 1.0, 30.0  # after the first abandoned attempt at a round, and at most
NOBODY: Mapping[str, float] = {}
Abilities: TypeAlias = Callable[[EdgeId], Collection[str]]
Held: TypeAlias = Callable[[EdgeId], str]


class Pace:
    """What the hub knows of its edges' readiness. `note` may be called from any thread; the rest under the coordinator's lock."""

    def __init__(
        self,
        study: Study,
        clock: Clock,
        history: Sequence[Collection[str]],
        weights: Callable[[], Mapping[str, float]] = lambda: NOBODY,
        abilities: Abilities | None = None,
        held: Held = lambda _edge: "",
    ) -> None:
        """`history` is who had a turn in each round so far; `weights()` is how much each edge is wanted (selection.py);
        `abilities(edge)` is what it said it can train, without which nobody is left out for that; `held(edge)` is why the hub
        itself asks nothing of it now, or empty."""
        self._abilities, self._held = abilities, held
        self._study, self._clock, self._weights = study, clock, weights
        self._conditions: dict[str, Condition] = {}
        self._turns = Turns(history)
        self._not_before_s = 0.0

    def note(self, edge: EdgeId, condition: Condition) -> None:
        """An edge's heartbeat."""
        self._conditions[edge] = condition

    def declined(self, edge: EdgeId, reason: str) -> None:
        """An edge has said no: it is not asked again before its next heartbeat says otherwise."""
        known = self._conditions.get(edge)
        if known is not None:
            self._conditions[edge] = replace(known, unwilling=reason)

    def why_not(self, edge: EdgeId) -> str:
        """Why this edge is not asked now; empty: it may be."""
        if unable := self.unable(edge):
            return unable
        if held := self._held(edge):
            return held
        condition = self._conditions.get(edge)
        own = condition.unwilling if condition is not None else ""
        return own or lacks(self._study.schedule, condition, self._clock.now_us())

    def unable(self, edge: EdgeId) -> str:
        """What the study asks for and this edge cannot do; empty: nothing."""
        return why_unable(self._study, self._abilities(edge)) if self._abilities is not None else ""

    def choose(self, eligible: Sequence[EdgeId], number: int) -> tuple[tuple[EdgeId, ...], int]:
        """Who is asked in a round, and how many deliveries are enough."""
        weights = self._weights() if self._study.rounds.edges_max else NOBODY  # where all are asked, nobody is weighed
        return choose(self._study, eligible, self._turns.counts(self._study, len(eligible)), number, weights)

    # -- when

    @property
    def waits(self) -> bool:
        """Whether it is too early for the next round."""
        return self._clock.monotonic_s() < self._not_before_s

    def committed(self, participants: Collection[str]) -> None:
        """A round is over; the next one may begin after the study's interval."""
        self._turns.add(participants)
        self._not_before_s = self._clock.monotonic_s() + self._study.rounds.interval_s

    def abandoned(self, attempt: int, missed: Collection[str]) -> None:
        """An attempt is over, in which those of `missed` did not deliver."""
        self._turns.add(missed)
        retry_s = self._clock.monotonic_s() + min(RETRY_S_MAX, RETRY_S * 2.0 ** min(attempt - 1, 10))
        self._not_before_s = max(self._not_before_s, retry_s)

    def came(self) -> None:
        """An edge has attached: what was hopeless without it need not wait longer. The interval between rounds stands."""
        if self._study.rounds.interval_s == 0:
            self._not_before_s = min(self._not_before_s, self._clock.monotonic_s() + RETRY_S)
