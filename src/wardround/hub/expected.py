"""Which edges have been here, kept across the hub's starts: one that went away while the hub was away is missed all the same."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from wardround.store import Store
from wardround.watch.watcher import Watch

STATE = "edges-attached"
WITHIN_S = 60.0  # after a start: an edge tries again every two seconds, but thousands come at once


class Expected:
    """One hub's. Used by one thread at a time."""

    def __init__(self, store: Store, watch: Watch) -> None:
        self._store = store
        known = msgspec.json.decode(store.load_state(STATE) or b"[]", type=set[str])
        self._known = known & {edge.name for edge in store.edges() if edge.revoked_us is None}
        watch.expect(self._known, within_s=WITHIN_S)

    def note(self, attached: Collection[str]) -> None:
        """These are here; the disk is written when one of them never was. Call it about once a second."""
        if not self._known.issuperset(attached):
            self._known.update(attached)
            self._store.save_state(STATE, msgspec.json.encode(sorted(self._known)))
