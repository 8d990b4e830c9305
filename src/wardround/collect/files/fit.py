"""FIT files of watches, bicycle computers and scales: heart rate, RR intervals, breathing, SpO2, weight, pressure, movement.

Source: Garmin, "FIT Protocol" and the public profile (developer.garmin.com/fit). Both checksums are verified and the whole file
is parsed before anything is given. Base types' invalid values are no numbers. Positions are read over: where a patient is, is no
signal. A time below 2**28 counts from the recorder's power-up: the person who imports the file says when that was.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from wardround.collect.devices.reading import Reading
from wardround.collect.files.opened import Items, Known, Opened
from wardround.collect.files.runs import Channel, Points
from wardround.errors import DecodeError

BYTES_MAX = 64_000_000
EPOCH_S = 631_065_600  # 1989-12-31T00:00:00Z
RELATIVE_BELOW = 2**28
PROTOCOL_MAJOR_MAX = 2
TIMESTAMP = 253
# Base type to struct's letter and the value that means "not measured" (Z types: zero).
_TYPES: dict[int, tuple[str, int]] = {
    0x00: ("B", 0xFF),
    0x01: ("b", 0x7F),
    0x02: ("B", 0xFF),
    0x83: ("h", 0x7FFF),
    0x84: ("H", 0xFFFF),
    0x85: ("i", 0x7FFFFFFF),
    0x86: ("I", 0xFFFFFFFF),
    0x0A: ("B", 0),
    0x8B: ("H", 0),
    0x8C: ("I", 0),
    0x0D: ("B", -1),  # bytes: all 0xFF together, which no field read here asks
    0x8E: ("q", 0x7FFFFFFFFFFFFFFF),
    0x8F: ("Q", 0xFFFFFFFFFFFFFFFF),
    0x90: ("Q", 0),
}
FILE_ID, RECORD, WEIGHT, PRESSURE, MONITORING, HRV, SPO2, RESPIRATION = 0, 20, 30, 51, 55, 78, 269, 297
_HEART = Channel("heart-rate", "/min")
_BREATH, _BREATH_FINE = Channel("respiratory-rate", "/min"), Channel("respiratory-rate", "/min", 0.01)
_SPEED = Channel("speed", "m/s", 0.001)
_RR = Channel("rr-interval", "ms", t_error_us=2_000_000)  # beats have no time of their own, only their place between records
# Message and field to the signal: the public profile's scale becomes the scale of the run.
_FIELDS: dict[int, dict[int, Channel]] = {
    RECORD: {
        3: _HEART,
        4: Channel("cadence", "/min"),
        5: Channel("distance", "m", 0.01),
        6: _SPEED,
        7: Channel("power", "W"),
        73: _SPEED,
        99: _BREATH,
        108: _BREATH_FINE,
    },
    MONITORING: {27: _HEART},
    WEIGHT: {0: Channel("body-weight", "kg", 0.01), 1: Channel("body-fat", "%", 0.01)},
    PRESSURE: {
        0: Channel("systolic", "mm[Hg]"),
        1: Channel("diastolic", "mm[Hg]"),
        2: Channel("mean-pressure", "mm[Hg]"),
        6: Channel("pulse-rate-cuff", "/min"),
    },
    SPO2: {0: Channel("spo2", "%")},
    RESPIRATION: {0: _BREATH_FINE},
}
_OTHERS = {FILE_ID: {0}, MONITORING: {3, 5, 24, 26}, HRV: {0}, RECORD: {8}, PRESSURE: {8}, WEIGHT: set[int]()}
_WANTED = {number: {TIMESTAMP, *_FIELDS.get(number, {}), *_OTHERS.get(number, ())} for number in {*_FIELDS, *_OTHERS}}
_TIMED = {TIMESTAMP}
_STEPS = {1: Channel("steps-running", "{steps}"), 6: Channel("steps-walking", "{steps}")}
_COMPRESSED = (Channel("speed", "m/s", 0.01), Channel("distance", "m", 1 / 16))
WEIGHT_CALCULATING = 0xFFFE
_KINDS = {
    1: "device", 2: "settings", 3: "sport", 4: "activity", 5: "workout", 6: "course", 7: "schedules", 9: "weight", 10: "totals",
    11: "goals", 14: "blood pressure", 15: "monitoring", 20: "activity summary", 28: "monitoring, daily", 32: "monitoring",
    34: "segment", 35: "segments", 40: "exercise",
}  # fmt: skip
Value = int | tuple[int, ...]
_CRC = (
    0x0000, 0xCC01, 0xD801, 0x1400, 0xF001, 0x3C00, 0x2800, 0xE401, 0xA001, 0x6C00, 0x7800, 0xB401, 0x5000, 0x9C01,
    0x8801, 0x4400,
)  # fmt: skip


def read(file: Opened, known: Known) -> Items:
    """Readings of a FIT file, or of several written one after the other.

    Raises:
        DecodeError: damaged, of an unknown version, without measurements, or without a date ("no-date") and `start_us` not given.
    """
    data = file.whole(BYTES_MAX)
    messages = [message for part in _parts(data) for message in _messages(part)]
    yield from _Reader(known).read(messages)


def is_fit(head: bytes) -> bool:
    """Whether a file that begins so is FIT."""
    return len(head) >= 12 and head[0] in (12, 14) and head[8:12] == b".FIT"


def crc16(data: bytes) -> int:
    """FIT's checksum (CRC-16/ARC)."""
    crc = 0
    for byte in data:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc


