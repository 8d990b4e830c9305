"""The Automation screen from frozen read models, in each of its states; names made safe."""

from __future__ import annotations

import re
from dataclasses import replace

from wardround.console.automation import frame, sections
from wardround.console.model import Overview, RoutineView

NOW = 1_764_000_000_000_000
VIEW = Overview(NOW, "hub-1", "1.0", "Northmoor", simulated=True, subjects=0)
JOB = RoutineView("job:trends", "Trends", "every 10 s", "ok", "3 parts", NOW - 5_000_000, 1.2, NOW + 5_000_000)


def text(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", re.sub(r"<svg.*?</svg>", "", html)))


def test_the_answer_says_what_is_late_first():
    def answer(*routines):
        return text(sections(VIEW, routines)["answer"])

    assert "Nothing has run yet." in answer()
    assert "Everything runs in its time. 1 routine. Next: Trends, 16:00 UTC." in answer(JOB)
    assert "Next: Trends, 28 Nov 16:00 UTC." in answer(replace(JOB, next_us=NOW + 4 * 86_400_000_000))
    assert "Nothing is late; Trends failed last time and is tried again." in answer(replace(JOB, outcome="failed"))
    late = replace(JOB, late_s=700.0)
    assert "Trends: late by 11 min." in answer(late, JOB)
    assert "One more is late." in answer(late, replace(late, name="b"))


def test_every_row_has_its_times_and_its_outcome():
    shown = text(sections(VIEW, (JOB, replace(JOB, name="b", last_us=0, next_us=0, outcome="never", detail="")))["routines"])
    assert "every 10 s 15:59:55 UTC ok , 1.2 s 3 parts 16:00:05 UTC no" in shown
    assert "never" in shown
    assert "nothing is due" in shown
    later = replace(JOB, next_us=NOW + 4 * 86_400_000_000)
    assert "Fri 28 Nov, 16:00:00 UTC" in text(sections(VIEW, (later,))["routines"])
    assert "wardround automation" in text(sections(VIEW, ())["routines"])


def test_names_are_made_safe_and_the_frame_marks_where_you_are():
    assert "<script>" not in sections(VIEW, (replace(JOB, title="<script>", detail="<script>"),))["routines"]
    html = frame(VIEW, who="anna", role="operator")
    assert 'href="/automation" aria-current="page"' in html
    assert 'href="/" title="Overview"' in html
    assert 'id="routines"' in html
