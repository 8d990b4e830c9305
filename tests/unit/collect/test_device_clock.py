"""Offset and drift of a device's clock: found where they can be told, and left alone where they cannot."""

from __future__ import annotations

import itertools
import random

import pytest

from wardround.collect import device_clock
from wardround.collect.device_clock import DeviceClock, DeviceClocks

START_US = 1_700_000_000_000_000


def stream(seconds, *, offset_s=0.0, drift_ppm=0.0, delay=lambda _t, chance: chance.expovariate(20), every_s=1.0):
    """(true time, newest time in the message, arrival), microseconds; the device's clock shows true time - offset."""
    chance = random.Random(1)
    for k in range(round(seconds / every_s)):
        t = k * every_s
        true_us = START_US + round(t * 1e6)
        device_us = true_us - round((offset_s + drift_ppm * 1e-6 * t) * 1e6)
        yield true_us, device_us, true_us + round(delay(t, chance) * 1e6)


def errors_s(messages, clock=None):
    """How far the corrected time is off, and what is said of it, message by message."""
    clock = clock or DeviceClock()
    for true_us, device_us, arrival_us in messages:
        reading = clock.observe(device_us, arrival_us)
        yield abs(device_us + reading.offset_us - true_us) / 1e6, reading


@pytest.mark.parametrize("offset_s", [-3_000.0, -5.0, 0.0, 5.0, 900.0])
def test_an_offset_is_found_and_its_error_holds(offset_s):
    for second, (error_s, reading) in enumerate(errors_s(stream(400, offset_s=offset_s))):
        if second >= 130:
            assert error_s < 0.2
            assert reading.synced
            assert reading.error_us < 300_000


def test_a_clock_that_is_behind_is_not_believed_before_it_has_held_steady_and_that_is_said():
    readings = [r for _, r in errors_s(stream(100, offset_s=900.0))]
    assert {r.offset_us for r in readings} == {0}
    assert not any(r.synced for r in readings)
    assert min(r.error_us for r in readings) > 899_000_000


def test_drift_is_found():
    *_, (error_s, reading) = errors_s(stream(600, offset_s=-30.0, drift_ppm=-80.0))
    assert reading.drift_ppm == pytest.approx(-80, abs=20)
    assert error_s < 0.2


def test_old_data_that_a_device_had_stored_moves_nothing():
    clock = DeviceClock()
    list(errors_s(stream(60), clock))
    stored = [(t, t, START_US + 4_000_000_000 + i * 100_000) for i, (t, _, _) in enumerate(stream(3_600))]
    assert {r.offset_us for _, r in errors_s(stored, clock)} == {0}


def test_a_device_that_sends_its_hours_late_and_in_bursts_is_not_taken_for_one_that_is_behind():
    late = stream(3_600, delay=lambda t, _chance: 660.0 - t % 600.0 + t % 600.0 / 100)
    assert {r.offset_us for _, r in errors_s(late)} == {0}


def test_corrections_move_slowly_so_that_series_are_not_torn():
    offsets = [r.offset_us for _, r in errors_s(stream(600, offset_s=-30.0, drift_ppm=200.0))]
    steps = [abs(b - a) for a, b in itertools.pairwise(offsets)]
    assert sum(step > device_clock.SLEW_US for step in steps) == 0


def test_our_own_clock_set_back_starts_afresh():
    clock = DeviceClock()
    list(errors_s(stream(60), clock))
    true_us, device_us, arrival_us = next(stream(1))
    assert clock.observe(device_us, arrival_us - 1_200_000_000).offset_us == -1_200_000_000 + arrival_us - true_us


def test_a_correction_survives_a_restart_and_devices_are_bounded(monkeypatch):
    monkeypatch.setattr(device_clock, "DEVICES_MAX", 2)
    clocks = DeviceClocks({"d0": 900_000_000})
    assert clocks.observe("d0", START_US, START_US + 900_000_000).offset_us == 900_000_000
    for name in ("d1", "d2"):
        clocks.observe(name, START_US, START_US)
    assert set(clocks.readings) == {"d1", "d2"}
