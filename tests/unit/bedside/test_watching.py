"""The bedside watch of an edge: told once, with or without a hub, through crashes, full disks and wrong clocks."""

from __future__ import annotations

import sqlite3

import msgspec
import pytest

from bedside_under_test import HEALTHY, SICK
from wardround.bedside.watching import PREFIX
from wardround.watch.alerts import State
from wardround.watch.delivery.messages import Origin, body, message, text
from wardround.watch.delivery.sinks import Alertmanager

HOUR_US, MINUTE_US = 3_600_000_000, 60_000_000


def waiting(world):
    """What the outbox has for the sink, oldest first."""
    rows = world.watch._outbox._db.execute("SELECT body FROM waiting ORDER BY number").fetchall()
    return [msgspec.json.decode(b) for (b,) in rows]


def test_a_sick_patient_is_told_once_becomes_more_urgent_and_is_over(world):
    world.live(30, HEALTHY)
    assert world.watch.alerts() == []
    world.live(30, SICK)
    (alert,) = world.physiological()
    assert (alert.alert_id, alert.finding.kind, alert.finding.priority) == ("B-0001", "news2", "high")
    assert [t.what for t in alert.history] == ["firing", "more urgent", "escalated to level 1", "escalated to level 2"]
    assert "pulse 135 /min" in alert.finding.detail
    assert "oxygen, consciousness" in alert.finding.detail  # nobody knows them, and that is said
    assert alert.finding.evidence[-1][1] == alert.finding.evidence[-2][1] > alert.finding.evidence[0][1]
    assert "Emergency assessment" in alert.finding.action
    world.live(40, HEALTHY)
    (alert,) = world.physiological()
    assert alert.state is State.RESOLVED
    assert [m["state"] for m in waiting(world)] == ["firing"] * 4 + ["resolved"]
    assert [words[1] for words, _ in world.records] == [f"alert {t.what}" for t in alert.history]


def test_nothing_of_a_patient_leaves(world):
    world.live(30, SICK, subject="abcd-efgh")
    (alert,) = world.physiological()
    out, origin = message(alert), Origin(hub="icu-a", site="edge icu-a", console="https://ward.example")
    for said in (str(body([out], origin)), text([out], origin)):
        assert "abcd" not in said
        assert "135" not in said
        assert "NEWS" not in said.upper()
        assert "monitor-1" not in said
        assert "Decision support" in said
        assert "B-0001" in said
        assert "wardround edge alerts show B-0001" in said
        assert "https://ward.example" in said
    assert {out["kind"] for out in waiting(world)} == {"bedside"}


def test_two_patients_of_one_edge_are_two_alerts_to_alertmanager(world):
    world.live(30, SICK, subject="p1")
    for _ in range(30):
        world.clock.advance(60)
        for vital, value in SICK.items():
            world.keep(vital, value, subject="p2")
        world.watch.turn()
    sink = Alertmanager("http://127.0.0.1:1", Origin(hub="icu-a", site=""))
    labels = [sink._alert(message(a))["labels"] for a in world.physiological()]
    assert len({tuple(sorted(one.items())) for one in labels}) == 2
    assert "p1" not in str(labels)


def test_local_patients_are_watched_and_who_may_not_be_is_not(world):
    world.refused.add("p2")
    for _ in range(30):
        world.clock.advance(60)
        for vital, value in SICK.items():
            world.keep(vital, value, subject="p1")
            world.keep(vital, value, subject="p2")
        world.watch.turn()
    assert {a.finding.subject for a in world.physiological()} == {"p1"}
    world.refused.add("p1")  # withdrawn: it is forgotten within a minute, and the alert says why it is over
    world.clock.advance(61)
    world.watch.turn()
    (alert,) = world.physiological()
    assert (alert.state, alert.history[-1].why) == (State.RESOLVED, "consent does not allow to watch it any more")
    assert b"p1" not in world.watch._vitals.state()


def test_a_crash_forgets_nothing_and_tells_nothing_twice(world):
    world.live(30, SICK)
    before = world.physiological()
    told = [m["message_id"] for m in waiting(world)]
    assert told
    world.crash()
    world.restart()
    world.watch._tell_again()
    assert world.physiological() == before
    assert [m["message_id"] for m in waiting(world)] == told
    world.live(20, SICK)
    assert [a.alert_id for a in world.physiological()] == ["B-0001"]
    assert [m["message_id"] for m in waiting(world)] == told


