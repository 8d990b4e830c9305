"""How a program logs: one line an event, on stderr or in a bounded file; an error with its traceback, never its local variables.

Local variables may hold clinical values and secrets, and the library's default for errors prints them.

The file is our own and not `logging.handlers.RotatingFileHandler`, which goes on writing to a file that another program has moved
away, and on a full disk writes a traceback for each line. Here a line that the file does not take goes to stderr, the next one is
tried again, and the file says how many it missed.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator, MutableMapping
from pathlib import Path
from typing import Any, Protocol, TextIO, cast

import structlog

from wardround.errors import SettingsError, WardroundError

FULL = (errno.ENOSPC, errno.EDQUOT)
MISSED = "lines went to standard error: this file did not take them"


class Chosen(Protocol):
    """What the settings say of the log (`LogSettings`)."""

    @property
    def file(self) -> str: ...
    @property
    def json(self) -> bool: ...
    @property
    def bytes_max(self) -> int: ...
    @property
    def files_kept(self) -> int: ...


class LogFile:
    """Lines in a file of `bytes_max` bytes at most, and in `files_kept` older ones beside it: NAME.1 is the newest of those.

    Another program may move the file away (logrotate): the next line begins a new one. Any thread may write.
    """

    def __init__(self, path: Path, *, bytes_max: int, files_kept: int, missed: Callable[[int], str] | None = None) -> None:
        """Open it, and make its folder.

        Args:
            missed: the line that says how many were missed.

        Raises:
            OSError: it cannot be written, for another reason than a full disk.
        """
        self._path, self._bytes_max, self._kept = path, bytes_max, files_kept
        self._missed_line = missed or (lambda lines: f"{MISSED}: {lines}")
        self._lock = threading.Lock()
        self._file = -1
        self._missed = 0
        self._cut = False  # the last line ended before its end: the disk was full
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._open()
        except OSError as error:
            if error.errno not in FULL:
                raise

    def write(self, line: str) -> bool:
        """Append a line (without its end); False where the file did not take it. A longer one than the file may be is cut."""
        data = line.encode("utf-8", "replace")[: self._bytes_max - 1] + b"\n"
        with self._lock:
            try:
                self._append(data)
            except OSError:
                self._missed += 1
                return False
            return True

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._let_go()

    def _append(self, data: bytes) -> None:
        size = self._ready()
        if self._missed:
            data = self._missed_line(self._missed).encode() + b"\n" + data
        if self._cut:
            data = b"\n" + data
        if size and size + len(data) > self._bytes_max:
            self._rotate()
        self._cut = True
        while data:
            data = data[os.write(self._file, data) :]
        self._cut, self._missed = False, 0

    def _ready(self) -> int:
        """The file of that name, open; how many bytes it holds."""
        if self._file >= 0:
            ours = os.fstat(self._file)
            with contextlib.suppress(FileNotFoundError):
                there = self._path.stat()
                if (there.st_dev, there.st_ino) == (ours.st_dev, ours.st_ino):
                    return there.st_size
        self._open()
        return os.fstat(self._file).st_size

    def _rotate(self) -> None:
        for number in range(self._kept - 1, 0, -1):
            with contextlib.suppress(FileNotFoundError):
                self._older(number).replace(self._older(number + 1))
        if self._kept:
            self._path.replace(self._older(1))
        else:
            self._path.unlink()
        self._open()

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")

    def _open(self) -> None:
        self._let_go()
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file, self._cut = os.open(self._path, flags, 0o600), False

    def _let_go(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


class _Lines:
    """Where lines go, and how they look. Loggers keep this one, so those that spoke before a file was chosen follow."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._file: LogFile | None = None
        self._as_json = False
        plain = structlog.dev.plain_traceback
        self._console = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=plain)
        self._plain = structlog.dev.ConsoleRenderer(colors=False, exception_formatter=plain)
        self._object = structlog.processors.JSONRenderer(ensure_ascii=False)

    def choose(self, file: LogFile | None, *, as_json: bool) -> None:
        before, self._file, self._as_json = self._file, file, as_json
        if before is not None:
            before.close()

    def __call__(self, logger: Any, name: str, event: MutableMapping[str, Any]) -> str:
        """The last processor: an event's line."""
        if self._as_json:
            stamped = structlog.processors.TimeStamper(fmt="iso", utc=True)(logger, name, event)
            shown = structlog.processors.format_exc_info(logger, name, stamped)
            return str(self._object(logger, name, shown))
        stamped = structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=True)(logger, name, event)
        return str((self._console if self._file is None else self._plain)(logger, name, stamped))

    def missed(self, lines: int) -> str:
        """The line by which the file says how many it did not take."""
        return self(None, "warning", {"event": MISSED, "level": "warning", "lines": lines})

    def write(self, text: str) -> None:
        """A line with its end, as structlog's WriteLogger gives it."""
        if self._file is None or not self._file.write(text.removesuffix("\n")):
            self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()


class _Libraries(logging.Handler):
    """What libraries, and asyncio about a task that failed, say through `logging`: lines like ours."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            log = structlog.get_logger()
            say = log.error if record.levelno >= logging.ERROR else log.warning
            say(record.getMessage(), exc_info=record.exc_info, logger=record.name)
        except Exception:  # noqa: BLE001 - as every handler: what cannot be said ends nobody
            self.handleError(record)


_lines: list[_Lines] = []
_libraries = _Libraries(logging.WARNING)


def write_log_lines() -> None:
    """Set it up, once in a process: on stderr."""
    _lines[:] = [_Lines(sys.stderr)]
    structlog.configure(
        processors=[structlog.processors.add_log_level, _lines[0]],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _lines[0])),  # of which it asks write and flush
        cache_logger_on_first_use=True,
    )


@contextlib.contextmanager
def chosen_log(home: Path, chosen: Chosen) -> Iterator[None]:
    """Log as the settings of this home say; a file is told of the error that ends the block, which others read on stderr.

    Nothing changes in a process that was never set up to log.

    Raises:
        SettingsError: the file cannot be written.
    """
    if not _lines:
        yield
        return
    lines, file = _lines[0], None
    if chosen.file:
        path = home / chosen.file
        try:
            file = LogFile(path, bytes_max=chosen.bytes_max, files_kept=chosen.files_kept, missed=lines.missed)
        except OSError as exc:
            raise SettingsError(
                f"log.file: {path} cannot be written: {exc.strerror}",
                remedy="give it a file in a folder that this program may write to, or leave it out, for standard error",
            ) from exc
    lines.choose(file, as_json=chosen.json)
    if chosen.file or chosen.json:
        logging.getLogger().addHandler(_libraries)
    try:
        yield
    except WardroundError as error:
        if file is not None:
            structlog.get_logger().error("ended", error=str(error), remedy=error.remedy)
        raise
    except Exception:
        if file is not None:
            structlog.get_logger().exception("ended")
        raise
    finally:
        logging.getLogger().removeHandler(_libraries)
        lines.choose(None, as_json=False)
