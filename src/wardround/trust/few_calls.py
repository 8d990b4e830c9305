"""How many calls a peer may have open: each holds up to a message of it in memory, and nobody needs many."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator

ANY = ""  # stands for all methods together


class FewCalls:
    """Those of one listener, in one event loop."""

    def __init__(self, most: int, in_all: int) -> None:
        """Of one peer: of one method, and of all together."""
        self._most, self._in_all = most, in_all
        self._open: Counter[tuple[str, str]] = Counter()

    def is_full(self, peer: str, method: str) -> bool:
        """Whether another one would be too many."""
        return self._open[peer, method] >= self._most or self._open[peer, ANY] >= self._in_all

    @contextlib.contextmanager
    def one(self, peer: str, method: str) -> Iterator[None]:
        """It is open while the block lasts."""
        keys = (peer, method), (peer, ANY)
        self._open.update(keys)
        try:
            yield
        finally:
            self._open.subtract(keys)
            for key in keys:
                if not self._open[key]:
                    del self._open[key]
