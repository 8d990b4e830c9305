"""From files to an edge's gate: to the running edge through its queue, or through the gate opened here where none runs."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from wardround.collect.devices.reading import Reading, Taken
from wardround.collect.files.opened import Opened
from wardround.collect.imports import BATCH_BYTES, BATCH_READINGS, Imports, take_waiting
from wardround.errors import CollectError, HomeTaken, SettingsError

if TYPE_CHECKING:
    from wardround.edge import EdgeHome
    from wardround.trust.consent import ConsentRegister

STUCK_S = 60.0
STEP_S = 0.1


class Hand:
    """Hands readings of one device over, file by file."""

    def __init__(self, home: EdgeHome, consents: ConsentRegister, imports: Imports, device: str) -> None:
        self._home, self._consents, self._imports, self._device = home, consents, imports, device
        self._batch: list[Reading] = []
        self._size = 0
        self._ticket = secrets.token_hex(8)

    @classmethod
    @contextmanager
    def open(cls, path: Path, patient: str, device: str) -> Iterator[Hand]:
        """Open an edge's home, and see that the device is the patient's.

        Raises:
            SettingsError: there is no edge, or the device is somebody else's.
        """
        from wardround.edge import EdgeHome  # noqa: PLC0415

        home = EdgeHome.open(path)
        registry = home.registry()
        known = registry.get(device)
        if known is None:
            registry.add(device, patient)
        elif known.patient != patient:
            raise SettingsError(
                f"device {device!r} belongs to another patient", remedy="give the recordings a device name of their own"
            )
        consents, imports = home.consents(), home.imports()
        try:
            yield cls(home, consents, imports, device)
        finally:
            imports.close()
            consents.close()

    def put(self, reading: Reading) -> None:
        """Take a reading; waits while the queue is full.

        Raises:
            CollectError: nothing was taken out of it for a minute.
            StorageFull: no edge runs, and there is no room at this one.
        """
        self._batch.append(reading)
        self._size += len(reading.values or b"") + len(reading.offsets_us or b"") + 200
        if len(self._batch) >= BATCH_READINGS or self._size >= BATCH_BYTES:
            self._queue()

    def finish(self) -> Taken:
        """The file is at its end: what became of it, once all of it is durable."""
        if self._batch:
            self._queue()
        self._wait(lambda: self._imports.left(self._ticket) == 0)
        taken = self._imports.outcome(self._ticket)
        self._imports.forget(self._ticket)
        self._ticket = secrets.token_hex(8)
        return taken

    def _queue(self) -> None:
        self._wait(lambda: self._imports.put(self._ticket, self._device, self._batch))
        self._batch, self._size = [], 0

    def _wait(self, ready: Callable[[], bool]) -> None:
        left, moved = self._imports.count(), time.monotonic()
        while not ready():
            try:
                with self._home.held():
                    self._work()
                continue
            except HomeTaken:  # an edge runs: it takes them
                time.sleep(STEP_S)
            now = self._imports.count()
            if now != left:
                left, moved = now, time.monotonic()
            elif time.monotonic() - moved > STUCK_S:
                raise CollectError(
                    f"the running edge has taken nothing over for {STUCK_S:.0f} s",
                    remedy="see its log and `wardround edge status`; what is queued stays, and the same import goes on",
                )

    def _work(self) -> None:
        with self._home.gate(self._consents) as gateway:
            while take_waiting(gateway, self._imports):
                gateway.commit()


@contextmanager
def progress(file: Opened, *, visible: bool) -> Iterator[Callable[[int], None]]:
    """A bar over a file on a terminal; the function it gives takes the number of observations so far."""
    console = Console(stderr=True)
    if not visible or not console.is_terminal:
        yield lambda _count: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(file.name, total=file.size)
        shown = 0.0

        def step(count: int) -> None:
            nonlocal shown
            if time.monotonic() - shown > STEP_S:
                shown = time.monotonic()
                at = None if file.stream.closed else file.stream.tell()
                bar.update(task, completed=at, description=f"{file.name}: {count} observations")

        yield step
