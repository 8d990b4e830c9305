"""Secret sharing: any threshold of shares gives the secret, one fewer gives nothing."""

from __future__ import annotations

import contextlib
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
