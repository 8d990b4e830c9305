"""A cap that holds, a schedule, and a link on which what is measured now never waits behind what an outage left."""

from __future__ import annotations

import pytest

from wardround.clock import ManualClock
from wardround.collect.forwarder import BACKLOG_BATCHES, Forwarder
from wardround.collect.intake import ForwardReceipt
from wardround.collect.lanes import Priority
from wardround.collect.pace import Pace, parse_windows
from wardround.collect.spool import PARK_ROWS, Spool
from wardround.collect.storage import MemoryStorage
from wardround.errors import SettingsError
from wardround.settings import LinkSettings, SpoolSettings

MIDNIGHT_US = 1_700_006_400_000_000  # 2023-11-15T00:00Z


class Link:
    """A forwarder over a link of so many bytes a second, in simulated time; requests go one after the other."""

    def __init__(self, bytes_per_s, link=None):
        self.clock = ManualClock(MIDNIGHT_US)
        self.spool = Spool(MemoryStorage(), SpoolSettings())
        self.forwarder = Forwarder(
            self.spool, lambda: (0, []), lambda _row: True, pace=Pace(link or LinkSettings()), clock=self.clock
        )
        self.bytes_per_s = bytes_per_s
        self.on_the_wire = []  # (arrives at, batch)
        self.free_at = 0.0
        self.arrived = []  # (when, row)

    def put(self, priority, size, count=1):
        now = self.clock.now_us()
        self.spool.commit([(priority, now.to_bytes(8, "little") + bytes(size - 8))] * count, [], now_us=now)

    def step(self, seconds=0.01):
        """Everything that may go is handed to the link; what has arrived is receipted."""
        self.clock.advance(seconds)
        now = self.clock.monotonic_s()
        while batch := self.forwarder.next_batch():
            self.free_at = max(self.free_at, now) + sum(map(len, batch.observations)) / self.bytes_per_s
            self.on_the_wire.append((self.free_at, batch))
        while self.on_the_wire and self.on_the_wire[0][0] <= now:
            at, batch = self.on_the_wire.pop(0)
            self.arrived += [(at, row) for row in batch.observations]
            self.forwarder.receipted(ForwardReceipt(batch.boot, batch.first_seq + len(batch.observations) - 1))


def ages_s(link, size):
    """How old rows of that size were when they arrived."""
    start = MIDNIGHT_US / 1e6
    return [start + at - int.from_bytes(row[:8], "little") / 1e6 for at, row in link.arrived if len(row) == size]


def test_after_an_outage_the_link_is_full_and_what_is_measured_now_is_there_within_a_second():
    link = Link(bytes_per_s=125_000)  # 1 Mbit/s
    link.put(Priority.WAVEFORM, 5_000, count=2 * PARK_ROWS)  # 5 MB: 40 s of the link
    link.forwarder.reset()
    for hundredth in range(45 * 100):
        if hundredth % 100 == 0:
            link.put(Priority.VITAL, 100)
            link.put(Priority.WAVEFORM, 1_000)
        if hundredth == 1_000:
            link.put(Priority.ALARM, 64)
        link.step()
    late_s = sorted(ages_s(link, 100)[5:])  # the first seconds measure the link
    assert len(late_s) >= 35
    assert late_s[-1] < 1.5
    assert ages_s(link, 64)[0] < 1.5
    assert max(ages_s(link, 1_000)[5:]) < 2.0
    backlog = [at for at, row in link.arrived if len(row) == 5_000]
    assert len(backlog) == 2 * PARK_ROWS  # nothing but the link held it up:
    assert backlog[-1] < 40 + 45 * 1_100 / 125_000 + 2


def test_a_cap_holds_and_alarms_do_not_wait_for_it():
    link = Link(bytes_per_s=10_000_000, link=LinkSettings(bytes_per_s_max=50_000))
    link.put(Priority.WAVEFORM, 5_000, count=400)
    link.forwarder.reset()
    for _ in range(1_000):
        link.step()
    assert sum(len(row) for _, row in link.arrived) == pytest.approx(10 * 50_000 + 50_000, rel=0.05)
    link.put(Priority.ALARM, 64)
    link.step(0.001)
    link.step(0.001)
    assert len(link.arrived[-1][1]) == 64


def test_another_cap_holds_by_the_time_of_day_of_its_zone():
    settings = LinkSettings(bytes_per_s_max=1_000, schedule={"22:00-06:00": 0, "12:00-13:00": 500}, timezone="Europe/Vienna")
    pace = Pace(settings)
    hour_us = 3_600_000_000
    assert [pace.rate(MIDNIGHT_US + h * hour_us) for h in (-3, -2, 0, 4, 5, 11, 12)] == [0, 0, 0, 0, 1_000, 500, 1_000]
    assert Pace(settings).ready_s(MIDNIGHT_US, 0.0) == 0.0


def test_a_cap_that_ends_leaves_no_debt():
    pace = Pace(LinkSettings(bytes_per_s_max=10, schedule={"01:00-02:00": 0}))
    pace.sent(1_000_000, MIDNIGHT_US, 0.0)
    assert pace.ready_s(MIDNIGHT_US, 1.0) > 90_000
    assert pace.ready_s(MIDNIGHT_US + 3_600_000_000, 3_600.0) == 0.0
    assert pace.ready_s(MIDNIGHT_US + 7_200_000_000, 7_200.0) == 0.0


def test_on_a_slow_link_batches_of_the_backlog_are_small_and_few():
    link = Link(bytes_per_s=20_000)
    link.put(Priority.WAVEFORM, 5_000, count=2 * PARK_ROWS)
    link.forwarder.reset()
    for _ in range(6_000):
        link.step()
    under_way = sum(len(row) for _, batch in link.on_the_wire for row in batch.observations)
    assert under_way <= (BACKLOG_BATCHES + 1) * 16_000


@pytest.mark.parametrize("text", ["", "22:00", "22-06", "25:00-06:00", "22:61-06:00", "24:01-06:00", "a:b-c:d"])
def test_a_window_that_is_none_is_refused_with_how_to_write_one(text):
    with pytest.raises(SettingsError) as refused:
        parse_windows({text: 1})
    assert "22:00-06:00" in refused.value.remedy


def test_other_settings_that_do_not_hold_are_refused():
    with pytest.raises(SettingsError, match="-1"):
        parse_windows({"00:00-24:00": -1})
    with pytest.raises(SettingsError, match="Atlantis"):
        Pace(LinkSettings(timezone="Atlantis"))
