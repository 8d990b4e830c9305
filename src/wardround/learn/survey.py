"""Federated statistics: counts, means and distributions of signals over all edges, of which only small sums leave any.

An edge answers with a histogram of fixed bins over each signal's plausible range, an exact count, sum and sum of squares, and
how many subjects stand behind them; the hub adds. Adding is exact and its order does not matter, so the result is that of
the pooled data: count, mean and deviation exactly, quantiles to within one bin.

What keeps a single patient out of sight: an edge does not answer for a signal with fewer subjects than the study asks for, and
the hub does not publish one; and at the tails, where one patient may be alone, bins with fewer than two subjects of an edge are
counted with the next bin inward. This is a rule of small counts, not differential privacy: the mean is exact.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.errors import LearnError, UpdateRefused
from wardround.learn.models import Parameters, Tensor
from wardround.learn.scaling import check_moments, check_tensors
from wardround.malformed import MALFORMED
from wardround.records import Floats
from wardround.sketches import Sketch, sketch

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
TAIL_SUBJECTS_MIN = 2


class SurveyedSignal(msgspec.Struct, frozen=True):
    """A signal and the range that its bins divide, in its unit."""

    code: str
    low: float
    high: float


class SurveySettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an edge needs to know; it travels in Order.settings."""

    signals: list[SurveyedSignal]
    bins: int
    last_days: float  # 0: everything that the edge keeps
    subjects_min: int


@dataclass(frozen=True, slots=True)
class SignalResult:
    """What is published of one signal; values in its unit. `edges` and `subjects` are those behind it."""

    code: str
    count: int
    subjects: int
    mean: float
    std: float  # of the population
    quantiles: tuple[float, ...]  # QUANTILES, each within `width`
    width: float  # of a bin
    below: int
    above: int
    histogram: tuple[int, ...]


def encode_survey(settings: SurveySettings) -> bytes:
    """MessagePack, as Order.settings holds it."""
    return msgspec.msgpack.encode(settings)


def decode_survey(data: bytes) -> SurveySettings:
    """The inverse of encode_survey.

    Raises:
        LearnError: the bytes are not a survey's settings.
    """
    try:
        return msgspec.msgpack.decode(data, type=SurveySettings)
    except MALFORMED as exc:
        raise LearnError(f"the order's settings cannot be read: {exc}", remedy="bring edge and hub to the same version") from exc


def summarise(values: Mapping[str, Mapping[str, Floats]], settings: SurveySettings) -> tuple[Parameters, int]:
    """What an edge sends, and how many values stand behind it.

    Args:
        values: by code and subject, shape (n,) each, in the code's unit.

    Returns:
        `counts`, shape (n_signals, bins + 2); `sum`, `sum_squares`, `subjects`, shape (n_signals,); all float64.
    """
    n = len(settings.signals)
    counts = np.zeros((n, settings.bins + 2))
    sums, squares, subjects = np.zeros(n), np.zeros(n), np.zeros(n)
    for i, signal in enumerate(settings.signals):
        own = {s: v[np.isfinite(v)] for s, v in values.get(signal.code, {}).items()}
        own = {s: v for s, v in own.items() if len(v)}
        if len(own) < settings.subjects_min:
            continue
        by_subject = np.stack([sketch(v, signal.low, signal.high, settings.bins).counts for v in own.values()])
        counts[i] = _without_lone_tails(by_subject)
        everything = np.concatenate(list(own.values()))
        sums[i], squares[i], subjects[i] = everything.sum(), np.square(everything).sum(), len(own)
    return {"counts": counts, "sum": sums, "sum_squares": squares, "subjects": subjects}, int(counts.sum())


def check_summary(tensors: Mapping[str, Tensor], settings: SurveySettings) -> None:
    """Whether an edge's answer can be what it claims to be.

    Raises:
        UpdateRefused: `shape`, `non-finite` or `impossible`.
    """
    n = len(settings.signals)
    check_tensors(tensors, {"counts": (n, settings.bins + 2), "sum": (n,), "sum_squares": (n,), "subjects": (n,)})
    counts, subjects = tensors["counts"], tensors["subjects"]
    if (counts < 0).any() or (subjects < 0).any() or (counts % 1 != 0).any() or (subjects % 1 != 0).any():
        raise UpdateRefused("impossible", "statistics: a count is negative, or not a whole number")
    total = counts.sum(axis=1)
    answered = subjects > 0
    too_few = answered & ((subjects < settings.subjects_min) | (subjects > total))
    if (too_few | (~answered & (total > 0))).any():
        raise UpdateRefused("impossible", "statistics: subjects and counts do not go together")
    check_moments(total, tensors["sum"], tensors["sum_squares"])


def results(total: Mapping[str, Tensor], settings: SurveySettings) -> list[SignalResult | None]:
    """What may be published, one for each signal asked for; None: too few subjects stand behind it."""
    found: list[SignalResult | None] = []
    for i, signal in enumerate(settings.signals):
        counts, subjects = total["counts"][i], int(total["subjects"][i])
        n = int(counts.sum())
        if subjects < settings.subjects_min or n == 0:
            found.append(None)
            continue
        whole = Sketch(signal.low, signal.high, counts.astype(np.int64), total=float(total["sum"][i]))
        found.append(
            SignalResult(
                code=signal.code,
                count=n,
                subjects=subjects,
                mean=whole.mean,
                std=float(np.sqrt(max(0.0, total["sum_squares"][i] / n - whole.mean**2))),
                quantiles=tuple(whole.quantile(q) for q in QUANTILES),
                width=whole.width,
                below=int(counts[0]),
                above=int(counts[-1]),
                histogram=tuple(int(c) for c in counts[1:-1]),
            )
        )
    return found


def _without_lone_tails(by_subject: NDArray[np.int64]) -> Floats:
    """Counts of all subjects, shape (bins + 2,), from those of each, shape (n_subjects, bins + 2)."""
    counts = by_subject.sum(axis=0).astype(np.float64)
    alone = (by_subject > 0).sum(axis=0) < TAIL_SUBJECTS_MIN
    for order in (range(len(counts) - 1), range(len(counts) - 1, 0, -1)):
        step = order.step
        for k in order:
            if not alone[k]:
                break
            counts[k + step] += counts[k]
            counts[k] = 0.0
    return np.asarray(counts, np.float64)
