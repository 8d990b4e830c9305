"""One study whole, as text: whether it learns, for every edge; who took part, what was set aside, what predicts, what it cost."""

from __future__ import annotations

from collections.abc import Sequence

from wardround.console import parts
from wardround.console.charts import Level, Line, Mark, line_chart
from wardround.console.frame import page
from wardround.console.looking import Looking
from wardround.console.model import Overview
from wardround.console.study_model import Budget, Decision, GoingBack, ModelRow, PartRow, StudyDetail
from wardround.console.study_personal import personal
from wardround.console.tables import Column, Table
from wardround.console.words import count, day_clock, metric, safe
from wardround.trust.roles import Act

FOLD = 12  # edges that are all named
STEP, CELL = 16, 13
STATES = {
    "accepted": "accepted",
    "arrived": "arrived",
    "training": "training",
    "late": "late",
    "refused": "refused",
    "failed": "failed",
    "sat-out": "sat out by itself",
    "aside": "set aside",
    "none": "not asked or away",
}
SPANS = ((10, "10 rounds"), (50, "50 rounds"), (1_000, "1,000 rounds"))
WIDE, NARROW = (760, 250), (440, 190)


def frame(view: Overview, looking: Looking) -> str:
    """The page around the sections."""
    main = (
        '<div class="grid w13"><div class="stack"><section class="panel" aria-label="Score by round" id="score"></section>'
        '<section class="panel" aria-label="Who took part" id="part"></section>'
        '<section class="panel" aria-label="Triage decisions" id="triage"></section></div>'
        '<div class="stack"><section class="panel" aria-label="Models" id="models"></section>'
        '<section class="panel" aria-label="Privacy budget" id="budget"></section>'
        '<section class="panel" aria-label="Personal models" id="personal"></section></div></div>'
    )
    return page(view, who=looking.name, role=looking.role, here="/studies", main=main)


def sections(study: StudyDetail | None, looking: Looking) -> dict[str, str]:
    """Every part of the screen by the id of its element."""
    if study is None:
        gone = parts.error(
            f"There is no study {looking.item}.", "The list has every one that was started.", "wardround study status"
        )
        empty = dict.fromkeys(("part", "triage", "models", "budget"), '<p class="calm dim">Nothing to show.</p>')
        return {"answer": parts.answer(f"There is no study {looking.item}."), "score": gone, "personal": "", **empty}
    return {
        "answer": _answer(study, looking),
        "score": _scores(study),
        "part": _part(study, looking),
        "triage": _triage(study, looking),
        "models": _models(study, looking),
        "budget": _budget(study.budget),
        "personal": personal(study.personal),
    }


# -- dialogs


def hold_dialog(study: str, *, pause: bool) -> str:
    """Before a pause, or before it goes on."""
    told: tuple[str, ...] = ("The next round begins as soon as enough edges are there.",)
    if pause:
        told = ("No new round begins; the one in progress comes to its end.", "What predicts goes on predicting.")
    return parts.confirm(
        title=f"{'Pause' if pause else 'Resume'} {study}?",
        detail="",
        consequences=(*told, "Your name and the reason are kept with it."),
        keep="Leave it as it is",
        do="Pause the study" if pause else "Resume the study",
        act="hold-study",
        facts=(("study", study), ("kind", "pause" if pause else "resume")),
        fields=parts.reason_field(),
    )


def back_dialog(study: str, would: GoingBack) -> str:
    """Before a rollback: what moves."""
    moves = tuple(f"The model of round {number} becomes {_stage(stage)}." for number, stage in would.moves)
    return parts.confirm(
        title=f"Take {study} back to the model of round {would.to_round}?",
        detail=f"Model {would.model[:8]} predicts again, and the study trains on from it.",
        consequences=(
            *moves[:6],
            f"{count(would.rounds_undone, 'later model')} {'is' if would.rounds_undone == 1 else 'are'} left behind; "
            "updates of the round in progress are set aside.",
            "It can be undone by going back again.",
        ),
        keep="Keep the present model",
        do=f"Go back to round {would.to_round}",
        act="roll-back",
        facts=(("study", study), ("round", str(would.to_round))),
        fields=parts.reason_field(),
    )


