"""Frames on a local socket: a small JSON header and bytes. Python's own library alone: both environments use it.

Layout: four bytes little-endian length of the header, eight of the payload, header, payload.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

HEADER_BYTES_MAX = 32_000_000
PAYLOAD_BYTES_MAX = 2_000_000_000
PREFIX = 12
Header = dict[str, Any]


def pack(header: Header, payload_size: int = 0) -> bytes:
    """The bytes before a payload of this size."""
    text = json.dumps(header, separators=(",", ":")).encode()
    return len(text).to_bytes(4, "little") + payload_size.to_bytes(8, "little") + text


def sizes(prefix: bytes) -> tuple[int, int]:
    """The lengths of header and payload.

    Raises:
        ValueError: they are larger than any frame of ours.
    """
    header, payload = int.from_bytes(prefix[:4], "little"), int.from_bytes(prefix[4:12], "little")
    if header > HEADER_BYTES_MAX or payload > PAYLOAD_BYTES_MAX:
        raise ValueError(f"a frame of {header} and {payload} bytes is too large")
    return header, payload


def reachable(path: Path) -> str:
    """A name of a socket that the system takes: those of Unix sockets hold about a hundred bytes, and paths may be longer."""
    if len(os.fsencode(path)) < 100:
        return str(path)
    return f"/proc/self/fd/{os.open(path.parent, os.O_PATH)}/{path.name}"  # open as long as this process is


def send(to: socket.socket, header: Header, payload: bytes = b"") -> None:
    """Send one frame whole."""
    to.sendall(pack(header, len(payload)))
    if payload:
        to.sendall(payload)


def receive(source: socket.socket) -> tuple[Header, bytes]:
    """The next frame.

    Raises:
        EOFError: the other side is gone.
        ValueError: it is not a frame of ours.
    """
    header_size, payload_size = sizes(_exactly(source, PREFIX))
    header = json.loads(_exactly(source, header_size))
    if not isinstance(header, dict):
        raise ValueError("a frame's header is not an object")  # noqa: TRY004 - what came is wrong, not our code
    return header, _exactly(source, payload_size)


def _exactly(source: socket.socket, size: int) -> bytes:
    data = bytearray(size)
    view, at = memoryview(data), 0
    while at < size:
        got = source.recv_into(view[at:])
        if got == 0:
            raise EOFError
        at += got
    return bytes(data)
