"""WFDB records (PhysioNet): waveforms of several segments and frequencies.

The checksum of every signal is verified over the whole record before a sample of it is given. A signal without a gain is not
calibrated, and refused: the format's default of 200 units a millivolt would be a guess.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from wardround.collect.files import labels
from wardround.collect.files.opened import Items, Known, Opened
from wardround.collect.files.runs import Channel, piece_samples, waveform
from wardround.collect.files.wfdb_header import FRAME_MAX, HEADER_BYTES_MAX, Header, SignalLine, parse
from wardround.collect.files.wfdb_samples import FLAC, INVALID, Ints, blocks, bytes_for, flac_blocks
from wardround.errors import DecodeError
from wardround.records import Quality

SAMPLES_MAX = 10**12
BLOCK_SAMPLES = 200_000


@dataclass(frozen=True, slots=True)
class _Group:
    """Signals that share a file."""

    stream: BinaryIO
    signals: Sequence[tuple[int, SignalLine]]  # with their place in the header
    frames: int
    hz: float

    def blocks(self) -> Iterator[tuple[int, list[Ints]]]:
        """First frame and the samples of each signal, block by block."""
        lines = [line for _, line in self.signals]
        first, frame = 0, sum(line.per_frame for line in lines)
        ends = np.cumsum([line.per_frame for line in lines])[:-1].tolist()
        if lines[0].format in FLAC:
            samples = self.frames * lines[0].per_frame
            for block in flac_blocks(self.stream, lines[0].format, samples=samples, channels=len(lines)):
                yield first, [block[:, i] for i in range(len(lines))]
                first += len(block)
            return
        totals = [line.first for line in lines]
        size = frame * min(piece_samples(1e6 / self.hz), max(1, BLOCK_SAMPLES // frame))  # so that a block is whole pieces
        for block in blocks(self.stream, lines[0].format, skip=lines[0].offset, samples=self.frames * frame, block=size):
            parts = [p.ravel() for p in np.split(block.reshape(-1, frame), ends, axis=1)]
            if lines[0].format == 8:  # differences from the sample before
                parts = [np.cumsum(p) + total for p, total in zip(parts, totals, strict=True)]
                totals = [int(p[-1]) for p in parts]
            yield first, parts
            first += len(block) // frame


def read(file: Opened, known: Known) -> Items:
    """Readings of a record, given by its header.

    Raises:
        DecodeError: damaged, a part is missing, or without a date ("no-date") and `start_us` not given.
    """
    header = parse(file.whole(HEADER_BYTES_MAX))
    if not header.signals and not header.segments:
        raise DecodeError("no-measurements", "the record has annotations alone")
    t_us, error_us = start_of(header, known)
    parts = list(_segments(file, header))  # every header is read before a sample is
    checked = [(start, segment, list(_groups(file, segment))) for start, segment in parts]
    refused: list[DecodeError] = []
    good = [(start, segment, [_checked(g, refused) for g in groups]) for start, segment, groups in checked]
    yield from refused
    end: int | None = None
    for start, segment, groups in good:
        gap, end = end is not None and start > end, start + (segment.samples or 0)
        seen: set[tuple[str, ...]] = set()
        for group, wanted in groups:
            yield from _waveforms(group, wanted, segment.hz, t_us + start / header.hz * 1e6, error_us, gap=gap, seen=seen)


def start_of(header: Header, known: Known) -> tuple[int, int]:
    """Microseconds since 1970 of a record's first frame, and what is open of it.

    Raises:
        DecodeError: "no-date".
    """
    if known.start_us is not None:
        return known.start_us, 0
    if header.begins is None:
        raise DecodeError("no-date", "the header has no date")
    return labels.local_time(header.begins, known.zone)


def _segments(file: Opened, header: Header) -> Iterator[tuple[int, Header]]:
    """First frame and header of each part of a record that holds samples."""
    if not header.segments:
        yield 0, header
        return
    start = 0
    for number, (name, samples) in enumerate(header.segments):
        layout = number == 0 and samples == 0  # of a record with changing signals: names them, holds none
        if name != "~" and not layout:
            with file.beside(f"{name}.hea") as stream:
                part = parse(stream.read(HEADER_BYTES_MAX + 1))
            if part.segments or part.hz != header.hz or (part.samples or samples) != samples:
                raise DecodeError("malformed-wfdb", f"segment {name} does not fit its record")
            yield start, Header(part.name, part.hz, samples, None, part.signals, ())
        start += samples
    if header.samples is not None and start != header.samples:
        raise DecodeError("malformed-wfdb", f"the segments have {start} samples, the record {header.samples}")


def _groups(file: Opened, header: Header) -> Iterator[_Group]:
    """The signals of each file, in the order of the header."""
    numbered = [(i, line) for i, line in enumerate(header.signals) if line.format]
    for name, members in itertools.groupby(numbered, key=lambda m: m[1].file):
        signals = list(members)
        lines = [line for _, line in signals]
        if len({(line.format, line.offset) for line in lines}) > 1:
            raise DecodeError("malformed-wfdb", f"{name[:60]}: its signals differ in format or offset")
        frame = sum(line.per_frame for line in lines)
        if frame > FRAME_MAX or (lines[0].format in FLAC and len({line.per_frame for line in lines}) > 1):
            raise DecodeError("malformed-wfdb", f"{name[:60]}: {frame} samples a frame")
        stream = file.beside(name)
        yield _Group(stream, signals, _frames(stream, name, lines, frame, header.samples), header.hz)


def _frames(stream: BinaryIO, name: str, lines: Sequence[SignalLine], frame: int, announced: int | None) -> int:
    """How many frames there are.

    Raises:
        DecodeError: "truncated", or they cannot be counted.
    """
    if announced is not None and announced * frame > SAMPLES_MAX:
        raise DecodeError("too-large", f"{announced} frames are announced")
    if lines[0].format in FLAC:
        if announced is None:
            raise DecodeError("malformed-wfdb", f"{name[:60]}: the header does not say how many samples there are")
        return announced
    size = stream.seek(0, 2) - lines[0].offset
    if announced is None:
        return max(0, size * 6 // bytes_for(lines[0].format, 6)) // frame
    wanted = bytes_for(lines[0].format, announced * frame)
    if size < wanted:
        raise DecodeError("truncated", f"{name[:60]} has {size} bytes of samples, {wanted} are announced")
    return announced


def _checked(group: _Group, refused: list[DecodeError]) -> tuple[_Group, list[bool]]:
    """Which signals of a group may be given: those whose checksum matches, and that are calibrated."""
    sums = [0] * len(group.signals)
    for _, parts in group.blocks():
        sums = [(total + int(part.sum())) & 0xFFFF for total, part in zip(sums, parts, strict=True)]
    wanted = []
    for total, (place, line) in zip(sums, group.signals, strict=True):
        reason, words = "", ""
        if line.checksum is not None and total != line.checksum & 0xFFFF:
            reason, words = "checksum", f"the samples add up to {total}, not to {line.checksum & 0xFFFF}"
        elif line.gain == 0.0:
            reason, words = "uncalibrated", "the header gives no gain"
        if reason:
            refused.append(DecodeError(reason, f"signal {place} ({line.label[:40]}): {words}"))
        wanted.append(not reason)
    return group, wanted


def _waveforms(
    group: _Group,
    wanted: Sequence[bool],
    hz: float,
    t_us: float,
    error_us: int,
    *,
    gap: bool,
    seen: set[tuple[str, ...]],
) -> Items:
    channels: list[Channel | None] = []
    for take, (_, line) in zip(wanted, group.signals, strict=True):
        channels.append(None)
        if take:
            try:
                labels.once(line.label, seen)
            except DecodeError as error:
                yield error
                continue
            channels[-1] = _channel(line, error_us)
    before = [gap] * len(channels)
    for first, parts in group.blocks():
        for i, (channel, samples, (_, line)) in enumerate(zip(channels, parts, group.signals, strict=True)):
            if channel is None:
                continue
            # FLAC counts samples, the other formats frames: both are a time
            period_us = 1e6 / (hz * line.per_frame)
            start = first if line.format in FLAC else first * line.per_frame
            early = max(0, line.skew * line.per_frame - start)  # before the record's first frame
            part = samples[early:]
            if not len(part):
                continue
            valid = part != INVALID[line.format] if line.format in INVALID else np.ones(len(part), np.bool_)
            at_us = t_us + (start + early - line.skew * line.per_frame) * period_us
            yield from waveform(channel, part, valid, at_us, period_us, gap_before=before[i])
            before[i] = not bool(valid[-1])


def _channel(line: SignalLine, error_us: int) -> Channel:
    name, also = labels.names(line.label)
    return Channel(
        name,
        labels.ucum(line.unit, also),
        1.0 / line.gain,
        -line.baseline / line.gain,
        also,
        error_us,
        int(Quality.CLOCK_UNSYNCED) if error_us else 0,
    )
