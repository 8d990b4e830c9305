"""Who is asked in a round: the least often counted first, ties by the study's seed. The same for a live study and a rehearsal."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TypeVar

from wardround.learn.study import Study

Name = TypeVar("Name", bound=str)


def choose(study: Study, eligible: Sequence[Name], counted: Mapping[str, int], number: int) -> tuple[tuple[Name, ...], int]:
    """The edges asked in round `number`, and how many deliveries are enough.

    Args:
        eligible: the edges that are there, in order.
        counted: how often each has counted so far.
    """
    settings = study.rounds
    buffered = settings.mode == "buffered" and number > 0
    if settings.edges_max == 0 or number == 0:
        return tuple(eligible), min(settings.buffer, len(eligible)) if buffered else len(eligible)
    shuffled = list(eligible)
    random.Random(f"{study.learner.seed}/{number}").shuffle(shuffled)  # noqa: S311 - fairness, not secrecy
    shuffled.sort(key=lambda e: counted.get(e, 0))
    asked = min(len(eligible), math.ceil(settings.edges_max * settings.over_selection))
    return tuple(sorted(shuffled[:asked])), min(settings.buffer if buffered else settings.edges_max, asked)
