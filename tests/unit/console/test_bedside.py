"""Bedside from heartbeats to text: consent twice, roles, acknowledging where the edge allows it, the alarm load, 1,000 edges."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from wardround.clock import ManualClock
from wardround.console import bedside
from wardround.console.bedside_model import BedsideLoad, BedsideRow, BedsideView
from wardround.console.looking import Held, Looking
from wardround.console.model import EdgeView, Overview
from wardround.desks.bedside import HubBedsideDesk
from wardround.desks.seen import SEEN_S
from wardround.errors import NotAllowed, StorageFull, WardroundError
from wardround.learn.grpc_wire import Beat
from wardround.records import AlertAbout, EdgeLoad, OpenAlert
from wardround.trust.roles import check_act

NOW_US = 1_900_000_000_000_000
ROLES = {"cleo": "clinician", "olga": "operator", "vi": "viewer"}
ABOUT = AlertAbout("q7k4-m2xd", "news2", "NEWS2 7 or more lasts", NOW_US - 900_000_000, 9)
SICK = OpenAlert("B-0001", "high", "physiological", "firing", ABOUT)
DEVICE = OpenAlert("B-0002", "medium", "technical", "firing")


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.S)))


def beat(*alerts, load=(), acknowledges=False):
    return Beat(0, 0, 0, "", alerts=alerts, load=load, acknowledges=acknowledges)


class Site:
    def __init__(self) -> None:
        self.clock, self.log, self.told, self.full = ManualClock(NOW_US), [], [], False
        self.beats, self.silent, self.kept_back = {"icu-a": beat(SICK, DEVICE)}, set(), set()
        self.edge_of = {"q7k4-m2xd": "icu-a"}
        self.desk = HubBedsideDesk(
            self.clock, beats=self.beats, attached=lambda: set(self.beats) - self.silent, overview=self.overview,
            edge_of=self.edge_of, may_show=lambda subject, codes: bool(codes) and subject not in self.kept_back,
            check=lambda who, act: check_act(who, ROLES[who], act), record=self.record,
            tell=lambda *words: self.told.append(words),
        )  # fmt: skip
        (self.screen,) = bedside.screens(self.desk)

    def overview(self) -> Overview:
        edges = tuple(EdgeView(e, "silent" if e in self.silent else "connected") for e in self.beats)
        return Overview(self.clock.now_us(), "hub", "1", "Ward", simulated=True, subjects=1, edges=edges)

    def record(self, kind, what, who, **facts):
        if self.full:
            raise StorageFull("no room", remedy="make some")
        self.log.append((kind, what, who, facts))

    def shown(self, name="cleo", **params) -> str:
        self.clock.advance(1)
        looking = Looking(name, ROLES[name], address="/bedside", params=params, held=Held())
        return text(" ".join(self.screen.sections(looking).values()))

    def act(self, name="cleo", **facts):
        return self.screen.acts["acknowledge-at-edge"](facts, Looking(name, ROLES[name]))


@pytest.fixture
def site():
    return Site()


def test_a_clinician_sees_whom_it_is_about_and_that_is_recorded_once(site):
    shown = site.shown()
    assert "One alert about a patient waits for somebody at icu-a, one of high priority." in shown
    assert "not a primary alarm" in shown
    assert "q7k4-m2xd NEWS2 7 or more lasts 9" in shown
    assert "15 min" in shown
    assert "B-0002" not in shown
    assert "B-0002" in site.shown(show="devices")
    assert site.log == [("view", "alerts at the bedside opened", "cleo", {})]
    site.clock.advance(SEEN_S)
    site.shown()
    assert len(site.log) == 2


@pytest.mark.parametrize("name", ["olga", "vi"])
def test_others_see_a_number_and_no_word_of_the_patient(site, name):
    shown = site.shown(name)
    assert "B-0001" in shown
    assert "stays at the edge" in shown
    assert "q7k4" not in shown
    assert "NEWS2 7" not in shown
    assert site.log == []


def test_what_cannot_be_recorded_is_not_shown(site):
    site.full = True
    assert "q7k4" not in site.shown()


def test_the_hub_asks_consent_itself_and_whose_patient_it_is(site):
    site.kept_back.add("q7k4-m2xd")
    assert "q7k4" not in site.shown()
    site.kept_back.clear()
    site.edge_of["q7k4-m2xd"] = "icu-b"
    assert "q7k4" not in site.shown()
    site.edge_of.clear()
    assert "q7k4" not in site.shown()
    site.edge_of["q7k4-m2xd"] = "icu-a"
    site.beats["icu-a"] = beat(OpenAlert("B-1", "high", "physiological", "firing", AlertAbout("q7k4-m2xd", "unheard", "x", 1)))
    assert "q7k4" not in site.shown()


def test_an_alert_is_acknowledged_where_the_edge_allows_it(site):
    assert "wardround edge alerts ack B-0001" in site.shown()
    with pytest.raises(WardroundError, match="does not let") as caught:
        site.act(edge="icu-a", alert="B-0001")
    assert "acknowledge_from_hub = true" in caught.value.remedy
    site.beats["icu-a"] = beat(SICK, DEVICE, acknowledges=True)
    assert "I am on it" in site.shown()
    assert "you are on B-0001" in site.act(edge="icu-a", alert="B-0001").toast
    assert site.told == [("icu-a", "B-0001", "cleo")]
    assert ("change", "alert at an edge acknowledged", "cleo", {"alert": "B-0001", "edge": "icu-a"}) in site.log
    site.beats["icu-a"] = beat(
        OpenAlert("B-0001", "high", "physiological", "acknowledged", replace_about("cleo at the hub")), acknowledges=True
    )
    shown = site.shown()
    assert "cleo at the hub is on it" in shown
    assert "1 alert about patients is open; none waits." in shown


def replace_about(who):
    return AlertAbout(ABOUT.subject, ABOUT.kind, ABOUT.title, ABOUT.since_us, ABOUT.news2, who)


def test_who_may_not_or_cannot_acknowledge_is_told_why(site):
    site.beats["icu-a"] = beat(SICK, DEVICE, acknowledges=True)
    with pytest.raises(NotAllowed):
        site.act("vi", edge="icu-a", alert="B-0002")
    with pytest.raises(NotAllowed):  # a patient's alert is a clinician's
        site.act("olga", edge="icu-a", alert="B-0001")
    site.act("olga", edge="icu-a", alert="B-0002")
    for edge, alert in (("icu-a", "B-0009"), ("icu-z", "B-0001")):
        with pytest.raises(WardroundError, match="there is no alert"):
            site.act(edge=edge, alert=alert)
    site.silent.add("icu-a")
    assert "silent, said so last" in site.shown()
    with pytest.raises(WardroundError, match="not connected") as caught:
        site.act(edge="icu-a", alert="B-0001")
    assert "wardround edge alerts ack B-0001" in caught.value.remedy
    assert site.told == [("icu-a", "B-0002", "olga")]


def test_a_revoked_edge_is_not_there_any_more(site):
    site.desk._overview = lambda: Overview(NOW_US, "hub", "1", "Ward", simulated=True, subjects=1)
    assert "No edge has told of a patient" in site.shown()


def test_the_load_is_shown_by_edge_and_together(site):
    site.beats["icu-a"] = beat(
        load=(EdgeLoad("physiological", 6, 3.0, 3, 61.0, 2, 1), EdgeLoad("technical", 0, 3.0, 0, None, 0, 0))
    )
    site.beats["icu-b"] = beat(load=(EdgeLoad("physiological", 3, 6.0, 3, 30.0, 0, 0),))
    shown = site.shown()
    assert "No patient needs a look at 2 edges that watch." in shown
    assert "1 for each patient and day: 9 physiological alerts, 67 % acknowledged, 50 % of 2 judged were actionable" in shown
    assert "icu-a physiological 6 2 50 % 1 min 2 50 %" in shown
    assert "icu-b physiological 3 0.50 100 % 30 s 0 -" in shown
    assert "icu-a technical" not in shown


def test_a_thousand_edges_are_shown_a_page_at_a_time():
    site = Site()
    site.beats.clear()
    site.edge_of.clear()
    for n in range(1_000):
        edge, subject = f"edge-{n:04}", f"p{n:04}"
        site.edge_of[subject] = edge
        about = AlertAbout(subject, "news2", "NEWS2 5 or more lasts", NOW_US, 5)
        low = OpenAlert("B-0002", "low", "physiological", "firing")
        site.beats[edge] = beat(
            OpenAlert("B-0001", "medium", "physiological", "firing", about),
            low,
            load=(EdgeLoad("physiological", 1, 1.0, 0, None, 0, 0),),
        )
    looking = Looking("cleo", "clinician", address="/bedside", held=Held())
    html = site.screen.sections(looking)
    assert html["open"].count("<tr data-key") == 50
    assert "1 to 50 of 2,000 alerts" in html["open"]
    assert "1 to 50 of 1,000" in html["load"]
    assert "at edge-0000, edge-0001, edge-0002 and 997 more edges." in html["answer"]
    own = replace(looking, params={"edge": "edge-0999"}, held=Held())
    assert site.screen.sections(own)["open"].count("<tr data-key") == 2


def test_an_answer_in_every_state():
    row = BedsideRow("icu-a", "B-1", "medium", "physiological", "firing")
    two = BedsideView(NOW_US, (row, replace(row, edge="icu-b")))
    assert "Two alerts about patients wait for somebody at icu-a, icu-b." in text(bedside.answer(two))
    assert "No patient needs a look at 1 edge that watches." in text(bedside.answer(BedsideView(NOW_US, watching=1)))
    load = BedsideLoad("icu-a", "technical", 1, None, None, None, 0, None)
    assert "1 technical alert" in text(
        bedside.sections(BedsideView(NOW_US, load=(load,), total=(load,)), Looking("a", "viewer"), whose=False)["load"]
    )
