"""Triage of Flower replies: what a reply must satisfy before a Strategy sees it.

A Strategy of Flower's own folds whatever it is given: NaN, a shape that broadcasts, a negative example count. Here each is
refused at the hub with a constant reason, and the Strategy gets an error reply in its place.
"""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wardround.errors import UpdateRefused
from wardround.flower.parcel import ARRAYS, METRICS, ArrayPart, Record
from wardround.learn.study import TriageSettings
from wardround.learn.triage import PAST_MIN

EXAMPLES_KEYS = ("num-examples", "num_examples")  # of Flower's own strategies, and of its older interface
BLOCK = 65_536
KINDS = "fiub"  # dtypes that can be compared: float, integers, truth values


@dataclass(frozen=True, slots=True)
class Checked:
    """What triage found of a reply that may count."""

    examples: int  # 0 where the reply names none
    norm: float  # of the arrays' difference to what was sent; 0 where there is nothing to compare
    metrics: Mapping[str, float]


def check_reply(
    reply: Sequence[Record],
    sent: Sequence[Record],
    *,
    train: bool,
    same_shapes: bool,
    settings: TriageSettings,
) -> Checked:
    """Check a reply against the message that it answers.

    Args:
        train: a reply to a train message: its arrays must be finite and, with `same_shapes`, like those sent.

    Raises:
        UpdateRefused: "malformed", "array-type", "names", "shape", "dtype", "not-finite" or "examples".
    """
    examples = _examples(reply, settings)
    metrics = _metrics(reply)
    arrays = [r for r in reply if r.kind == ARRAYS]
    found = {r.name: {a.name: _array(a) for a in r.arrays} for r in arrays}
    if not train:
        return Checked(examples, 0.0, metrics)
    pairs = _pairs(arrays, [r for r in sent if r.kind == ARRAYS]) if same_shapes else {}
    squares = 0.0
    for record in arrays:
        base = pairs.get(record.name)
        own = found[record.name]
        if base is not None:
            squares += _compared(own, {a.name: _array(a) for a in base.arrays})
        for name, array in own.items():
            _check_finite(name, array)
    bad = next((name for name, value in metrics.items() if not math.isfinite(value)), None)
    if bad is not None:
        raise UpdateRefused("not-finite", f"metric `{bad[:60]}` is {metrics[bad]}")
    return Checked(examples, math.sqrt(squares), metrics)


def far_off(norms: Mapping[str, float], past: Mapping[str, Sequence[float]], settings: TriageSettings) -> dict[str, str]:
    """Whose norm is far beyond both its own past and its round, in words.

    Own past alone would refuse every edge of an app that starts a second model once the first has settled.
    """
    if not norms:
        return {}
    middle, limit = statistics.median(norms.values()), settings.norm_ratio_max
    found = {}
    for edge, norm in norms.items():
        own = past.get(edge, ())
        usual = statistics.median(own) if len(own) >= PAST_MIN else math.inf
        if norm > limit * max(usual, middle):
            found[edge] = f"its norm is {norm:.3g}: this edge's usual is {usual:.3g}, this round's middle {middle:.3g}"
    return found


def _pairs(reply: Sequence[Record], sent: Sequence[Record]) -> dict[str, Record]:
    """Which record of a message each of the reply's is to be like: that of its name, or the only one there is."""
    if len(reply) == len(sent) == 1:
        return {reply[0].name: sent[0]}
    own = {r.name: r for r in sent}
    return {r.name: own[r.name] for r in reply if r.name in own}


def _compared(own: Mapping[str, NDArray[Any]], base: Mapping[str, NDArray[Any]]) -> float:
    """The sum of squares of what training changed."""
    if list(own) != list(base):
        wrong = sorted(set(own) ^ set(base))
        raise UpdateRefused(
            "names", f"array `{wrong[0][:60]}` is missing or not asked for" if wrong else "another order of arrays"
        )
    total = 0.0
    for name, array in own.items():
        there = base[name]
        if array.shape != there.shape:
            raise UpdateRefused("shape", f"array `{name[:60]}` has shape {array.shape}, the model has {there.shape}")
        if array.dtype.kind == "b" and there.dtype.kind == "b":
            continue
        # Kinds may differ: the mean of counters (BatchNorm's) is a float, and comes back from the edge as a counter.
        a, b = array.reshape(-1), there.reshape(-1)
        for at in range(0, a.size, BLOCK):
            with np.errstate(all="ignore"):  # what is not finite is said as such, below
                piece = a[at : at + BLOCK].astype(np.float64) - b[at : at + BLOCK].astype(np.float64)
                total += float(np.dot(piece, piece))
    return total


def _check_finite(name: str, array: NDArray[Any]) -> None:
    if array.dtype.kind != "f":
        return
    flat = array.reshape(-1)
    for at in range(0, flat.size, BLOCK):
        if not np.isfinite(flat[at : at + BLOCK]).all():
            raise UpdateRefused("not-finite", f"array `{name[:60]}` holds NaN or infinity")


def _array(part: ArrayPart) -> NDArray[Any]:
    """An array as a view of its bytes: a `.npy` file (NumPy's format specification, versions 1 to 3), never a pickle."""
    if part.stype != "numpy.ndarray":
        raise UpdateRefused("array-type", f"array `{part.name[:60]}` is made by {part.stype[:40]!r}, which cannot be looked into")
    head = io.BytesIO(bytes(part.data[: 4_096 + 12]))
    try:
        version = np.lib.format.read_magic(head)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(head)
        if dtype.kind not in KINDS:
            raise UpdateRefused("dtype", f"array `{part.name[:60]}` is of {dtype}; numbers are asked for")
        data = memoryview(part.data)[head.tell() :]
        array: NDArray[Any] = np.frombuffer(data, dtype).reshape(shape, order="F" if fortran else "C")
    except (ValueError, EOFError, SyntaxError, TypeError) as exc:
        raise UpdateRefused("malformed", f"array `{part.name[:60]}` is no .npy file: {exc}") from exc
    declared = bool(part.dtype)
    if declared and (tuple(part.shape) != array.shape or part.dtype != str(dtype)):
        raise UpdateRefused(
            "shape", f"array `{part.name[:60]}` is said to be {part.dtype} {part.shape}: it is {dtype} {array.shape}"
        )
    return array


def _examples(reply: Sequence[Record], settings: TriageSettings) -> int:
    for record in reply:
        for key in EXAMPLES_KEYS:
            if record.kind == METRICS and key in record.values:
                value = record.values[key]
                if not isinstance(value, int | float) or not 0 < value <= settings.examples_max:
                    raise UpdateRefused("examples", f"{value!r} examples claimed; 1 to {settings.examples_max} are believed")
                return int(value)
    return 0


def _metrics(reply: Sequence[Record]) -> dict[str, float]:
    """The single numbers of a reply, for the operator."""
    return {
        name: float(value)
        for record in reply
        if record.kind == METRICS
        for name, value in record.values.items()
        if isinstance(value, int | float)
    }
