"""EDF, EDF+ (continuous and discontinuous) and BDF recordings: waveforms in physical units, beats and sleep stages.

Source: Kemp et al., EEG Clin Neurophysiol 82 (1992) 391; Kemp and Olivan, Clin Neurophysiol 114 (2003) 1755 (EDF+);
biosemi.com/faq/file_format.htm. The format has no checksum: its length must be exactly what the header announces. Patient and
recording fields are not kept.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray

from wardround.collect.files import labels, remarks
from wardround.collect.files.opened import Items, Known, Opened
from wardround.collect.files.runs import PIECE_S, Channel, waveform
from wardround.errors import DecodeError
from wardround.records import Quality, Validity

SIGNALS_MAX = 1_024
RECORD_BYTES_MAX = 16_000_000
REMARKS_MAX = 1_000_000
JITTER_US = 1_000.0  # a record that begins so close to the end of the one before follows it
_ANNOTATIONS = ("EDF Annotations", "BDF Annotations")
_MONTHS = {m: i + 1 for i, m in enumerate(["JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC"])}
_STARTDATE = re.compile(r"Startdate (\d{1,2})-([A-Z]{3})-(\d{4})(?: .*)?", re.DOTALL)
_ONSET = re.compile(rb"([+-]\d{1,12}(?:\.\d{0,12})?)(?:\x15(\d{1,12}(?:\.\d{0,12})?))?\x14")
_NUMBER = re.compile(r"[+-]?(?:\d{1,15}\.?\d{0,15}|\.\d{1,15})(?:[eE][+-]?\d{1,3})?")
_WIDTHS = (16, 80, 8, 8, 8, 8, 8, 80, 8, 32)


@dataclass(frozen=True, slots=True)
class _Signal:
    """One signal of a data record."""

    label: str
    unit: str
    physical: tuple[float, float]
    digital: tuple[int, int]
    samples: int
    offset: int  # bytes from the start of a record

    @property
    def annotations(self) -> bool:
        """Whether it holds annotations, not samples."""
        return self.label in _ANNOTATIONS


@dataclass(frozen=True, slots=True)
class _Layout:
    """A file's header."""

    width: int  # bytes of a sample: 2 of EDF, 3 of BDF
    begins: datetime | None
    start: int
    record_bytes: int
    records: int
    record_s: float
    discontinuous: bool
    signals: tuple[_Signal, ...]


def is_edf(head: bytes) -> bool:
    """Whether a file that begins so is EDF or BDF."""
    return len(head) >= 256 and head[:8] in (b"0       ", b"\xffBIOSEMI")


def read(file: Opened, known: Known) -> Items:
    """Readings of a recording.

    Raises:
        DecodeError: damaged, or without a date ("no-date") and `start_us` not given.
    """
    layout = _header(file)
    if known.start_us is not None:
        t_us, error_us = known.start_us, 0
    elif layout.begins is None:
        raise DecodeError("no-date", "the recording's date is not in it")
    else:
        t_us, error_us = labels.local_time(layout.begins, known.zone)
    onsets_us, noted = _time_line(file.stream, layout)
    if known.start_us is not None and len(onsets_us):
        onsets_us = onsets_us - onsets_us[0]  # the start given is that of the first sample
    flags = int(Quality.CLOCK_UNSYNCED) if error_us else 0
    channels: list[Channel | None] = []
    seen: set[tuple[str, ...]] = set()
    for signal in layout.signals:
        channels.append(None)
        if not signal.annotations:
            try:
                channels[-1] = _channel(signal, seen, error_us, flags)
            except DecodeError as error:
                yield error
    yield from _waveforms(file.stream, layout, channels, t_us + onsets_us)
    yield from _remarks(layout, noted, t_us, error_us, flags)


