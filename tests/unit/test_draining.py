"""An edge that is drained: what is waited for, when it is safe to switch it off, and what survives the hub."""

from __future__ import annotations

import pytest

from wardround.clock import ManualClock
from wardround.draining import SHOWN, TOPIC, WHY, Draining, rounds_of, shown
from wardround.errors import WardroundError
from wardround.learn.grpc_wire import Beat
from wardround.store import EdgeRecord, Request, open_store
from wardround.watch.watcher import Watch

START_S = 1_900_000_000
EDGE = "icu-a"


class Site:
    """A store, and what the hub would say."""

    def __init__(self, folder):
        self.clock, self.log, self.lines = ManualClock(START_S), [], []
        self.store = open_store(folder / "hub.sqlite")
        self.attached, self.rounds = {EDGE}, {}
        self.joins(EDGE)
        self.draining = self.started()

    def started(self) -> Draining:
        return Draining(
            self.store,
            self.clock,
            attached=lambda: self.attached,
            rounds=lambda edge: self.rounds.get(edge, ()),
            record=lambda kind, what, who, **facts: self.log.append((kind, what, who, facts)),
            happened=lambda title, detail: self.lines.append(title),
        )

    def joins(self, name, revoked_us=None):
        now_us = self.clock.now_us()
        self.store.put_edge(EdgeRecord(name, now_us, "1", now_us + 10**12, revoked_us))

    def beats(self, *, spooled=0, working_on="", after_s=2.0):
        self.clock.advance(after_s)
        self.draining.heard(EDGE, Beat(1, spooled, 0, working_on))
        self.draining.look()

    def stage(self) -> str:
        return self.draining.of(EDGE).stage


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.store.close()


def test_it_is_safe_when_no_round_waits_and_the_spool_is_empty(site):
    site.rounds[EDGE] = {"round 7 of beats"}
    assert "round 7 of beats still waits" in site.draining.begin(EDGE, "kim")
    assert site.draining.why_not(EDGE) == WHY
    site.beats(spooled=0)
    assert site.stage() == "finishing", "its spool is empty, but a round waits for it"
    site.rounds.clear()
    site.beats(spooled=1, working_on="beats/7")
    assert "works on beats/7" in site.draining.of(EDGE).words
    site.beats(spooled=1)
    assert (site.stage(), site.draining.of(EDGE).words) == ("emptying", "1 observation waits in its spool.")
    assert site.draining.off() == frozenset()
    site.beats(spooled=0)
    assert site.stage() == "safe"
    assert site.draining.off() == {EDGE}
    assert site.lines == ["icu-a is drained", "icu-a can be switched off"]
    assert site.log == [("change", "edge drained", "kim", {"edge": EDGE})]


def test_nothing_that_was_heard_before_counts(site):
    site.beats(spooled=0)
    site.draining.begin(EDGE, "kim")
    assert site.stage() == "emptying"


def test_devices_that_go_on_sending_do_not_take_safety_back_at_once(site):
    site.draining.begin(EDGE, "kim")
    site.beats(spooled=0)
    site.beats(spooled=3)
    assert site.stage() == "safe"
    site.beats(spooled=900, after_s=10.0)
    assert site.stage() == "emptying"


def test_an_edge_that_goes_away_is_off_only_when_nothing_was_left(site):
    site.draining.begin(EDGE, "kim")
    site.attached.clear()
    assert "not known" in site.draining.of(EDGE).words
    site.attached.add(EDGE)
    site.beats(spooled=40)
    site.attached.clear()
    assert site.stage() == "away"
    assert "40 observations wait there" in site.draining.of(EDGE).words
    site.attached.add(EDGE)
    site.beats()
    site.attached.clear()
    site.clock.advance(86_400.0)
    assert site.stage() == "off"


