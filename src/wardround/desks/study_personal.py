"""What the edges of a study say of their personal models, from its rounds and its journal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from wardround.console.study_model import Personal
from wardround.learn.journal import Journal
from wardround.learn.study import Study
from wardround.store import RoundRecord

SENT, OWN = "accuracy", "personal_accuracy"
KINDS = ("ditto", "fine-tuning")  # strategies by which each edge has a model of its own
POINTS = 500


def personal_of(study: Study, rounds: Sequence[RoundRecord]) -> Personal | None:
    """The mean of each round; None where the study has no personal models."""
    if study.strategy.name not in KINDS:
        return None
    found = ((r.number, _pair(r.facts.get("metrics") or {})) for r in rounds)
    points = [(float(number), *pair) for number, pair in found if pair is not None]
    return Personal(study.strategy.name, tuple(points[-POINTS:]))


def with_edges(found: Personal | None, journal: Journal) -> Personal | None:
    """With every edge of the newest round."""
    if found is None or not found.points:
        return found
    kept = journal.accepted(round(found.points[-1][0]))
    rows = [(str(edge), *pair) for edge, update in kept.items() if (pair := _pair(update.metrics)) is not None]
    return replace(found, by_edge=tuple(sorted(rows, key=lambda r: (r[2] - r[1], r[0]))))


def _pair(metrics: Mapping[str, float]) -> tuple[float, float] | None:
    sent, own = metrics.get(SENT), metrics.get(OWN)
    if sent is None or own is None or not (math.isfinite(sent) and math.isfinite(own)):
        return None
    return float(sent), float(own)
