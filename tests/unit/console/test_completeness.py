"""The Completeness screen: from hours to rows, the least complete first, and each state of the page; names made safe."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from wardround.clock import ManualClock
from wardround.collect.streams import HOUR_US
from wardround.console.completeness import HOURS, frame, sections
from wardround.console.looking import Looking
from wardround.console.model import HoursView, Overview, SignalHours
from wardround.hours import IDLE_S, HoursBoard, read_grid, view_of
from wardround.process.lake import Lake
from wardround.process.tables import TREND, TRENDS, day_of
from wardround.processing import completeness
from wardround.records import bucket_of

NOW = 1_764_000_000_000_000
FIRST = (NOW // HOUR_US - HOURS + 1) * HOUR_US
HALF_PAST = NOW + HOUR_US // 2
VERA = Looking("vera", "viewer", address="/completeness")
VIEW = Overview(NOW, "hub-1", "1.0", "Northmoor", simulated=True, subjects=0)


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html)))


def signal(subject="q7k4", mean=1.0, shares=(1.0,) * HOURS, title="Heart rate"):
    return SignalHours(subject, "loinc:8867-4", title, FIRST, tuple(shares), mean)


def shown(signals, looking=VERA):
    return sections(None if signals is None else HoursView(signals, signals), looking)


def test_hours_become_rows_and_the_least_complete_comes_first(tmp_path):
    lake = Lake(tmp_path / "lake")
    hours = [("a", FIRST + k * HOUR_US, 1.0) for k in range(HOURS)]
    hours += [("b", FIRST + 22 * HOUR_US, 0.25), ("c", FIRST, 0.0), ("e", FIRST + HOURS * HOUR_US, 1.0)]
    write(lake, hours, 1)
    view = view_of(read_grid(lake, HALF_PAST, HOURS), str.upper)
    b, a, c = view.least_first
    assert list(view.by_name) == [a, b, c]
    assert (a.subject, a.title, a.mean, a.shares) == ("a", "X", 1.0, (1.0,) * HOURS)
    assert (b.subject, b.mean) == ("b", pytest.approx(900 / 5400))
    assert b.shares == (None,) * 22 + (0.25, 0.0)
    assert (c.subject, c.mean, set(c.shares)) == ("c", None, {None})  # nothing is declared of its rate


def test_rows_are_those_of_the_hours_as_they_were_declared(tmp_path):
    """Arrays against a row at a time, over hours as ragged as they come."""
    lake, rng = Lake(tmp_path / "lake"), np.random.default_rng(3)
    asked = [
        (f"{s:02d}", FIRST + int(k) * HOUR_US, float(rng.choice([0.0, 0.3, 1.0])))
        for s in range(40)
        for k in sorted(rng.choice(HOURS, size=rng.integers(1, HOURS), replace=False))
    ]
    write(lake, asked, 1)
    expected = {}
    for hour in completeness(lake, HALF_PAST, since_us=FIRST):
        expected.setdefault(hour.subject, {})[(hour.hour_us - FIRST) // HOUR_US] = hour.complete
    rows = view_of(read_grid(lake, HALF_PAST, HOURS), str).by_name
    assert [row.subject for row in rows] == sorted(expected)
    for row in rows:
        own = expected[row.subject]
        assert row.shares == tuple(own.get(k) if own.get(k) is None else pytest.approx(own[k], abs=1e-6) for k in range(HOURS))


def write(lake, hours, version):
    rows = []
    for k, (subject, t_us, share) in enumerate(hours):
        row = {"subject": subject, "code": "x", "unit": "1", "t_us": t_us, "width_us": HOUR_US, "n": 9, "expected": 9}
        rows.append(row | {"completeness": share, "day": day_of(t_us), "bucket": bucket_of(subject), "part": str(k)})
    lake.append(TREND, pa.Table.from_pylist(rows, schema=TRENDS), app="t", version=version)


def test_the_answer_names_the_least_complete():
    def answer(signals):
        return text(shown(signals)["answer"])

    assert "One moment" in answer(None)
    assert "Nothing whose rate is known" in answer(())
    assert "Nothing whose rate is known" in answer((signal(mean=None),))
    assert "Every signal came at least 80 % complete." in answer((signal(),))
    assert "1 signal of 2 came less than 80 % complete; the least, Heart rate of p-1, 13 %." in answer(
        (signal("p-1", 0.13), signal())
    )


def test_a_row_says_the_worst_hour_and_draws_each():
    shares = [1.0] * HOURS
    shares[3], shares[5] = 0.0, None
    html = shown((signal(mean=0.95, shares=shares),))["signals"]
    assert "q7k4 Heart rate 0 % at 20:00 UTC 95 % 100 %" in text(html)
    came, nothing = re.search(r'class="came" d="([^"]*)"', html)[1], re.search(r'class="not" d="([^"]*)"', html)[1]
    assert (came.count("V"), nothing.count("h")) == (HOURS - 2, 1)  # nothing stands where nothing was expected
    assert 'aria-label="from the oldest hour: 100 %, 100 %, 100 %, 0 %, 100 %, not known' in html


def test_a_page_has_a_bound_and_every_signal_is_on_one():
    signals = tuple(signal(f"p-{k:03}", 0.5) for k in range(103))
    seen = []
    for number in ("", "1", "2", "3", "9"):
        html = shown(signals, replace(VERA, params={"page": number}))["signals"]
        seen.append(re.findall(r"p-[0-9]{3}(?=<)", html))
    assert seen[0] == seen[1] == [s.subject for s in signals[:50]]
    assert seen[1] + seen[2] + seen[3] == [s.subject for s in signals]
    assert seen[4] == seen[3]
    assert "101 to 103 of 103 signals" in text(html)


def test_names_are_made_safe_and_the_frame_marks_where_you_are():
    assert "<script>" not in "".join(shown((signal("<script>", 0.1, title="<script>"),)).values())
    html = frame(VIEW, who="anna", role="viewer")
    assert 'href="/completeness" aria-current="page"' in html
    assert 'id="signals"' in html


def test_the_lake_is_read_while_somebody_looks_and_seldom_else(tmp_path):
    clock, lake = ManualClock(), Lake(tmp_path / "lake")
    clock.advance(NOW / 1e6 - clock.now_us() / 1e6)
    board = HoursBoard(lake, clock, str, lambda _: "", lambda _: None)

    def trend(version, completeness):
        row = {"subject": "s", "code": "x", "unit": "1", "t_us": clock.now_us() // HOUR_US * HOUR_US, "width_us": HOUR_US, "n": 9}
        row |= {"expected": 9, "completeness": completeness, "day": day_of(clock.now_us()), "bucket": bucket_of("s")}
        lake.append(TREND, pa.Table.from_pylist([row | {"part": str(version)}], schema=TRENDS), app="t", version=version)

    def shown_now():
        return list(board.shown().least_first)

    assert board.shown() is None
    board.look()
    assert shown_now() == []
    trend(1, 0.1)
    board.look()
    assert shown_now() == []  # it was read a moment ago
    clock.advance(31)
    board.look()
    [row] = shown_now()
    assert (row.subject, row.shares[-1]) == ("s", pytest.approx(min(1.0, 360 / (clock.now_us() % HOUR_US / 1e6))))
    clock.advance(120)
    trend(2, 0.2)
    board.look()
    assert shown_now() == [row]  # nobody looked for two minutes
    clock.advance(IDLE_S)
    board.look()
    assert shown_now()[0].shares != row.shares  # whoever comes after long finds hours there
