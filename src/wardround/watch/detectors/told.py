"""What an edge says of itself, where the hub sees no update: its own screens have found something.

The thresholds are the edge's (own_watch.py) and hold at the edge: here a score is what is furthest beyond its threshold, over
that threshold, and nothing is said of what stays below, so that nothing is calibrated twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

from wardround.watch.detectors.seen import Found, RoundSeen, Scored, Sign

KIND = "edge-own-screen"


class Told:
    """Of one study. Remembers nothing: an edge remembers for itself."""

    signs: Mapping[str, Sign] = MappingProxyType({"own-screen": Sign(KIND, 1.0, "an edge's own score over its threshold")})

    def score(self, seen: RoundSeen) -> Found:
        found: dict[str, Scored] = {}
        for edge, own in seen.edges.items():
            beyond = sorted(
                ((score / limit, sign) for sign, (score, limit) in own.own.items() if score > limit > 0), reverse=True
            )
            if beyond:
                out = 1.0 if own.aside else 0.0
                found[edge] = Scored(beyond[0][0], out, 0.0, tuple((sign, round(ratio, 2)) for ratio, sign in beyond))
        return {"own-screen": found}

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        """There is nothing to learn."""

    def state(self) -> bytes:
        return b""

    def restore(self, state: bytes) -> None:
        """There is nothing to take up."""
