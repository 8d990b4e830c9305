"""The hand-over of a shift over a real store and watch: both parts, roles, the note and its confirmation, the audit log."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from wardround.clock import ManualClock
from wardround.console import hand_over
from wardround.console.bedside_model import BedsideRow, BedsideView
from wardround.console.looking import Held, Looking
from wardround.console.model import AlertView, EdgeView, Overview, RoutineView
from wardround.console.ward_model import SubjectRow
from wardround.desks.hand_over import HubHandOverDesk
from wardround.errors import NotAllowed, StorageFull, WardroundError
from wardround.store import StudyRecord, StudyRequest, open_store
from wardround.store.hand_overs import HandOvers
from wardround.trust.roles import check_act
from wardround.watch.alerts import AlertBook, Finding, Response

NOW_US = 1_900_000_000_000_000
HOUR_US = 3_600_000_000
ROLES = {"cleo": "clinician", "carl": "clinician", "olga": "operator", "otto": "operator", "ada": "admin", "vi": "viewer"}
DAILY = RoutineView("backup", "A backup of this hub", "every 24 h", "ok", "", NOW_US - 20 * HOUR_US, 1.0, NOW_US + 4 * HOUR_US)


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html, flags=re.S)))


class Site:
    def __init__(self, folder) -> None:
        self.clock, self.log, self.full = ManualClock(NOW_US), [], False
        self.store, self.book = open_store(folder / "hub.sqlite"), AlertBook()
        self.edges = (EdgeView("icu-a", "connected"), EdgeView("icu-b", "silent", 7_200.0, 431), EdgeView("icu-c", "set-aside"))
        self.routines, self.undoable = [DAILY], set()
        self.rising = (SubjectRow("q7k4-m2xd", "icu-a", 8, True, scores=(3, 4, 8)),)
        self.bedside = BedsideView(NOW_US, (BedsideRow("icu-a", "B-0001", "high", "physiological", "firing", subject="p1"),
                                            BedsideRow("icu-a", "B-0002", "low", "technical", "firing")))  # fmt: skip
        self.desk = HubHandOverDesk(
            self.store, self.clock, overview=self.overview, routines=lambda: self.routines, watch=self.book, bedside=self,
            rising=lambda who, least: self.rising, check=lambda who, act: check_act(who, ROLES[who], act), record=self.record,
        )  # fmt: skip
        self.page, self.printed = hand_over.screens(self.desk)

    def view(self) -> BedsideView:
        return self.bedside

    def seen(self, who) -> bool:
        self.record("view", "alerts at the bedside opened", who)
        return True

    def overview(self) -> Overview:
        alerts = tuple(
            AlertView(a, "t", "d", "low", "c", 1, 1, open=True, needs_person=False, undo_title="Undo?") for a in self.undoable
        )
        return Overview(self.clock.now_us(), "hub", "1", "Ward", simulated=True, subjects=1, edges=self.edges, alerts=alerts)

    def record(self, kind, what, who, **facts):
        if self.full:
            raise StorageFull("no room", remedy="make some")
        self.log.append((kind, what, who, facts))

    def looking(self, name, screen="/hand-over", **params) -> Looking:
        return Looking(name, ROLES[name], address=screen, params=params, held=Held())

    def shown(self, name="olga", **params) -> str:
        self.clock.advance(3)
        return text(" ".join(self.page.sections(self.looking(name, **params)).values()))

    def act(self, act, name="olga", **facts):
        return self.page.acts[act](facts, self.looking(name))

    def raised(self, title, *, hours_ago, category="technical", response=None, **facts):
        t_us = NOW_US - round(hours_ago * HOUR_US)
        found = Finding(kind=title, title=title, priority="medium", category=category, since_us=t_us, detected_us=t_us, **facts)
        return self.book.raise_(found, t_us, response)


@pytest.fixture
def site(tmp_path):
    made = Site(tmp_path)
    yield made
    made.store.close()


def test_the_operators_part_has_alerts_edges_studies_and_what_is_due(site):
    site.raised("old and open", hours_ago=30, edge="icu-a")
    over = site.raised("over since yesterday", hours_ago=29)
    site.book.clear(over.finding.fingerprint, NOW_US - 25 * HOUR_US)
    taken = site.raised("a new one", hours_ago=2, edge="icu-b", response=Response(what="quarantined", undo="release:beats:icu-b"))
    site.book.acknowledge(taken.alert_id, "otto", NOW_US - HOUR_US)
    site.undoable.add(taken.alert_id)
    site.raised("a patient's", hours_ago=1, category="physiological", subject="p1")
    site.store.put_study(StudyRecord("beats", "", "paused", "by otto: maintenance", 1, NOW_US))
    site.store.put_study_request(
        StudyRequest("r1", "beats", "rollback", 3, "otto", "the liar was in it", NOW_US - HOUR_US, "done")
    )
    site.store.put_study_request(StudyRequest("r0", "beats", "pause", -1, "olga", "long ago", NOW_US - 90 * HOUR_US, "done"))
    site.routines += [replace(DAILY, name="j", title="Trends", late_s=700.0, outcome="failed", detail="no room"),
                      replace(DAILY, name="k", title="All the time", last_us=NOW_US, next_us=NOW_US + 60_000_000)]  # fmt: skip
    shown = site.shown()
    assert "In 12 hours one alert was opened, two are still open. 1 edge is silent, 1 routine late." in shown
    assert "a new one icu-b open for 2 h 0 min otto, " in shown
    assert "quarantined Undo" in shown
    assert "old and open icu-a open for 1 d 6 h from before nobody" in shown
    assert "over since yesterday" not in shown
    assert "a patient's" not in shown
    assert "icu-b is silent for 2 h 0 min; 431 observations waited there" in shown
    assert "icu-c is set aside" in shown
    assert "beats is paused: by otto: maintenance" in shown
    assert "beats : rollback, by otto, " in shown
    assert "because: the liar was in it" in shown
    assert "long ago" not in shown
    assert "Trends late by 11 min failed no room A backup of this hub" in shown
    assert "All the time" not in shown
    assert "over since yesterday" not in site.shown(hours="24")
    assert "In 8 hours" in site.shown(hours="8")
    assert "In 12 hours" in site.shown(hours="99")


def test_the_clinicians_part_has_patients_and_no_edge_or_study(site):
    site.raised("NEWS2 is high", hours_ago=1, category="physiological", subject="p9")
    site.raised("technical one", hours_ago=1)
    shown = site.shown("cleo")
    assert "In 12 hours one alert was opened, one is still open. 1 patient has a rising NEWS2." in shown
    assert "q7k4-m2xd icu-a at least 8 , up 5 3 4 8" in shown
    assert "B-0001" in shown
    assert "not a primary alarm" in shown
    for other in ("technical one", "B-0002", "icu-b", "What is due"):
        assert other not in shown
    assert ("view", "alerts at the bedside opened", "cleo", {}) in site.log
    site.rising = None
    assert "One moment: the ward is being read." in site.shown("cleo")
    site.rising = ()
    assert "No patient has a rising NEWS2." in site.shown("cleo")
    assert "No patient of whom the hub may know has a rising NEWS2." in site.shown("cleo")


@pytest.mark.parametrize(("name", "part"), [("olga", "clinical"), ("cleo", "technical"), ("vi", "clinical"), ("vi", "technical")])
def test_nobody_gets_the_part_of_another_role(site, name, part):
    with pytest.raises(NotAllowed):
        site.desk.view(name, part, 12)
    with pytest.raises(NotAllowed):
        site.desk.write(name, part, 12, "x")
    shown = site.shown(name, part=part)
    assert ("q7k4-m2xd" in shown, "icu-b" in shown) == (name == "cleo", name == "olga")
    if name == "vi":
        assert "Needs the role" in shown or "needs the role" in shown


def test_a_quiet_shift_is_said_in_words(site):
    site.edges, site.routines = site.edges[:1], []
    shown = site.shown()
    assert "In 12 hours no alert was opened, none is still open. No edge is silent, nothing is late." in shown
    assert "No alert in this time" in shown
    assert "Every edge is heard of, and nothing was done to a study." in shown
    assert "Nothing is late, and nothing seldom is due." in shown


def test_an_admin_chooses_the_part(site):
    assert "q7k4-m2xd" in site.shown("ada")
    assert "icu-b is silent" in site.shown("ada", part="technical")


def test_who_leaves_writes_and_who_comes_confirms(site):
    dialog = site.act("ask-hand-over", part="technical", hours="12").dialog
    assert "Hand over edges, studies and the hub, 12 hours?" in text(dialog)
    site.act("hand-over", part="technical", hours="12", note="icu-b: cable on order.\nCall Ines.")
    assert "olga has left a note that nobody has confirmed." in site.shown("otto")
    assert "I have read it and take over" in site.shown("otto")
    assert "I have read it" not in site.shown("olga")
    assert "icu-b: cable on order." not in site.shown("cleo")
    (note,) = HandOvers(site.store).newest("technical")
    with pytest.raises(WardroundError, match="does not confirm it"):
        site.act("confirm-hand-over", "olga", number=str(note.number))
    with pytest.raises(NotAllowed):
        site.act("confirm-hand-over", "cleo", number=str(note.number))
    assert site.act("confirm-hand-over", "otto", number=str(note.number)).toast == "You have taken over."
    with pytest.raises(WardroundError, match="otto has confirmed it already"):
        site.act("confirm-hand-over", "ada", number=str(note.number))
    assert "confirmed by otto" in site.shown()
    written, confirmed = (entry for entry in site.log if entry[0] == "change")
    assert written[1:3] == ("hand-over written", "olga")
    assert confirmed == ("change", "hand-over confirmed", "otto", {"number": note.number, "part": "technical", "of": "olga"})
    assert "cable" not in str(site.log)
    site.act("hand-over", "otto", part="technical", hours="8", note="All quiet.")
    shown = site.shown()
    assert shown.index("All quiet.") < shown.index("cable on order")
    assert "1 earlier note" in shown


@pytest.mark.parametrize(("note", "said"), [(" ", "without words"), ("x" * 2_001, "2,000 characters at most")])
def test_a_note_that_is_none_or_too_long_is_refused(site, note, said):
    with pytest.raises(WardroundError, match=said):
        site.act("hand-over", part="technical", hours="12", note=note)
    assert HandOvers(site.store).newest("technical") == []


@pytest.mark.parametrize("number", ["9", "", "x", "-1", "9" * 30])
def test_a_note_that_is_not_there_is_not_confirmed(site, number):
    with pytest.raises(WardroundError, match="there is no hand-over"):
        site.act("confirm-hand-over", number=number)


def test_what_cannot_be_recorded_is_neither_kept_nor_shown(site):
    site.full = True
    with pytest.raises(StorageFull):
        site.act("hand-over", part="technical", hours="12", note="x")
    assert HandOvers(site.store).newest("technical") == []
    shown = site.shown("cleo")
    assert "The hand-over cannot be shown." in shown
    assert "no room. make some" in shown
    assert "q7k4" not in shown


def test_a_thousand_edges_and_alerts_are_paged_and_printed_whole(site):
    site.edges = tuple(EdgeView(f"edge-{n:04}", "silent", float(n), n) for n in range(1_000))
    for n in range(300):
        site.raised(f"alert {n}", hours_ago=1, edge=f"edge-{n:04}")
    html = site.page.sections(site.looking("olga"))
    assert html["alerts"].count("<tr data-key") == 50
    assert "1 to 50 of 300 alerts" in html["alerts"]
    assert "and 950 more are silent" in html["edges"]
    assert 'href="/hand-over/print?hours=24"' in site.page.sections(site.looking("olga", hours="24"))["answer"]
    printed = site.printed.sections(replace(site.looking("olga", "/hand-over/print", hours="24"), item="print"))
    assert printed["alerts"].count("<tr data-key") == 300
    assert 'href="/hand-over?hours=24"' in printed["answer"]
    assert "Printed for olga, " in printed["answer"]


def test_notes_are_kept_in_order_and_the_oldest_go(site, monkeypatch):
    notes = HandOvers(site.store)
    monkeypatch.setattr("wardround.store.hand_overs.KEPT_MAX", 3)
    for n in range(5):
        notes.add("technical", "olga", hours=12, text=f"note {n}", now_us=n)
    assert [n.text for n in notes.newest("technical")] == ["note 4", "note 3", "note 2"]
    assert notes.newest("clinical") == []
    assert notes.confirm(5, "otto", 9)
    assert not notes.confirm(5, "ada", 10)
    assert not notes.confirm(4, "olga", 10)
    assert (notes.get(5).confirmed_by, notes.get(5).confirmed_us) == ("otto", 9)
    assert site.store.mask("note 4", "xxxxxx") == 1  # as an erasure does
    assert notes.get(5).text == "xxxxxx"
