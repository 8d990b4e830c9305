"""The programs of the demo as real processes: start, wait until ready, kill, start again, stop.

Each program writes its output to a log file and a `ready.json` into its home once its listeners are open; only processes
started here are ever signalled.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wardround.errors import WardroundError


class ProgramFailed(WardroundError):
    """A program of the demo ended, or did not become ready in time."""


@dataclass
class Program:
    """One process and its life: `arguments` follow `python -m`."""

    name: str
    arguments: Sequence[str]
    log: Path
    ready: Path | None = None  # the file it writes when its listeners are open
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    starts: int = 0

    def start(self) -> None:
        """Start the process; an earlier ready file is removed first, so that it cannot be mistaken for this start's."""
        if self.ready is not None:
            self.ready.unlink(missing_ok=True)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(  # noqa: S603 - our own interpreter and modules
                [sys.executable, "-m", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.environment},
            )
        self.starts += 1

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self.process is not None and self.process.poll() is None

    def wait_ready(self, deadline_s: float) -> dict[str, Any]:
        """The facts of the ready file.

        Raises:
            ProgramFailed: the process ended first, or the deadline passed; the message ends with the log's last lines.
        """
        if self.ready is None:
            raise ValueError(f"{self.name} writes no ready file")
        until = time.monotonic() + deadline_s
        while time.monotonic() < until:
            if self.ready.exists():
                facts: dict[str, Any] = json.loads(self.ready.read_text())
                return facts
            if not self.running:
                code = self.process.returncode if self.process else None
                raise ProgramFailed(f"{self.name} ended with {code}:\n{self.tail()}", remedy=f"read {self.log}")
            time.sleep(0.02)
        raise ProgramFailed(f"{self.name} was not ready after {deadline_s:.0f} s:\n{self.tail()}", remedy=f"read {self.log}")

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        if self.process is not None and self.running:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait(timeout=10)

    def stop(self, grace_s: float = 8.0) -> None:
        """SIGTERM, and SIGKILL after the grace."""
        if self.process is None or not self.running:
            return
        self.process.terminate()
        try:
            self.process.wait(timeout=grace_s)
        except subprocess.TimeoutExpired:
            self.kill()

    def tail(self, lines: int = 12) -> str:
        """The end of the log."""
        try:
            return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
        except OSError:
            return "(no log)"
