"""Files of a folder, opened for their readers: the only place here that knows paths."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from wardround.collect.files.opened import Opened
from wardround.errors import DecodeError, SettingsError

PARTS_MAX = 1_000  # files open at once beside the first


@contextmanager
def opened(path: Path) -> Iterator[Opened]:
    """A file and, on demand, those beside it.

    Raises:
        SettingsError: it is not there or is no file.
    """
    if not path.is_file():
        raise SettingsError(f"{path} is not a file", remedy="give files; a WFDB record is given by its .hea header")
    with ExitStack() as stack:
        count = 0

        def beside(name: str) -> BinaryIO:
            nonlocal count
            if not name or "/" in name or "\\" in name or name.startswith("."):
                raise DecodeError("part-name", f"{name[:60]!r} is no name of a file beside it")
            count += 1
            if count > PARTS_MAX:
                raise DecodeError("too-large", f"it names more than {PARTS_MAX} files")
            try:
                return stack.enter_context((path.parent / name).open("rb"))
            except OSError as exc:
                raise DecodeError("part-missing", f"{name} is not beside {path.name}") from exc

        try:
            stream = stack.enter_context(path.open("rb"))
        except OSError as exc:
            raise SettingsError(f"{path} cannot be opened: {exc.strerror}", remedy="check who may read it") from exc
        yield Opened(path.name, stream, path.stat().st_size, beside)
