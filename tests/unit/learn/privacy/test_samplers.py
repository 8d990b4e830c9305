"""OpenDP's sampler beside ours: the same distribution, and a refusal by name where it is not installed.

OpenDP stands outside the lock files (47 MB): where it is missing its own draws are not looked at, and a stand-in draws in its
place for what surrounds it. Neither takes a seed from outside here, so bounds are of 1e-10.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import chi2

from wardround.clock import ManualClock
from wardround.errors import StudyError
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.models import MemoryTensors
from wardround.learn.privacy import samplers
from wardround.learn.privacy.central import Central
from wardround.learn.privacy.ledger import MemoryLedger
from wardround.learn.privacy.noise import discrete_gaussian
from wardround.learn.privacy.samplers import CHUNK, EXACT, OPENDP, opendp_gaussian, sampler_of
from wardround.learn.study import parse_study
from wardround.learn.study_checks import check
from wardround.process.transforms import TASKS

HERE = importlib.util.find_spec("opendp") is not None
REAL = pytest.param(opendp_gaussian, marks=pytest.mark.skipif(not HERE, reason="OpenDP is not installed"), id="opendp")
SIZE, EXPECTED_MIN = 20_000, 100.0
NEVER = 1e-10  # the chance that a test fails of samplers that are right

STUDY = """
name = "s"
task = "activity"
[rounds]
count = 5
[watch]
row_counts = false
[privacy]
mode = "{mode}"
sampler = "{sampler}"
population = 1000
noise = 4.0
target_epsilon = 50.0
delta = 1e-5
"""


def study_of(sampler="opendp", mode="clear-dp", more=""):
    return parse_study(STUDY.format(mode=mode, sampler=sampler) + more, where="test")


class Drawn:
    """What stands in for OpenDP: it notes what it was asked for."""

    def __init__(self):
        self.asked = []

    def module(self):
        opendp, prelude = ModuleType("opendp"), ModuleType("opendp.prelude")
        prelude.enable_features = lambda *_names: None
        prelude.atom_domain = lambda T: ("atoms", T)  # noqa: N803 - OpenDP's own name
        prelude.vector_domain = lambda of: ("vectors", of)
        prelude.l2_distance = lambda T: ("l2", T)  # noqa: N803
        prelude.m = self
        opendp.prelude = prelude
        return {"opendp": opendp, "opendp.prelude": prelude}

    def make_gaussian(self, domain, metric, *, scale):
        assert (domain, metric) == (("vectors", ("atoms", "i64")), ("l2", "f64"))

        def measure(values):
            assert set(values) == {0}
            self.asked.append((scale, len(values)))
            return [int(v) for v in discrete_gaussian(scale, len(values))]

        return measure


@pytest.fixture
def stand_in(monkeypatch):
    drawn = Drawn()
    for name, module in drawn.module().items():
        monkeypatch.setitem(sys.modules, name, module)
    return drawn


@pytest.fixture
def nothing_installed(monkeypatch):
    for name in ("opendp", "opendp.prelude"):
        monkeypatch.setitem(sys.modules, name, None)


def masses(sigma):
    """Of the whole numbers from -600 to 600."""
    weights = np.exp(-(np.arange(-600, 601, dtype=float) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def cells(sigma):
    """How far out cells of single numbers go, the last with all beyond it: one that is expected seldom makes no chi-square."""
    return int((SIZE * masses(sigma)[601:] >= EXPECTED_MIN).sum())


def counts(draws, reach):
    return np.bincount(np.clip(draws, -reach, reach) + reach, minlength=2 * reach + 1).astype(float)


@pytest.mark.parametrize("draw", [discrete_gaussian, REAL])
@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.3, 9.0])
def test_each_has_the_mass_function_of_the_discrete_gaussian(draw, sigma):
    reach, mass = cells(sigma), SIZE * masses(sigma)
    expected = mass[600 - reach : 600 + reach + 1]
    expected[0] = expected[-1] = mass[: 600 - reach + 1].sum()
    found = counts(draw(sigma, SIZE), reach)
    assert expected.min() >= EXPECTED_MIN
    assert ((found - expected) ** 2 / expected).sum() < chi2.ppf(1 - NEVER, len(found) - 1)


@pytest.mark.parametrize("draw", [REAL])
@pytest.mark.parametrize("sigma", [0.7, 4.0])
def test_the_two_agree_with_each_other(draw, sigma):
    """Chi-square of two samples of one size, by cell."""
    reach = cells(sigma)
    one, other = counts(draw(sigma, SIZE), reach), counts(discrete_gaussian(sigma, SIZE), reach)
    assert ((one - other) ** 2 / np.maximum(one + other, 1)).sum() < chi2.ppf(1 - NEVER, 2 * reach)


@pytest.mark.parametrize("sigma", [0.5, 3.3])
def test_the_test_would_see_another_width(sigma):
    reach = cells(sigma)
    expected = SIZE * masses(sigma)[600 - reach : 600 + reach + 1]
    found = counts(discrete_gaussian(1.15 * sigma, SIZE), reach)
    assert ((found - expected) ** 2 / expected).sum() > chi2.ppf(1 - NEVER, len(found) - 1)


@pytest.mark.parametrize("draw", [discrete_gaussian, REAL])
@pytest.mark.parametrize("sigma", [2.0**24, 1e4 * 2**24])
def test_each_has_the_quantiles_of_a_gaussian_where_it_is_wide(draw, sigma):
    ends = np.array([-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5])
    share = np.diff([0.0, *(0.5 * (1 + math.erf(x / math.sqrt(2))) for x in ends), 1.0])
    found = np.bincount(np.searchsorted(ends, draw(sigma, SIZE) / sigma), minlength=len(share))
    assert ((found - SIZE * share) ** 2 / (SIZE * share)).sum() < chi2.ppf(1 - NEVER, len(share) - 1)


def test_a_study_that_names_opendp_is_drawn_by_it_in_either_mechanism(stand_in):
    for more in ("", 'mechanism = "banded"\nband = 4\nsampling = "all"\n'):
        stand_in.asked.clear()
        central = Central(study_of(more=more), MemoryLedger(), ManualClock(), MemoryBlobs())
        base = {"w": np.zeros((6, 3), np.float32), "b": np.zeros(3, np.float32)}
        mean = central.mean(1, 1, MemoryTensors(base), list(base), [MemoryTensors({n: t + 1 for n, t in base.items()})])
        assert sorted(size for _, size in stand_in.asked) == [3, 18]
        assert {n: t.shape for n, t in mean.items()} == {"w": (6, 3), "b": (3,)}


def test_many_draws_are_made_in_parts(stand_in):
    assert len(opendp_gaussian(3.0, CHUNK + 10)) == CHUNK + 10
    assert [size for _, size in stand_in.asked] == [CHUNK, 10]


def test_a_hub_without_opendp_refuses_the_study_by_name(nothing_installed):
    with pytest.raises(StudyError, match="OpenDP is not installed here") as caught:
        Central(study_of(), MemoryLedger(), ManualClock(), MemoryBlobs())
    assert "wardround[opendp]" in caught.value.remedy
    Central(study_of(EXACT), MemoryLedger(), ManualClock(), MemoryBlobs())
    assert sampler_of(EXACT) is None  # our own


@pytest.mark.parametrize(
    ("study", "words"),
    [(study_of(OPENDP, "blind-dp"), "edges draw the noise"), (study_of("dice"), "privacy.sampler is `dice`")],
    ids=["masked", "unknown"],
)
def test_a_sampler_that_cannot_be_had_is_refused_when_the_study_is_checked(study, words):
    with pytest.raises(StudyError, match=words):
        check(study, TASKS)


@pytest.mark.parametrize("sigma", [0.0, 0.1, math.inf, math.nan, 1e30])
def test_a_sigma_that_cannot_be_drawn_is_refused(sigma, stand_in):
    with pytest.raises(ValueError, match="sigma"):
        samplers.opendp_gaussian(sigma, 1)
    assert not stand_in.asked
