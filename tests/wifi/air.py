"""What was in the air: a capture of 802.11 frames, read as far as it takes to say which of them were protected.

Source: IEEE 802.11-2020, 9.2 (MAC frame format); radiotap.org; the classic pcap file format.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RADIOTAP = 127
DATA, QOS, NO_BODY, PROTECTED, ORDER = 2, 0b1000, 0b0100, 0x40, 0x80
EAPOL = 0x888E


@dataclass(frozen=True, slots=True)
class DataFrame:
    """A frame that carries something: who sent it (as written in it), whether its body is protected, and the body."""

    sender: str
    protected: bool
    body: bytes

    @property
    def protocol(self) -> int | None:
        """The EtherType of a body in plain text (LLC/SNAP); None where it is protected."""
        return None if self.protected else int.from_bytes(self.body[6:8], "big")


@dataclass(frozen=True, slots=True)
class Air:
    """A capture."""

    raw: bytes

    @classmethod
    def of(cls, path: Path) -> Air:
        return cls(path.read_bytes())

    def count(self, marker: bytes) -> int:
        """How often these bytes went through the air as they are."""
        return self.raw.count(marker)

    def data_frames(self) -> list[DataFrame]:
        """All that carry a body, in order."""
        return [frame for packet in _packets(self.raw) if (frame := _data_frame(packet)) is not None]


def _packets(raw: bytes) -> Iterator[bytes]:
    magic, *_, kind = struct.unpack_from("<IHHiIII", raw)
    assert (magic, kind) == (0xA1B2C3D4, RADIOTAP), f"not a capture of 802.11 frames: {magic:x}, link type {kind}"
    at = 24
    while at + 16 <= len(raw):
        _, _, size, whole = struct.unpack_from("<IIII", raw, at)
        assert size == whole, "a frame was cut short"
        yield raw[at + 16 : at + 16 + size]
        at += 16 + size


def _data_frame(packet: bytes) -> DataFrame | None:
    frame = packet[int.from_bytes(packet[2:4], "little") :]
    if len(frame) < 24:
        return None
    kind, subtype, flags = frame[0] >> 2 & 3, frame[0] >> 4, frame[1]
    if kind != DATA or subtype & NO_BODY:
        return None
    header = 24 + (6 if flags & 3 == 3 else 0)
    if subtype & QOS:
        header += 2 + (4 if flags & ORDER else 0)
    return DataFrame(frame[10:16].hex(":"), bool(flags & PROTECTED), frame[header:])
