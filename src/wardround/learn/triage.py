"""What an update must satisfy before it may count.

Hard rules, each with a constant reason that operator and edge both see: right study, round and base; the size and digest it
announced; names, shapes and dtypes of the base model's trainable tensors; finite; a norm not far from the edge's own past; an
example count that its registration allows. The screen, which compares an update with its edge's history, is handed in.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol

import numpy as np

from wardround.errors import UpdateRefused
from wardround.learn.models import CONTROL_PREFIX, Parameters, Tensor, TensorSource
from wardround.learn.study import TriageSettings

BLOCK = 65_536
PIECE = 8_192  # elements of one dot product: beyond 10,000 OpenBLAS wakes its threads, which spin
SQUARES_MIN, SQUARES_MAX = 1e-20, 1e37  # sums of squares that float32 holds without underflow and overflow
GROWTH = 1.5  # an edge's weight may grow by half, and by EXAMPLES_SLACK, from one round to the next
EXAMPLES_SLACK = 1_000
ON_TRIAL = "on-trial"  # a screen's reason for an update that it has nothing against; its score counts up to its threshold
ROUND_MIN = 3  # edges whose median says what is usual; of two, the one who lies has half of it
PAST_MIN = 3  # norms of an edge's own past before they are a yardstick


class Verdict(Protocol):
    """What the screen says of one update; a score above the threshold is refused."""

    @property
    def accepted(self) -> bool: ...

    @property
    def reason(self) -> str: ...

    @property
    def score(self) -> float: ...

    @property
    def threshold(self) -> float: ...


class Screen(Protocol):
    """Compares the updates of a round with each edge's own history, before they are folded."""

    def judge_round(
        self, round_number: int, updates: Mapping[str, TensorSource], aside: Collection[str] = ()
    ) -> Mapping[str, Verdict]:
        """A verdict for each edge. One whose reason is ON_TRIAL sets the update aside and no edge. Those of `aside` are set aside
        already, for more than their trial: they are judged, and what they send does not become their usual."""
        ...

    def admit(self, edge: str) -> None:
        """A person lets an edge count: it is on trial no more."""
        ...

    def stepped(self, step: TensorSource) -> None:
        """What the round's updates were folded to: the next model minus its base."""
        ...

    def state(self) -> bytes:
        """The history, to be kept across a restart."""
        ...

    def restore(self, state: bytes) -> None:
        """Take up a kept history."""
        ...


def examples_counted(claimed: int, registered: int | None, settings: TriageSettings) -> int:
    """How many examples an update counts for, given the count its edge last had accepted.

    A claim may be true and large: a ward that was cut off comes back with a day of data. So it is not refused but bounded,
    and grows into its full weight over a few rounds; a claim that is false gains no more than that either.
    """
    if registered is None:
        return min(claimed, settings.examples_max)
    return min(claimed, int(registered * GROWTH) + EXAMPLES_SLACK)


def examples_most(counts: Sequence[int], settings: TriageSettings) -> int:
    """What an update may weigh beside the others of its round, given the counts of all of them.

    An edge's own past bounds how fast a claim grows, but a first claim has no past, and one that grows for long enough would own
    the mean. Those who lie move the median only when they are half of the round; the bound leaves it as it is.
    """
    if len(counts) < ROUND_MIN:
        return settings.examples_max
    return max(1, int(settings.examples_ratio_max * statistics.median(counts)))


def check_claim(*, size: int, examples: int, settings: TriageSettings) -> None:
    """Check what an upload announces, before its first byte is kept.

    Raises:
        UpdateRefused: "too-large" or "examples".
    """
    if not 0 < size <= settings.update_bytes_max:
        raise UpdateRefused("too-large", f"{size} bytes; this study allows {settings.update_bytes_max}")
    if not 0 < examples <= settings.examples_max:
        raise UpdateRefused("examples", f"{examples} examples claimed; this study believes 1 to {settings.examples_max}")


def check_facts(metrics: Mapping[str, float], needed: Sequence[str]) -> None:
    """Whether the numbers that a strategy reckons with are there.

    Raises:
        UpdateRefused: "metrics".
    """
    for name in needed:
        value = metrics.get(name, float("nan"))
        if not (np.isfinite(value) and value >= 0):
            raise UpdateRefused("metrics", f"`{name}` is {value:g}; the study's strategy needs it finite and not negative")


def check_update(
    update: TensorSource,
    base: TensorSource,
    expected: Collection[str],
    past_norms: Sequence[float],
    settings: TriageSettings,
) -> float:
    """Check an update's tensors against its base model; its L2 norm, control variates and counters left out.

    Args:
        expected: the base's tensors that the update must carry, and no others.

    Raises:
        UpdateRefused: "names", "shape", "dtype", "not-finite" or "norm".
    """
    shapes, own = update.shapes(), base.shapes()
    if set(shapes) != set(expected):
        wrong = sorted(set(shapes) ^ set(expected))[0]
        raise UpdateRefused("names", f"tensor `{wrong[:60]}` is missing or not asked for")
    squares = 0.0
    for name in expected:
        if tuple(shapes[name]) != tuple(own[name]):
            raise UpdateRefused("shape", f"tensor `{name}` has shape {tuple(shapes[name])}, the model has {tuple(own[name])}")
        if update.dtype(name) != base.dtype(name):
            raise UpdateRefused("dtype", f"tensor `{name}` is {update.dtype(name)}, the model has {base.dtype(name)}")
        found = _squares(update, name, math.prod(own[name]))
        squares += 0.0 if name.startswith(CONTROL_PREFIX) or base.dtype(name).kind in "iu" else found
    norm = float(np.sqrt(squares))
    check_norm(norm, past_norms, settings)
    return norm


def check_norm(norm: float, past_norms: Sequence[float], settings: TriageSettings) -> None:
    """Check a norm against the median of the edge's own past.

    Raises:
        UpdateRefused: "norm".
    """
    if len(past_norms) < PAST_MIN:
        return
    usual = statistics.median(past_norms)
    if usual > 0 and norm > settings.norm_ratio_max * usual:
        raise UpdateRefused("norm", f"its norm is {norm:.3g}, {norm / usual:.1f} times this edge's usual {usual:.3g}")


def _squares(update: TensorSource, name: str, size: int) -> float:
    """The sum of squares of a tensor, read a block at a time."""
    total = 0.0
    for start in range(0, size, BLOCK):
        block = update.block(name, start, min(start + BLOCK, size))
        for at in range(0, len(block), PIECE):
            total += _piece(block[at : at + PIECE])
    if not np.isfinite(total):
        raise UpdateRefused("not-finite", f"tensor `{name}` holds NaN, infinity, or values too large to square")
    return total


def _piece(piece: Tensor) -> float:
    """The sum of squares of at most PIECE elements: in float32 as they are (to about 1e-6), where no square is lost by that."""
    if piece.dtype == np.float32:
        with np.errstate(over="ignore", invalid="ignore"):
            squares = float(np.dot(piece, piece))
        if SQUARES_MIN < squares < SQUARES_MAX:
            return squares
    wide = piece.astype(np.float64)
    return float(np.dot(wide, wide))


def load(update: TensorSource) -> Parameters:
    """The whole update as arrays."""
    return {
        name: np.asarray(update.block(name, 0, int(np.prod(shape, dtype=np.int64)))).reshape(shape)
        for name, shape in update.shapes().items()
    }
