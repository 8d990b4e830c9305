"""Whether a model's probabilities mean what they say, and the one number that brings them closer.

Labels are integers from 0, shape (n,); probabilities have shape (n, n_classes).
Sources: expected calibration error and temperature scaling, Guo, Pleiss, Sun, Weinberger, On Calibration of Modern Neural
Networks, ICML 2017, arXiv:1706.04599; Brier, Verification of Forecasts, Monthly Weather Review 78(1), 1950.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy  # its parts are loaded when they are used
from numpy.typing import NDArray

Probabilities = NDArray[Any]
BINS = 15
TEMPERATURE_MIN, TEMPERATURE_MAX = 0.05, 20.0
_SMALL = 1e-12  # the smallest probability that a logarithm is taken of


@dataclass(frozen=True, slots=True)
class Calibration:
    """`ece` and `brier` as the model is; `temperature` from all examples. `ece_scaled` is that of subjects the temperature has
    not seen: fitted on one half of them, measured on the other, both ways; None where there is one subject alone."""

    ece: float
    brier: float
    temperature: float
    ece_scaled: float | None


def ece(labels: NDArray[np.int32], probabilities: Probabilities) -> float:
    """Mean distance of confidence and accuracy over equal bins of confidence, weighted by their examples."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, right.astype(float) - confidence, BINS)
    return float(np.abs(gaps).sum() / len(labels))


def brier(labels: NDArray[np.int32], probabilities: Probabilities) -> float:
    """Mean squared distance to what happened, summed over the classes: 0 is perfect, 2 the worst."""
    truth = np.eye(probabilities.shape[1])[labels]
    return float(np.mean(np.square(probabilities - truth).sum(axis=1)))


def scaled(probabilities: Probabilities, temperature: float) -> NDArray[np.float64]:
    """The same opinions, less sure (temperature above 1) or surer (below)."""
    logits = np.log(np.maximum(probabilities.astype(np.float64), _SMALL)) / temperature
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def fit_temperature(labels: NDArray[np.int32], probabilities: Probabilities) -> float:
    """The temperature with the least cross-entropy on these examples."""

    def entropy(log_temperature: float) -> float:
        likely = scaled(probabilities, math.exp(log_temperature))[np.arange(len(labels)), labels]
        return float(-np.log(np.maximum(likely, _SMALL)).mean())

    bounds = (math.log(TEMPERATURE_MIN), math.log(TEMPERATURE_MAX))
    return float(math.exp(scipy.optimize.minimize_scalar(entropy, bounds=bounds, method="bounded", options={"xatol": 1e-3}).x))


def calibrate(labels: NDArray[np.int32], probabilities: Probabilities, subjects: NDArray[np.str_]) -> Calibration:
    """How well calibrated a model is on labelled examples of these subjects, shape (n,) each, n at least 1."""
    names = np.unique(subjects)
    temperature = fit_temperature(labels, probabilities)
    after: float | None = None
    if len(names) > 1:
        first = np.isin(subjects, names[::2])
        unseen = np.empty(probabilities.shape, np.float64)
        for part in (first, ~first):
            unseen[part] = scaled(probabilities[part], fit_temperature(labels[~part], probabilities[~part]))
        after = ece(labels, unseen)
    return Calibration(ece(labels, probabilities), brier(labels, probabilities), temperature, after)
