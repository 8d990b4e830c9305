"""What masks do to a rehearsed study: edges clip and quantise their updates, and the hub has the sum alone.

Masks cancel to the last bit (the tests of learn/privacy hold that), so a rehearsal adds the vectors as they are before them. The
federated sums of round 0 are exact to 2^-80 live, and are left as they are here.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Sequence
from typing import TypeVar

import numpy as np

from wardround.errors import UpdateRefused
from wardround.learn.models import Parameters, TensorSource
from wardround.learn.privacy import distributed
from wardround.learn.privacy.modes import MaskSettings, PrivacySettings
from wardround.learn.privacy.ring import Scale, Words, add_vector
from wardround.learn.privacy.vectors import mean_of
from wardround.learn.privacy.wire import MasksRefused
from wardround.learn.triage import load

T = TypeVar("T")
NEVER_ALONE = "blind"  # what the names of all modes begin with in which a hub sees no single update


def sees_updates(privacy: PrivacySettings) -> bool:
    """Whether a hub sees single updates, and so can look at them: triage, screens, quarantine."""
    return not privacy.mode.startswith(NEVER_ALONE)


def words_of(update: TensorSource, examples: int, privacy: PrivacySettings, edges: int) -> Words:
    """An edge's update as the vector that it masks, in a circle of so many edges.

    Raises:
        UpdateRefused: "not-finite"; live it is the edge that gives up.
    """
    tensors = load(update)
    values = [tensors[name] for name in sorted(tensors)]
    try:
        if privacy.has_budget:
            return distributed.encode(values, clip_norm=privacy.clip_norm, noise=privacy.noise, edges=edges)[0]
        return Scale(edges, privacy.clip, privacy.weight_max).encode(values, examples)[0]
    except ValueError as error:
        raise UpdateRefused("not-finite", str(error)) from error


def grouped(made: Sequence[T], privacy: PrivacySettings, edges: int, seed: str) -> tuple[list[list[T]], int]:
    """What each masked sum is of, and how many edges each circle has: one of so many `edges`, or groups drawn by chance."""
    if privacy.mode != "blind-groups":
        return [list(made)], edges
    count = max(1, edges // privacy.group_edges)
    drawn = list(made)
    random.Random(f"{seed}/groups").shuffle(drawn)  # noqa: S311 - a rehearsal hides nothing
    return [group for i in range(count) if (group := drawn[i::count])], -(-edges // count)


def mean_of_sum(
    updates: Sequence[tuple[TensorSource, int]], privacy: PrivacySettings, edges: int, base: TensorSource, names: Collection[str]
) -> tuple[Parameters, int]:
    """The mean of updates, each with its examples, as a hub reads it out of their masked sum; and the sum of their weights."""
    total: Words | None = None
    for update, examples in updates:
        words = words_of(update, examples, privacy, edges)
        if total is None:
            total = np.zeros_like(words)
        add_vector(total, words)
    if total is None:
        raise UpdateRefused("missing", "there is no update to add")
    settings = MaskSettings(privacy.clip, privacy.weight_max, 0, b"")
    if privacy.has_budget:
        settings = MaskSettings(0.0, 1, 0, b"", 0, privacy.clip_norm, privacy.noise, float(privacy.population))
    try:
        return mean_of(total, settings, edges, base, names)
    except MasksRefused as error:  # too few are left
        raise UpdateRefused(error.reason, str(error)) from error
