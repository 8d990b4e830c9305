"""What a drill has shown as docs/drill.md has it: a table in Markdown and the sentence below it, from the facts of a Drilled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

HEADINGS = ("fault", "seen", "after", "named", "others", "set aside", "innocent", "score", "done", "by")


def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """A fault's line, in the order of HEADINGS."""
    worse = row["score_worse_by"]
    return (
        row["fault"],
        f"{row['detected']}/{row['runs']}",
        "-" if row["delay_median"] is None else f"{row['delay_median']:g}",
        f"{row['named']}/{row['struck']}" if row["struck"] else "-",
        str(row["others_named"]),
        str(row["struck_aside"]) if row["struck"] else "-",
        str(row["innocent_aside"]),
        "-" if worse is None else f"{-worse:+.4f}",
        ", ".join(f"{act} {times}" for act, times in row["done"].items()) or "-",
        ", ".join(row["by"]),
    )


def sentences(facts: Mapping[str, Any]) -> list[str]:
    """What all runs give together; nothing of what was not played."""
    said, totals, healthy = [], facts["totals"], facts["healthy"]
    if totals["runs"]:
        delay = "-" if totals["delay_median"] is None else f"{totals['delay_median']:g}"
        said.append(
            f"{totals['detected']} of {totals['runs']} runs detected, after {delay} rounds in the median (creeping ones apart); "
            f"{totals['named']} of {totals['struck']} edges named; {totals['others_named']} others named, "
            f"{totals['innocent_aside']} innocent ones set aside"
        )
    if healthy["rounds"]:
        said.append(
            f"{healthy['rounds']:,} healthy rounds: {healthy['false_alarms']} false alarms, {healthy['per_1000']:.2g} in 1,000 "
            f"{healthy['by'] or ''}".rstrip()
        )
    return said


def markdown(facts: Mapping[str, Any]) -> str:
    """The table and its sentences."""
    lines = [HEADINGS, ("---",) * len(HEADINGS)]
    lines += [(f"`{first}`", *rest) for first, *rest in map(cells, facts["faults"])]
    rows = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([*(rows if facts["faults"] else []), "", *sentences(facts)]).strip()
