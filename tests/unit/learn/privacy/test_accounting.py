"""Published figures, each with the conversion it was made by; and that ours are about the same sums."""

from __future__ import annotations

import math

import dp_accounting
import pytest
from dp_accounting.rdp import RdpAccountant

from wardround.errors import StudyError
from wardround.learn.privacy.accounting import Release, epsilon, noise_for, rounds_within

DELTA = 1e-5
MNIST = 256 / 60_000


def rdp(rate: float, noise: float, steps: int) -> RdpAccountant:
    event = dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))
    return RdpAccountant().compose(event, steps)


def classic(accountant: RdpAccountant) -> float:
    """Mironov's conversion (arXiv:1702.07476, proposition 3): the least over alpha of RDP + ln(1 / delta) / (alpha - 1)."""
    pairs = zip(accountant._orders, accountant._rdp, strict=True)
    return min(r + math.log(1 / DELTA) / (a - 1) for a, r in pairs if a > 1 and math.isfinite(r))


@pytest.mark.parametrize(
    ("noise", "steps", "published", "pld"),
    [(1.3, 3_515, 1.19, 0.86446), (1.1, 14_062, 3.01, 2.38169), (0.7, 10_546, 7.10, 5.63945)],
)
def test_tensorflow_privacys_table_by_the_classic_conversion_and_ours_by_pld(noise, steps, published, pld):
    """TensorFlow Privacy, tutorials/README: MNIST, batches of 256. Its figures are RDP with the classic conversion."""
    assert classic(rdp(MNIST, noise, steps)) == pytest.approx(published, abs=0.006)
    assert epsilon({Release(noise, "poisson", MNIST): steps}, DELTA) == pytest.approx(pld, rel=2e-3)


def test_opacus_unit_test_by_the_better_conversion():
    """Opacus, accountants_test.py: 7.32911 by RDP with the conversion of Balle et al. (arXiv:1905.09982, theorem 21)."""
    assert rdp(0.04, 1.5, 2_250).get_epsilon(DELTA) == pytest.approx(7.32911117143, rel=1e-4)
    assert epsilon({Release(1.5, "poisson", 0.04): 2_250}, DELTA) == pytest.approx(6.76879, rel=2e-3)


def test_one_gaussian_has_the_closed_form_of_balle_and_wang():
    assert epsilon({Release(1.0): 1}, DELTA) == pytest.approx(4.377178, abs=1e-4)
    assert noise_for(Release(1.0), 1, 1.0, DELTA) == 3.74  # 3.730632, up to the next hundredth


def test_many_gaussians_are_one():
    assert epsilon({Release(10.0): 100}, DELTA) == pytest.approx(epsilon({Release(1.0): 1}, DELTA))
    assert epsilon({Release(3.0): 9, Release(2.0): 4}, DELTA) == pytest.approx(epsilon({Release(1 / math.sqrt(2)): 1}, DELTA))


def test_a_coin_that_always_lets_in_gains_nothing():
    assert epsilon({Release(4.0, "poisson", 1.0): 20}, DELTA) == pytest.approx(epsilon({Release(4.0): 20}, DELTA), rel=5e-3)


def test_replacing_a_unit_moves_the_sum_by_twice_its_length():
    """Drawn all out of all, `fixed` is a Gaussian whose noise is half as much over what one replacement does."""
    all_of_them = epsilon({Release(8.0, "fixed", 1.0, 50, 50): 10}, DELTA)
    assert epsilon({Release(4.0): 10}, DELTA) <= all_of_them <= 1.25 * epsilon({Release(4.0): 10}, DELTA)
    assert epsilon({Release(8.0, "fixed", 1.0, 5, 50): 10}, DELTA) < all_of_them


def test_samplings_with_other_neighbours_do_not_add_up():
    with pytest.raises(StudyError, match="do not add up"):
        epsilon({Release(1.0): 1, Release(1.0, "fixed", 1.0, 5, 50): 1}, DELTA)


def test_what_is_not_released_costs_nothing():
    assert epsilon({}, DELTA) == 0.0
    assert epsilon({Release(1.0): 0}, DELTA) == 0.0


@pytest.mark.parametrize("release", [Release(5.0), Release(20.0, "fixed", 1.0, 10, 100)])
def test_the_rounds_that_fit_fit_and_one_more_does_not(release):
    rounds = rounds_within(release, 6.0, DELTA)
    assert epsilon({release: rounds}, DELTA) <= 6.0 < epsilon({release: rounds + 1}, DELTA)
    assert rounds_within(release, 6.0, DELTA, {release: rounds - 2}) == 2
    assert rounds_within(release, 6.0, DELTA, {release: rounds}) == 0
    assert rounds_within(release, 6.0, DELTA, most=3) == 3


def test_the_least_noise_fits_and_less_does_not():
    noise = noise_for(Release(1.0), 40, 3.0, DELTA)
    assert epsilon({Release(noise): 40}, DELTA) <= 3.0 < epsilon({Release(noise - 0.01): 40}, DELTA)
