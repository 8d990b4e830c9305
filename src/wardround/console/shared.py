"""A read model that many pages share: built at most once in a while, whoever asks; and at once when there is news."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from wardround.clock import Clock

T = TypeVar("T")
APART_S, LOOK_S = 0.15, 0.05  # between two read models at least; between two looks for news
REST = 4.0  # times as long as the last one took


class Changes:
    """Whether something has happened that pages should show before it is time."""

    def __init__(self) -> None:
        self._there = threading.Event()

    def tell(self) -> None:
        """Something has happened. May be called from any thread."""
        self._there.set()

    async def wait(self, seconds: float, *, took_s: float = 0.0) -> None:
        """Until something happens, for so many seconds at most, and for a moment at least: news may come in storms.

        Args:
            took_s: how long it took to make something of the news; four times as long it rests, so that no storm has more than a
                fifth of a core for it.
        """
        rest_s = min(max(APART_S, REST * took_s), seconds)
        await asyncio.sleep(rest_s)
        for _ in range(round((seconds - rest_s) / LOOK_S)):
            if self._there.is_set():
                break
            await asyncio.sleep(LOOK_S)
        self._there.clear()


class Shared(Generic[T]):
    """Safe to ask from several threads: one builds, the others wait for it."""

    def __init__(
        self, build: Callable[[], T], clock: Clock, *, keep_s: float = 0.9, of: Callable[[], object] = lambda: None
    ) -> None:
        """`of()` is what it is made of, cheap to ask: once that is another object, the next look builds anew."""
        self._build, self._clock, self._keep_s, self._of = build, clock, keep_s, of
        self._lock = threading.Lock()
        self._built_s = -math.inf
        self._model: T | None = None
        self._made_of: object = None

    def __call__(self) -> T:
        """The read model, `keep_s` old at most, of what there is now."""
        with self._lock:
            now_s, made_of = self._clock.monotonic_s(), self._of()
            if self._model is None or now_s - self._built_s >= self._keep_s or made_of != self._made_of:
                self._model = self._build()
                self._built_s, self._made_of = now_s, made_of
            return self._model

    def forget(self) -> None:
        """Something was changed: the next look builds it anew."""
        with self._lock:
            self._built_s = -math.inf
