"""WFDB signal files: integers out of the storage formats 8, 16, 24, 32, 61, 80, 160, 212, 310, 311 and FLAC (508, 516, 524).

Source: signal(5) of the WFDB Applications Guide (physionet.org/physiotools/wag). Everything is read in blocks of frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from wardround.errors import DecodeError

Ints = NDArray[np.int64]
FLAC = {508: 24, 516: 16, 524: 8}  # how far a 32-bit sample stands to the left
ALIGNED = 6  # samples that fill whole bytes in every packed format
FLAC_BLOCK = 100_000  # samples of all channels
# The value that means "no sample here", by format; format 8 has none.
INVALID = {
    80: -(2**7), 508: -(2**7), 310: -(2**9), 311: -(2**9), 212: -(2**11), 16: -(2**15), 61: -(2**15), 160: -(2**15),
    516: -(2**15), 24: -(2**23), 524: -(2**23), 32: -(2**31),
}  # fmt: skip


def bytes_for(format_: int, samples: int) -> int:
    """How many bytes so many samples fill."""
    if format_ == 212:
        return (samples * 3 + 1) // 2
    if format_ in (310, 311):
        whole, rest = divmod(samples, 3)
        return whole * 4 + ((0, 2, 4) if format_ == 310 else (0, 2, 3))[rest]
    return samples * {8: 1, 80: 1, 16: 2, 61: 2, 160: 2, 24: 3, 32: 4}[format_]


def blocks(stream: BinaryIO, format_: int, *, skip: int, samples: int, block: int) -> Iterator[Ints]:
    """The samples of a file in the order they stand, in blocks.

    Args:
        skip: bytes before the first sample.
        samples: how many there are.
        block: how many are read at once, times ALIGNED.
    Raises:
        DecodeError: "truncated".
    """
    stream.seek(skip)
    size = ALIGNED * block
    for start in range(0, samples, size):
        count = min(size, samples - start)
        wanted = bytes_for(format_, count)
        data = stream.read(wanted)
        if len(data) < wanted:
            raise DecodeError("truncated", f"the signal file ends at sample {start}, {samples} are announced")
        yield _UNPACK[format_](np.frombuffer(data, np.uint8), count)


def flac_blocks(stream: BinaryIO, format_: int, *, samples: int, channels: int) -> Iterator[Ints]:
    """The samples of a FLAC file, shape (n, channels), block by block.

    Raises:
        DecodeError: "flac-not-installed", "malformed-flac" or "truncated".
    """
    try:
        import soundfile  # noqa: PLC0415 - an extra: FLAC alone needs it
    except (ImportError, OSError) as exc:
        raise DecodeError("flac-not-installed", "FLAC signal files need: pip install wardround[files]") from exc
    stream.seek(0)
    try:
        with soundfile.SoundFile(stream) as file:
            if file.format != "FLAC" or file.channels != channels:
                raise DecodeError("malformed-flac", f"{file.channels} channels of {file.format[:20]}, {channels} are announced")
            if file.frames < samples:
                raise DecodeError("truncated", f"the FLAC file has {file.frames} samples, {samples} are announced")
            left = samples
            while left:
                data = file.read(min(left, max(1, FLAC_BLOCK // channels)), dtype="int32", always_2d=True)
                if not len(data):
                    raise DecodeError("truncated", f"{left} samples of the FLAC file cannot be read")
                left -= len(data)
                yield data.astype(np.int64) >> FLAC[format_]
    except (soundfile.SoundFileError, OSError) as exc:
        raise DecodeError("malformed-flac", f"the signal file is not FLAC: {str(exc)[:80]}") from exc


def _plain(kind: str, shift: int = 0) -> Callable[[NDArray[Any], int], Ints]:
    return lambda data, _count: data.view(kind).astype(np.int64) - shift


def _24(data: NDArray[Any], _count: int) -> Ints:
    raw = data.reshape(-1, 3).astype(np.int64)
    return _signed(raw[:, 0] | raw[:, 1] << 8 | raw[:, 2] << 16, 24)


def _212(data: NDArray[Any], count: int) -> Ints:
    """Two samples of twelve bits in three bytes; the second's upper bits are the upper half of the middle byte."""
    padded = np.concatenate([data, np.zeros(-len(data) % 3, np.uint8)]).reshape(-1, 3).astype(np.int64)
    first = padded[:, 0] | (padded[:, 1] & 0x0F) << 8
    second = padded[:, 2] | (padded[:, 1] & 0xF0) << 4
    return _signed(np.column_stack([first, second]).ravel()[:count], 12)


def _310(data: NDArray[Any], count: int) -> Ints:
    """Three samples of ten bits in two little-endian words: bits 1 to 10 of each, the third in both words' upper five."""
    words = np.concatenate([data, np.zeros(-len(data) % 4, np.uint8)]).view("<u2").astype(np.int64).reshape(-1, 2)
    first, second = words[:, 0] >> 1 & 0x3FF, words[:, 1] >> 1 & 0x3FF
    third = words[:, 0] >> 11 & 0x1F | (words[:, 1] >> 11 & 0x1F) << 5
    return _signed(np.column_stack([first, second, third]).ravel()[:count], 10)


def _311(data: NDArray[Any], count: int) -> Ints:
    """Three samples of ten bits in a little-endian word of 32, the first lowest."""
    words = np.concatenate([data, np.zeros(-len(data) % 4, np.uint8)]).view("<u4").astype(np.int64)
    return _signed(np.column_stack([words & 0x3FF, words >> 10 & 0x3FF, words >> 20 & 0x3FF]).ravel()[:count], 10)


def _signed(raw: Ints, bits: int) -> Ints:
    return np.where(raw >= 1 << (bits - 1), raw - (1 << bits), raw)


_UNPACK: dict[int, Callable[[NDArray[Any], int], Ints]] = {
    8: _plain("i1"),  # differences: the reader adds them up
    16: _plain("<i2"),
    61: _plain(">i2"),
    32: _plain("<i4"),
    80: _plain("u1", 128),
    160: _plain("<u2", 32768),
    24: _24,
    212: _212,
    310: _310,
    311: _311,
}
PACKED = frozenset(_UNPACK)
