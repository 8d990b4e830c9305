"""Who is asked in the next round, and for what. It decides and changes nothing: the coordinator writes down what comes of it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from wardround.clock import Clock
from wardround.learn.journal import Journal, OpenRound
from wardround.learn.pace import Pace
from wardround.learn.privacy.blind import Blind
from wardround.learn.privacy.central import Central
from wardround.learn.study import Study
from wardround.records import EdgeId


class Opening:
    """One study's. Used under the coordinator's lock."""

    def __init__(
        self,
        study: Study,
        journal: Journal,
        pace: Pace,
        clock: Clock,
        *,
        surveys: bool,
        blind: Blind | None,
        central: Central | None,
    ) -> None:
        """`surveys`: the study's one round is a survey."""
        self._study, self._journal, self._pace, self._clock = study, journal, pace, clock
        self._surveys, self._blind, self._central = surveys, blind, central

    def carries(self, number: int) -> bool:
        """Whether edges at work when this round ends go on: sums of round 0 have no older base to be stale of."""
        return self._study.rounds.mode == "buffered" and number > 0

    def eligible(self, attached: Collection[EdgeId], number: int) -> list[EdgeId]:
        """Who of those that are here may be asked now."""
        held_back = self._study.score.held_back_edges
        eligible = sorted(e for e in attached if e not in held_back and not self._pace.why_not(e))
        if self._blind is not None or self._central is not None:  # whose update nobody can set aside is not asked for one
            quarantined = self._journal.quarantined(number)
            eligible = [e for e in eligible if e not in quarantined]
        return eligible if self._blind is None else self._blind.eligible(eligible)

    def plan(
        self, eligible: Sequence[EdgeId], number: int, previous: OpenRound | None
    ) -> tuple[OpenRound, frozenset[EdgeId]] | None:
        """The next round, and whose updates it has already; None when nobody is drawn. `previous` is the last that was open."""
        participants, wanted, quorum = self._chosen(eligible, number)
        if not participants:
            return None
        delivered = frozenset(self._journal.accepted(number))  # of an abandoned attempt: acknowledged, so they count
        owed = self._owed(number)
        if delivered or owed:
            participants = tuple(sorted(delivered.union(participants, (EdgeId(e) for e in owed))))
        if delivered:
            all_asked = self._study.rounds.edges_max == 0 and not self.carries(number)
            wanted = len(participants) if all_asked else max(wanted, len(delivered))
        last = self._journal.last()
        open_ = OpenRound(
            number=number,
            attempt=previous.attempt + 1 if previous is not None and previous.number == number else 1,
            task="survey" if self._surveys else "train" if last is not None and last.model else "statistics",
            base="" if last is None else last.model,
            participants=participants,
            quorum=quorum,
            wanted=wanted,
            opened_us=self._clock.now_us(),
            owed=owed,
        )
        return open_, delivered

    def _chosen(self, eligible: Sequence[EdgeId], number: int) -> tuple[tuple[EdgeId, ...], int, int]:
        """Who is asked, how many deliveries are enough, and without how many the round comes to nothing."""
        quorum = self._study.rounds.edges_min
        if self._central is None:
            return *self._pace.choose(eligible, number), quorum
        drawn = self._central.choose(eligible) if self._central.enough(eligible) else ()
        return drawn, len(drawn), min(quorum, len(drawn))

    def _owed(self, number: int) -> dict[str, tuple[int, str]]:
        """Edges that still work on an older order, which is the one they are asked for; none is older than the study allows."""
        if not self.carries(number):
            return {}
        limit = self._study.rounds.staleness_max
        owed = {edge: order for edge, order in self._journal.owed().items() if number - order[0] <= limit}
        return {edge: order for edge, order in owed.items() if not self._journal.has(EdgeId(edge), order[0])}
