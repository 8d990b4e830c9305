"""What an edge says it can train, when it attaches, and what a study asks for: who cannot carry an order out is sent none."""

from __future__ import annotations

from collections.abc import Collection
from importlib.util import find_spec

from wardround.learn.study import Study
from wardround.learn.study_checks import LEARNER_KINDS

DP_SGD = "dp-sgd"
SAID_MAX = 64  # words of one Hello that are believed
REMEDY = {DP_SGD: "bring it to this hub's version, and at the edge: pip install 'wardround[dp]'"}


def abilities() -> list[str]:
    """Kinds of learners, and DP-SGD where its accountant is installed: without one nothing is paid for, so nothing trains."""
    return [*LEARNER_KINDS, *([DP_SGD] if find_spec("dp_accounting") is not None else [])]


def why_unable(study: Study, said: Collection[str]) -> str:
    """What the study asks for and an edge that said this cannot do, as a constant; empty: it can."""
    return f"no-{DP_SGD}" if study.learner.dp_sgd.on and DP_SGD not in said else ""


def in_words(why: str) -> str:
    """The same for people, with what to do."""
    what = why.removeprefix("no-")
    return f"it does not say that it can train by {what}; {REMEDY[what]}"
