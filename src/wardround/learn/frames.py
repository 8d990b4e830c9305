"""How the bytes of models and updates travel: past protobuf, which would copy them twice at either end.

The first message of such a stream is a frame: the length of its head (four bytes, little-endian), the head (a protobuf message),
and bytes. Every later message is bytes and nothing else, so that what is read from a file or a socket is passed on as it is.
"""

from __future__ import annotations

from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from wardround.errors import LearnError

HEAD_LENGTH_BYTES = 4

M = TypeVar("M", bound=Message)


class FrameMalformed(LearnError):
    """The first message of a stream of bytes is no frame."""


def frame(head: Message, data: bytes | memoryview) -> bytes:
    """The first message of a stream: its head and its first bytes."""
    packed = head.SerializeToString()
    return b"".join((len(packed).to_bytes(HEAD_LENGTH_BYTES, "little"), packed, data))


def unframe(message: bytes, head: type[M]) -> tuple[M, memoryview]:
    """The head of a stream's first message, and the bytes after it, not copied.

    Raises:
        FrameMalformed: the message is cut short, or its head is not a `head`.
    """
    rest = memoryview(message)[HEAD_LENGTH_BYTES:]
    length = int.from_bytes(message[:HEAD_LENGTH_BYTES], "little")
    if len(message) < HEAD_LENGTH_BYTES or length > len(rest):
        raise FrameMalformed(f"a stream begins with its head, and {len(message)} bytes do not hold one")
    parsed = head()
    try:
        parsed.ParseFromString(bytes(rest[:length]))
    except DecodeError as exc:
        raise FrameMalformed(f"the head of a stream is no {head.DESCRIPTOR.name}") from exc
    return parsed, rest[length:]