def _header(file: Opened) -> _Layout:
    file.stream.seek(0)
    head = file.stream.read(256)
    if not is_edf(head):
        raise DecodeError("malformed-edf", "it does not begin as EDF or BDF does")
    width = 3 if head[0] == 0xFF else 2
    text = head[8:].decode("latin-1")
    recording, date, time = text[80:160], text[160:168], text[168:176]
    count = _whole(text[244:248], "number of signals")
    if not 1 <= count <= SIGNALS_MAX:
        raise DecodeError("malformed-edf", f"{count} signals")
    start = 256 * (count + 1)
    if _whole(text[176:184], "size of the header") != start:
        raise DecodeError("malformed-edf", "the size of the header does not fit the number of signals")
    body = file.stream.read(256 * count)
    if len(body) < 256 * count:
        raise DecodeError("truncated", "the header is not whole")
    signals = _signals(body.decode("latin-1"), count, width)
    record_bytes = sum(s.samples for s in signals) * width
    records, record_s = _whole(text[228:236], "number of records"), _decimal(text[236:244], "duration of a record")
    if not 0 < record_bytes <= RECORD_BYTES_MAX or not 0 <= record_s <= 86_400:
        raise DecodeError("malformed-edf", f"records of {record_bytes} bytes and {record_s:g} s")
    if record_s == 0 and not all(s.annotations for s in signals):
        raise DecodeError("malformed-edf", "samples in records without a duration")
    left = file.size - start
    if records == -1 and left % record_bytes == 0:
        records = left // record_bytes  # it was not closed, but ends with a whole record
    if left < records * record_bytes or records < 0:
        raise DecodeError("truncated", f"{left} bytes of data, {max(0, records) * record_bytes} are announced")
    if left > records * record_bytes:
        raise DecodeError("trailing-bytes", f"{left - records * record_bytes} bytes more than the header announces")
    kind = text[184:228]
    return _Layout(
        width=width,
        begins=_begins(recording.strip(), date, time),
        start=start,
        record_bytes=record_bytes,
        records=records,
        record_s=record_s,
        discontinuous=kind.startswith(("EDF+D", "BDF+D")),
        signals=signals,
    )


def _signals(text: str, count: int, width: int) -> tuple[_Signal, ...]:
    columns: list[list[str]] = []
    at = 0
    for size in _WIDTHS:
        columns.append([text[at + i * size : at + (i + 1) * size].strip() for i in range(count)])
        at += size * count
    found: list[_Signal] = []
    offset = 0
    for label, _, unit, low, high, digital_low, digital_high, _, samples, _ in zip(*columns, strict=True):
        n = _whole(samples, "number of samples")
        if not 1 <= n <= RECORD_BYTES_MAX // width:
            raise DecodeError("malformed-edf", f"{n} samples of {label[:20]!r} in a record")
        physical = (_decimal(low, "physical minimum"), _decimal(high, "physical maximum"))
        digital = (_whole(digital_low, "digital minimum"), _whole(digital_high, "digital maximum"))
        found.append(_Signal(label, unit, physical, digital, n, offset))
        offset += n * width
    return tuple(found)


def _begins(recording: str, date: str, time: str) -> datetime | None:
    """By the recorder's clock; None where EDF+ says that the date is not known."""
    if recording.startswith("Startdate X"):
        return None
    try:
        day, month, year = (int(date[i : i + 2]) for i in (0, 3, 6))
        hour, minute, second = (int(time[i : i + 2]) for i in (0, 3, 6))
        year += 1900 if year >= 85 else 2000
        if (given := _STARTDATE.fullmatch(recording)) and given[2] in _MONTHS:
            if (int(given[1]), _MONTHS[given[2]], int(given[3]) % 100) != (day, month, year % 100):
                raise DecodeError("time", f"two dates: {date} and {given[1]}-{given[2]}-{given[3]}")
            year = int(given[3])
        return datetime(year, month, day, hour, minute, second)  # noqa: DTZ001 - the recorder's clock has no zone
    except ValueError as exc:
        raise DecodeError("time", f"{date!r} {time!r} is no date and time") from exc


def _channel(signal: _Signal, seen: set[tuple[str, ...]], error_us: int, flags: int) -> Channel:
    (low, high), (digital_low, digital_high) = signal.physical, signal.digital
    if digital_high <= digital_low or high == low:
        raise DecodeError("uncalibrated", f"channel {signal.label!r}: its physical or digital range is empty")
    labels.once(signal.label, seen)
    name, also = labels.names(signal.label)
    scale = (high - low) / (digital_high - digital_low)
    return Channel(name, labels.ucum(signal.unit, also), scale, low - digital_low * scale, also, error_us, flags)


def _time_line(stream: BinaryIO, layout: _Layout) -> tuple[NDArray[np.float64], list[tuple[float, str]]]:
    """Microseconds from the start to each record, shape (records,), and every annotation with its onset in seconds."""
    places = [s for s in layout.signals if s.annotations]
    onsets = np.arange(layout.records, dtype=np.float64) * (layout.record_s * 1e6)
    noted: list[tuple[float, str]] = []
    if not places:
        if layout.discontinuous:
            raise DecodeError("malformed-edf", "a discontinuous recording does not say when its records begin")
        return onsets, noted
    for record in range(layout.records):
        stream.seek(layout.start + record * layout.record_bytes)
        data = stream.read(layout.record_bytes)
        for i, place in enumerate(places):
            lists = list(_lists(data[place.offset : place.offset + place.samples * layout.width]))
            if i == 0:
                if not lists or lists[0][1] != [""]:
                    if layout.discontinuous:
                        raise DecodeError("malformed-edf", f"record {record} does not say when it begins")
                elif layout.discontinuous or record == 0:
                    onsets[record] = lists[0][0] * 1e6
            noted += [(onset, text) for onset, texts in lists for text in texts if text]
            if len(noted) > REMARKS_MAX:
                raise DecodeError("too-large", f"more than {REMARKS_MAX} annotations")
    if not layout.discontinuous and layout.records:
        onsets = onsets[0] + np.arange(layout.records, dtype=np.float64) * (layout.record_s * 1e6)
    elif np.any(np.diff(onsets) < layout.record_s * 1e6 - JITTER_US):
        raise DecodeError("malformed-edf", "records overlap in time")
    return onsets, noted


