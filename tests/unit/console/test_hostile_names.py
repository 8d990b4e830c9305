"""Names that come from devices, edges and people never become markup: each text of each read model in turn, on each screen.

The walk finds the fields by itself, so that a new one is tried too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest

from wardround.console import (
    alert_detail,
    alerts,
    automation,
    bedside,
    completeness,
    find,
    fleet,
    hand_over,
    overview,
    sign_in_pages,
    studies,
    study_detail,
)
from wardround.console.alert_model import AlertDetail, AlertRow, AlertsView, LoadView, SilenceView, Step
from wardround.console.bedside_model import BedsideLoad, BedsideRow, BedsideView
from wardround.console.fleet_model import Branch, FleetEdge, FleetView, Invitation, InviteStep
from wardround.console.hand_over_model import HandOverView, Note, ShiftAlert, ShiftStudy
from wardround.console.looking import Held, Looking
from wardround.console.model import (
    AlertView,
    AtEdgeView,
    EdgeView,
    HoursView,
    Line,
    Overview,
    RoutineView,
    SignalHours,
    StudyView,
)
from wardround.console.study_model import (
    Budget,
    Decision,
    GoingBack,
    ModelRow,
    PartRow,
    ScorePoint,
    StudiesView,
    StudyDetail,
    StudyRow,
)  # fmt: skip
from wardround.console.ward_model import SubjectRow

NOW = 1_764_000_000_000_000
EVIL = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>"
ALERT = AlertView("A-0001", "ECG of patch-1", "No change.", "medium", "technical", NOW, NOW, open=True, needs_person=True,
                  acknowledged_by="ada", response="quarantined", action="act", undo_title="Undo?", undo_words="Let it count",
                  undo_keep="Keep", undo_consequences=("One.", "Two."))  # fmt: skip
VIEW = Overview(
    NOW, "hub-1", "1.0", "Northmoor", simulated=True, subjects=3,
    edges=(EdgeView("icu-a", "connected", per_s=3.0), EdgeView("icu-b", "silent", 90.0, 7)),
    study=StudyView("beats", 3, 9, "average-precision", 0.9, "icu-b", 0.8, (("icu-a", "accepted"), ("icu-b", "set-aside"))),
    studies=1,
    alerts=(ALERT, replace(ALERT, alert_id="A-0002", needs_person=False), replace(ALERT, alert_id="A-0003", acknowledged_by="")),
    at_edges=(AtEdgeView("icu-a", "B-0001", "high", "physiological", "firing"),),
    happened=(Line(NOW, "Hub started", "2 edges known"),),
)  # fmt: skip
ROUTINES = (RoutineView("job:trends", "Trends", "every 10 s", "failed", "no room", NOW - 9, 1.2, NOW + 9, 700.0),)
SIGNALS = (SignalHours("aaaa", "loinc:8867-4", "Heart rate", NOW, (None, 0.5), 0.5),)
HOURS = HoursView(SIGNALS, SIGNALS)


def hostile(value: object) -> Iterator[object]:
    """The value with one text made hostile, for each text in it."""
    if isinstance(value, str):
        yield value + EVIL
    elif isinstance(value, tuple):
        for i, part in enumerate(value):
            yield from ((*value[:i], made, *value[i + 1 :]) for made in hostile(part))
    elif is_dataclass(value):
        for field in fields(value):
            yield from (replace(value, **{field.name: made}) for made in hostile(getattr(value, field.name)))


class Marks(HTMLParser):
    """What a browser would make of it: no element of ours is an image from elsewhere or a script, none has a handler."""

    def handle_starttag(self, tag, attrs):
        assert tag not in ("img", "script", "iframe", "object"), tag
        assert not [name for name, _ in attrs if name.startswith("on")], attrs


def check(*parts: str) -> bool:
    """Whether the hostile text is shown, made safe."""
    for part in parts:
        Marks().feed(part)
    return any("&lt;img" in part for part in parts)


def overviews(view):
    for role in ("clinician", "operator", "viewer"):
        yield from overview.sections(view, since_us=NOW - 5, role=role).values()
    yield overview.frame(view, who="ada", role="admin")
    yield from (overview.undo_dialog(alert) for alert in view.alerts)


def played(variants, draw) -> tuple[int, int]:
    """How many were drawn, and in how many the text is to be seen; one that is a word of a closed list may be refused."""
    drawn = shown = 0
    for variant in variants:
        try:
            parts = tuple(draw(variant))
        except (KeyError, ValueError):
            continue
        drawn, shown = drawn + 1, shown + check(*parts)
    return drawn, shown


def test_no_text_of_the_overview_becomes_markup():
    drawn, shown = played(hostile(VIEW), overviews)
    assert drawn > 30
    assert shown > 15


def test_no_text_of_the_other_screens_becomes_markup():
    assert played(hostile(ROUTINES), lambda rows: automation.sections(VIEW, rows).values())[1] >= 3
    assert played(hostile(HOURS), lambda rows: completeness.sections(rows, Looking("ada", "admin")).values())[1] >= 2
    asked = Looking("ada", "admin", params={"q": "e"})
    played(hostile(VIEW), lambda view: find.sections(view, asked).values())  # it lists what has a screen of its own
    assert check(*find.sections(VIEW, replace(asked, params={"q": EVIL})).values())
    for frame in (automation.frame, completeness.frame):
        assert played(hostile(VIEW), lambda view, frame=frame: [frame(view, who=f"ada{EVIL}", role=f"admin{EVIL}")])[1] >= 1


@pytest.mark.parametrize("page", [sign_in_pages.login_page, sign_in_pages.code_page])
def test_no_text_of_signing_in_becomes_markup(page):
    html = page(f"Northmoor{EVIL}", simulated=True, wrong=f"no{EVIL}")
    Marks().feed(html.replace('<script src="/static/theme.js">', ""))  # the page's own
    assert "&lt;img" in html


def test_no_text_of_alerts_becomes_markup():
    row = AlertRow("A-0001", "ECG of patch-1", "icu-a", "technical", "medium", "now", "firing", NOW, "flagged", "ada")
    silence = SilenceView("S-0001", "edge icu-a", NOW, "ada", "works")
    alert = AlertDetail(
        row, "sensor-dead", (("edge", "icu-a"), ("study", "beats")), NOW, NOW, "No change.", ((1.0, 2.0), (2.0, 3.0)), "mV",
        impact="none", causes=("a cable",), action="look", notes=("seen",), history=(Step(NOW, "silenced", "ada", "why"),),
        explained_by="A-0002", silence=silence, undone_by="ada", undo_reason="so", undo_title="Undo?",
        related=(("A-0003", "other"),),
    )  # fmt: skip
    view = AlertsView(NOW, (row,), (silence,), (LoadView("technical", 3, 0.5, 9.0, 1, 1.0),))
    asked = Looking("ada", "admin")
    drawn, shown = played(hostile(alert), lambda one: alerts.sections(view, one, asked).values())
    assert (drawn > 15, shown > 12) == (True, True)
    assert played(hostile(alert), lambda one: [alert_detail.silence_dialog(one, NOW)])[1] >= 2
    assert played(hostile(view), lambda one: alerts.sections(one, alert, asked).values())[1] >= 5


def test_no_text_of_the_bedside_becomes_markup():
    row = BedsideRow("icu-a", "B-1", "high", "physiological", "firing", subject="q7k4", title="NEWS2", acknowledged_by="ada")
    view = BedsideView(
        NOW, (row, replace(row, alert_id="B-2", state="held")), (BedsideLoad("icu-a", "t", 1, 1.0, 1.0, 9.0, 1, 1.0),)
    )
    drawn, shown = played(
        hostile(view), lambda one: bedside.sections(one, Looking("ada", "admin", held=Held()), whose=True).values()
    )
    assert (drawn > 8, shown > 8) == (True, True)
    asked = Looking("ada", "admin", params={"edge": f"icu{EVIL}"})
    assert check(*bedside.sections(replace(view, rows=(replace(row, edge=f"icu{EVIL}"),)), asked, whose=True).values())


def test_no_text_of_the_hand_over_becomes_markup():
    alert = ShiftAlert("A-1", "ECG", "icu-a", "high", True, True, NOW, "ada", NOW, done="flagged", undo=True)
    view = HandOverView(
        "technical", NOW, 12, alerts=(alert,), silent=VIEW.edges[1:], aside=VIEW.edges[:1], due=ROUTINES,
        studies=(ShiftStudy("beats", "paused", why="by ada"), ShiftStudy("beats", "rollback", "ada", "why", NOW)),
        notes=(Note(2, "ada", NOW, 12, "Call Ines.", "bob", NOW), Note(1, "bob", NOW, 12, "Before.")),
    )  # fmt: skip
    row = BedsideRow("icu-a", "B-1", "high", "physiological", "firing", subject="q7k4", title="NEWS2")
    ward = replace(view, part="clinical", rising=(SubjectRow("q7k4", "icu-a", 7, scores=(3, 7)),), bedside=(row,))
    for one, role in ((view, "operator"), (ward, "clinician")):
        desk = SimpleNamespace(view=lambda _who, _part, _hours: None)

        def draw(variant, desk=desk, role=role):
            desk.view = lambda _who, _part, _hours: variant
            return hand_over.sections(desk, Looking("zoe", role, held=Held())).values()

        drawn, shown = played(hostile(one), draw)
        assert (drawn > 12, shown > 8) == (True, True)


def test_no_text_of_the_fleet_becomes_markup():
    edge = FleetEdge(
        "icu-a", "silent", 0, "silent 9 s", "high", 2, told=True, battery=9.0, machine="wifi", via="r", model="round 3"
    )
    steps = (InviteStep("made", "done"), InviteStep("joins", "waiting"))
    invitation = Invitation("icu-z", "ada", NOW, steps)
    view = FleetView(NOW, (edge,), "beats", (Branch("r", "", True), Branch("icu-a", "r", False)), (invitation,))
    asked = Looking("ada", "admin", item="icu-a")
    drawn, shown = played(hostile(view), lambda one: fleet.sections(one, asked).values())
    assert (drawn > 10, shown > 8) == (True, True)
    assert check(*fleet.sections(view, replace(asked, item=EVIL)).values())
    assert played(hostile(edge), lambda one: [fleet.revoke_dialog(one)])[1] >= 1
    assert check(fleet.token_dialog(f"x{EVIL}", f"wr1{EVIL}", ""))


def test_no_text_of_studies_becomes_markup():
    row = StudyRow(
        "beats", "ventricular-beats", "running", "by ada", 3, 9, NOW, "average-precision", 0.9, 0.8, "icu-b", runs_here=True
    )
    study = StudyDetail(
        row, (ScorePoint(1, 0.7, 0.8, 0.6, "icu-a"), ScorePoint(2, 0.9, 0.95, 0.8, "icu-b")), (1, 2),
        (PartRow("icu-a", ("accepted", "late"), 0, 9, "far off"), PartRow("icu-b", ("none", "aside"), 1)),
        (Decision(2, "icu-b", "aside", "far", "score 9", NOW, 9.0, 6.0),),
        (ModelRow(2, "a91f07aa", "63ac1daa", "current", 2, NOW, 2, 0.9, 0.8, "icu-b", "passed"),
         ModelRow(1, "63ac1daa", "", "retired", 1, NOW, 2)),
        Budget("patient", 1e-5, 6.0, ((0.0, 0.0), (2.0, 1.0)), ((2.0, 1.0), (9.0, 3.0)), 4),
        ((1, "back to round 0, by ada"),),
    )  # fmt: skip
    asked = Looking("ada", "admin", item="beats", address="/studies/beats")
    drawn, shown = played(hostile(study), lambda one: study_detail.sections(one, replace(asked, held=Held())).values())
    assert (drawn > 20, shown > 15) == (True, True)
    assert (
        played(hostile(StudiesView((row,))), lambda view: studies.list_sections(view, replace(asked, held=Held())).values())[1]
        >= 3
    )
    assert check(*study_detail.sections(None, replace(asked, item=EVIL)).values())
    would = GoingBack(1, "63ac1daa", ((1, "current"), (2, "rolled-back")), 1, 2)
    assert played(hostile(would), lambda one: [study_detail.back_dialog(f"beats{EVIL}", one)])[1] >= 2
    for dialog in (study_detail.aside_dialog, study_detail.count_dialog):
        assert check(dialog(f"beats{EVIL}", f"icu-a{EVIL}"))
    assert check(study_detail.hold_dialog(f"beats{EVIL}", pause=True))
