"""Alerts: one for each cause, from raised to resolved, and what was done about it."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from wardround.clock import ManualClock
from wardround.records import FROM_FILE, Observation, Quality
from wardround.watch.alerts import (
    COOL_DOWN_US,
    FLAP_CHANGES,
    FLAP_US,
    AlertBook,
    Finding,
    Policy,
    Response,
    Rules,
    State,
    needs_person,
)
from wardround.watch.detectors.sensors import Sensors
from wardround.watch.watcher import Watch


def finding(kind="sensor-dead", edge="icu-a", **changes):
    facts = {"kind": kind, "title": f"{kind} at {edge}", "priority": "medium", "category": "technical", "edge": edge}
    return Finding(**{**facts, "since_us": 0, "detected_us": 1, **changes})


def test_one_cause_is_one_alert_however_often_it_is_seen():
    book = AlertBook()
    assert book.raise_(finding(), 1).state is State.FIRING
    assert book.raise_(finding(), 2) is None
    assert [a.times for a in book.alerts()] == [2]
    assert book.raise_(finding(edge="icu-b"), 3).alert_id == "A-0002"


def test_a_cause_that_comes_back_soon_opens_its_old_alert_again():
    book = AlertBook()
    first = book.raise_(finding(), 0)
    assert book.clear(finding().fingerprint, 10).state is State.RESOLVED
    assert book.clear(finding().fingerprint, 11) is None
    assert book.raise_(finding(), 20).alert_id == first.alert_id
    book.clear(finding().fingerprint, 30)
    assert book.raise_(finding(), 31 + COOL_DOWN_US).alert_id != first.alert_id


def test_acknowledged_means_somebody_is_on_it_and_hides_nothing():
    book = AlertBook()
    alert = book.raise_(finding(), 0)
    assert book.acknowledge(alert.alert_id, "oncall", 5).acknowledged_by == "oncall"
    assert book.acknowledge(alert.alert_id, "another", 6) is None
    assert book.acknowledge("A-9999", "oncall", 6) is None
    assert len(book.open_alerts()) == 1


def test_a_response_is_undone_once_and_the_reason_is_kept():
    book = AlertBook()
    alert = book.raise_(finding(), 0, Response(what="set aside", undo="release:s:icu-a"))
    done = book.undone(alert.alert_id, "oncall", "the cable was wrong", 9)
    assert (done.response.undone_by, done.response.reason) == ("oncall", "the cable was wrong")
    assert not done.handled
    assert book.undone(alert.alert_id, "oncall", "", 10) is None


def test_what_was_done_first_stays_until_it_is_undone():
    book = AlertBook()
    alert = book.raise_(finding(), 0, Response(what="round 15", undo="x"))
    assert book.raise_(finding(), 1, Response(what="round 16", undo="x")) is None
    assert book.get(alert.alert_id).response.what == "round 15"
    book.undone(alert.alert_id, "oncall", "", 2)
    assert book.raise_(finding(), 3, Response(what="round 17", undo="x")).response.what == "round 17"


def test_who_needs_a_person_comes_first():
    book = AlertBook()
    book.raise_(finding("a"), 0, Response(what="handled"))
    book.raise_(finding("b", priority="low"), 1)
    book.raise_(finding("c", priority="high"), 2)
    book.raise_(finding("d"), 3, Response(what="flagged", person_too=True))
    assert [a.finding.kind for a in book.open_alerts()] == ["c", "d", "b", "a"]
    assert [a.finding.kind for a in needs_person(book.open_alerts())] == ["c", "d"]


def test_the_book_survives_a_restart():
    book = AlertBook()
    book.raise_(finding(), 0, Response(what="x", undo="y"))
    again = AlertBook()
    again.restore(book.save())
    assert again.alerts() == book.alerts()
    assert again.raise_(finding(), 5) is None


# -- the watch


@pytest.fixture
def watch():
    clock = ManualClock()
    changes = []
    made = Watch(clock=clock, heartbeat_s=1.0, signal_title=lambda c: f"signal {c}", on_change=changes.extend)
    made.clock, made.changes = clock, changes
    return made


def chunk(code="mdc:131330", *, flat=False, period_us=4000.0, n=1250, device="patch-1"):
    flags = int(Quality.FLAT_LINE) if flat else 0
    return Observation(
        subject="s", device=device, edge="icu-a", code=code, unit="mV", t0_us=0, t0_device_us=0, n=n, period_us=period_us,
        values=b"\0" * 2 * n, flags=flags,
    )  # fmt: skip


def test_a_dead_sensor_is_named_and_its_end_resolves_the_alert(watch):
    watch.observe([chunk(flat=True)])
    [alert] = watch.open_alerts()
    assert (alert.finding.kind, alert.finding.edge, alert.finding.device) == ("sensor-dead", "icu-a", "patch-1")
    assert "signal mdc:131330" in alert.finding.title
    watch.observe([chunk()])
    assert watch.open_alerts() == []


def test_a_short_flat_stretch_is_no_dead_sensor(watch):
    watch.observe([chunk(flat=True, n=500), chunk(), chunk(flat=True, n=500)])
    assert watch.alerts() == []


def test_a_signal_that_stops_while_its_device_goes_on_is_named(watch):
    for _ in range(10):
        watch.observe([chunk(), chunk("wr:accel-x")])
        watch.clock.advance(1.0)
    for _ in range(12):
        watch.observe([chunk("wr:accel-x")])
        watch.clock.advance(1.0)
        watch.tick()
    assert [a.finding.kind for a in watch.open_alerts()] == ["signal-silent"]
    watch.observe([chunk()])
    assert watch.open_alerts() == []


def run_for(watch, seconds, *codes, beats=True):
    for _ in range(seconds):
        if beats:
            watch.edge_seen("icu-a")
        if codes:
            watch.observe([chunk(code) for code in codes])
        watch.clock.advance(1.0)
        watch.tick()


def test_a_device_that_stops_altogether_is_one_alert_also_with_one_signal_alone(watch):
    for codes in (("mdc:131330",), ("mdc:131330", "wr:accel-x")):
        run_for(watch, 10, *codes)
        run_for(watch, 25)
        assert watch.open_alerts() == []
        run_for(watch, 15)
        assert [(a.finding.kind, a.finding.title) for a in watch.open_alerts()] == [
            ("device-silent", "patch-1 at icu-a has stopped")
        ]
        run_for(watch, 1, *codes)
        assert watch.open_alerts() == []


def test_a_recording_that_was_imported_is_no_sensor(watch):
    imported = structs.replace(chunk(flat=True), device_boot=FROM_FILE + "0f")
    for _ in range(10):
        watch.edge_seen("icu-a")
        watch.observe([imported])
        watch.clock.advance(1.0)
    run_for(watch, 60)
    assert watch.alerts() == []


def test_of_devices_at_a_silent_edge_nothing_is_said_until_it_is_back(watch):
    run_for(watch, 10, "mdc:131330")
    run_for(watch, 60, beats=False)
    assert [a.finding.kind for a in watch.open_alerts()] == ["edge-silent"]
    run_for(watch, 2)
    assert [a.finding.kind for a in watch.open_alerts()] == ["device-silent"]


def test_a_silent_edge_is_named_after_three_beats_and_resolved_when_it_is_back(watch):
    watch.edge_seen("icu-a")
    watch.clock.advance(2.5)
    watch.tick()
    assert watch.open_alerts() == []
    watch.clock.advance(1.0)
    watch.tick()
    assert [a.finding.title for a in watch.open_alerts()] == ["icu-a is silent"]
    watch.edge_seen("icu-a")
    assert watch.open_alerts() == []


def test_an_edge_that_reports_less_often_is_silent_after_three_beats_of_its_own(watch):
    watch.edge_seen("icu-a", 10.0)
    watch.clock.advance(8.0)
    watch.tick()
    watch.edge_seen("icu-a")  # its data came: that says nothing of when the next beat does
    watch.clock.advance(29.0)
    watch.tick()
    assert watch.open_alerts() == []
    watch.clock.advance(2.0)
    watch.tick()
    assert [a.finding.title for a in watch.open_alerts()] == ["icu-a is silent"]
    watch.edge_seen("icu-a", 1.0)
    watch.tick()
    assert watch.open_alerts() == []
    watch.clock.advance(3.5)
    watch.tick()
    assert [a.finding.title for a in watch.open_alerts()] == ["icu-a is silent"]


def test_a_silence_that_a_restart_came_between_is_over_with_the_first_beat(watch):
    watch.edge_seen("icu-a")
    watch.clock.advance(3.5)
    watch.tick()
    again = Watch(clock=watch.clock, heartbeat_s=1.0, signal_title=str, on_change=watch.changes.extend, saved=watch.save())
    assert [a.finding.title for a in again.open_alerts()] == ["icu-a is silent"]
    again.edge_seen("icu-a")
    assert again.open_alerts() == []


def test_an_edge_that_went_away_while_the_hub_was_away_is_missed(watch):
    watch.expect(["icu-a", "icu-b", "icu-c"], within_s=60.0)
    watch.clock.advance(30.0)
    watch.edge_seen("icu-a")
    watch.tick(stood_s=5.0)
    watch.clock.advance(31.0)
    watch.edge_seen("icu-a")
    watch.tick()
    assert watch.open_alerts() == [], "five seconds of the sixty the hub itself stood still"
    watch.clock.advance(5.0)
    watch.edge_seen("icu-a")
    watch.tick(off={"icu-c"})
    assert [a.finding.title for a in watch.open_alerts()] == ["icu-b is silent"]
    watch.tick()
    assert {a.finding.title for a in watch.open_alerts()} == {"icu-b is silent", "icu-c is silent"}
    watch.edge_seen("icu-b")
    watch.edge_seen("icu-c")
    assert watch.open_alerts() == []


def test_a_set_aside_edge_has_one_alert_and_undo_gives_the_command(watch):
    watch.edge_quarantined("s", "icu-a", 7, reason="own-history-direction", score=9.0, threshold=6.0, until_round=37)
    watch.update_refused("s", "icu-a", 8, "norm", "too large")  # the same cause
    [alert] = watch.open_alerts()
    assert alert.finding.evidence[-1] == (7.0, 9.0)
    assert watch.undo(alert.alert_id, "oncall", "seen") == "release:s:icu-a"
    assert watch.undo(alert.alert_id, "oncall", "seen") == ""
    watch.edge_released("s", "icu-a")
    assert watch.open_alerts() == []


def test_the_sensors_memory_is_bounded(monkeypatch):
    monkeypatch.setattr("wardround.watch.detectors.sensors.STREAMS_MAX", 10)
    sensors = Sensors()
    for i in range(100):
        sensors.observe(chunk(device=f"d{i}"), i)
    assert len(sensors._streams) == len(sensors._device_last_us) == 10


SENT = st.tuples(
    st.sampled_from("ab"), st.sampled_from(["wr:x", "wr:y"]), st.integers(0, 2), st.sampled_from(["", f"{FROM_FILE}1"])
)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.lists(SENT, max_size=12)), max_size=12))
def test_what_has_come_at_once_says_what_it_would_have_said_one_by_one(batches):
    together, apart, now_us = Sensors(), Sensors(), 0
    for wait_s, sent in batches:
        now_us += wait_s * 1_000_000
        assert together.tick(now_us) == apart.tick(now_us)
        runs = [structs.replace(chunk(device=d, code=f"{c}{n}", n=n, flat=True), device_boot=boot) for d, c, n, boot in sent]
        found = together.observe_all(runs, now_us)
        one_by_one = [apart.observe(o, now_us) for o in sorted(runs, key=lambda o: o.n > 1) if not o.imported]
        assert {c.device for c in found} == {c.device for c in one_by_one if c is not None}
        assert len(found) == sum(c is not None for c in one_by_one)
    assert dict(together._streams) == dict(apart._streams)  # which of one batch is the newest does not matter
    assert dict(together._device_last_us) == dict(apart._device_last_us)


MINUTE = 60_000_000
PATIENT = Rules(policies={"sensor-dead": Policy(pending_us=10, keep_us=20)}, escalate_us={"high": (100, 300)})


def states(alert):
    return [t.what for t in alert.history]


def test_a_cause_that_does_not_last_is_forgotten_and_one_that_does_fires_by_the_clock():
    book = AlertBook(PATIENT)
    assert book.raise_(finding(), 5) is None
    assert book.open_alerts() == []
    assert book.clear(finding().fingerprint, 6) is None
    assert book.alerts() == []
    book.raise_(finding(since_us=100), 105)
    assert book.tick(109) == []
    (fires,) = book.tick(110)
    assert fires.state is State.FIRING
    assert states(fires) == ["pending", "firing"]


def test_an_alert_is_held_for_a_while_once_its_cause_has_gone():
    book = AlertBook(PATIENT)
    book.raise_(finding(), 10)
    assert book.clear(finding().fingerprint, 50) is None
    assert book.raise_(finding(), 60) is None  # back: nobody noticed that it was away
    assert book.tick(75) == []
    book.clear(finding().fingerprint, 80)
    assert book.tick(99) == []
    (over,) = book.tick(100)
    assert over.state is State.RESOLVED


def test_a_flapping_cause_is_one_line_and_few_messages():
    book, messages = AlertBook(), 0
    for now in range(0, 20 * MINUTE, MINUTE):
        messages += book.raise_(finding(), now) is not None
        messages += book.clear(finding().fingerprint, now + MINUTE // 2) is not None
        messages += len(book.tick(now + MINUTE // 2))
    (alert,) = book.alerts()
    assert alert.flapping
    assert alert.open
    assert messages <= FLAP_CHANGES + 2  # of 40 changes
    (over,) = book.tick(20 * MINUTE + FLAP_US)
    assert (over.state, over.flapping) == (State.RESOLVED, False)


def test_a_silence_keeps_alerts_quiet_until_its_time_and_hides_none():
    book = AlertBook()
    book.silence({"edge": "icu-*", "kind": "sensor-dead"}, until_us=100, who="oncall", reason="works on the ward", now_us=0)
    alert = book.raise_(finding(), 1)
    assert (alert.quiet, alert.told) == (True, False)
    assert book.raise_(finding(edge="lab"), 1).told
    assert len(book.open_alerts()) == 2
    assert [a.finding.edge for a in needs_person(book.open_alerts())] == ["lab"]
    assert book.tick(99) == []
    (woken,) = book.tick(100)
    assert (woken.quiet, woken.told) == (False, True)
    assert book.silences() == []


@pytest.mark.parametrize(
    ("matchers", "until_us", "words"),
    [
        ({}, 10, "at least one"),
        ({"edge": ""}, 10, "at least one"),
        ({"patient": "p1"}, 10, "no label `patient`"),
        ({"edge": "a"}, 1, "future"),
    ],
)
def test_a_silence_that_makes_no_sense_is_refused(matchers, until_us, words):
    with pytest.raises(ValueError, match=words):
        AlertBook().silence(matchers, until_us=until_us, who="oncall", reason="", now_us=1)


def test_one_alert_explains_another():
    book = AlertBook()
    dead = book.raise_(finding(), 1)
    silent = book.raise_(finding("edge-silent"), 2)
    (explained,) = book.tick(3)
    assert (explained.alert_id, explained.inhibited_by) == (dead.alert_id, silent.alert_id)
    other = book.raise_(finding(edge="icu-b"), 4)
    assert not other.inhibited_by
    book.clear(finding("edge-silent").fingerprint, 5)
    (again,) = book.tick(6)
    assert (again.alert_id, again.quiet) == (dead.alert_id, False)


def test_what_nobody_takes_is_escalated_and_what_somebody_took_is_not():
    book = AlertBook(PATIENT)
    book.raise_(finding("a", priority="high"), 0)
    taken = book.raise_(finding("b", priority="high"), 0)
    book.raise_(finding("c", priority="high"), 0, Response(what="handled"))
    book.acknowledge(taken.alert_id, "oncall", 1)
    assert book.tick(99) == []
    assert [(a.finding.kind, a.level) for a in book.tick(100)] == [("a", 1)]
    assert book.tick(200) == []
    assert [(a.finding.kind, a.level) for a in book.tick(301)] == [("a", 2)]
    assert book.tick(10_000) == []


KINDS = ("edge-silent", "sensor-dead", "signal-silent", "update-poisoned", "update-refused")
ACTS = st.one_of(
    st.tuples(st.sampled_from(["raise", "clear"]), st.sampled_from(KINDS), st.sampled_from("ab")),
    st.tuples(st.just("acknowledge"), st.integers(1, 6), st.just("")),
    st.tuples(st.just("silence"), st.sampled_from(KINDS), st.integers(1, 40)),
    st.tuples(st.sampled_from(["restart", "tick", "tick"]), st.just(""), st.just("")),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), ACTS), max_size=60))
def test_whatever_happens_nobody_is_left_untold(steps):
    """Told here is what a person was told: each alert handed out that is worth telling. Times are minutes."""
    rules = Rules(policies={"signal-silent": Policy(pending_us=3 * MINUTE, keep_us=5 * MINUTE)})
    book, now, causes, told = AlertBook(rules), 0, set(), {}

    def tell(*alerts):
        for alert in alerts:
            if alert is not None and alert.worth_telling:
                told[alert.alert_id] = alert

    for wait, (act, what, arg) in steps:
        now += wait * MINUTE
        if act == "raise":
            causes.add((what, arg))
            tell(book.raise_(finding(what, arg, since_us=now), now))
        elif act == "clear":
            causes.discard((what, arg))
            tell(book.clear(finding(what, arg).fingerprint, now))
        elif act == "acknowledge":
            tell(book.acknowledge(f"A-{what:04d}", "oncall", now))
        elif act == "silence":
            book.silence({"kind": what}, until_us=now + arg * MINUTE, who="x", reason="", now_us=now)
        elif act == "restart":
            saved, book = book.save(), AlertBook(rules)
            book.restore(saved)
            assert book.save() == saved
        tell(*book.tick(now))
        fingerprints = [a.finding.fingerprint for a in book.alerts() if a.open]
        assert len(fingerprints) == len(set(fingerprints))  # one alert per cause
        for alert in book.alerts():
            if alert.open and not alert.quiet:
                assert told[alert.alert_id].open, "it fires and nobody was told"
        for cause in causes:
            assert book.is_open(finding(*cause).fingerprint), "a cause is there and no alert is"
    for cause in sorted(causes):
        tell(book.clear(finding(*cause).fingerprint, now))
    for _ in range(3):
        now += 40 * MINUTE
        tell(*book.tick(now))
    assert [a for a in book.alerts() if a.open] == []
    assert not [a for a in told.values() if a.open], "over, and those who know of it were not told"


def test_one_that_becomes_more_urgent_is_told_anew_and_one_that_becomes_less_so_is_not():
    book = AlertBook(prefix="B")
    first = book.raise_(finding(priority="medium", since_us=5), 10)
    book.acknowledge(first.alert_id, "nurse", 20)
    worse = book.raise_(finding(priority="high", since_us=30), 30)
    assert (worse.alert_id, worse.state, worse.finding.priority, worse.acknowledged_by) == ("B-0001", State.FIRING, "high", "")
    assert (worse.finding.since_us, worse.changed_us) == (5, 30)
    assert book.raise_(finding(priority="medium"), 40) is None
    assert book.get("B-0001").finding.priority == "high"


def test_two_patients_are_two_causes_and_one_is_forgotten_whole():
    book = AlertBook()
    one, two = (book.raise_(finding(subject=s), 10) for s in ("p1", "p2"))
    assert one.alert_id != two.alert_id
    book.silence({"subject": "p1"}, until_us=99, who="w", reason="", now_us=10)
    assert book.tick(11)[0].silenced_by == "S-0001"
    assert book.forget("p1") == [one.alert_id]
    assert [a.alert_id for a in book.alerts()] == [two.alert_id]
    assert book.silences() == []
    assert not book.is_open(one.finding.fingerprint)
    assert book.raise_(finding(subject="p1"), 20).alert_id not in (one.alert_id, two.alert_id)


def test_whether_it_needed_something_done_is_noted_and_nobody_is_told():
    book = AlertBook()
    alert = book.raise_(finding(), 10)
    judged = book.judge(alert.alert_id, actionable=False, who="nurse", now_us=20)
    assert (judged.actionable, judged.changed_us, judged.history[-1].what) == (False, 10, "not actionable")
    assert book.judge("A-9999", actionable=True, who="nurse", now_us=20) is None


def test_a_book_is_the_same_from_its_head_and_its_alerts():
    book = AlertBook()
    for number in range(3):
        book.raise_(finding(edge=f"e{number}"), 10 + number)
    book.silence({"edge": "e1"}, until_us=99, who="w", reason="", now_us=10)
    again = AlertBook()
    again.restore(book.head(), [msgspec.json.encode(a) for a in reversed(book.alerts())])
    assert again.save() == book.save()
