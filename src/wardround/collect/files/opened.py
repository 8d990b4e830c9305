"""A file as its reader sees it, and what is known of it beside its bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import tzinfo
from typing import BinaryIO

from wardround.collect.devices.reading import Reading
from wardround.errors import DecodeError

Items = Iterator[Reading | DecodeError]  # what was taken, and the parts that were not


@dataclass(frozen=True, slots=True)
class Opened:
    """A stream that can be read from its start as often as a reader likes.

    `beside` opens a file of the same folder by its bare name: a WFDB header names its signal files.

    Raises (`beside`):
        DecodeError: "part-missing".
    """

    name: str
    stream: BinaryIO
    size: int
    beside: Callable[[str], BinaryIO]

    def whole(self, bytes_max: int) -> bytes:
        """All bytes.

        Raises:
            DecodeError: "too-large".
        """
        if self.size > bytes_max:
            raise DecodeError("too-large", f"the file has {self.size} bytes, more than {bytes_max}")
        self.stream.seek(0)
        return self.stream.read()


@dataclass(frozen=True, slots=True)
class Known:
    """What the person who imports a file says of it."""

    now_us: int
    zone: tzinfo | None = None  # of the recorder's clock, where the file has none
    start_us: int | None = None  # when the recording began, where the file does not say or says it wrongly


def in_memory(data: bytes, name: str = "file", parts: dict[str, bytes] | None = None) -> Opened:
    """A file that is bytes already, with the files beside it."""

    def beside(part: str) -> BinaryIO:
        if part not in (parts or {}):
            raise DecodeError("part-missing", f"{part} is not there")
        return io.BytesIO((parts or {})[part])

    return Opened(name, io.BytesIO(data), len(data), beside)