def _lists(data: bytes) -> Iterator[tuple[float, list[str]]]:
    """Time-stamped annotation lists: onset in seconds, and texts.

    Raises:
        DecodeError: "malformed-edf".
    """
    for part in data.split(b"\0"):
        if not part:
            continue
        onset = _ONSET.match(part)
        if onset is None or not part.endswith(b"\x14"):
            raise DecodeError("malformed-edf", "an annotation is not in the form of EDF+")
        yield float(onset[1]), [t.decode("utf-8", "replace") for t in part[onset.end() : -1].split(b"\x14")]


def _waveforms(stream: BinaryIO, layout: _Layout, channels: Sequence[Channel | None], starts_us: NDArray[np.float64]) -> Items:
    """Blocks of records that follow each other, about as long as a piece."""
    if not any(channels):
        return
    block = int(min(max(1, PIECE_S // layout.record_s), RECORD_BYTES_MAX // layout.record_bytes))
    first = 0
    gap = False
    while first < layout.records:
        steps = np.diff(starts_us[first : first + block])
        jumps = np.flatnonzero(np.abs(steps - layout.record_s * 1e6) > JITTER_US)
        count = int(jumps[0]) + 1 if len(jumps) else len(steps) + 1
        stream.seek(layout.start + first * layout.record_bytes)
        data = stream.read(count * layout.record_bytes)
        records = np.frombuffer(data, np.uint8).reshape(count, layout.record_bytes)
        for signal, channel in zip(layout.signals, channels, strict=True):
            if channel is not None:
                yield from _piece(records, signal, channel, layout, float(starts_us[first]), gap=gap)
        first += count
        expected = starts_us[first - 1] + layout.record_s * 1e6
        gap = first < layout.records and bool(abs(starts_us[first] - expected) > JITTER_US)


def _piece(records: NDArray[np.uint8], signal: _Signal, channel: Channel, layout: _Layout, t_us: float, *, gap: bool) -> Items:
    raw = np.ascontiguousarray(records[:, signal.offset : signal.offset + signal.samples * layout.width])
    if layout.width == 2:
        counts = raw.view("<i2").ravel().astype(np.int64)
    else:
        three = raw.reshape(-1, 3).astype(np.int64)
        counts = three[:, 0] | three[:, 1] << 8 | three[:, 2] << 16
        counts -= (counts >> 23) << 24
    period_us = layout.record_s * 1e6 / signal.samples
    low, high = signal.digital
    outside = counts.min() < low or counts.max() > high  # by the format's rules it cannot be: a number to doubt
    for reading in waveform(channel, counts, np.ones(len(counts), np.bool_), t_us, period_us, gap_before=gap):
        yield replace(reading, validity=int(Validity.QUESTIONABLE)) if outside else reading


def _remarks(layout: _Layout, noted: Sequence[tuple[float, str]], t_us: int, error_us: int, flags: int) -> Items:
    """Beats only where the file has an ECG and nothing but WFDB's symbols stands in it: an "R" may be many things."""
    heart = any(key.startswith("ecg") for s in layout.signals for key in labels.names(s.label)[1])
    beats = heart and remarks.all_symbols(text for _, text in noted)
    found = [remarks.Remark(t_us + round(on * 1e6), text if beats else "", "" if beats else text) for on, text in noted]
    yield from remarks.readings(remarks.sorted_by_time(found), t_error_us=error_us, flags=flags)


def _whole(text: str, what: str) -> int:
    text = text.strip()
    if not re.fullmatch(r"[+-]?\d{1,15}", text):
        raise DecodeError("malformed-edf", f"{what} {text[:20]!r} is no whole number")
    return int(text)


def _decimal(text: str, what: str) -> float:
    text = text.strip()
    if not _NUMBER.fullmatch(text):
        raise DecodeError("malformed-edf", f"{what} {text[:20]!r} is no number")
    return float(text)