def test_what_is_drained_survives_the_hub_and_is_undone(site):
    site.draining.begin(EDGE, "kim")
    site.beats()
    site.draining = site.started()
    assert site.draining.why_not(EDGE) == WHY
    site.attached.clear()
    assert site.stage() == "off"
    site.draining.end(EDGE, "lee")
    assert site.started().all() == ()
    assert site.draining.why_not(EDGE) == ""
    assert site.log[-1] == ("change", "edge used again", "lee", {"edge": EDGE})


def test_what_cannot_be_is_said_and_leaves_no_entry(site):
    site.joins("gone", revoked_us=1)
    for name in ("nobody", "gone"):
        with pytest.raises(WardroundError, match="no edge is called"):
            site.draining.begin(name, "kim")
    with pytest.raises(WardroundError, match="not drained"):
        site.draining.end(EDGE, "kim")
    assert site.log == []
    site.draining.begin(EDGE, "kim")
    with pytest.raises(WardroundError, match="drained already"):
        site.draining.begin(EDGE, "kim")


def test_the_command_line_asks_and_sees(site):
    site.store.put_request(Request("r-1", TOPIC, "drain", {"edge": EDGE}, "kim", 1))
    site.store.put_request(Request("r-2", TOPIC, "drain", {"edge": "nobody"}, "kim", 2))
    site.draining.look()
    assert [site.store.request(r).state for r in ("r-1", "r-2")] == ["done", "refused"]
    assert [(d.edge, d.who) for d in shown(site.store.load_state(SHOWN))] == [(EDGE, "kim")]
    site.store.put_request(Request("r-3", TOPIC, "undo", {"edge": EDGE}, "kim", 3))
    site.draining.look()
    assert shown(site.store.load_state(SHOWN)) == []


def test_an_edge_that_is_revoked_is_no_longer_drained(site):
    site.draining.begin(EDGE, "kim")
    site.store.revoke_edge(EDGE, site.clock.now_us())
    site.draining.look()
    assert site.draining.all() == ()


def test_an_edge_that_reports_seldom_is_as_safe_as_one_that_reports_often(site):
    site.draining.begin(EDGE, "kim")
    stages = []
    for spooled in (0, 0, 1, 0):  # what devices send is in the spool now and then
        site.clock.advance(12.0)
        site.draining.heard(EDGE, Beat(1, spooled, 0, "", interval_s=12.0))
        stages.append(site.stage())  # also while nobody has looked at what it said
        site.draining.look()
        stages.append(site.stage())
    assert stages == ["emptying", *["safe"] * 7]


def test_a_drain_that_ends_while_it_is_looked_at_takes_nobody_with_it(site):
    site.draining.begin(EDGE, "olga")

    def rounds(edge):  # another thread, at the worst moment
        if site.draining.why_not(edge):
            site.draining.end(edge, "olga")
        return ()

    site.joins("icu-b")
    site.attached.add("icu-b")
    site.draining.begin("icu-b", "olga")
    site.draining._rounds = lambda edge: [*rounds(EDGE), *rounds("icu-b")]
    assert [one.edge for one in site.draining.all()] == [EDGE, "icu-b"]
    assert site.draining.all() == ()


def test_the_rounds_of_an_edge():
    assert rounds_of("a", {"x": (3, ("a", "b")), "y": (4, ("b",))}) == {"round 3 of x"}


def test_silence_that_is_expected_is_no_alert_until_it_is_not_expected_any_more():
    clock = ManualClock(START_S)
    watch = Watch(clock=clock, heartbeat_s=2.0, signal_title=str, on_change=lambda _: None)
    for edge in ("off", "lost"):
        watch.edge_seen(edge)
    clock.advance(60.0)
    watch.tick({"off"})
    watch.tick({"off"})
    assert [a.finding.edge for a in watch.open_alerts()] == ["lost"]
    assert watch.edges()["off"].silent
    watch.tick()
    watch.tick()
    assert sorted(a.finding.edge for a in watch.open_alerts()) == ["lost", "off"]
    watch.edge_seen("off")
    assert [a.finding.edge for a in watch.open_alerts()] == ["lost"]
