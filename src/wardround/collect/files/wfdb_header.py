"""WFDB headers: what a record holds, and how it is stored.

Source: header(5) of the WFDB Applications Guide. Comments are not kept: they hold what is known of the patient.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

from wardround.collect.files.wfdb_samples import FLAC, PACKED
from wardround.errors import DecodeError

HEADER_BYTES_MAX = 1_000_000
SIGNALS_MAX = 1_024
SEGMENTS_MAX = 100_000
FRAME_MAX = 100_000  # samples of one frame of all signals
DEFAULT_HZ = 250.0
_N = r"\d{1,15}"
_FLOAT = rf"[+-]?(?:{_N}\.?\d{{0,25}}|\.\d{{1,25}})(?:[eE][+-]?\d{{1,3}})?"
_RECORD = re.compile(
    rf"(?P<name>[-\w]+)(?:/(?P<segments>{_N}))?\s+(?P<signals>{_N})"
    rf"(?:\s+(?P<hz>{_FLOAT})(?:/(?P<counter>{_FLOAT})(?:\({_FLOAT}\))?)?"
    rf"(?:\s+(?P<samples>{_N})(?:\s+(?P<time>\d{{1,2}}(?::\d{{1,2}}){{0,2}}(?:\.\d{{1,6}})?)"
    r"(?:\s+(?P<date>\d{1,2}/\d{1,2}/\d{4}))?)?)?)?\s*"
)
_SIGNAL = re.compile(
    rf"(?P<file>\S+)\s+(?P<format>{_N})(?:x(?P<per_frame>{_N}))?(?::(?P<skew>{_N}))?(?:\+(?P<offset>{_N}))?"
    rf"(?:\s+(?P<gain>{_FLOAT})(?:\((?P<baseline>[+-]?{_N})\))?(?:/(?P<unit>\S+))?"
    rf"(?:\s+(?P<bits>{_N})(?:\s+(?P<zero>[+-]?{_N})(?:\s+(?P<first>[+-]?{_N})(?:\s+(?P<checksum>[+-]?{_N})"
    rf"(?:\s+(?P<block>{_N})(?:\s+(?P<label>.*\S))?)?)?)?)?)?)?\s*"
)
_SEGMENT = re.compile(rf"(?P<name>~|[-\w]+)\s+(?P<samples>{_N})\s*")


@dataclass(frozen=True, slots=True)
class SignalLine:
    """How one signal is stored; `gain` 0 says that it is not calibrated."""

    file: str
    format: int
    per_frame: int
    skew: int
    offset: int
    gain: float
    baseline: int
    unit: str
    first: int
    checksum: int | None
    label: str


@dataclass(frozen=True, slots=True)
class Header:
    """A record: its signals, or the names and lengths of its segments."""

    name: str
    hz: float
    samples: int | None
    begins: datetime | None  # by the recorder's clock; None where the header has no date
    signals: tuple[SignalLine, ...]
    segments: tuple[tuple[str, int], ...]


def is_header(head: bytes) -> bool:
    """Whether a file that begins so is a WFDB header."""
    try:
        lines = _lines(head.decode("utf-8", "ignore"))
    except ValueError:
        return False
    if not lines or not (found := _RECORD.fullmatch(lines[0])):
        return False
    return len(lines) == 1 or bool((_SEGMENT if found["segments"] else _SIGNAL).fullmatch(lines[1]))


def parse(data: bytes) -> Header:
    """A header.

    Raises:
        DecodeError: "malformed-wfdb", or what a line says cannot be kept to.
    """
    if len(data) > HEADER_BYTES_MAX:
        raise DecodeError("too-large", f"the header has {len(data)} bytes, more than {HEADER_BYTES_MAX}")
    lines = _lines(data.decode("utf-8", "replace"))
    record = _RECORD.fullmatch(lines[0]) if lines else None
    if record is None:
        raise DecodeError("malformed-wfdb", "the header has no record line")
    segments, count = int(record["segments"] or 0), int(record["signals"])
    if segments > SEGMENTS_MAX or count > SIGNALS_MAX:
        raise DecodeError("too-large", f"{segments} segments of {count} signals")
    hz = float(record["hz"] or DEFAULT_HZ)
    if not 1e-5 <= hz <= 1e6:
        raise DecodeError("malformed-wfdb", f"{hz:g} frames a second")
    expected = segments or count
    if len(lines) - 1 < expected:
        raise DecodeError("truncated", f"the header has {len(lines) - 1} lines of {expected}")
    samples = int(record["samples"]) if record["samples"] and int(record["samples"]) else None
    body = lines[1 : 1 + expected]
    return Header(
        name=record["name"],
        hz=hz,
        samples=samples,
        begins=_begins(record["time"], record["date"]),
        signals=() if segments else tuple(_signal(line) for line in body),
        segments=tuple(_segment(line) for line in body) if segments else (),
    )


def _lines(text: str) -> list[str]:
    stripped = (line.strip() for line in text.splitlines())
    return [line for line in stripped if line and not line.startswith("#")]


def _begins(time: str | None, date: str | None) -> datetime | None:
    if not date:
        return None
    try:
        day, month, year = map(int, date.split("/"))
        at = datetime(year, month, day)  # noqa: DTZ001 - the recorder's clock has no zone
        parts = [float(p) for p in (time or "0").split(":")]
        seconds = sum(part * 60**i for i, part in enumerate(reversed(parts)))
        if any(p >= 60 for p in parts[1:]) or seconds >= 86_400:
            raise DecodeError("time", f"{str(time)[:20]} is no time of a day")
        return at + timedelta(microseconds=round(seconds * 1e6))
    except (ValueError, OverflowError) as exc:
        raise DecodeError("time", f"{date[:20]} is no date: {exc}") from exc


def _signal(line: str) -> SignalLine:
    found = _SIGNAL.fullmatch(line)
    if found is None:
        raise DecodeError("malformed-wfdb", f"not a signal line: {line[:60]!r}")
    format_ = int(found["format"])
    if format_ not in PACKED and format_ not in FLAC and format_ != 0:
        raise DecodeError("format-not-read", f"WFDB storage format {format_} is not read")
    per_frame = int(found["per_frame"] or 1)
    if not 1 <= per_frame <= FRAME_MAX:
        raise DecodeError("malformed-wfdb", f"{per_frame} samples a frame")
    gain = float(found["gain"] or 0.0)
    if gain and not 1e-15 < abs(gain) < 1e15:
        raise DecodeError("malformed-wfdb", f"a gain of {gain:g}")
    zero = int(found["zero"] or 0)
    return SignalLine(
        file=found["file"],
        format=format_,
        per_frame=per_frame,
        skew=int(found["skew"] or 0),
        offset=int(found["offset"] or 0),
        gain=gain,
        baseline=int(found["baseline"]) if found["baseline"] else zero,
        unit=found["unit"] or "mV",
        first=int(found["first"]) if found["first"] else zero,
        checksum=int(found["checksum"]) if found["checksum"] else None,
        label=found["label"] or "",
    )


def _segment(line: str) -> tuple[str, int]:
    found = _SEGMENT.fullmatch(line)
    if found is None:
        raise DecodeError("malformed-wfdb", f"not a segment line: {line[:60]!r}")
    return found["name"], int(found["samples"])
