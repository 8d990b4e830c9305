"""The tables of docs/attacks.md, written by the command that measures them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from wardround.attacks.inversion import ALL_ROWS
from wardround.attacks.poisoning import SCORED_ROUNDS
from wardround.attacks.target import every_mode
from wardround.errors import StudyError

Facts = Mapping[str, Any]
NOT_BUILT = "not measured"
DASH = "-"


def write(path: Path, facts: Facts, command: str) -> None:
    """Put the tables of a study in place of those that are there under its name, or at the end of the page.

    Raises:
        StudyError: the page cannot be read or written.
    """
    begin, end = f"<!-- attacks on {facts['study']}: made by the command below -->", f"<!-- end of {facts['study']} -->"
    try:
        text = path.read_text(encoding="utf-8") if path.exists() else "# Attacks\n"
        made = "\n".join([begin, *section(facts, command), end])
        if begin in text and end in text:
            before, _, rest = text.partition(begin)
            text = before + made + rest.partition(end)[2]
        else:
            text = f"{text.rstrip()}\n\n{made}\n"
        path.write_text(text, encoding="utf-8")
    except OSError as exc:
        raise StudyError(f"{path} cannot be written: {exc.strerror}", remedy="check the path and its permissions") from exc


def section(facts: Facts, command: str) -> list[str]:
    """A study's tables as lines of Markdown."""
    simulated = ", **simulated**" if facts["simulated"] else ""
    lines = [
        f"## {facts['study']}",
        "",
        f"`{command}`: {facts['source']}{simulated}; {facts['edges']} edges, {facts['examples']:,} examples, "
        f"{facts['rounds']} rounds, seeds {', '.join(map(str, facts['seeds']))}. Intervals are 95 %.",
        "",
        *stops(facts),
    ]
    if facts["inversion"]:
        lines += ["", "What is read of an edge's examples, by what the hub sees and how many rows the edge trained on:", ""]
        lines += inversion_table(facts["inversion"])
    if facts["poisoning"]:
        lines += _poisoning(facts)
    lines += [f"- Not tried: {what}: {why}" for what, why in facts["not_tried"].items()]
    return [*lines, ""]


def stops(facts: Facts) -> list[str]:
    """What each mode stops: one row an attack, one column a mode."""
    modes = every_mode()
    rows: list[Sequence[str]] = [("attack", *modes), ("---",) * (1 + len(modes))]
    cells: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("member of the training? loss: AUC (chance 0.5)", lambda m: _member(facts, m, "loss_auc")),
        ("the same, LiRA: AUC", lambda m: _member(facts, m, "lira_auc")),
        ("LiRA: named at 1 % false (chance 0.01)", lambda m: _member(facts, m, "lira_true_rate")),
        ("one example, read from what the hub sees", lambda m: _read(facts, m, 1)),
        ("four examples, the same", lambda m: _read(facts, m, 4)),
        ("all of an edge's examples, the same", lambda m: _read(facts, m, ALL_ROWS)),
        ("score of people who never train, nobody lies", lambda m: _calm(facts, m)),
        ("poisoning: lost to the worst attack, under the best defence", lambda m: _drop(facts, m)),
    )
    for title, cell in cells:
        found = [NOT_BUILT if m not in facts["modes"] else "refused" if m in facts["refused"] else cell(m) for m in modes]
        if set(found) - {NOT_BUILT, "refused", DASH}:  # else nobody has tried
            rows.append((title, *found))
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return lines + [f"- `{m}` is not for this study: {why}" for m, why in facts["refused"].items() if m in facts["modes"]]


def inversion_table(found: Sequence[Facts]) -> list[str]:
    """One row a mode, view and attack, one column a training."""
    cases = list(dict.fromkeys((i["rows"], i["steps"]) for i in found))
    by = {(i["mode"], i["seen"], i["attack"], i["rows"], i["steps"]): i for i in found}
    lines = [f"| mode | seen | attack | {' | '.join(_trained(*c) for c in cases)} |", "| --- " * (3 + len(cases)) + "|"]
    for row in dict.fromkeys((i["mode"], i["seen"], i["attack"]) for i in found):
        cells = (_percent(by[(*row, *c)]["read"]) if (*row, *c) in by else DASH for c in cases)
        lines.append(f"| {' | '.join(row)} | {' | '.join(cells)} |")
    worst = max(i["read"]["chance"] for i in found)
    return [*lines, "", f"The same guesses are as near to examples that were not there in {worst:.1%} of the trials at most."]


