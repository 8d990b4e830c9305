"""The alert of a routine that is late."""

from __future__ import annotations

from wardround.watch.alerts import Finding
from wardround.watch.timetable import Row

KIND = "job-late"


def finding(row: Row, now_us: int) -> Finding:
    """What people are told of it."""
    why = f" It last failed: {row.last.detail}" if row.last is not None and not row.last.ok else ""
    return Finding(
        kind="job-late",
        title=f"{row.title}: late by {_words(row.late_s)}",
        priority="medium",
        category="technical",
        since_us=row.next_us,
        detected_us=now_us,
        study=row.study,
        job=row.name,
        detail=f"It is to run {row.schedule}, and has not come to a good end in time.{why}",
        impact="What it makes grows old; nothing is lost.",
        causes=("it fails again and again", "another one takes all the time", "the disk is full"),
        action="Look at `wardround automation` and at the hub's log.",
    )


def _words(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
