"""An edge whose certificate was not renewed is named before it ends, and again when it has; a new one, or revocation, ends it."""

from __future__ import annotations

import pytest

from wardround.clock import ManualClock
from wardround.store import open_store
from wardround.store.records import CertificateRecord
from wardround.watch.watcher import Watch

HOUR_US = 3_600_000_000


@pytest.fixture
def hub(tmp_path):
    class Hub:
        def __init__(self):
            self.clock = ManualClock()
            self.store = open_store(tmp_path / "hub.sqlite")
            self.watch = Watch(clock=self.clock, heartbeat_s=1.0, signal_title=str, on_change=lambda _alert: None)

        def certificate(self, serial, edge="icu-a", hours=24):
            return CertificateRecord(serial, edge, self.clock.now_us(), self.clock.now_us() + hours * HOUR_US)

        def after(self, hours):
            self.clock.advance(hours * 3600.0)
            self.watch.certificates(self.store.certificate_ends())
            return sorted((a.finding.edge, a.finding.signal, a.finding.priority) for a in self.watch.open_alerts())

    made = Hub()
    yield made
    made.store.close()


def test_ending_then_ended_then_renewed(hub):
    hub.store.joined(hub.certificate("01"))
    hub.store.joined(hub.certificate("02", "icu-b", hours=240))
    assert hub.after(17.9) == []  # an edge renews at 16
    assert hub.after(0.2) == [("icu-a", "ending", "low")]
    assert hub.after(5.7) == [("icu-a", "ending", "low")]
    assert hub.after(0.4) == [("icu-a", "ended", "medium")]
    assert hub.after(1000.0) == [("icu-a", "ended", "medium"), ("icu-b", "ended", "medium")]
    hub.store.joined(hub.certificate("03"))
    assert hub.after(0.0) == [("icu-b", "ended", "medium")]
    hub.store.revoke_edge("icu-b", hub.clock.now_us())
    assert hub.after(0.0) == []


def test_an_edge_that_renews_is_never_named(hub):
    hub.store.joined(hub.certificate("0"))
    for k in range(1, 9):
        assert hub.after(16.5) == []
        assert hub.store.renewed(hub.certificate(str(k)))


def test_a_certificate_that_ended_so_long_ago_that_it_is_forgotten_has_still_ended(hub):
    hub.store.joined(hub.certificate("01"))
    hub.store.joined(hub.certificate("02", "icu-b", hours=100_000))
    hub.clock.advance(3600.0 * 50_000)
    assert hub.store.renewed(hub.certificate("03", "icu-b", hours=100_000))  # forgets what ended long ago
    assert [c.serial for c in hub.store.certificates("icu-a")] == []
    assert hub.after(0.0) == [("icu-a", "ended", "medium")]
