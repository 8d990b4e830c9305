"""The shared parts: rows that do not jump, paging and sorting by address, charts with their table, buttons by role, find."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from wardround.console import find, frame, parts
from wardround.console.charts import Level, Line, Mark, line_chart, spark
from wardround.console.live import facts_of
from wardround.console.looking import Held, Looking, params_of, who_may
from wardround.console.model import AlertView, EdgeView, Overview
from wardround.console.tables import Column, Table, show_rows
from wardround.trust.roles import Act

NOW = 1_764_000_000_000_000
VIEW = Overview(NOW, "hub-1", "1.0", "Northmoor", simulated=True, subjects=0)
OPERATOR = Looking("kim", "operator", address="/fleet")
NUMBERS = Table(
    "numbers",
    [Column("name", "Name", str, by=str), Column("value", "Value", lambda n: f"<b>{n}</b>", by=lambda n: -n, right=True)],
    key=str,
    one="number",
)


def keys(html: str) -> list[str]:
    return re.findall(r'data-key="([^"]*)"', html)


def test_rows_stay_where_they_are_until_a_person_asks():
    looking = replace(OPERATOR, held=Held())
    assert keys(NUMBERS.html(looking, [3, 1, 2])) == ["3", "1", "2"]
    moved = NUMBERS.html(looking, [1, 2, 4])
    assert keys(moved) == ["1", "2"]
    assert "1 new, show" in moved
    table = re.search(r'data-table="([^"]*)"', moved)
    show_rows({"table": table[1]}, looking)
    assert keys(NUMBERS.html(looking, [1, 2, 4])) == ["1", "2", "4"]
    assert "The order has changed" in NUMBERS.html(looking, [4, 1, 2])
    assert "data-table" not in NUMBERS.html(looking, [1, 2, 4])


def test_an_empty_table_fills_by_itself():
    looking = replace(OPERATOR, held=Held())
    assert keys(NUMBERS.html(looking, [])) == []
    assert keys(NUMBERS.html(looking, [1])) == ["1"]


def test_the_hub_sorts_and_pages_by_the_address_and_draws_one_page():
    rows = list(range(1_000))
    html = NUMBERS.html(replace(OPERATOR, params={"numbers-sort": "value", "numbers-page": "2"}, held=Held()), rows)
    assert keys(html) == [str(n) for n in range(949, 899, -1)]
    assert "51 to 100 of 1,000 numbers" in html
    assert 'aria-sort="ascending"' in html
    assert 'href="/fleet?numbers-sort=-value"' in html
    assert 'href="/fleet?numbers-sort=value&amp;numbers-page=3"' in html
    for page, first in (("999", "950"), ("0", "0"), ("x", "0"), ("-3", "0")):
        assert keys(NUMBERS.html(replace(OPERATOR, params={"numbers-page": page}, held=Held()), rows))[0] == first


def test_who_may_not_press_sees_the_button_and_who_may():
    facts = (("edge", 'a"b'),)
    assert 'data-edge="a&quot;b"' in parts.button(OPERATOR, Act.EDGES, "Revoke", "ask-revoke", facts=facts)
    told = parts.button(replace(OPERATOR, role="viewer"), Act.EDGES, "Revoke", "ask-revoke", facts=facts)
    assert "disabled" in told
    assert "data-act" not in told
    assert "Needs the role operator or admin" in told
    assert who_may(Act.CONSENT) == "data-officer or admin"
    assert not replace(OPERATOR, role="nobody").may(Act.LOOK)


def test_a_dialog_asks_for_what_is_to_be_typed_and_says_what_its_buttons_do():
    html = parts.confirm(
        title="Revoke <a>?", detail="", consequences=["<b>"], keep="Keep a", do="Revoke a", act="revoke", typed="a", danger=True
    )
    assert 'data-must="a"' in html
    assert "<b>" not in html
    assert "Revoke &lt;a&gt;?" in html
    assert "OK" not in html


def test_a_chart_of_few_rounds_names_each_once_and_at_its_place():
    html = line_chart(label="x", lines=[Line("x", [(1, 0.5), (2, 0.6)])], x_name="round", size=(760, 250))
    told = re.findall(r'<text x="([\d.]+)" y="\d+" text-anchor="middle">(?:round )?(\d+)</text>', html)
    assert [word for _, word in told] == ["1", "2"]
    ends = re.search(r'<path d="M([\d.]+) [\d.]+H([\d.]+)" stroke="var\(--line-strong\)"', html)
    assert [float(x) for x, _ in told] == [float(ends[1]), float(ends[2])]


def test_a_chart_says_its_finding_breaks_at_a_gap_and_has_its_numbers_behind():
    line = Line("surg-2", [(1, 0.5), (2, None), (3, float("nan")), (4, 0.9)], label="surg-2, 9.8")
    html = line_chart(
        label="surg-2 rose",
        lines=[line],
        levels=[Level("threshold 6.0", 0.7)],
        marks=[Mark(4, "<raised>")],
        shade=(1, 2, "usual"),
    )
    svg, table = re.match(r"(<svg.*</svg>)(<details.*)", html, re.S).groups()
    root = ET.fromstring(svg)
    assert root.get("aria-label") == "surg-2 rose"
    [path] = [p for p in root.iter("path") if p.get("stroke") == "var(--series-1)"]
    assert path.get("d").count("M") == 2
    assert "L" not in path.get("d")
    assert table.count("<tr>") == 5
    assert "0.90" in table
    assert line_chart(label="", lines=[Line("x", [])]) == ""
    assert not re.search(r"#[0-9a-fA-F]{3}", html)


@pytest.mark.parametrize("ys", [(1.0, 1.0), (0.0, 1e-9), (-5.0, 1e6), (0.871, 0.872)])
def test_a_chart_holds_every_value_between_its_outermost_ticks(ys):
    html = line_chart(label="x", lines=[Line("x", list(enumerate(ys)), label="end")], size=(760, 250))
    heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", html)]
    assert all(0 <= y <= 250 for y in heights)


def test_labels_at_line_ends_do_not_lie_on_each_other():
    html = line_chart(label="x", lines=[Line(f"n{k}", [(0, 1), (1, 1 + k / 1e6)], label=f"n{k}") for k in range(4)])
    ys = [float(y) for y in re.findall(r'<text x="620" y="([\d.]+)"', html)]
    assert len(ys) == 4
    assert all(b - a >= 14 for a, b in itertools.pairwise(ys))


def test_a_sparkline_needs_two_values():
    assert spark([1.0]) == ""
    assert "<path" in spark([1.0, float("nan"), 1.0])


def test_what_comes_from_a_page_or_an_address_is_few_and_short():
    assert facts_of("x") == {}
    assert len(facts_of({str(k): "v" for k in range(99)})) == 20
    assert facts_of({"a": "x" * 999}) == {"a": "x" * 300}
    assert params_of([("a", "x" * 999)]) == {"a": "x" * 100}
    assert replace(OPERATOR, params={"a": "1"}).link({"b": "x y", "a": ""}) == "/fleet?b=x+y"


def test_every_screen_of_the_navigation_has_a_key_of_its_own_and_the_frame_names_it():
    letters = [place.key for place in frame.SCREENS]
    assert len(set(letters)) == len(letters)
    html = frame.page(VIEW, who="kim", role="viewer", here="/", main="")
    for place in frame.SCREENS:
        assert f'href="{place.address}"' in html
    assert html.index('class="skip"') < html.index("<nav")


def test_the_navigation_shows_the_worst_open_alert_and_how_many_there_are():
    alert = AlertView("A-1", "t", "d", "medium", "technical", NOW, NOW, open=True, needs_person=True)
    worse = replace(alert, alert_id="A-2", priority="high", needs_person=False)
    shown = frame.live(replace(VIEW, alerts=(alert, worse, replace(alert, open=False))))["nav-alerts"]
    assert "Medium priority" in shown
    assert "<b>2</b>" in shown
    assert frame.live(VIEW)["nav-alerts"] == ""


def test_find_puts_what_is_called_so_first(monkeypatch):
    monkeypatch.setattr(find, "SCREENS", (frame.FLEET, frame.STUDIES, frame.ALERTS))
    view = replace(
        VIEW,
        edges=tuple(EdgeView(n, "connected") for n in ("my-icu", "icu-a", "icu")),
        study_names=("icu-mortality",),
        alerts=(AlertView("A-7", "icu-a is silent", "", "low", "technical", NOW, NOW, open=True, needs_person=False),),
    )
    assert [f.name for f in find.find(view, " ICU ")] == ["icu", "icu-a", "icu-mortality", "my-icu", "A-7"]
    assert find.find(view, "") == []
    shown = find.sections(view, replace(OPERATOR, params={"q": "<b>"}))
    assert "<b>" not in shown["answer"]
