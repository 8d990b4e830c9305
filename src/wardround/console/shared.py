"""A read model that many pages share: built at most once in a while, whoever asks."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

from wardround.clock import Clock

T = TypeVar("T")


class Shared(Generic[T]):
    """Safe to ask from several threads: one builds, the others wait for it."""

    def __init__(self, build: Callable[[], T], clock: Clock, *, keep_s: float = 0.9) -> None:
        self._build, self._clock, self._keep_s = build, clock, keep_s
        self._lock = threading.Lock()
        self._built_s = -math.inf
        self._model: T | None = None

    def __call__(self) -> T:
        """The read model, `keep_s` old at most."""
        with self._lock:
            now_s = self._clock.monotonic_s()
            if self._model is None or now_s - self._built_s >= self._keep_s:
                self._model = self._build()
                self._built_s = now_s
            return self._model

    def forget(self) -> None:
        """Something was changed: the next look builds it anew."""
        with self._lock:
            self._built_s = -math.inf
