"""Who is asked in a round: those with the fewest turns lately, ties by the study's seed. The same live and in a rehearsal.

Turns are counted over the newest rounds alone: an edge that joins late, or is rarely there, is asked soon and for some rounds,
and does not take over the study until it has as many turns as those who were there from the beginning.
"""

from __future__ import annotations

import collections
import math
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

from wardround.learn.privacy.modes import edges_max
from wardround.learn.study import Study

Name = TypeVar("Name", bound=str)
EVEN: Mapping[str, float] = MappingProxyType({})
ROUNDS_MIN, ROUNDS_MAX = 8, 1_000  # rounds over which turns are counted


class Turns:
    """Who was asked in the newest rounds."""

    def __init__(self, history: Iterable[Collection[str]] = ()) -> None:
        self._rounds: collections.deque[frozenset[str]] = collections.deque((frozenset(r) for r in history), maxlen=ROUNDS_MAX)

    def add(self, asked: Collection[str]) -> None:
        """A round, or an attempt at one, is over."""
        self._rounds.append(frozenset(asked))

    def counts(self, study: Study, eligible: int) -> dict[str, int]:
        """Turns by edge, over as many rounds as give each edge about four."""
        if not study.rounds.edges_max:
            return {}
        window = min(ROUNDS_MAX, max(ROUNDS_MIN, math.ceil(4 * eligible / study.rounds.edges_max)))
        newest = list(self._rounds)[-window:]
        return dict(collections.Counter(edge for asked in newest for edge in asked))


def choose(
    study: Study, eligible: Sequence[Name], turns: Mapping[str, int], number: int, weights: Mapping[str, float] = EVEN
) -> tuple[tuple[Name, ...], int]:
    """The edges asked in round `number`, and how many deliveries are enough.

    Args:
        eligible: the edges that are there, in order.
        turns: how often each was asked lately.
        weights: how much an edge is wanted, 1 where nothing is said: at 0.5 it gets half the turns, at 0 one only if nobody else
            is left.
    """
    settings, most = study.rounds, edges_max(study)
    if most is not None and len(eligible) > most:  # edges have joined since the study was checked; round 0 asks all
        eligible = sorted(random.Random(f"{study.learner.seed}/{number}/most").sample(eligible, most))  # noqa: S311
    buffered = settings.mode == "buffered" and number > 0
    if settings.edges_max == 0 or number == 0:
        return tuple(eligible), min(settings.buffer, len(eligible)) if buffered else len(eligible)
    shuffled = list(eligible)
    random.Random(f"{study.learner.seed}/{number}").shuffle(shuffled)  # noqa: S311 - fairness, not secrecy

    def place(edge: Name) -> float:
        weight = weights.get(edge, 1.0)
        return (turns.get(edge, 0) + 1) / weight if weight > 0 else math.inf

    shuffled.sort(key=place if weights else lambda edge: turns.get(edge, 0))
    asked = min(len(eligible), math.ceil(settings.edges_max * settings.over_selection))
    return tuple(sorted(shuffled[:asked])), min(settings.buffer if buffered else settings.edges_max, asked)