def aside_dialog(study: str, edge: str) -> str:
    """Before an edge is set aside."""
    return parts.confirm(
        title=f"Set {edge} aside in {study}?",
        detail="",
        consequences=(
            "Its updates weigh nothing from now on; it is still asked and scored.",
            "It counts again when the rounds are over, or when somebody lets it count.",
        ),
        keep=f"Let {edge} count",
        do=f"Set {edge} aside",
        act="set-aside",
        facts=(("study", study), ("edge", edge)),
        fields=parts.choice_field("rounds", "For", [(str(n), words) for n, words in SPANS]) + parts.reason_field(),
    )


def count_dialog(study: str, edge: str) -> str:
    """Before an edge counts again."""
    return parts.confirm(
        title=f"Let {edge} count in {study} again?",
        detail="",
        consequences=("Its updates weigh again from its next one on.", "The screens go on looking at each of them."),
        keep="Leave it aside",
        do=f"Let {edge} count",
        act="count-edge",
        facts=(("study", study), ("edge", edge)),
        fields=parts.reason_field(),
    )


# -- the parts


def _answer(study: StudyDetail, looking: Looking) -> str:
    row = study.row
    name = metric(row.metric)
    if row.score is None:
        words = f"{row.name} has no score yet." if row.state != "failed" else f"{row.name} has failed."
    else:
        words = f"{row.name} scores {name} {row.score:.3f}"
        words += f"; {row.worst_edge} is the worst with {row.worst:.3f}." if row.worst is not None else "."
    aside = [p.edge for p in study.parts if p.aside_until]
    if aside:
        words += f" {aside[0] if len(aside) == 1 else count(len(aside), 'edge')} {'is' if len(aside) == 1 else 'are'} set aside."
    state = f"{row.state}, {row.detail}" if row.detail else row.state
    sub = f"{row.task or 'statistics'}: {state}. Round {row.rounds:,} of {row.count:,}."
    acts = ""
    if row.runs_here and row.state in ("running", "paused", "stopped"):
        kind = "pause" if row.state == "running" else "resume"
        facts = (("study", row.name), ("kind", kind))
        acts += parts.button(looking, Act.STUDIES, kind.capitalize(), "ask-hold-study", facts=facts)
    if row.runs_here and any(m.stage == "retired" for m in study.models):
        acts += parts.button(looking, Act.STUDIES, "Roll back", "ask-roll-back", facts=(("study", row.name),))
    return parts.answer(words, sub, acts)


def _scores(study: StudyDetail) -> str:
    points, name = study.scores, metric(study.row.metric)
    head = parts.head("Score by round", f"{name} on subjects that train no model; band: best to worst edge" if points else "")
    if not points:
        return head + parts.empty(
            "No score yet", "Each round's model is scored on labelled subjects that are held back from training."
        )
    last = points[-1]
    lines = [Line("all edges", [(p.round_number, p.value) for p in points], label=f"all edges {last.value:.3f}")]
    told = f"{name} by round: {last.value:.3f} for all edges in round {last.round_number}"
    if any(p.worst is not None for p in points):
        end = f"{last.worst_edge} {last.worst:.3f}" if last.worst is not None else "not known"
        lines.append(Line("worst edge", [(p.round_number, p.worst) for p in points], ink="--series-2", label=f"worst, {end}"))
        told += f", {end} the worst"
    band = [(p.round_number, p.worst, p.best) for p in points if p.worst is not None and p.best is not None]
    first = points[0].round_number
    marks = [Mark(float(n), "went back") for n, _ in study.gone_back if first <= n <= last.round_number][-3:]
    chart = line_chart(
        label=told,
        lines=lines,
        band=band,
        marks=marks,
        x_name="round",
        size=WIDE,
        within=(0.0, 1.0),
        y_words=lambda y: f"{y:.3g}",
    )
    back = "".join(f"<li>Round {n}: {safe(words)}</li>" for n, words in study.gone_back[-3:])
    went = f'<ul class="s12 dim">{back}</ul>' if back else ""
    return f'{head}<div class="body">{chart}{went}</div>'


