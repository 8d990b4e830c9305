"""Whether edges are being set aside just now: what is wrong with the study may be over when the last of them is.

A run of it lasts while no more than QUIET_ROUNDS rounds pass between one edge and the next. Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from wardround.watch.detectors.seen import EdgeSeen

QUIET_ROUNDS = 3


class SettingAside(msgspec.Struct):
    """Of one study. Memory: the names of the edges that are set aside."""

    edges: list[str] = []
    since: int = 0  # the newest run: its first and its newest round in which an edge was set aside; 0: none yet
    last: int = 0

    def look(self, number: int, seen: Mapping[str, EdgeSeen]) -> None:
        """Take a round; an edge that did not answer is as it was."""
        known = {edge for edge in self.edges if edge not in seen or seen[edge].aside}
        fresh = {edge for edge, own in seen.items() if own.aside} - known
        if fresh:
            if not self.last or number - self.last > QUIET_ROUNDS:
                self.since = number
            self.last = number
        self.edges = sorted(known | fresh)
