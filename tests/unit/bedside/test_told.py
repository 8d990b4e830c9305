"""What an edge tells its hub of its own alerts: a number of each, and of whom where consent lets values go anyway."""

from __future__ import annotations

from bedside_under_test import HEALTHY, SICK
from wardround.bedside.told import DAY_US, RESTS_ON, load_of, told_of
from wardround.records import AlertAbout, OpenAlert
from wardround.watch.alerts import AlertBook, Finding

NOW_US = 20_000 * DAY_US + 3_600_000_000


def finding(kind="news2", subject="p1", **facts):
    known = {"title": "NEWS2 9 or more lasts", "priority": "high", "category": "physiological", "edge": "icu-a"}
    times = {"since_us": NOW_US - 60, "detected_us": NOW_US}
    return Finding(
        kind=kind, subject=subject, evidence=((1.0, 5.0), (2.0, 9.0)), evidence_unit="NEWS2", **(known | times | facts)
    )


def book_of(*findings):
    book = AlertBook(prefix="B")
    for found in findings:
        book.raise_(found, NOW_US)
    return book


def test_of_whom_is_said_only_where_every_signal_that_it_rests_on_may_go():
    asked = []

    def may(allowed):
        def ask(subject, codes):
            asked.append((subject, frozenset(codes)))
            return allowed

        return ask

    book = book_of(finding())
    (told,) = told_of(book.open_alerts(), may(True))
    assert told == OpenAlert(
        "B-0001", "high", "physiological", "firing", AlertAbout("p1", "news2", "NEWS2 9 or more lasts", NOW_US - 60, 9)
    )
    assert asked == [("p1", frozenset(RESTS_ON["news2"]))]
    assert "loinc:9279-1" in RESTS_ON["news2"]
    (told,) = told_of(book.open_alerts(), may(False))
    assert told.about is None
    assert told.bare() == told


def test_a_model_rests_on_the_signals_of_its_task_and_an_unknown_kind_on_nothing_that_may_go():
    assert "loinc:9279-1" not in RESTS_ON["ectopic-run"]
    assert set(RESTS_ON) == {"news2", "own-baseline", "ectopic-run", "activity-fall"}
    device = finding("sensor-dead", "", category="technical", device="monitor-1")
    told = told_of(book_of(finding("of-tomorrow"), device).open_alerts(), lambda _s, _c: True)
    assert [a.about for a in told] == [None, None]


def test_who_is_on_it_goes_with_it():
    book = book_of(finding())
    book.acknowledge("B-0001", "nurse", NOW_US + 5)
    (told,) = told_of(book.open_alerts(), lambda _s, _c: True)
    assert (told.state, told.about.acknowledged_by) == ("acknowledged", "nurse")


def test_the_load_is_numbers_of_the_last_seven_days():
    book = book_of(finding(), finding(subject="p2"), finding("sensor-dead", "", category="technical"))
    book.acknowledge("B-0001", "nurse", NOW_US + 30_000_000)
    book.judge("B-0001", actionable=True, who="nurse", now_us=NOW_US + 40_000_000)
    minutes = {20_000: 1_440, 19_999: 720, 19_990: 99_999}
    physiological, technical = load_of(book.alerts(), minutes, NOW_US + 60_000_000)
    assert (physiological.category, physiological.alerts, physiological.patient_days) == ("physiological", 2, 1.5)
    assert (physiological.acknowledged, physiological.answer_s) == (1, 30.0)
    assert (physiological.judged, physiological.actionable) == (1, 1)
    assert (technical.alerts, technical.acknowledged, technical.answer_s) == (1, 0, None)
    assert load_of(book.alerts(), {}, NOW_US + 30 * DAY_US) == ()


def test_an_edge_tells_of_who_may_be_told_of_and_stops_when_consent_or_the_patient_goes(world):
    world.may = {"p1"}
    world.watch._may_tell = lambda subject, _codes: subject in world.may
    world.live(30, HEALTHY)
    assert world.watch.facts == ()
    world.live(30, SICK)
    (told,) = world.watch.facts
    assert told.about is not None
    assert (told.about.subject, told.about.kind) == ("p1", "news2")
    assert told.about.news2 >= 7
    assert world.watch.load[0].alerts == 1
    assert world.watch.load[0].patient_days > 0
    world.may.clear()
    world.watch.turn()
    assert [a.about for a in world.watch.facts] == [None]
    world.watch.forget("p1")
    assert world.watch.facts == ()


def test_what_somebody_at_the_hub_asks_is_done_with_the_next_turn_and_outlives_a_crash(world):
    world.live(30, SICK)
    world.watch.ask("B-0001", "cleo at the hub")
    world.crash()
    world.restart()
    world.watch.turn()
    (alert,) = world.physiological()
    assert (alert.state.value, alert.acknowledged_by) == ("acknowledged", "cleo at the hub")
    assert world.watch.facts[0].state == "acknowledged"