def _table() -> tuple[int, ...]:
    """One step a byte out of the protocol's two a nibble."""
    table = []
    for byte in range(256):
        crc = byte
        for _ in range(2):
            crc = _CRC[crc & 0xF] ^ (crc >> 4)
        table.append(crc)
    return tuple(table)


_TABLE = _table()


def _parts(data: bytes) -> Iterator[bytes]:
    """The records of each FIT file in the data, their checksums verified."""
    at = 0
    while at < len(data):
        if not is_fit(data[at : at + 12]):
            raise DecodeError("malformed-fit", f"no FIT header at byte {at}")
        size, version, _profile, length = struct.unpack_from("<BBHI", data, at)
        if version >> 4 > PROTOCOL_MAJOR_MAX:
            raise DecodeError("version", f"FIT protocol {version >> 4}.{version & 15} is not known")
        end = at + size + length
        if end + 2 > len(data):
            raise DecodeError("truncated", f"the file has {len(data)} bytes, {end + 2} are announced")
        if size == 14 and (crc := int.from_bytes(data[at + 12 : at + 14], "little")) and crc != crc16(data[at : at + 12]):
            raise DecodeError("checksum", "the header's checksum does not match")
        if int.from_bytes(data[end : end + 2], "little") != crc16(data[at:end]):
            raise DecodeError("checksum", "the file's checksum does not match: it has been damaged or was not closed")
        yield data[at + size : end]
        at = end + 2


@dataclass(frozen=True, slots=True)
class _Definition:
    """How the data messages of one local type are laid out: what is wanted of them alone."""

    number: int
    size: int
    layout: struct.Struct
    fields: tuple[tuple[int, int, int, bool], ...]  # field, how many, invalid value, whether it was an array

    def values(self, data: bytes) -> dict[int, Value]:
        """The valid values of the wanted fields; of an array, those that are valid."""
        raw = self.layout.unpack(data)
        found: dict[int, Value] = {}
        at = 0
        for number, count, invalid, array in self.fields:
            part = raw[at : at + count]
            at += count
            if array:
                found[number] = tuple(v for v in part if v != invalid)
            elif part[0] != invalid:
                found[number] = part[0]
        return found


def _messages(data: bytes) -> Iterator[tuple[int, dict[int, Value]]]:
    """Global message number and wanted values of each data message; compressed times are resolved."""
    definitions: dict[int, _Definition] = {}
    at, clock = 0, 0
    while at < len(data):
        head = data[at]
        at += 1
        if not head & 0x80 and head & 0x40:
            definition, at = _definition(data, at, developer=bool(head & 0x20))
            definitions[head & 15] = definition
            continue
        local = head >> 5 & 3 if head & 0x80 else head & 15
        if local not in definitions:
            raise DecodeError("malformed-fit", f"a message of local type {local} before its definition")
        definition = definitions[local]
        if at + definition.size > len(data):
            raise DecodeError("truncated", "the last message is not whole")
        values = definition.values(data[at : at + definition.size])
        at += definition.size
        stamp = values.get(TIMESTAMP)
        if head & 0x80:
            clock += ((head & 31) - clock) & 31
            values[TIMESTAMP] = clock
        elif isinstance(stamp, int):
            clock = stamp
        yield definition.number, values


