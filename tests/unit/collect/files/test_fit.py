"""FIT files: built here by the protocol's rules, damaged in every way, and fuzzed."""

from __future__ import annotations

import contextlib
import struct
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.collect.files import fit
from wardround.collect.files.opened import Known, in_memory
from wardround.errors import DecodeError

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
STAMP = int(NOON.timestamp()) - fit.EPOCH_S
T_US = int(NOON.timestamp()) * 1_000_000
U8, U16, U32, S32, BYTE, FILE_TYPE = 0x02, 0x84, 0x86, 0x85, 0x0D, 0x00


def define(number, fields, *, local=0, big=False, developer=()):
    order = ">" if big else "<"
    head = bytes([0x40 | local | (0x20 if developer else 0), 0, int(big)]) + struct.pack(order + "H", number)
    body = bytes([len(fields)]) + b"".join(bytes(f) for f in fields)
    return head + body + (bytes([len(developer)]) + b"".join(bytes(d) for d in developer) if developer else b"")


def fit_file(*records, header=14, version=0x20, crc=None):
    body = b"".join(records)
    head = struct.pack("<BBHI4s", header, version, 2100, len(body), b".FIT")
    if header == 14:
        head += struct.pack("<H", fit.crc16(head))
    return head + body + struct.pack("<H", fit.crc16(head + body) if crc is None else crc)


HEART = define(20, [(253, 4, U32), (3, 1, U8)])


def beat(stamp, rate, local=0):
    return bytes([local]) + struct.pack("<IB", stamp, rate)


def read(data, **known):
    return list(fit.read(in_memory(data), Known(T_US, **known)))


def points(items, name):
    return [
        (item.t_us + int(offset), float(value))
        for item in items
        if getattr(item, "name", "") == name
        for offset, value in zip(item.offsets(), item.samples(), strict=True)
    ]


def test_the_checksum_is_crc_16_arc():
    assert fit.crc16(b"123456789") == 0xBB3D  # the check value of the CRC catalogue


def test_records_become_a_run_with_the_recorders_times():
    items = read(fit_file(HEART, beat(STAMP, 61), beat(STAMP + 1, 62), beat(STAMP + 4, 63)))
    assert points(items, "heart-rate") == [(T_US, 61.0), (T_US + 1_000_000, 62.0), (T_US + 4_000_000, 63.0)]
    assert len(items) == 1
    assert items[0].unit == "/min"


def test_invalid_values_are_no_numbers():
    items = read(fit_file(HEART, beat(STAMP, 61), beat(STAMP + 1, 0xFF), beat(STAMP + 2, 63)))
    assert [v for _, v in points(items, "heart-rate")] == [61.0, 63.0]


@pytest.mark.parametrize("big", [False, True])
def test_scales_and_both_byte_orders(big):
    order = ">" if big else "<"
    layout = define(20, [(253, 4, U32), (5, 4, U32), (6, 2, U16)], big=big)
    data = bytes([0]) + struct.pack(order + "IIH", STAMP, 123_456, 2_750)
    items = read(fit_file(layout, data))
    assert points(items, "distance") == [(T_US, pytest.approx(1234.56, abs=1e-9))]
    assert points(items, "speed") == [(T_US, pytest.approx(2.75, abs=1e-9))]


def test_compressed_times_roll_over():
    stamp = STAMP - STAMP % 32 + 30
    layout = define(20, [(3, 1, U8)], local=1)
    items = read(fit_file(HEART, beat(stamp, 60), layout, bytes([0x80 | 1 << 5 | 31, 61]), bytes([0x80 | 1 << 5 | 2, 62])))
    start = (stamp + fit.EPOCH_S) * 1_000_000
    assert points(items, "heart-rate") == [(start, 60.0), (start + 1_000_000, 61.0), (start + 4_000_000, 62.0)]


def test_compressed_distance_rolls_over():
    layout = define(20, [(253, 4, U32), (8, 3, BYTE)])
    raw = [(100, 4090), (200, 10)]  # twelve bits each

    def packed(stamp, speed, distance):
        return bytes([0]) + struct.pack("<I", stamp) + bytes([speed & 255, speed >> 8 | (distance & 15) << 4, distance >> 4])

    items = read(fit_file(layout, *(packed(STAMP + i, *pair) for i, pair in enumerate(raw))))
    assert [v for _, v in points(items, "distance")] == [4090 / 16, (4096 + 10) / 16]
    assert [v for _, v in points(items, "speed")] == [1.0, 2.0]


