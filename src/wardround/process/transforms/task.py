"""What one example of a study is: which signals, which features, which classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wardround.records import Examples, Observation


@dataclass(frozen=True, slots=True)
class Task:
    """A way to make training examples out of observations.

    `examples` is pure and takes the observations of any number of subjects in any order. The rows come out by subject and
    time; an example without a label is there with label -1. Edge and hub call the same function.
    """

    name: str
    title: str
    signals: frozenset[str]  # codes that are read, the label's among them
    label_code: str
    classes: tuple[str, ...]
    metric: str
    feature_names: tuple[str, ...]
    examples: Callable[[Sequence[Observation]], Examples]