def _definition(data: bytes, at: int, *, developer: bool) -> tuple[_Definition, int]:
    if at + 5 > len(data):
        raise DecodeError("truncated", "a definition is not whole")
    order = ">" if data[at + 1] == 1 else "<"
    (number,) = struct.unpack_from(order + "H", data, at + 2)
    count, at = data[at + 4], at + 5
    end = at + 3 * count
    if end + developer > len(data):
        raise DecodeError("truncated", "a definition is not whole")
    layout, size = order, 0
    fields: list[tuple[int, int, int, bool]] = []
    for start in range(at, end, 3):
        field_, width, base = data[start : start + 3]
        letter, invalid = _TYPES.get(base, ("", 0))
        one = struct.calcsize("=" + letter) if letter else 0
        if field_ in _WANTED.get(number, _TIMED) and one and width and width % one == 0:
            layout += f"{width // one}{letter}"
            fields.append((field_, width // one, invalid, base == 0x0D or width > one))
        else:
            layout += f"{width}x"
        size += width
    if developer:
        extra, end = data[end], end + 1
        if end + 3 * extra > len(data):
            raise DecodeError("truncated", "a definition is not whole")
        width = sum(data[start + 1] for start in range(end, end + 3 * extra, 3))
        layout, size, end = layout + f"{width}x", size + width, end + 3 * extra
    return _Definition(number, size, struct.Struct(layout), tuple(fields)), end


@dataclass
class _Reader:
    """Messages to readings."""

    known: Known
    _points: Points = field(default_factory=Points)
    _first: int | None = None  # of relative times
    _clock: int | None = None  # the newest time of any message
    _since_record_ms: int = 0
    _distance: tuple[int, int] | None = None  # compressed: raw, accumulated
    _kind: str = "unknown"
    _given: int = 0
    _untimed: int = 0

    def read(self, messages: list[tuple[int, dict[int, Value]]]) -> Items:
        """Every reading; what could not be taken comes at the end."""
        for number, values in messages:
            if number == FILE_ID and isinstance(kind := values.get(0), int):
                self._kind = _KINDS.get(kind, f"type {kind}")
            for reading in self._message(number, values):
                self._given += 1
                yield reading
        for reading in self._points.end():
            self._given += 1
            yield reading
        if self._untimed:
            refused = DecodeError("no-time", f"{self._untimed} messages have no time")
            if not self._given:
                raise refused
            yield refused
        if not self._given:
            raise DecodeError("no-measurements", f"a FIT file of kind {self._kind} without measurements that are known here")

    def _message(self, number: int, values: dict[int, Value]) -> Iterator[Reading]:
        self._tick(number, values)
        if number == HRV:
            yield from self._beats(values)
            return
        channels = dict(self._channels(number, values))
        if not channels:
            return
        if self._clock is None or (number != MONITORING and TIMESTAMP not in values):
            self._untimed += 1
            return
        t_us = self._time(self._clock)
        for channel, count in channels.items():
            yield from self._points.add(channel, t_us, count)

    def _tick(self, number: int, values: dict[int, Value]) -> None:
        stamp, low = values.get(TIMESTAMP), values.get(26)
        if isinstance(stamp, int):
            self._clock = stamp
        elif number == MONITORING and isinstance(low, int) and self._clock is not None:
            self._clock += (low - self._clock) & 0xFFFF  # timestamp_16: the lower half alone
        if number == RECORD:
            self._since_record_ms = 0
            if self._first is None and self._clock is not None and self._clock < RELATIVE_BELOW:
                self._first = self._clock  # the recording begins with its first record, measured or not

    def _channels(self, number: int, values: dict[int, Value]) -> Iterator[tuple[Channel, int]]:
        if number == PRESSURE and values.get(8, 0) != 0:
            return  # the cuff says that this measurement is incomplete or irregular
        for field_, channel in _FIELDS.get(number, {}).items():
            value = values.get(field_)
            if isinstance(value, int) and not (number == WEIGHT and field_ == 0 and value == WEIGHT_CALCULATING):
                yield channel, value
        if number == MONITORING:
            yield from self._steps(values)
        compressed = values.get(8)
        if number == RECORD and isinstance(compressed, tuple) and len(compressed) == 3 and compressed != (255, 255, 255):
            yield from self._speed_and_distance(compressed)

    def _steps(self, values: dict[int, Value]) -> Iterator[tuple[Channel, int]]:
        """Steps of one activity, as the recorder has added them up so far."""
        kind, both, count = values.get(5), values.get(24), values.get(3)
        if isinstance(both, tuple) and both:
            both = both[0]
        if not isinstance(kind, int) and isinstance(both, int):
            kind = both & 31
        if isinstance(kind, int) and kind in _STEPS and isinstance(count, int):
            yield _STEPS[kind], count

    def _speed_and_distance(self, data: tuple[int, ...]) -> Iterator[tuple[Channel, int]]:
        """compressed_speed_distance: twelve bits each; distance rolls over and is added up."""
        speed, raw = data[0] | (data[1] & 15) << 8, data[1] >> 4 | data[2] << 4
        before = self._distance
        total = raw if before is None else before[1] + ((raw - before[0]) & 0xFFF)
        self._distance = (raw, total)
        yield _COMPRESSED[0], speed
        yield _COMPRESSED[1], total

    def _beats(self, values: dict[int, Value]) -> Iterator[Reading]:
        intervals = values.get(0)
        if not isinstance(intervals, tuple) or not intervals:
            return
        if self._clock is None:
            self._untimed += 1
            return
        for interval_ms in intervals:
            self._since_record_ms += interval_ms
            yield from self._points.add(_RR, self._time(self._clock) + self._since_record_ms * 1_000, interval_ms)

    def _time(self, stamp: int) -> int:
        """Microseconds since 1970.

        Raises:
            DecodeError: "no-date": it counts from power-up.
        """
        if stamp >= RELATIVE_BELOW:
            return (stamp + EPOCH_S) * 1_000_000
        if self.known.start_us is None:
            raise DecodeError("no-date", "its times count from the recorder's power-up: it does not know the date")
        if self._first is None:
            self._first = stamp
        return self.known.start_us + (stamp - self._first) * 1_000_000