def test_what_came_between_the_last_save_and_a_crash_is_read_again(world):
    world.live(20, HEALTHY)
    saved = world.watch._ledger.state("memory")
    for _ in range(3):  # within the minute after a save: on the disk of the local store, not in the memory that is kept
        world.clock.advance(10)
        world.keep("pulse", 140.0)
        world.watch.turn()
    assert world.watch._ledger.state("memory") == saved
    at_crash = world.watch._vitals.state()
    world.crash()
    world.restart()
    assert world.watch._vitals.state() != at_crash
    world.watch.turn()
    assert world.watch._vitals._patients["p1"].vitals["pulse"].points[-1] == (world.clock.now_us(), 140.0)
    assert len(world.watch._vitals._patients["p1"].vitals["pulse"].points) == 23


def test_an_alert_kept_by_a_process_that_died_before_it_was_told_is_told_by_the_next_with_the_same_id(world):
    world.watch._outbox.put = lambda alert: None  # dies in between
    world.live(12, SICK)
    (alert,) = world.physiological()
    assert waiting(world) == []
    world.crash()
    world.restart()
    world.watch._tell_again()
    assert [m["message_id"] for m in waiting(world)] == [message(alert).message_id]


def test_a_new_watch_begins_a_day_ago(world):
    world.watch.close()
    world.folder.joinpath("bedside", "bedside.sqlite").unlink()
    start_us = world.clock.now_us()
    for _ in range(72):
        world.clock.advance(3600)
        for vital, value in HEALTHY.items():
            world.keep(vital, value, seen=False)
    world.restart()
    world.watch.turn()
    (patient,) = world.watch._vitals._patients.values()
    assert patient.vitals["pulse"].points[0][0] > start_us + 47 * HOUR_US
    assert len(patient.vitals["pulse"].points) == 25


def test_a_clock_that_runs_ahead_or_was_set_back_does_not_blind_it(world):
    world.live(20, HEALTHY)
    world.keep("pulse", 80.0, t_us=world.clock.now_us() + 50 * MINUTE_US)  # not corrected yet
    world.live(30, SICK)
    assert world.physiological()[0].finding.priority == "high"
    world.live(60, HEALTHY)
    assert not [a for a in world.physiological() if a.open]
    world.clock._now_us -= 5 * HOUR_US  # the edge's own
    world.live(30, SICK)
    assert [a.finding.priority for a in world.physiological() if a.open] == ["high"]


def test_a_time_that_nobody_knows_and_a_value_in_doubt_are_left_out(world):
    world.keep("pulse", 150.0, clock_error_us=2 * HOUR_US)
    world.keep("spo2", 70.0, validity=3)
    world.keep("pulse", 150.0, device_index=1, validity=7)
    world.watch.turn()
    assert world.watch._vitals.subjects() == []


def test_a_monitor_that_sends_every_second_is_judged_by_nine_minutes(world):
    world.live(20, HEALTHY)
    for second in range(15 * 60):
        world.clock.advance(1)
        world.keep("spo2", 80.0 if second % 3 == 0 else 97.0)  # a sensor that slips, in step with whatever is sampled
        world.watch.turn()
    points = world.watch._vitals._patients["p1"].vitals["spo2"].points
    assert points[-1][0] - points[0][0] >= 9 * MINUTE_US
    assert world.physiological() == []


def test_technical_and_physiological_alerts_are_kept_apart(world):
    world.certificates["identity"] = (world.clock.now_us() - 22 * HOUR_US, world.clock.now_us() + 2 * HOUR_US)
    world.live(30, SICK)
    found = {a.finding.category: a for a in world.watch.alerts()}
    assert set(found) == {"physiological", "technical"}
    ending = found["technical"]
    assert (ending.finding.kind, ending.finding.priority, ending.finding.subject) == ("certificate", "low", "")
    world.clock.advance(3 * 3600)
    world.watch.turn()
    (ended,) = [a for a in world.watch.alerts() if a.finding.kind == "certificate"]
    assert (ended.alert_id, ended.finding.priority) == (ending.alert_id, "medium")
    world.certificates["identity"] = (world.clock.now_us(), world.clock.now_us() + 24 * HOUR_US)
    world.clock.advance(61)
    world.watch.turn()
    assert not [a for a in world.watch.alerts() if a.open and a.finding.kind == "certificate"]


def test_a_device_that_has_stopped_is_a_technical_alert_and_what_was_said_of_its_patient_is_over_for_that_reason(world):
    world.live(30, SICK)
    for _ in range(14 * 60):
        world.clock.advance(60)
        world.watch.turn()
    by_kind = {a.finding.kind: a for a in world.watch.alerts()}
    assert by_kind["device-silent"].open
    assert by_kind["device-silent"].finding.category == "technical"
    assert (by_kind["news2"].state, by_kind["news2"].history[-1].why) == (State.RESOLVED, "no vital sign comes any more")