def _trained(rows: int, steps: str) -> str:
    said = "all" if rows == ALL_ROWS else "1 row" if rows == 1 else f"{rows} rows"
    return f"{said}, 1 step" if steps == "one" else f"{said}, the study's steps"


def poisoning_table(rows: Sequence[Facts], share: float) -> list[str]:
    """One row a mode and defence, one column an attack, at one share of the edges."""
    attacks = list(dict.fromkeys(a["attack"] for row in rows for a in row["attacks"] if a["share"] == share))
    lines = [f"| mode | fold | screens | no attack | innocent | {' | '.join(attacks)} |", "| --- " * (5 + len(attacks)) + "|"]
    for row in rows:
        by = {a["attack"]: a["drop"] for a in row["attacks"] if a["share"] == share}
        cells = (_points(by[a]) if a in by else DASH for a in attacks)
        own = ("yes", f"{row['innocent_aside']:.1f}") if row["screened"] else ("no", DASH)
        head = (row["mode"], row["rule"], own[0], f"{row['score']['value']:.3f}", own[1])
        lines.append(f"| {' | '.join((*head, *cells))} |")
    return lines


def _poisoning(facts: Facts) -> list[str]:
    words = (
        f"Poisoning from the first round on: `{facts['metric']}` on {facts['held_back']:,} examples of people who never train, "
        f"mean of the last {SCORED_ROUNDS} rounds: without an attack, with the innocent edges that were set aside in the mean of "
        "the seeds; and under each attack what is lost of the first line's, in hundredths, with half its interval over seeds "
        "(minus: it is better so)."
    )
    lines = ["", words]
    for share in dict.fromkeys(a["share"] for row in facts["poisoning"] for a in row["attacks"]):
        lines += ["", f"{share:.0%} of the edges lie:", "", *poisoning_table(facts["poisoning"], share)]
    return lines


def _member(facts: Facts, mode: str, what: str) -> str:
    one = next((m for m in facts["membership"] if m["mode"] == mode), None)
    if one is None or one[what]["value"] is None:
        return DASH
    return f"{one[what]['value']:.3f} ({one[what]['low']:.3f} to {one[what]['high']:.3f})"


def _read(facts: Facts, mode: str, rows: int) -> str:
    """The best of the attacks, on the best view that the hub has."""
    found = [i["read"] for i in facts["inversion"] if i["mode"] == mode and i["rows"] == rows]
    return _percent(max(found, key=lambda e: e["value"])) if found else DASH


def _calm(facts: Facts, mode: str) -> str:
    """What the mode itself costs."""
    found = [row["score"] for row in facts["poisoning"] if row["mode"] == mode]
    return DASH if not found or found[0]["value"] is None else f"{found[0]['value']:.3f}"


def _drop(facts: Facts, mode: str) -> str:
    """The defence whose worst attack costs least."""
    best = None
    for row in facts["poisoning"]:
        if row["mode"] != mode or not row["attacks"]:
            continue
        worst = max(row["attacks"], key=lambda a: 1.0 if a["drop"]["value"] is None else a["drop"]["value"])
        if best is None or (worst["drop"]["value"] or 0.0) < (best[1]["drop"]["value"] or 0.0):
            best = row, worst
    if best is None:
        return DASH
    row, worst = best
    return f"{_points(worst['drop'])} ({worst['attack']}; {row['rule']}{', screened' if row['screened'] else ''})"


def _percent(e: Facts) -> str:
    return DASH if e["value"] is None else f"{e['value']:.0%} ({e['low']:.0%} to {e['high']:.0%})"


def _points(e: Facts) -> str:
    if e["value"] is None:
        return "stopped"
    half = "" if e["high"] is None else f" ± {100 * (e['high'] - e['value']):.1f}"
    return f"{100 * e['value']:+.1f}{half}"
