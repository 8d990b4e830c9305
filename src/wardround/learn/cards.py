"""A model's card: what it is for, what it was made of, how good it is and for whom it is worst. What is not known is absent.

After Mitchell et al., Model Cards for Model Reporting, FAT* 2019, arXiv:1810.03993.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import msgspec

from wardround.clock import utc
from wardround.learn.study import Study

PRIVACY = {
    "clear": "the hub saw every update; no differential privacy",
    "clear-dp": "the hub saw every update; central differential privacy: `wardround study budget` has what it cost",
    "blind-dp": "the hub saw noisy sums alone; differential privacy: `wardround study budget` has what it cost",
    "blind": "the hub saw sums of updates alone (secure aggregation); no differential privacy",
    "blind-groups": "the hub saw sums of groups of updates alone (secure aggregation); no differential privacy",
}
LIMITS = (
    "Research software: no medical device, and no basis for a decision about a patient.",
    "Scores are of the held-back subjects of the edges named here, in the window named here; elsewhere it may be worse.",
    "The edges named under the worst score are where it is least to be trusted.",
)


class TaskFacts(Protocol):
    """What a card says of a task; the root hands in process.transforms.TASKS."""

    @property
    def title(self) -> str: ...

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def feature_names(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Registered:
    """A model as the registry has it."""

    number: int
    model: str
    parent: str
    stage: str
    made_us: int
    facts: Mapping[str, Any]


def card(study: Study, task: TaskFacts, registered: Registered, *, file_sha256: str) -> dict[str, Any]:
    """The card as plain values."""
    facts = registered.facts
    lineage: Mapping[str, Any] = facts.get("lineage", {})
    updates: Mapping[str, int] = lineage.get("updates", {})
    found: dict[str, Any] = {
        "study": study.name,
        "task": study.task,
        "title": task.title,
        "model": registered.model,
        "file_sha256": file_sha256,
        "stage": registered.stage,
        "round": registered.number,
        "parent": registered.parent,
        "made_at": utc(registered.made_us).isoformat(timespec="seconds"),
        "classes": list(task.classes),
        "features": list(task.feature_names),
        "learner": msgspec.to_builtins(study.learner),
        "strategy": study.strategy.name,
        "updates": dict(updates),
        "examples": sum(updates.values()),
        "aside": lineage.get("aside", []),
        "held_back_share": study.score.held_back,
        "privacy": {"mode": study.privacy.mode},
        "limits": list(LIMITS),
    }
    found |= {key: lineage[key] for key in ("study_sha256", "version", "code") if key in lineage}
    return found | {key: facts[key] for key in ("score", "calibration", "reason") if key in facts}


def markdown(facts: Mapping[str, Any]) -> str:
    """The card for people."""
    lines = [
        f"# {facts['study']}: model of round {facts['round']}",
        "",
        *(f"> {line}" for line in facts["limits"]),
        "",
        f"{facts['title']}: one of {', '.join(facts['classes'])}, from {len(facts['features'])} features.",
        "",
        "| | |",
        "| --- | --- |",
        *_rows(
            ("stage", f"{facts['stage']}{': ' + facts['reason'] if facts.get('reason') else ''}"),
            ("model", f"`{facts['model']}`"),
            ("made from", f"`{facts['parent']}`, {facts['made_at']}"),
            ("learner", f"{facts['learner']['kind']}, hidden {list(facts['learner']['hidden'])}"),
            ("strategy", facts["strategy"]),
            ("updates of this round", ", ".join(f"{e} ({n} examples)" for e, n in sorted(facts["updates"].items()))),
            ("set aside in this round", ", ".join(facts["aside"]) or "none"),
            ("privacy", PRIVACY.get(facts["privacy"]["mode"], facts["privacy"]["mode"])),
            ("made by", f"Wardround {facts.get('version', '')}, code `{facts.get('code', '')}`"),
        ),
        "",
        *_scores(facts),
        "## Features, in order",
        "",
        ", ".join(f"`{name}`" for name in facts["features"]),
        "",
    ]
    return "\n".join(lines)


def _scores(facts: Mapping[str, Any]) -> Sequence[str]:
    score, calibration = facts.get("score"), facts.get("calibration")
    if score is None or score["value"] is None:
        return ("## Scores", "", "None: no held-back example was there to measure it on.", "")
    window = f"{utc(score['from_us']):%Y-%m-%d %H:%M} to {utc(score['to_us']):%Y-%m-%d %H:%M} UTC"
    who = f"{score['examples']} examples of {score['subjects']} held-back subjects ({facts['held_back_share']:.0%} of all)"
    lines = ["## Scores", "", f"On {who}, {window}.", "", f"| edge | {score['metric']} |", "| --- | ---: |"]
    lines.append(f"| all | {score['value']:.3f} |")
    for edge, value in sorted(score["by_edge"].items(), key=lambda item: (item[1], item[0])):
        lines.append(f"| {edge}{' (worst)' if edge == score['worst_edge'] else ''} | {value:.3f} |")
    if calibration is not None:
        after = calibration.get("ece_scaled")
        scaled = f"{after:.3f} on subjects the temperature has not seen" if after is not None else "not known, of one subject"
        lines += [
            "",
            f"Calibration error (ECE, 15 bins) {calibration['ece']:.3f}; scaled by temperature {calibration['temperature']:.2f}: "
            f"{scaled}. Brier score {calibration['brier']:.3f}.",
        ]
    return [*lines, ""]


def _rows(*rows: tuple[str, str]) -> list[str]:
    return [f"| {name} | {value} |" for name, value in rows]
