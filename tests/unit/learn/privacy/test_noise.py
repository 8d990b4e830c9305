"""The noise has the distribution that the accounting assumes. Streams here are fixed, so no run differs from another."""

from __future__ import annotations

import math

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from scipy.stats import chi2

from wardround.learn.privacy import noise
from wardround.learn.privacy.noise import SIGMA_MAX, discrete_gaussian


class Fixed:
    """A stream that a test can repeat."""

    def __init__(self, seed: int) -> None:
        self._stream = Cipher(algorithms.AES(seed.to_bytes(32)), modes.CTR(bytes(16))).encryptor()

    def __call__(self, size: int) -> bytes:
        return self._stream.update(bytes(size))


def expected(sigma: float, low: int, high: int) -> np.ndarray:
    weights = np.exp(-(np.arange(-400, 401, dtype=float) ** 2) / (2 * sigma**2))
    return (weights / weights.sum())[400 + low : 400 + high + 1]


@pytest.mark.parametrize("sigma", [0.5, 0.7, 1.0, 2.0, 3.3, 9.0])
def test_draws_have_the_mass_function_of_the_discrete_gaussian(sigma):
    size, reach = 400_000, math.ceil(3.5 * sigma)
    draws = discrete_gaussian(sigma, size, Fixed(7))
    counts = np.array([(draws == x).sum() for x in range(-reach, reach + 1)], float)
    inner = expected(sigma, -reach, reach)
    counts, inner = np.append(counts, size - counts.sum()), np.append(inner, 1 - inner.sum())
    statistic = ((counts - size * inner) ** 2 / (size * inner)).sum()
    assert statistic < chi2.ppf(1 - 1e-6, len(counts) - 1)


@pytest.mark.parametrize("sigma", [1e3, 2.0**24, 4.0 * 2**24, 1e4 * 2**24])
def test_moments_are_those_of_a_gaussian(sigma):
    """Mean, variance and kurtosis, each within 5 of its standard errors."""
    size = 400_000
    draws = discrete_gaussian(sigma, size, Fixed(3)) / sigma
    assert abs(draws.mean()) < 5 / math.sqrt(size)
    assert abs(draws.var() - 1) < 5 * math.sqrt(2 / size)
    assert abs((draws**4).mean() - 3) < 5 * math.sqrt(96 / size)


@pytest.mark.parametrize("sigma", [0.6, 2.5, 1e6, 3.0 * 2**24, SIGMA_MAX])
def test_where_floats_decide_they_decide_as_exact_numbers_would(sigma, monkeypatch):
    """The same random bits, once by floats, once with every single step decided with sixty digits."""
    quick = discrete_gaussian(sigma, 300, Fixed(11))
    monkeypatch.setattr(noise, "_error", lambda words, _waits: np.full(len(words), np.inf))
    assert np.array_equal(discrete_gaussian(sigma, 300, Fixed(11)), quick)


def test_a_draw_that_64_bits_do_not_decide_gets_more():
    """The least words there are: their logarithm is not known from 64 bits."""

    class Zeros(Fixed):
        def __call__(self, size: int) -> bytes:
            data, self.first = (bytes(size), False) if getattr(self, "first", True) else (super().__call__(size), False)
            return data

    draws = discrete_gaussian(5.0, 50, Zeros(1))
    assert len(draws) == 50
    assert np.abs(draws).max() < 50


def test_nobody_has_the_seed():
    assert not np.array_equal(discrete_gaussian(1e6, 50), discrete_gaussian(1e6, 50))


@pytest.mark.parametrize("sigma", [0.0, 0.1, math.inf, math.nan, 1e30])
def test_a_sigma_that_cannot_be_drawn_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma"):
        discrete_gaussian(sigma, 1)
