"""The round in progress: what was asked (the journal's row) and where it stands (the state machine's)."""

from __future__ import annotations

from wardround.learn.journal import Journal, OpenRound
from wardround.learn.rounds import RoundState
from wardround.records import EdgeId

NOT_ASKED = (-1, "")


class InProgress:
    """One study's. Read and moved under the coordinator's lock.

    `open` outlives `state`: of a round that was given up it still says which attempt it was.
    """

    def __init__(self, journal: Journal) -> None:
        self.open: OpenRound | None = None
        self.state: RoundState | None = None
        self._journal = journal

    @property
    def next_number(self) -> int:
        """The number of the round that is open, or would be."""
        last = self._journal.last()
        return 0 if last is None else last.number + 1

    def asked(self, edge: EdgeId) -> tuple[int, str]:
        """The round and the base that an edge is asked for; NOT_ASKED when it is not."""
        if self.open is None or edge not in self.open.participants:
            return NOT_ASKED
        return self.open.owed.get(edge, (self.open.number, self.open.base))

    def over(self) -> None:
        """There is none."""
        self.open = self.state = None
