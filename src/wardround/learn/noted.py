"""What of the refusals in one attempt at a round is written down: an edge that says the same thing without end, or thinks of ever
new things, costs no write to the disk each time, and no line in what people see."""

from __future__ import annotations

from wardround.learn.in_progress import InProgress

UPLOADS_MAX = 8  # refused ones of one edge in one attempt: an edge that works as it should has one


class Noted:
    """One study's. Read and moved under the coordinator's lock."""

    def __init__(self, now: InProgress) -> None:
        self._now = now
        self._attempt = (-1, 0)
        self._said: set[tuple[str, str]] = set()  # edges and reasons
        self._uploads: dict[str, int] = {}  # by edge

    def is_first(self, edge: str, reason: str) -> bool:
        """Whether this edge is refused for this reason for the first time in the attempt."""
        self._begin()
        before = len(self._said)
        self._said.add((edge, reason))
        return len(self._said) > before

    def is_one_of_few(self, edge: str) -> bool:
        """Whether this refused upload is among the first of this edge in the attempt."""
        self._begin()
        self._uploads[edge] = count = self._uploads.get(edge, 0) + 1
        return count <= UPLOADS_MAX

    def _begin(self) -> None:
        attempt = (self._now.next_number, self._now.open.attempt if self._now.open is not None else 0)
        if attempt != self._attempt:
            self._attempt, self._said, self._uploads = attempt, set(), {}
