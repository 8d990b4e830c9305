"""Shamir's secret sharing of 32-byte secrets over the integers modulo a prime: fewer than `threshold` shares say nothing.

Source: Shamir, How to Share a Secret, CACM 22(11), 1979. The prime is the smallest above 2^256: every secret is an element.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Final

PRIME: Final = 2**256 + 297
SECRET_BYTES: Final = 32
SHARE_BYTES: Final = 33


def split(
    secret: bytes, threshold: int, places: Sequence[int], below: Callable[[int], int] = secrets.randbelow
) -> dict[int, bytes]:
    """One share for each place.

    Args:
        secret: 32 bytes.
        places: where the polynomial is evaluated; distinct, none 0, at least `threshold` of them.
        below: a uniform integer in [0, bound); the system's own unless a test asks otherwise.

    Raises:
        ValueError: they do not fit.
    """
    if len(secret) != SECRET_BYTES or not 1 <= threshold <= len(places) or len({*places, 0}) != len(places) + 1:
        raise ValueError(f"a secret of {len(secret)} bytes cannot be shared {threshold} of {len(places)}")
    coefficients = [below(PRIME) for _ in range(threshold - 1)]
    coefficients.append(int.from_bytes(secret))
    shares: dict[int, bytes] = {}
    for place in places:
        value = 0
        for coefficient in coefficients:
            value = (value * place + coefficient) % PRIME
        shares[place] = value.to_bytes(SHARE_BYTES)
    return shares


def join(shares: Mapping[int, bytes]) -> bytes:
    """The secret of exactly as many shares as its threshold asks for.

    Raises:
        ValueError: they are not shares of one secret; mostly such a set gives a wrong secret instead, which the caller checks.
    """
    places = tuple(sorted(shares))
    if not places or places[0] <= 0:
        raise ValueError("no shares, or one at place 0")
    total = 0
    for place, weight in zip(places, _weights(places), strict=True):
        total += int.from_bytes(shares[place]) * weight
    total %= PRIME
    if total >> (8 * SECRET_BYTES):
        raise ValueError("these are not shares of one secret")
    return total.to_bytes(SECRET_BYTES)


@lru_cache(maxsize=1024)
def _weights(places: tuple[int, ...]) -> tuple[int, ...]:
    """Lagrange's weights at 0. The differences of places are small: they are multiplied as integers, with one inverse in all."""
    above, below = [], []
    for i in places:
        numerator = denominator = 1
        for j in places:
            if i != j:
                numerator *= j
                denominator *= j - i
        above.append(numerator % PRIME)
        below.append(denominator % PRIME)
    running, product = [], 1  # Montgomery's way of inverting many at once
    for value in below:
        running.append(product)
        product = product * value % PRIME
    inverse = pow(product, -1, PRIME)
    weights = [0] * len(places)
    for i in reversed(range(len(places))):
        weights[i] = above[i] * running[i] % PRIME * inverse % PRIME
        inverse = inverse * below[i] % PRIME
    return tuple(weights)
