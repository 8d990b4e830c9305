"""Whether edges are being set aside just now: what is wrong with the study may be over when the last of them is.

A run of it lasts while no more than QUIET_ROUNDS rounds pass between one edge and the next, and while other edges stand accused:
the screens gather their evidence over rounds, and the loss names an edge before they are sure. Accusations alone begin no run;
those of most edges accuse the model: one that diverges by itself shows everywhere. Sans-I/O.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from wardround.watch.detectors.seen import EdgeSeen

QUIET_ROUNDS = 3
ACCUSED_SHARE = 0.5  # of the round's edges, who are looked for among the others


class SettingAside(msgspec.Struct):
    """Of one study. Memory: the names of the edges that are set aside."""

    edges: list[str] = []
    since: int = 0  # the newest run: its first and its newest round in which an edge was set aside; 0: none yet
    last: int = 0  # or in which others stood accused

    def look(self, number: int, seen: Mapping[str, EdgeSeen], accused: Collection[str] = ()) -> None:
        """Take a round, and who stands accused after it; an edge that did not answer is as it was."""
        known = {edge for edge in self.edges if edge not in seen or seen[edge].aside}
        fresh = {edge for edge, own in seen.items() if own.aside and not own.trial} - known
        if fresh:
            if not self.last or number - self.last > QUIET_ROUNDS:
                self.since = number
            self.last = number
        elif self.last and number - self.last <= QUIET_ROUNDS and 0 < len(set(accused) - known) <= ACCUSED_SHARE * len(seen):
            self.last = number
        self.edges = sorted(known | fresh)
