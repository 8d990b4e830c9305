"""Secret sharing: any threshold of shares gives the secret, one fewer gives nothing."""

from __future__ import annotations

import contextlib
import random
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.learn.privacy.shamir import PRIME, SHARE_BYTES, join, split


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(1, 20), st.integers(0, 15), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_gives_the_secret(secret, threshold, more, chance):
    places = chance.sample(range(1, 60_000), threshold + more)
    shares = split(secret, threshold, places)
    some = dict(chance.sample(sorted(shares.items()), threshold))
    assert all(len(s) == SHARE_BYTES for s in shares.values())
    assert join(some) == secret


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.integers(2, 9), st.data())
def test_one_share_too_few_fits_every_secret_alike(secret, other, threshold, data):
    """Perfect secrecy, shown: the shares that the adversary holds are the very ones of a sharing of any other secret."""
    places = list(range(1, threshold))
    shares = split(secret, threshold, [*places, threshold])
    held = {p: int.from_bytes(shares[p]) for p in places}
    # the one polynomial of that degree through (0, other) and the held shares has exactly these shares
    points = {0: int.from_bytes(other), **held}

    def at(x):
        total = 0
        for i, y in points.items():
            term = y
            for j in points:
                if i != j:
                    term = term * (x - j) * pow(i - j, -1, PRIME) % PRIME
            total += term
        return total % PRIME

    forged = {p: s for p, s in shares.items() if p in held} | {threshold: at(threshold).to_bytes(SHARE_BYTES)}
    assert join(forged) == other


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, bytes(31) + b"\x01"])
def test_one_share_too_few_is_uniform_whatever_the_secret(secret):
    """Chi squared of the two shares that are held of a threshold of three, jointly, 255 degrees of freedom."""
    chance = random.Random(7)
    counts = [0] * 256
    for _ in range(256 * 40):
        shares = split(secret, 3, (1, 2, 3), below=chance.randrange)
        low, high = (int.from_bytes(shares[place]) * 16 // PRIME for place in (1, 2))
        counts[16 * low + high] += 1
    assert 170 < sum((n - 40) ** 2 / 40 for n in counts) < 360


def test_shares_of_any_secret_are_uniform():
    """Over a small prime, every coefficient in turn: each value of a share comes as often, whatever the secret."""
    prime = 7
    for secret, place in product(range(prime), (1, 2, 3)):
        assert {(secret + a * place) % prime for a in range(prime)} == set(range(prime))
    # the real one draws its coefficients from the whole field
    bounds = []
    split(bytes(32), 5, range(1, 6), below=lambda bound: bounds.append(bound) or 0)
    assert bounds == [PRIME] * 4


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=32, max_size=32), st.integers(2, 9), st.integers(1, PRIME - 1))
def test_a_changed_share_changes_the_secret(secret, threshold, by):
    shares = split(secret, threshold, list(range(1, threshold + 1)))
    shares[1] = ((int.from_bytes(shares[1]) + by) % PRIME).to_bytes(SHARE_BYTES)
    with contextlib.suppress(ValueError):
        assert join(shares) != secret


@pytest.mark.parametrize(
    ("secret", "threshold", "places"),
    [(b"short", 1, [1]), (bytes(32), 3, [1, 2]), (bytes(32), 2, [1, 1]), (bytes(32), 2, [0, 1])],
)
def test_what_cannot_be_shared_is_an_error(secret, threshold, places):
    with pytest.raises(ValueError, match="cannot be shared"):
        split(secret, threshold, places)