def test_a_full_disk_does_not_silence_it(world):
    world.live(10, SICK)

    def full(*_):
        raise sqlite3.OperationalError("database or disk is full")

    keep = world.watch._ledger.keep
    world.watch._ledger.keep = full
    world.live(10, SICK)
    assert [a.finding.kind for a in world.physiological()] == ["news2"]
    assert [m["alert_id"] for m in waiting(world)] == ["B-0001"] * len(waiting(world)) != []
    world.watch._ledger.keep = keep
    world.live(2, SICK)
    assert [a.alert_id for a in world.watch._ledger.alerts()] == ["B-0001"]


def test_an_erased_patient_is_nowhere_in_its_files(world):
    world.live(30, SICK, subject="abcd-efgh")
    world.watch._ledger.order_scale("abcd-efgh", 2, "doctor", 1)
    world.watch._book.silence({"subject": "abcd-efgh"}, until_us=10**18, who="w", reason="", now_us=1)
    world.watch.turn()
    files = lambda: b"".join(p.read_bytes() for p in world.folder.joinpath("bedside").iterdir())  # noqa: E731
    assert b"abcd-efgh" in files()
    assert world.watch.forget("abcd-efgh") == 1
    assert b"abcd-efgh" not in files()
    world.clock.advance(61)
    world.watch.turn()
    assert b"abcd-efgh" not in files()


def test_the_second_scale_is_of_the_patient_it_was_ordered_for(world):
    values = HEALTHY | {"spo2": 89.0}
    world.watch._ledger.order_scale("p2", 2, "doctor", 1)
    for _ in range(20):
        world.clock.advance(60)
        for vital, value in values.items():
            world.keep(vital, value, subject="p1")
            world.keep(vital, value, subject="p2")
        world.watch.turn()
    assert {a.finding.subject for a in world.physiological()} == {"p1"}


def test_oxygen_and_consciousness_score_once_they_are_known(world):
    for _ in range(20):
        world.clock.advance(60)
        for vital, value in HEALTHY.items():
            world.keep(vital, value)
        world.keep("wr:acvpu", None, value_text="V")
        world.keep("loinc:3151-8", 2.0)
        world.watch.turn()
    (alert,) = world.physiological()
    assert alert.finding.evidence[-1][1] == 5
    assert "consciousness not alert" in alert.finding.detail
    assert "Not known" not in alert.finding.detail


@pytest.mark.parametrize(
    ("act", "words", "said", "refused"),
    [
        ("acknowledge", {"alert": "B-0001", "actionable": True}, "B-0001 is acknowledged by nurse", False),
        ("acknowledge", {"alert": "B-0099"}, "B-0099 is not open, or is taken", True),
        ("judge", {"alert": "B-0001", "actionable": False}, "B-0001 did not need something done, says nurse", False),
        ("silence", {"matchers": {"subject": "p1"}, "until_us": 10**17}, "S-0001 holds until", False),
        ("silence", {"matchers": {}, "until_us": 10**17}, "needs at least one label", True),
        ("silence", {}, "matchers", True),
        ("unsilence", {"silence": "S-0009"}, "S-0009 does not hold", True),
        ("test", {}, "sent to hook", False),
        ("undo", {"alert": "B-0001"}, "has nothing to undo", True),
    ],
)
def test_what_people_ask_is_answered_once_it_is_on_the_disk(world, act, words, said, refused):
    world.live(30, SICK)
    request = world.watch._ledger.ask(act, words, "nurse", 1)
    world.watch.turn()
    state, answer = world.watch._ledger.answered(request)
    assert said in answer
    assert state == ("refused" if refused else "done")
    book = {a.alert_id: a for a in world.watch._ledger.alerts()}
    assert (book["B-0001"].acknowledged_by == "nurse") == (act == "acknowledge" and not refused)
    assert book["B-0001"].actionable == {"acknowledge": True if not refused else None, "judge": False}.get(act)
    assert bool(book["B-0001"].silenced_by) == (act == "silence" and not refused)


def test_the_hub_is_told_numbers_and_no_word_of_whom_or_what(world):
    world.live(30, SICK, subject="abcd-efgh")
    (fact,) = world.watch.facts
    assert (fact.alert_id, fact.priority, fact.category, fact.state) == (f"{PREFIX}-0001", "high", "physiological", "firing")
    assert b"abcd" not in msgspec.msgpack.encode(fact)


def test_a_file_of_another_version_is_begun_anew(world):
    world.live(5, HEALTHY)
    world.watch._ledger.keep(world.watch._book, {"memory": b"\xc1"})
    world.crash()
    world.restart()
    world.watch.turn()
    assert world.watch._vitals.subjects() == ["p1"]
