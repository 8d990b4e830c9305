"""Noise of the discrete Gaussian, exact, from the operating system's random numbers.

No float of a sampler is ever the noise: floats alone are not private (Mironov, On Significance of the Least Significant Bits
for Differential Privacy, CCS 2012). The distribution is on the integers, P(x) ~ exp(-x^2 / 2 sigma^2), sampled by rejection from
the discrete Laplace (Canonne, Kamath, Steinke, The Discrete Gaussian for Differential Privacy, NeurIPS 2020, arXiv:2004.00010,
algorithm 3). Floats decide each step only where their error cannot change the answer; the few draws too near to call, one in many
millions, are decided with as many digits, and as many random bits more, as that takes.
"""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable
from decimal import Decimal, localcontext
from fractions import Fraction

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]
Words = NDArray[np.uint64]
RandomBytes = Callable[[int], bytes]

SIGMA_MIN, SIGMA_MAX = 0.5, 2.0**44
CHUNK = 262_144  # candidates at a time: their arrays stay in the cache
KEPT = 0.73  # of the candidates, about: with a sigma that is large
_EPS = 2.0**-52
_DIGITS = 60


class Csprng:
    """A stream of AES-256 in counter mode under a fresh key of the operating system: nobody has its seed."""

    def __init__(self) -> None:
        self._stream = Cipher(algorithms.AES(os.urandom(32)), modes.CTR(os.urandom(16))).encryptor()

    def __call__(self, size: int) -> bytes:
        return self._stream.update(bytes(size))


def discrete_gaussian(sigma: float, size: int, random_bytes: RandomBytes | None = None) -> Integers:
    """Independent draws, shape (size,). The variance is sigma^2 to far below what can be measured, for sigma of 1 and more.

    Raises:
        ValueError: sigma is not from SIGMA_MIN to SIGMA_MAX.
    """
    if not SIGMA_MIN <= sigma <= SIGMA_MAX:
        raise ValueError(f"sigma {sigma:g} of a discrete Gaussian is not from {SIGMA_MIN:g} to {SIGMA_MAX:g}")
    source = random_bytes or Csprng()
    found = np.empty(size, np.int64)
    done = 0
    while done < size:
        kept = _candidates(sigma, min(CHUNK, int((size - done) / KEPT * 1.02) + 64), source)
        take = min(size - done, len(kept))
        found[done : done + take] = kept[:take]
        done += take
    return found


def _candidates(sigma: float, size: int, source: RandomBytes) -> Integers:
    """What is left of `size` draws of the discrete Laplace of scale t = floor(sigma) + 1."""
    scale = math.floor(sigma) + 1
    words, waits = _waits(size, source)
    magnitudes = _floors(waits, scale, words, source)
    # A sign for each: minus zero is drawn anew, else zero would come twice as often.
    signs = np.unpackbits(np.frombuffer(source(-(-size // 8)), np.uint8), count=size).astype(bool)
    real = ~(signs & (magnitudes == 0))
    magnitudes, signs = magnitudes[real], signs[real]
    kept = _accepted(magnitudes, sigma, scale, source)
    return np.asarray(np.where(signs[kept], -magnitudes[kept], magnitudes[kept]), np.int64)


def _words(size: int, source: RandomBytes) -> Words:
    return np.frombuffer(source(8 * size), np.uint64)


def _waits(size: int, source: RandomBytes) -> tuple[Words, Floats]:
    """Uniform words W, and -ln(W / 2^64): draws of the exponential, known as exactly as `_error` says."""
    words = _words(size, source)
    return words, -np.log(np.maximum(words, np.uint64(1)) * 2.0**-64)


def _error(words: Words, waits: Floats) -> Floats:
    """How far -ln(u) of the u in [W, W + 1) / 2^64 may be from the float: u's own missing bits, and the rounding of both."""
    return np.asarray(1.0 / np.maximum(words.astype(np.float64) - 1.0, 0.5) + 4 * _EPS * (1.0 + waits))


def _floors(waits: Floats, scale: int, words: Words, source: RandomBytes) -> Integers:
    """floor(scale * E): a geometric number, P(n or more) = exp(-n / scale)."""
    product = waits * scale
    floors = np.floor(product)
    error = _error(words, waits) * scale + 2 * _EPS * product
    near = np.minimum(product - floors, floors + 1.0 - product) <= error
    result = floors.astype(np.int64)
    for at in np.flatnonzero(near | (words < 2)):
        result[at] = _exact_floor(int(words[at]), scale, source)
    return result


def _exact_floor(word: int, scale: int, source: RandomBytes) -> int:
    bits = 64
    while True:
        low, high = _interval(word, bits)
        floors = [int((w * scale).to_integral_value(rounding="ROUND_FLOOR")) for w in (low, high) if w.is_finite()]
        if len(floors) == 2 and floors[0] == floors[1]:
            return floors[0]
        word, bits = _more(word, bits, source)


def _accepted(magnitudes: Integers, sigma: float, scale: int, source: RandomBytes) -> NDArray[np.bool_]:
    """With probability exp(-(|y| - sigma^2 / t)^2 / 2 sigma^2): whether an exponential wait is at least that exponent."""
    words, waits = _waits(len(magnitudes), source)
    centre, square = sigma * sigma / scale, sigma * sigma
    distance = magnitudes - centre
    exponent = distance * distance / (2 * square)
    # The distance is a difference of numbers that are each rounded: its error counts once for each factor.
    error = _error(words, waits) + 8 * _EPS * (exponent + np.abs(distance) * (magnitudes + centre) / square)
    accepted = waits >= exponent
    for at in np.flatnonzero((np.abs(waits - exponent) <= error) | (words < 2)):
        accepted[at] = _exactly_accepted(int(words[at]), int(magnitudes[at]), sigma, scale, source)
    return np.asarray(accepted, bool)


def _exactly_accepted(word: int, magnitude: int, sigma: float, scale: int, source: RandomBytes) -> bool:
    square = Fraction(sigma) ** 2
    exponent = (magnitude - square / scale) ** 2 / (2 * square)
    if exponent == 0:
        return True
    bits = 64
    while True:
        low, high = _interval(word, bits)
        with localcontext() as context:
            context.prec = _DIGITS + bits
            value = Decimal(exponent.numerator) / Decimal(exponent.denominator)
        margin = value * Decimal(10) ** -_DIGITS
        if low >= value + margin:
            return True
        if high <= value - margin:
            return False
        word, bits = _more(word, bits, source)


def _interval(word: int, bits: int) -> tuple[Decimal, Decimal]:
    """Where -ln(u) is, of a u in [word, word + 1) / 2^bits; a little wider than that."""
    with localcontext() as context:
        context.prec = _DIGITS + bits
        whole = Decimal(1 << bits)
        low = -(Decimal(word + 1) / whole).ln()
        high = -(Decimal(word) / whole).ln() if word else Decimal("Infinity")
        slack = Decimal(10) ** -_DIGITS
        return max(low - slack, Decimal(0)), high + slack


def _more(word: int, bits: int, source: RandomBytes) -> tuple[int, int]:
    """The same number with 64 bits more of it known."""
    return (word << 64) | int.from_bytes(source(8), "little"), bits + 64


def uniform() -> float:
    """In [0, 1), for a coin that nobody can foresee."""
    return secrets.randbits(53) * 2.0**-53
