"""Calls that must not be carried out twice: `Idempotency-Key`.

Kept in memory for a day, the newest ten thousand: a restart of the hub forgets them. That is enough for what they stand before
(an invitation that nobody uses ends by itself; a study that is paused twice is paused). An answer with a secret is not kept.
"""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from wardround.api.problems import Refused
from wardround.clock import Clock

T = TypeVar("T")
KEPT_S = 24 * 3600.0
KEPT_MAX = 10_000


@dataclass(slots=True)
class _Call:
    at_s: float
    what: str
    done: bool = False
    answer: Any = None


class Repeats:
    """Which keys were used for what. Safe to use from several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._calls: OrderedDict[str, _Call] = OrderedDict()

    def once(self, what: str, token_id: str, key: str, act: Callable[[], T], *, secret: bool = False) -> T:
        """What `act` gives: carried out once for a key of a token, without a key each time. What fails may be tried again.

        Raises:
            Refused: the key was used for another call, the first call is not over, or its answer was a secret.
        """
        if not key:
            return act()
        name = hashlib.sha256(f"{token_id}\0{key}".encode()).hexdigest()
        call = _Call(self._clock.monotonic_s(), hashlib.sha256(what.encode()).hexdigest())
        with self._lock:
            self._forget(call.at_s)
            before = self._calls.setdefault(name, call)
        if before is not call:
            again: T = self._again(before, call.what)
            return again
        try:
            answer = act()
        except BaseException:
            with self._lock:
                self._calls.pop(name, None)
            raise
        call.answer, call.done = None if secret else answer, not secret
        return answer

    @staticmethod
    def _again(before: _Call, what: str) -> Any:
        if before.what != what:
            raise Refused(422, "header.Idempotency-Key: this key was used for another call", remedy="choose a new key")
        if not before.done:
            raise Refused(409, "this call was made before, with this key", remedy="choose a new key to make it again")
        return before.answer

    def _forget(self, now_s: float) -> None:
        while self._calls:
            oldest = next(iter(self._calls.values()))
            if len(self._calls) < KEPT_MAX and now_s - oldest.at_s <= KEPT_S:
                return
            self._calls.popitem(last=False)
