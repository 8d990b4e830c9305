"""WFDB annotation files in the MIT format: beats and rhythms of a record, timed by its header.

Source: annot(5) of the WFDB Applications Guide. Pairs of bytes: six bits of type, ten of time since the one before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from wardround.collect.files import remarks
from wardround.collect.files.opened import Items, Known, Opened
from wardround.collect.files.wfdb import start_of
from wardround.collect.files.wfdb_header import HEADER_BYTES_MAX, parse
from wardround.errors import DecodeError
from wardround.records import Quality

BYTES_MAX = 100_000_000
_SKIP, _NUM, _SUB, _CHAN, _AUX = 59, 60, 61, 62, 63
_RESOLUTION = re.compile(r"## time resolution: ([\d.]{1,20})")
TIME_MAX = 2**53


def read(file: Opened, known: Known) -> Items:
    """Beats and rhythms of an annotation file that stands beside its record's header.

    Raises:
        DecodeError: damaged, without its header, or without a date ("no-date") and `start_us` not given.
    """
    with file.beside(f"{file.name.rpartition('.')[0]}.hea") as stream:
        header = parse(stream.read(HEADER_BYTES_MAX + 1))
    t_us, error_us = start_of(header, known)
    found = list(parse_annotations(file.whole(BYTES_MAX)))
    hz = header.hz
    if found and (given := _RESOLUTION.fullmatch(found[0][2].strip("\0 "))):
        hz = float(given[1]) if given[1].count(".") <= 1 and given[1] != "." else 0.0
        found = found[1:]
    if not 1e-5 <= hz <= 1e6:
        raise DecodeError("malformed-wfdb", "the time resolution is no frequency")
    noted = [remarks.Remark(round(t_us + time / hz * 1e6), symbol, text) for time, symbol, text in found]
    flags = int(Quality.CLOCK_UNSYNCED) if error_us else 0
    yield from remarks.readings(remarks.sorted_by_time(noted), t_error_us=error_us, flags=flags)


def parse_annotations(data: bytes) -> Iterator[tuple[int, str, str]]:
    """Time in samples, symbol and auxiliary text of each annotation.

    Raises:
        DecodeError: "truncated" or "malformed-wfdb".
    """
    at, time = 0, 0
    waiting: tuple[int, str, str] | None = None
    while True:
        word = int.from_bytes(_take(data, at, 2), "little")
        at += 2
        kind, step = word >> 10, word & 0x3FF
        if word == 0:
            break
        if kind == _SKIP:  # a long interval, its upper half first
            high, low = (int.from_bytes(_take(data, at + i, 2), "little") for i in (0, 2))
            interval = high << 16 | low
            time += interval - (1 << 32) if interval >> 31 else interval
            at += 4
        elif kind == _AUX:
            text = _take(data, at, step).decode("latin-1")
            at += step + step % 2
            if waiting is not None:
                waiting = (waiting[0], waiting[1], text)
        elif kind in (_NUM, _SUB, _CHAN):
            continue
        elif kind < 50:  # the format's own, and those that programs may define
            if waiting is not None:
                yield waiting
            time += step
            if not 0 <= time <= TIME_MAX:
                raise DecodeError("malformed-wfdb", f"an annotation at sample {time}")
            symbol = remarks.SYMBOLS[kind] if kind < len(remarks.SYMBOLS) else ""
            waiting = (time, symbol or "other", "")
        else:
            raise DecodeError("malformed-wfdb", f"annotation type {kind} is not known")
    if waiting is not None:
        yield waiting
    if data[at:].strip(b"\0"):
        raise DecodeError("trailing-bytes", f"{len(data) - at} bytes follow the end of the annotations")


def _take(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise DecodeError("truncated", "the annotations do not end")
    return data[at : at + size]
