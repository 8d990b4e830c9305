"""The Overview from frozen read models, in each of its states; no colour outside the tokens; names made safe."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from wardround import console
from wardround.clock import ManualClock
from wardround.console import pictures
from wardround.console.door import Sessions, token_of
from wardround.console.model import AlertView, AtEdgeView, EdgeView, Line, Overview, StudyView
from wardround.console.overview import frame, sections, undo_dialog
from wardround.console.words import DAY_US, duration, lately, percent, rate

NOW = 1_764_000_000_000_000
STATIC = Path(console.__file__).parent / "static"
EMPTY = Overview(NOW, "hub-1", "1.0", "Northmoor", simulated=True, subjects=0)
EDGES = tuple(EdgeView(f"edge-{i}", "connected", per_s=float(i)) for i in range(4))
NEED = AlertView(
    "A-0001",
    "ECG of patch-1 is a flat line",
    "No change.",
    "medium",
    "technical",
    NOW,
    NOW,
    open=True,
    needs_person=True,
)
HANDLED = AlertView(
    "A-0002", "cardio-1 sends updates far from its own history", "Score 9.", "medium", "model", NOW, NOW, open=True,
    needs_person=False, response="quarantined", undo_title="Let cardio-1 count again from round 16?",
    undo_words="Let cardio-1 count again", undo_keep="Keep it set aside", undo_consequences=("One.", "Two."),
)  # fmt: skip
STUDY = StudyView(
    "vb", 15, 24, "average-precision", 0.992, "cardio-2", 0.987, (("a", "accepted"), ("b", "set-aside"), ("c", "absent"))
)
FULL = replace(
    EMPTY, subjects=17, edges=EDGES, samples_per_s=31_400.0, behind_s=3.0, waiting=12, set_aside=17, study=STUDY, studies=1,
    alerts=(NEED, HANDLED), happened=(Line(NOW, "Hub started", "4 edges known"),),
)  # fmt: skip


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html)))


def test_the_answer_is_one_sentence_made_from_state():
    def answer(view, since=None):
        return text(sections(view, since_us=since)["answer"])

    assert "No edge has joined yet." in answer(EMPTY)
    assert "Everything runs as expected. 4 of 4 edges connected." in answer(replace(FULL, alerts=()))
    assert "ECG of patch-1 is a flat line: it needs a person now." in answer(FULL)
    assert "Nothing needs a person now; one alert is handled or can wait." in answer(replace(FULL, alerts=(HANDLED,)))
    two = (NEED, replace(NEED, alert_id="A-9"))
    assert "Two things need a person now." in answer(replace(FULL, alerts=two))
    silent = replace(FULL, alerts=(), edges=(*EDGES[:3], EdgeView("edge-3", "silent", 90.0)))
    assert "3 of 4 edges are connected. edge-3 is silent." in answer(silent)
    both = answer(replace(silent, alerts=(NEED,)))
    assert "it needs a person now. 3 of 4 edges connected." in both
    assert "Everything else runs" not in both
    assert "one thing has happened since" in answer(FULL, NOW - 1)
    assert "nothing has happened since" in answer(FULL, NOW)


def test_each_step_has_its_number_unit_and_one_line_of_state():
    parts = {key: text(html) for key, html in sections(FULL, since_us=None).items()}
    assert "31.4 k/s samples arriving" in parts["step-collect"]
    assert "3 s gold tables behind live 12 observations wait in the inbox; 17 items set aside" in parts["step-process"]
    assert "0.992 AUPRC round 15, worst edge 0.987 (cardio-2) b set aside: weight 0" in parts["step-learn"]
    assert "1 of 2 open alerts needs a person now the other is handled or can wait" in parts["step-watch"]


def test_empty_states_teach_the_next_command():
    parts = {key: text(html) for key, html in sections(EMPTY, since_us=None).items()}
    assert "wardround study start study.toml" in parts["step-learn"]
    assert "What comes up shows here first." in parts["need"]


def test_what_can_be_undone_offers_it_with_its_consequences():
    parts = sections(FULL, since_us=None, role="operator")
    assert 'data-act="ask-undo" data-alert="A-0002"' in parts["handled"]
    assert 'data-act="acknowledge" data-alert="A-0001"' in parts["need"]
    dialog = undo_dialog(HANDLED)
    assert "Let cardio-1 count again from round 16?" in dialog
    assert "Keep it set aside" in dialog
    assert dialog.count("<li>") == 2
    mine = replace(NEED, acknowledged_by="oncall")
    taken = sections(replace(FULL, alerts=(mine,)), since_us=None, role="operator")["need"]
    assert "oncall is on it" in taken
    assert "data-act" not in taken
    both = sections(replace(FULL, alerts=(mine, NEED, NEED)), since_us=None, role="operator")["need"]
    assert both.count("<kbd>a</kbd>") == 1  # at the one that the key acknowledges


@pytest.mark.parametrize(("role", "disabled"), [("viewer", 2), ("data-officer", 2), ("clinician", 1), ("operator", 0)])
def test_who_may_not_sees_the_button_disabled_with_who_may(role, disabled):
    parts = sections(FULL, since_us=None, role=role)
    buttons = re.findall(r"<button[^>]*>", parts["need"] + parts["handled"])
    assert len(buttons) == 2
    assert sum("disabled" in button and "Needs the role" in button for button in buttons) == disabled


def test_a_share_is_all_or_nothing_only_where_it_is():
    shares = (0.0, 0.001, 0.4, 0.971, 0.999, 1.0)
    assert [percent(share) for share in shares] == ["0 %", "1 %", "40 %", "97 %", "99 %", "100 %"]


def test_a_clock_has_its_day_where_it_would_name_another():
    assert lately(NOW - DAY_US + 1, NOW) == "16:00"
    assert lately(NOW - DAY_US, NOW) == "23 Nov 16:00"
    assert lately(NOW + 2 * DAY_US, NOW) == "26 Nov 16:00"


def test_what_began_on_another_day_has_its_day_and_what_is_not_drawn_is_counted():
    days = 3 * DAY_US
    old = replace(FULL, alerts=(replace(NEED, since_us=NOW - days),), happened=(Line(NOW - days, "Hub started", ""),))
    parts = {key: text(html) for key, html in sections(old, since_us=NOW - days - 1).items()}
    assert "since 21 Nov 16:00 UTC" in parts["need"]
    assert "21 Nov 16:00 Hub started" in parts["since"]
    assert "You were last here at 21 Nov 15:59 UTC" in parts["answer"]
    assert "since 16:00 UTC" in text(sections(FULL, since_us=None)["need"])
    many = tuple(replace(NEED, alert_id=f"A-{i}", needs_person=i % 2 == 0) for i in range(40))
    parts = sections(replace(FULL, alerts=many), since_us=None)
    for part in ("need", "handled"):
        assert "and 12 more: all of them in Alerts" in text(parts[part])
        assert 'href="/alerts"' in parts[part]


AT_EDGES = (
    AtEdgeView("icu-a", "B-0003", "high", "physiological", "firing"),
    AtEdgeView("icu-a", "B-0002", "medium", "technical", "firing"),
    AtEdgeView("home-b", "B-0001", "medium", "physiological", "acknowledged", stale=True),
)


def test_each_role_sees_what_it_acts_on_of_what_edges_watch_and_how_many_others():
    view = replace(FULL, alerts=(), at_edges=AT_EDGES)

    def seen(role):
        parts = sections(view, since_us=None, role=role)
        return text(parts["answer"]), text(parts["at-edges"])

    answer, rows = seen("clinician")
    assert "A patient at icu-a should be looked at: who and why stands at that edge." in answer
    assert "wardround edge alerts show B-0003" in rows
    assert "A patient at home-b should be looked at acknowledged; the edge is silent, and said so last" in rows
    assert "B-0002" not in rows
    assert "1 alert about devices or edges at icu-a; 1 not yet acknowledged" in rows
    answer, rows = seen("operator")
    assert "A device of icu-a, or the edge itself, needs a look" in answer
    assert "wardround edge alerts show B-0002" in rows
    assert "B-0003" not in rows
    assert "2 alerts about patients at home-b, icu-a; 1 not yet acknowledged" in rows
    answer, rows = seen("viewer")
    assert "Nothing needs a person here; 3 alerts are open at edges." in answer
    assert "B-0" not in rows
    assert "B-0002" in seen("admin")[1]
    assert "B-0003" in seen("admin")[1]
    assert sections(FULL, since_us=None, role="admin")["at-edges"] == ""


def test_what_a_clinician_must_see_at_an_edge_comes_before_what_the_hub_sees():
    answer = text(sections(replace(FULL, at_edges=AT_EDGES), since_us=None, role="clinician")["answer"])
    assert "A patient at icu-a should be looked at: who and why stands at that edge. One more thing needs a person." in answer


def test_a_simulated_site_says_so_and_another_does_not():
    assert "SIMULATED PATIENTS" in frame(FULL, who="oncall", role="operator")
    assert "SIMULATED" not in frame(replace(FULL, simulated=False), who="oncall", role="operator")


def test_names_cannot_become_markup():
    evil = '<img src=x onerror="alert(1)">'
    view = replace(
        FULL,
        site=evil,
        edges=(EdgeView(evil, "silent"),),
        alerts=(replace(NEED, title=evil, detail=evil), replace(HANDLED, undo_title=evil, response=evil)),
        happened=(Line(NOW, evil, evil),),
        at_edges=(AtEdgeView(evil, evil, "high", "physiological", evil), AtEdgeView(evil, evil, "high", "technical", evil)),
        study=replace(STUDY, name=evil, worst_edge=evil, parts=((evil, "set-aside"),)),
    )
    roles = ("", "admin", "clinician")
    everything = "".join(part for role in roles for part in sections(view, since_us=None, role=role).values())
    everything += frame(view, who=evil, role=evil) + undo_dialog(view.alerts[1])
    assert "<img" not in everything


def test_a_thousand_edges_are_drawn_as_those_that_differ_and_one_row():
    edges = tuple(EdgeView(f"e{i}", "silent" if i in (7, 70) else "connected") for i in range(1_000))
    picture = sections(replace(FULL, edges=edges), since_us=None)["step-collect"]
    assert "998 as usual" in picture
    assert ">e7<" in picture
    assert len(picture) < 10_000


def test_every_part_has_its_place_in_the_frame():
    html = frame(FULL, who="oncall", role="operator")
    for key in sections(FULL, since_us=None):
        assert f'id="{key}"></' in html, key


def test_colours_are_written_in_the_tokens_alone():
    found = []
    for path in [*Path(console.__file__).parent.glob("*.py"), *STATIC.iterdir()]:
        if path.name != "tokens.css":
            found += [f"{path.name}: {c}" for c in re.findall(r"(?<!&)#[0-9a-fA-F]{3,8}\b|rgba?\(", path.read_text())]
    assert found == []


def _tokens(theme: str) -> dict[str, str]:
    css = (STATIC / "tokens.css").read_text()
    block = css.split(":root {")[1].split("}")[0] if theme == "light" else css.split('[data-theme="dark"] {')[1].split("}")[0]
    return dict(re.findall(r"--([\w-]+): (#[0-9A-F]{6});", block))


def _luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_text_meets_aa_on_every_surface(theme):
    tokens = _tokens(theme)
    pairs = [(ink, on) for ink in ("ink", "ink-2", "ink-3", "accent") for on in ("bg", "surface", "surface-2", "sunken")]
    pairs += [(f"{p}-text", f"{p}-tint") for p in ("high", "medium", "low")] + [
        (f"{p}-ink", p) for p in ("high", "medium", "low")
    ]
    for ink, on in [*pairs, ("accent-ink", "accent"), ("ink", "medium-tint"), ("ink-2", "high-tint")]:
        a, b = sorted((_luminance(tokens[ink]), _luminance(tokens[on])))
        assert (b + 0.05) / (a + 0.05) >= 4.5, f"{ink} on {on} in {theme}"


def test_numbers_have_their_units():
    assert [duration(s) for s in (0, 38, 61, 2460, 22_200, 180_000)] == [
        "0 s",
        "38 s",
        "1 min",
        "41 min",
        "6 h 10 min",
        "2 d 2 h",
    ]
    assert [rate(r) for r in (0, 12.3, 31_400, 2.5e6)] == [("0", "/s"), ("12", "/s"), ("31.4", "k/s"), ("2.5", "M/s")]


def test_sessions_end_by_idleness_and_by_age():
    clock = ManualClock()
    sessions = Sessions(clock, life_s=43_200.0, idle_s=3_600.0, standing=lambda _: "")
    token = sessions.start("oncall", "operator", None, "")
    for _ in range(11):
        clock.advance(3_000)
        assert sessions.get(token) is not None
    clock.advance(3_700)
    assert sessions.get(token) is None
    token = sessions.start("oncall", "operator", None, "")
    for _ in range(15):
        clock.advance(3_000)
        sessions.get(token)
    assert sessions.get(token) is None
    assert sessions.get("") is None
    assert token_of("wr-session=abc; other=1") == "abc"
    assert token_of("rubbish;;==") == ""


def test_the_ring_of_a_thousand_edges_is_an_arc_a_state():
    states = ("accepted", "set-aside", "absent")
    few = StudyView("s", round_number=3, rounds=9, parts=tuple((f"e{k}", states[k % 3]) for k in range(9)))
    many = StudyView("s", round_number=3, rounds=9, parts=tuple((f"e{k}", states[k % 3]) for k in range(1_000)))
    assert pictures.learn(few).count("A62 62") == 9
    assert pictures.learn(many).count("A62 62") == 3
    assert "334 of 1000 edges counted" in pictures.learn(many)
