"""A hub that starts knows who was here: those who do not come back are missed, those who were revoked are not."""

from __future__ import annotations

import pytest

from wardround.clock import ManualClock
from wardround.hub.expected import STATE, WITHIN_S, Expected
from wardround.store import CertificateRecord, open_store
from wardround.watch.watcher import Watch

YEAR_US = 365 * 86_400_000_000


@pytest.fixture
def store(tmp_path):
    made = open_store(tmp_path / "hub.sqlite")
    for number, edge in enumerate(("icu-a", "icu-b", "icu-c", "never")):
        made.joined(CertificateRecord(f"{number:02x}", edge, 0, YEAR_US))
    yield made
    made.close()


def test_who_was_here_before_a_start_and_is_not_back_is_missed(store):
    clock = ManualClock()
    watch = Watch(clock=clock, heartbeat_s=2.0, signal_title=str, on_change=lambda _: None)
    before = Expected(store, watch)
    before.note({"icu-a", "icu-b"})
    before.note({"icu-a", "icu-c"})
    assert store.revoke_edge("icu-c", 1)

    again = Watch(clock=clock, heartbeat_s=2.0, signal_title=str, on_change=lambda _: None)
    Expected(store, again)
    again.edge_seen("icu-a")
    clock.advance(WITHIN_S)
    again.edge_seen("icu-a")
    again.tick()
    assert again.open_alerts() == []
    clock.advance(1.0)
    again.tick()
    assert [a.finding.edge for a in again.open_alerts()] == ["icu-b"]


def test_nothing_is_written_while_nobody_is_new(store):
    watch = Watch(clock=ManualClock(), heartbeat_s=2.0, signal_title=str, on_change=lambda _: None)
    expected = Expected(store, watch)
    expected.note({"icu-a", "icu-b"})
    store.save_state(STATE, b"[]")
    expected.note({"icu-b"})
    assert store.load_state(STATE) == b"[]"