def cells(states: Sequence[str]) -> str:
    """One row of the matrix: a state is a shape as well as a shade; one path a state."""
    paths: dict[str, list[str]] = {}
    for i, state in enumerate(states):
        x, far, low = i * STEP, i * STEP + CELL, CELL + 1
        box, cross = f"M{x} 1H{far}V{low}H{x}Z", f"M{x + 4} 5L{far - 4} {low - 4}M{far - 4} 5L{x + 4} {low - 4}"
        half = f"M{x + 3} {low // 2}H{far - 3}V{low - 3}H{x + 3}Z"
        drawn = {
            "accepted": (("full", box),),
            "arrived": (("line", box), ("full", f"M{x + 3} 4H{far - 3}V{low - 3}H{x + 3}Z")),
            "training": (("line", box), ("full", half)),
            "late": (("line", box),),
            "refused": (("dark", box), ("light", cross)),
            "failed": (("line", box), ("line", cross)),
            "sat-out": (("line", f"M{x + CELL / 2} 1L{far} {low}H{x}Z"),),
            "aside": (("warn", f"M{x + CELL / 2} 1L{far} {low}H{x}Z"),),
        }.get(state, (("line", cross),))
        for kind, path in drawn:
            paths.setdefault(kind, []).append(path)
    body = "".join(f'<path class="c-{kind}" d="{"".join(there)}"/>' for kind, there in paths.items())
    width = max(1, len(states)) * STEP
    return f'<svg class="cells" width="{width}" height="16" viewBox="-1 0 {width} 16" aria-hidden="true">{body}</svg>'


def _says(row: PartRow) -> str:
    n = {state: row.states.count(state) for state in STATES if state in row.states}
    told = ", ".join(f"{k} {STATES[state]}" for state, k in n.items() if state != "none")
    missed = f", {row.missed} missed" if row.missed else ""
    until = f'<span class="dim">Until round {row.aside_until}: {safe(row.aside_reason or "no reason given")}</span>'
    return f"{safe(told or 'took no part')}{missed}{f'<br>{until}' if row.aside_until else ''}"


def _part(study: StudyDetail, looking: Looking) -> str:
    numbers = study.rounds
    note = f"rounds {numbers[0]} to {numbers[-1]}; who differs first" if numbers else ""
    head = parts.head("Who took part", note)
    if not study.parts or not numbers:
        return head + parts.empty(
            "No round yet", "Each edge's part in each round shows here: accepted, late, refused, set aside."
        )
    differ = [p for p in study.parts if not p.as_expected]
    shown = list(study.parts) if len(study.parts) <= FOLD or looking.params.get("all") else differ
    folded = len(study.parts) - len(shown)

    def act(row: PartRow) -> str:
        facts = (("study", study.row.name), ("edge", row.edge))
        if not study.row.runs_here:
            return ""
        words, name = ("Let count", "ask-count-edge") if row.aside_until else ("Set aside", "ask-set-aside")
        return parts.button(looking, Act.STUDIES, words, name, kind="small", facts=facts)

    table: Table[PartRow] = Table(
        "part",
        (
            Column(
                "edge",
                "Edge",
                lambda r: f'<span class="{"dim" if r.as_expected else "b"}">{safe(r.edge)}</span>',
                lambda r: r.edge,
            ),
            Column("rounds", f"Rounds {numbers[0]} to {numbers[-1]}", lambda r: cells(r.states)),
            Column("says", "In words", _says),
            Column("act", "Act", act, right=True),
        ),
        lambda row: row.edge,
        "edge",
    )
    rest = ""
    if folded:
        link = f'<a class="link" href="{safe(looking.link({"all": 1}))}">Show them</a>'
        rest = f'<p class="calm">{count(folded, "edge")} as expected. {link}</p>'
    legend = "".join(f"<li>{cells((state,))}{safe(words)}</li>" for state, words in STATES.items())
    return f'{head}{table.html(looking, shown) if shown else ""}{rest}<ul class="legend">{legend}</ul>'


def _triage(study: StudyDetail, looking: Looking) -> str:
    head = parts.head("Triage decisions", f"{count(len(study.decisions), 'update')} that do not count, the newest first")
    if not study.decisions:
        return head + '<p class="calm">Every update that came counts.</p>'
    return head + DECISIONS.html(looking, study.decisions)


def _screened(d: Decision) -> str:
    return "" if d.score is None or d.threshold is None else f"{d.score:.3g} of {d.threshold:.3g}"


DECISIONS: Table[Decision] = Table(
    "triage",
    (
        Column("round", "Round", lambda d: f"{d.round_number:,}", lambda d: d.round_number, right=True),
        Column("edge", "Edge", lambda d: safe(d.edge), lambda d: d.edge),
        Column("verdict", "Verdict", lambda d: safe(d.verdict), lambda d: d.verdict),
        Column("why", "Why", lambda d: safe(f"{d.reason}: {d.detail}".strip(": ")[:200]), lambda d: d.reason),
        Column("score", "Score, threshold", _screened, lambda d: d.score or 0.0, right=True),
        Column("time", "UTC", lambda d: day_clock(d.t_us) if d.t_us else "", lambda d: d.t_us, right=True),
    ),
    lambda d: f"{d.round_number} {d.edge} {d.verdict} {d.t_us}",
    "decision",
    rows=20,
)


