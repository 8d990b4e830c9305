"""The Studies screens: the list, and one study by its name, with what can be asked of it."""

from __future__ import annotations

from wardround.console import parts, study_detail, study_new
from wardround.console.frame import page
from wardround.console.looking import Facts, Looking, OnAct, Reply, Screen
from wardround.console.model import Overview
from wardround.console.study_model import StudiesDesk, StudiesView, StudyRow
from wardround.console.tables import Column, Table
from wardround.console.words import count, day_clock, metric, safe, spoken
from wardround.trust.roles import Act

NEW = "wardround study new ventricular-beats > study.toml"
ROUNDS_MAX = 10_000  # for which an edge is set aside at once
UNDONE = "undone at once at the console"


def _linked(row: StudyRow) -> str:
    return f'<a class="link m" href="/studies/{safe(row.name)}">{safe(row.name)}</a>'


LIST: Table[StudyRow] = Table(
    "studies",
    (
        Column("name", "Study", _linked, lambda r: r.name),
        Column("state", "State", lambda r: safe(f"{r.state} {r.detail}".strip()[:120]), lambda r: r.state),
        Column("rounds", "Rounds", lambda r: f"{r.rounds:,} of {r.count:,}", lambda r: r.rounds, right=True),
        Column("score", "Score", lambda r: _score(r.score, r.metric), lambda r: r.score or 0.0, right=True),
        Column("worst", "Worst edge", lambda r: _worst(r.worst_edge, r.worst), lambda r: r.worst or 0.0, right=True),
        Column("changed", "Newest, UTC", lambda r: day_clock(r.changed_us), lambda r: r.changed_us, right=True),
    ),
    lambda row: row.name,
    "study",
    "studies",
)


def screens(desk: StudiesDesk) -> tuple[Screen, ...]:
    """The list, and one study whole."""
    acts = _acts(desk)

    def listed(looking: Looking) -> dict[str, str]:
        return list_sections(desk.studies(), looking)

    def one(looking: Looking) -> dict[str, str]:
        return study_detail.sections(desk.study(looking.item), looking)

    return (
        Screen("/studies", "Studies", frame, listed, acts),
        Screen("/studies/{item}", "Studies", study_detail.frame, one, acts),
    )


def frame(view: Overview, looking: Looking) -> str:
    """The list's page around its sections."""
    main = '<section class="panel" aria-label="Studies"><div id="studies"></div></section>'
    return page(view, who=looking.name, role=looking.role, here="/studies", main=main)


def list_sections(view: StudiesView, looking: Looking) -> dict[str, str]:
    """Every part of the list by the id of its element."""
    new = parts.link_button(looking, Act.STUDIES, "New study", study_new.PATH, kind="primary")
    if not view.rows:
        none = parts.empty(
            "No study yet", "A study is one model, trained by edges that keep their data. Write one, check it, start it.", NEW
        )
        return {"answer": parts.answer("No study has been started.", acts=new), "studies": none}
    running = [r for r in view.rows if r.state == "running"]
    failed = [r for r in view.rows if r.state == "failed"]
    words = f"{spoken(len(running)).capitalize()} {'study is' if len(running) == 1 else 'studies are'} running."
    if failed:
        words += f" {failed[0].name} has failed."
    sub = f"{count(len(view.rows), 'study', 'studies')} in all; scores are on subjects that train no model."
    return {"answer": parts.answer(words, sub, new), "studies": LIST.html(looking, view.rows)}


def _score(value: float | None, name: str) -> str:
    return '<span class="dim">none yet</span>' if value is None else f"{safe(metric(name))} {value:.3f}"


def _worst(edge: str, value: float | None) -> str:
    return '<span class="dim">none yet</span>' if value is None else f"{safe(edge)} {value:.3f}"


def _number(facts: Facts, name: str) -> int:
    text = facts.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else -1


def _acts(desk: StudiesDesk) -> dict[str, OnAct]:
    def ask_hold(facts: Facts, _: Looking) -> Reply:
        return Reply(dialog=study_detail.hold_dialog(facts.get("study", ""), pause=facts.get("kind") == "pause"))

    def hold(facts: Facts, looking: Looking) -> Reply:
        study, kind = facts.get("study", ""), "pause" if facts.get("kind") == "pause" else "resume"
        told = desk.ask(study, kind, looking.name, facts.get("reason", ""))
        back = "resume" if kind == "pause" else "pause"
        undo = {"act": "hold-study", "study": study, "kind": back, "reason": UNDONE}
        return Reply(toast=f"{study}: {told}.", undo=undo)

    def ask_back(facts: Facts, _: Looking) -> Reply:
        study = facts.get("study", "")
        return Reply(dialog=study_detail.back_dialog(study, desk.going_back(study, _number(facts, "round"))))

    def back(facts: Facts, looking: Looking) -> Reply:
        study, to_round = facts.get("study", ""), _number(facts, "round")
        would = desk.going_back(study, to_round)
        told = desk.ask(study, "rollback", looking.name, facts.get("reason", ""), would.to_round)
        undo = {"act": "roll-back", "study": study, "round": str(would.back), "reason": UNDONE} if would.back >= 0 else None
        return Reply(toast=f"{study}: {told}.", undo=undo)

    def ask_aside(facts: Facts, _: Looking) -> Reply:
        return Reply(dialog=study_detail.aside_dialog(facts.get("study", ""), facts.get("edge", "")))

    def aside(facts: Facts, looking: Looking) -> Reply:
        study, edge, rounds = facts.get("study", ""), facts.get("edge", ""), _number(facts, "rounds")
        found = desk.study(study)
        until = (found.row.rounds if found is not None else 0) + min(ROUNDS_MAX, max(1, rounds))
        told = desk.ask(study, f"quarantine:{edge}", looking.name, facts.get("reason", ""), until)
        return Reply(toast=f"{told}.", undo={"act": "count-edge", "study": study, "edge": edge, "reason": UNDONE})

    def ask_count(facts: Facts, _: Looking) -> Reply:
        return Reply(dialog=study_detail.count_dialog(facts.get("study", ""), facts.get("edge", "")))

    def let_count(facts: Facts, looking: Looking) -> Reply:
        told = desk.ask(facts.get("study", ""), f"release:{facts.get('edge', '')}", looking.name, facts.get("reason", ""))
        return Reply(toast=f"{told}.")

    return {
        "ask-hold-study": ask_hold,
        "hold-study": hold,
        "ask-roll-back": ask_back,
        "roll-back": back,
        "ask-set-aside": ask_aside,
        "set-aside": aside,
        "ask-count-edge": ask_count,
        "count-edge": let_count,
    }
