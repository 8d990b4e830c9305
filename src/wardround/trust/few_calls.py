"""How many calls of one kind a peer may have open: each holds up to a message of it in memory, and nobody needs many."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator


class FewCalls:
    """Those of one listener, in one event loop."""

    def __init__(self, most: int) -> None:
        """Of one method and one peer."""
        self.most = most
        self._open: Counter[tuple[str, str]] = Counter()

    def __len__(self) -> int:
        return self._open.total()

    def is_full(self, peer: str, method: str) -> bool:
        """Whether another one would be too many."""
        return self._open[peer, method] >= self.most

    @contextlib.contextmanager
    def one(self, peer: str, method: str) -> Iterator[None]:
        """It is open while the block lasts."""
        key = (peer, method)
        self._open[key] += 1
        try:
            yield
        finally:
            self._open[key] -= 1
            if not self._open[key]:
                del self._open[key]
