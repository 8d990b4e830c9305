"""What an open page reads of the hub: beside the page, for its first picture if it comes soon, and again while somebody looks.

A page that waited for a slow disk would not open; this one opens without, and fills itself.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

import structlog

from wardround.console.looking import Held
from wardround.errors import NotAllowed, WardroundError

log = structlog.get_logger(__name__)
T = TypeVar("T")
FIRST_S = 1.0  # that a page waits for its first picture
THREADS = 4


class Page(Generic[T]):
    """One open page's. `value` is the newest that was read, None until there is one; `done`: something was read."""

    def __init__(self) -> None:
        self.value: T | None = None
        self.refused: NotAllowed | None = None
        self.failed = ""
        self.done = False
        self.began_s = float("-inf")
        self.running: Future[None] | None = None

    def read(self, read: Callable[[], T | None]) -> None:
        """Once, in a thread of its own."""
        try:
            self.value = read()
            self.refused, self.failed, self.done = None, "", True
        except NotAllowed as refused:
            self.value, self.refused, self.done = None, refused, True
        except WardroundError as error:  # the last picture stays, with its time
            log.error("a page could not be read", error=str(error))
            self.failed = str(error)


class Reading(Generic[T]):
    """Everybody's who has one kind of screen open. May be called from any thread."""

    def __init__(self, *, again_s: float) -> None:
        self._again_s = again_s
        self._lock = threading.Lock()
        self._pages: weakref.WeakKeyDictionary[Held, Page[T]] = weakref.WeakKeyDictionary()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="console-reading")

    def look(self, held: Held, read: Callable[[], T | None], *, once: bool = False) -> Page[T]:
        """The page's newest; read again where it is time. `once`: what was read does not change any more."""
        with self._lock:
            page = self._pages.setdefault(held, Page())
            idle = page.running is None or page.running.done()
            due = time.monotonic() - page.began_s >= self._again_s and not (once and page.done)
            if idle and due:
                page.began_s = time.monotonic()
                page.running = self._threads.submit(page.read, read)
        if not page.done and page.running is not None:
            wait([page.running], FIRST_S)
        return page
