"""Who holds whose shares: neighbours and thresholds of a round with masks, from the number of edges alone.

Up to COMPLETE_MAX edges everybody is everybody's neighbour, and a secret needs more than two thirds of the edges. Beyond, each
edge picks `holders` others at random; the first `partners` of them share a pairwise mask with it. The sizes follow from union
bounds over exact hypergeometric tails, for a fifth of the edges in league with the hub and a fifth that drop out:

- privacy: no edge has `threshold` corrupt holders, but with 2^-40;
- cancelling: no edge is left with corrupt and dropped partners alone, but with 2^-40;
- completion: no edge has fewer than `threshold` holders left, but with 2^-20.

Source: Bell, Bonawitz, Gascon, Lepoint, Raykova, Secure Single-Server Aggregation with (Poly)Logarithmic Overhead, CCS 2020,
IACR 2020/704, section 3. There the graph is the hub's to draw; here each edge draws its own holders, which no hub can steer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

COMPLETE_MAX = 50
EDGES_MIN = 3  # of two, each could subtract itself and see the other
EDGES_MAX = 60_000  # places of shares are 16 bits
CIRCLE_MAX = 3_000  # edges of a live round: beyond, their keys and certificates outgrow a message, and nobody's link is for that
CORRUPT, DROPPED = 5, 5  # one in so many
PRIVACY_BITS, COMPLETION_BITS = 40, 20


@dataclass(frozen=True, slots=True)
class Plan:
    """The sizes for a circle of `edges`. Hub and edges compute it each for themselves: nobody is told."""

    edges: int
    holders: int  # others that an edge gives shares to; it keeps one share of its own
    partners: int  # of these, those it shares a pairwise mask with; whoever picked it is a partner as well
    threshold: int  # shares that rebuild a secret
    quorum: int  # survivors, and signatures under their list, without which nothing is opened: more than two thirds

    @property
    def complete(self) -> bool:
        """Whether everybody is everybody's neighbour."""
        return self.holders == self.edges - 1


@lru_cache(maxsize=256)
def plan(edges: int) -> Plan:
    """The sizes for so many edges.

    Raises:
        ValueError: there are too few or too many.
    """
    if not EDGES_MIN <= edges <= EDGES_MAX:
        raise ValueError(f"masks need {EDGES_MIN} to {EDGES_MAX} edges, and {edges} are there")
    quorum = 2 * edges // 3 + 1
    if edges <= COMPLETE_MAX:
        return Plan(edges, edges - 1, edges - 1, quorum, quorum)
    for holders in range(10, edges - 1, 2):
        threshold = _threshold(edges, holders)
        if threshold and _cancels(edges, holders // 2):
            return Plan(edges, holders, holders // 2, threshold, quorum)
    return Plan(edges, edges - 1, edges - 1, quorum, quorum)


def _threshold(edges: int, holders: int) -> int:
    """The largest threshold that a round survives, if it is one that the corrupt do not reach; else 0."""
    others, all_ = edges - 1, math.comb(edges - 1, holders)
    corrupt = _counts(others, edges // CORRUPT, holders)
    dropped = _counts(others, edges // DROPPED, holders)
    low = next((t for t in range(2, holders + 1) if (edges * sum(corrupt[t:])) << PRIVACY_BITS <= all_), 0)
    high = next((t for t in range(holders, 1, -1) if (edges * sum(dropped[holders - t + 1 :])) << COMPLETION_BITS <= all_), 0)
    return high if 0 < low <= high else 0


def _cancels(edges: int, partners: int) -> bool:
    """Whether every edge keeps an honest partner: one it picked, or one that picked it."""
    others, bad = edges - 1, edges // CORRUPT + edges // DROPPED
    good = others - bad
    picked_none = math.comb(bad, partners)  # of comb(others, partners)
    # each good one picks others: (1 - partners/others)^good, as exact integers over others^good
    risk = edges * picked_none * int((others - partners) ** good) << PRIVACY_BITS
    return risk <= math.comb(others, partners) * int(others**good)


def _counts(population: int, marked: int, drawn: int) -> list[int]:
    """How many of the comb(population, drawn) draws hold i marked ones, for i of 0 to `drawn`."""
    return [math.comb(marked, i) * math.comb(population - marked, drawn - i) for i in range(drawn + 1)]
