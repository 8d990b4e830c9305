"""Federated statistics: counts, means and distributions of signals over all edges, of which only small sums leave any.

An edge answers with a histogram of fixed bins over each signal's plausible range, an exact count, sum and sum of squares, and
how many subjects stand behind them; the hub adds. Adding is exact and its order does not matter, so the result is that of
the pooled data: count, mean and deviation exactly, quantiles to within one bin.

What keeps a single patient out of sight: an edge does not answer for a signal with fewer subjects than the study asks for, and
the hub does not publish one; and at the tails, where one patient may be alone, bins with fewer than two subjects of an edge are
counted with the next bin inward. This is a rule of small counts, not differential privacy: the mean is exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.errors import LearnError, UpdateRefused
from wardround.learn.models import Parameters, Tensor
from wardround.records import Floats

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
    except msgspec.DecodeError as exc:
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
        by_subject = np.stack([_binned(v, signal, settings.bins) for v in own.values()])
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
    shapes = {"counts": (n, settings.bins + 2), "sum": (n,), "sum_squares": (n,), "subjects": (n,)}
    if extra := set(tensors) ^ set(shapes):
        raise UpdateRefused("shape", f"survey: tensor `{min(extra)[:60]}` is missing or not asked for")
    for name, shape in shapes.items():
        if tensors[name].shape != shape or tensors[name].dtype != np.float64:
            raise UpdateRefused("shape", f"survey: `{name}` must be float64 of shape {shape}")
        if not np.isfinite(tensors[name]).all():
            raise UpdateRefused("non-finite", f"survey: `{name}` holds a value that is not a number")
    counts, subjects = tensors["counts"], tensors["subjects"]
    if (counts < 0).any() or (subjects < 0).any() or (counts % 1 != 0).any() or (subjects % 1 != 0).any():
        raise UpdateRefused("impossible", "survey: a count is negative, or not a whole number")
    total = counts.sum(axis=1)
    if (
        ((subjects > 0) & (subjects < settings.subjects_min)).any()
        or (subjects > total).any()
        or ((subjects == 0) & (total > 0)).any()
    ):
        raise UpdateRefused("impossible", "survey: subjects and counts do not go together")
    if (np.square(tensors["sum"]) > total * tensors["sum_squares"] * (1 + 1e-9) + 1e-6).any():
        raise UpdateRefused("impossible", "survey: a sum is larger than its count and sum of squares allow")


def add_up(parts: Iterable[Mapping[str, Tensor]]) -> Parameters:
    """The answers of all edges together.

    Raises:
        UpdateRefused: `missing`, there is nothing to add.
    """
    total: Parameters = {}
    for part in parts:
        for name, tensor in part.items():
            total[name] = total[name] + tensor if name in total else np.array(tensor, np.float64)
    if not total:
        raise UpdateRefused("missing", "survey: no edge has answered")
    return total


def results(total: Mapping[str, Tensor], settings: SurveySettings) -> list[SignalResult | None]:
    """What may be published, one for each signal asked for; None: too few subjects stand behind it."""
    found: list[SignalResult | None] = []
    for i, signal in enumerate(settings.signals):
        counts, subjects = total["counts"][i], int(total["subjects"][i])
        n = int(counts.sum())
        if subjects < settings.subjects_min or n == 0:
            found.append(None)
            continue
        mean = float(total["sum"][i] / n)
        width = (signal.high - signal.low) / settings.bins
        found.append(
            SignalResult(
                code=signal.code,
                count=n,
                subjects=subjects,
                mean=mean,
                std=float(np.sqrt(max(0.0, total["sum_squares"][i] / n - mean**2))),
                quantiles=tuple(_quantile(counts, q, signal.low, width) for q in QUANTILES),
                width=width,
                below=int(counts[0]),
                above=int(counts[-1]),
                histogram=tuple(int(c) for c in counts[1:-1]),
            )
        )
    return found


def _binned(values: Floats, signal: SurveyedSignal, bins: int) -> NDArray[np.int64]:
    place = np.floor((values - signal.low) / (signal.high - signal.low) * bins) + 1
    place = np.where(values == signal.high, bins, place).clip(0, bins + 1).astype(np.int64)
    return np.bincount(place, minlength=bins + 2).astype(np.int64)


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


def _quantile(counts: Tensor, share: float, low: float, width: float) -> float:
    below = np.concatenate([[0.0], np.cumsum(counts)])
    wanted = share * below[-1]
    k = int(np.clip(np.searchsorted(below, wanted, side="right") - 1, 0, len(counts) - 1))
    inside = (wanted - below[k]) / max(1.0, float(counts[k]))
    return float(np.clip(low + (k - 1 + inside) * width, low, low + width * (len(counts) - 2)))