def _models(study: StudyDetail, looking: Looking) -> str:
    current = next((m for m in study.models if m.stage == "current"), None)
    note = f"round {current.round_number} predicts, since round {current.since_round}" if current is not None else "none predicts"
    end = ""
    if current is not None:
        end = _export(study, current.round_number, looking, f"Export round {current.round_number}")
    head = parts.head("Models", note, end)
    if not study.models:
        return head + parts.empty("No model yet", "Each round makes one; the gates of [release] say which predicts.")
    made_in = {m.model: m.round_number for m in study.models}

    def lineage(m: ModelRow) -> str:
        parent = f"from {made_in[m.parent]}" if m.parent in made_in else f"from {m.parent[:8]}" if m.parent else "the first"
        told = f"{parent}, {count(m.updates, 'update')}"
        return f'<span class="mono">{safe(m.model[:8])}</span><br><span class="dim">{safe(told)}</span>'

    def stage(m: ModelRow) -> str:
        words = f'<span class="{"b" if m.stage in ("current", "canary") else ""}">{safe(_stage(m.stage))}</span>'
        return f'{words}<br><span class="dim">{safe(m.reason[:120])}</span>' if m.reason else words

    def act(m: ModelRow) -> str:
        export = _export(study, m.round_number, looking, "Export")
        if m.stage == "current" or not study.row.runs_here:
            return export
        facts = (("study", study.row.name), ("round", str(m.round_number)))
        return parts.button(looking, Act.STUDIES, "Go back", "ask-roll-back", kind="small", facts=facts) + " " + export

    table: Table[ModelRow] = Table(
        "models",
        (
            Column("round", "Round", lambda m: f"{m.round_number:,}", lambda m: m.round_number, right=True),
            Column("model", "Model", lineage),
            Column("stage", "Release", stage, lambda m: m.stage),
            Column("score", "Score, worst edge", _measured, lambda m: m.score or 0.0, right=True),
            Column("act", "Act", act, right=True),
        ),
        lambda m: f"{m.round_number} {m.model}",
        "model",
        rows=8,
    )
    return head + table.html(looking, study.models)


def _stage(stage: str) -> str:
    return stage.replace("-", " ")


def _export(study: StudyDetail, number: int, looking: Looking, words: str) -> str:
    file = f"/studies/{study.row.name}/models/{number}.zip"
    return parts.link_button(looking, Act.EXPORT, words, file, kind="small", download=True)


def _measured(m: ModelRow) -> str:
    if m.score is None:
        return '<span class="dim">none</span>'
    worst = f'<br><span class="dim">{safe(m.worst_edge)} {m.worst:.3f}</span>' if m.worst is not None else ""
    return f"{m.score:.3f}{worst}"


def _budget(budget: Budget | None) -> str:
    if budget is None:
        words = 'This study releases no noisy sums: it has no budget. See [privacy] mode = "clear-dp".'
        return f'{parts.head("Privacy budget")}<p class="calm dim">{words}</p>'
    head = parts.head("Privacy budget", f"epsilon for one {budget.unit}, delta {budget.delta:g}")
    if budget.wrong or not budget.spent:
        return head + parts.error(
            "The budget cannot be reckoned here.", budget.wrong or "nothing is known", "wardround study budget --help"
        )
    spent, (end, at_end) = budget.spent[-1][1], (budget.forecast or budget.spent)[-1]
    chart = line_chart(
        label=f"epsilon by round: {spent:.3g} spent of {budget.limit:g}, {at_end:.3g} at round {end:.0f}",
        lines=[
            Line("spent", budget.spent, label=f"{spent:.3g} spent"),
            Line("forecast", budget.forecast, dashed=True, label=f"{at_end:.3g}"),
        ],
        levels=[Level(f"limit {budget.limit:g}", budget.limit, solid=True)],
        x_name="round",
        size=NARROW,
        from_zero=True,
        y_words=lambda y: f"{y:.3g}",
    )
    told = f"Reaches {at_end:.3g} at round {end:.0f} if all goes on like this; {budget.rounds_left:,} more rounds fit."
    told += " Each spending is on disk before its model is released."
    return f'{head}<div class="body">{chart}<p class="s13 mid">{told}</p></div>'