def test_developer_fields_and_unknown_messages_are_read_over():
    layout = define(20, [(253, 4, U32), (3, 1, U8)], developer=[(0, 3, 0)])
    strange = define(65_000, [(1, 5, 0x07)], local=2)
    items = read(fit_file(strange, bytes([2]) + b"hello", layout, beat(STAMP, 70) + b"xyz", beat(STAMP + 1, 71) + b"xyz"))
    assert [v for _, v in points(items, "heart-rate")] == [70.0, 71.0]


def test_beats_follow_each_other_from_the_record_before():
    layout = define(78, [(0, 10, U16)], local=1)
    beats = bytes([1]) + struct.pack("<5H", 1000, 950, 0xFFFF, 0xFFFF, 0xFFFF)
    items = read(fit_file(HEART, beat(STAMP, 60), layout, beats))
    assert points(items, "rr-interval") == [(T_US + 1_000_000, 1000.0), (T_US + 1_950_000, 950.0)]


def test_a_weight_that_is_being_calculated_is_none():
    layout = define(30, [(253, 4, U32), (0, 2, U16)])
    records = [bytes([0]) + struct.pack("<IH", STAMP + i, w) for i, w in enumerate((fit.WEIGHT_CALCULATING, 7580))]
    assert points(read(fit_file(layout, *records)), "body-weight") == [(T_US + 1_000_000, pytest.approx(75.8, abs=1e-9))]


def test_steps_of_the_day_with_half_a_timestamp():
    info = define(103, [(253, 4, U32)], local=1)
    layout = define(55, [(26, 2, U16), (3, 4, U32), (24, 1, BYTE)])
    late = (STAMP + 70_000) & 0xFFFF
    rows = [struct.pack("<BHIB", 0, (STAMP + 60) & 0xFFFF, 100, 6), struct.pack("<BHIB", 0, late, 40, 1 | 2 << 5)]
    items = read(fit_file(info, bytes([1]) + struct.pack("<I", STAMP), layout, *rows))
    assert points(items, "steps-walking") == [(T_US + 60_000_000, 100.0)]
    assert points(items, "steps-running") == [(T_US + (70_000 - 65_536) * 1_000_000, 40.0)]


def test_several_files_in_one():
    one = fit_file(HEART, beat(STAMP, 60))
    assert [v for _, v in points(read(one + fit_file(HEART, beat(STAMP + 5, 65))), "heart-rate")] == [60.0, 65.0]


def test_a_recorder_that_does_not_know_the_date_needs_to_be_told():
    data = fit_file(HEART, beat(1000, 60), beat(1003, 61))
    with pytest.raises(DecodeError) as caught:
        read(data)
    assert caught.value.reason == "no-date"
    assert points(read(data, start_us=T_US), "heart-rate") == [(T_US, 60.0), (T_US + 3_000_000, 61.0)]


GOOD = fit_file(HEART, beat(STAMP, 60), beat(STAMP + 1, 61))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (GOOD[:-1], "truncated"),
        (GOOD[:-9], "truncated"),
        (GOOD[:30] + bytes([GOOD[30] ^ 1]) + GOOD[31:], "checksum"),
        (GOOD[:2] + b"\xff" + GOOD[3:], "checksum"),
        (GOOD + b"tail", "malformed-fit"),
        (fit_file(HEART, beat(STAMP, 60), version=0x30), "version"),
        (fit_file(beat(STAMP, 60)), "malformed-fit"),
        (fit_file(HEART, beat(STAMP, 60)[:-1]), "truncated"),
        (fit_file(HEART[:-2]), "truncated"),
        (fit_file(define(0, [(0, 1, FILE_TYPE)]), bytes([0, 2])), "no-measurements"),
        (fit_file(define(20, [(3, 1, U8)]), bytes([0, 60])), "no-time"),
        (GOOD[:12], "truncated"),
    ],
)
def test_what_is_damaged_is_refused_by_name(data, reason):
    with pytest.raises(DecodeError) as caught:
        read(data)
    assert caught.value.reason == reason


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from([b"", HEART, define(55, [(24, 1, BYTE), (26, 2, U16)], local=3)]))
def test_rubbish_behind_good_checksums_is_read_or_refused(body, before):
    with contextlib.suppress(DecodeError):
        list(fit.read(in_memory(fit_file(before, body)), Known(T_US, start_us=0)))
