"""What fewer edges in a round do to the round's means, without anything being wrong.

Edges differ, and once training is near its end their updates all but cancel: what is left of the mean grows as fewer of them are
in it. With n of N edges, of whose difference a share rho is the edge's own, its variance goes as (1 - rho n / N) / n
(Cochran, Sampling Techniques, 1977, 2.6: the finite population correction). Half of the usual edges make the hub's steps more
than twice as long.
"""

from __future__ import annotations

import math

from wardround.watch.detectors.own_past import OwnPast
from wardround.watch.detectors.seen import RoundSeen

OWN = 0.95  # rho
KEY = "edges"  # of the count in a detector's past, whose numbers of the study have the key ""


def counted(seen: RoundSeen) -> float:
    """Edges whose updates are in the model."""
    return float(sum(not own.aside for own in seen.edges.values()))


def longer(past: OwnPast, seen: RoundSeen) -> float:
    """By how much the round's means may deviate more than they usually do, as their edges are fewer than usual; at least 1."""
    now = counted(seen)
    judged = past.z(KEY, now)
    if judged is None or not 0 < now < judged[1]:
        return 1.0
    everybody = max(float(seen.asked), judged[1])
    return math.sqrt(_variance(now, everybody) / _variance(judged[1], everybody))


def _variance(edges: float, everybody: float) -> float:
    return (1.0 - OWN * edges / everybody) / edges
