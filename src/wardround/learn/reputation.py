"""How much an edge's answers have been of use lately: what decides how often it is asked. Pure: no clock, no files.

Beta reputation: of an edge that gave r of good and s of bad evidence, the next answer is good with the expectation
(r + 1) / (r + s + 2) of a Beta distribution that began even. Evidence is forgotten by a constant factor a round, so that an edge
that was repaired is believed again: after seven rounds half of what spoke against it is gone.
Source: Jøsang and Ismail, The Beta Reputation System, 15th Bled Electronic Commerce Conference, 2002, sections 2 and 5.

The kinds of bad evidence weigh differently, which is our own choice: an update that triage refused or the screen set aside would
have done harm, a training that failed cost a turn, and to be late is mostly the lot of who is slow. What was set aside only for
its edge's quarantine says nothing new and is no evidence, nor is an edge's own schedule. Reputation decides who is asked, and
nothing else: no update weighs more or less in the fold for it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

FORGET = 0.9  # what is left of evidence after a round
ROUNDS = 50  # older evidence is worth less than a hundredth
BAD: Mapping[str, float] = MappingProxyType({"refused": 1.0, "aside": 1.0, "failed": 0.5, "late": 0.1})
WEIGHT_MIN = 0.25  # an edge with no turn lately still comes before one with four of them: nobody is starved (selection.py)


@dataclass(frozen=True, slots=True)
class Experience:
    """What became of an edge's answer in a round: accepted, sat-out, or one of BAD."""

    round_number: int
    edge: str
    verdict: str


@dataclass(frozen=True, slots=True)
class Reputation:
    """Good and bad evidence, as it is left; `seen` counts the verdicts it came from."""

    good: float = 0.0
    bad: float = 0.0
    seen: Mapping[str, int] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The expectation that the next answer is of use: 0.5 of an edge that nothing is known of."""
        return (self.good + 1.0) / (self.good + self.bad + 2.0)

    @property
    def weight(self) -> float:
        """How much the edge is wanted: 1 for everybody who is not worse than a newcomer, and never less than WEIGHT_MIN."""
        return min(1.0, max(WEIGHT_MIN, 2.0 * self.score))


def reputations(experiences: Iterable[Experience], now: int) -> dict[str, Reputation]:
    """The reputation of each edge as round `now` opens. A verdict counts once a round, however often it came."""
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    good: defaultdict[str, float] = defaultdict(float)
    bad: defaultdict[str, float] = defaultdict(float)
    for one in set(experiences):
        age = max(0, now - 1 - one.round_number)
        if age >= ROUNDS:
            continue
        seen[one.edge][one.verdict] += 1
        if one.verdict == "accepted":
            good[one.edge] += FORGET**age
        elif one.verdict in BAD:  # who has sat a round out has said so, and is not held to be worse for it
            bad[one.edge] += BAD[one.verdict] * FORGET**age
    return {edge: Reputation(good[edge], bad[edge], dict(counts)) for edge, counts in sorted(seen.items())}
