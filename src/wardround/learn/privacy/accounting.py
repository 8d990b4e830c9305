"""What releases cost: epsilon at a delta. dp-accounting (Google) reckons; nothing here adds up privacy by itself.

Every release of a study is one Gaussian over a sum of units that are each clipped to one length C; its noise multiplier z is the
noise's standard deviation over C. Who takes part is chosen in one of three ways:

- `all`: whoever is there; nothing is gained by chance. Adding or removing a unit moves the sum by C. Several Gaussians are one,
  whose epsilon has a closed form (Balle and Wang, ICML 2018, arXiv:1805.06530).
- `poisson`: each unit by a coin of its own. Adding or removing a unit; PLD accountant (Koskela, Jälkö, Honkela, AISTATS 2020,
  arXiv:1906.03049), and beyond RDP_BEYOND the looser RDP figure, which is quick.
- `fixed`: so many out of so many, without replacement. *Replacing* a unit, which moves the sum by 2 C: RDP accountant (Wang,
  Balle, Kasiviswanathan, AISTATS 2019, arXiv:1808.00087) with z / 2. A Poisson figure, or z itself, would be too small.
"""

from __future__ import annotations

import functools
import logging
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple

from wardround.errors import StudyError

SAMPLINGS = ("all", "poisson", "fixed")
ROUNDS_MAX = 1_000_000
EXPOSED_RUNGS = (4, 12, 40, 128, 400)  # examples of a patient: first of so many, which takes less time
LOSS_STEP = 4e-3  # of a patient's privacy loss distribution, rounded so that the figure is never too low: by a hundredth too high
TAIL = 1e-18  # chance of a batch with more of a patient's examples than are looked at
COUNTS_MAX = 48  # numbers of examples in a batch that are told apart
RDP_BEYOND = 50.0  # epsilon above which PLD takes many seconds for a figure that promises nothing


class Release(NamedTuple):
    """One noisy sum. `size` of `population` units are drawn where the sampling is `fixed`; `rate` is a Poisson coin's."""

    noise: float
    sampling: str = "all"
    rate: float = 1.0
    size: int = 0
    population: int = 0


def neighbours(sampling: str) -> str:
    """What two data sets are that the noise makes alike, in words."""
    return "one replaced by another" if sampling == "fixed" else "one added or taken out"


def conversion(sampling: str) -> str:
    """How epsilon is come to, in words."""
    return {"all": "closed form of the Gaussian", "poisson": "PLD", "fixed": "RDP (dp-accounting's conversion)"}[sampling]


def epsilon(releases: Mapping[Release, int], delta: float) -> float:
    """Epsilon of all releases together, each so many times.

    Raises:
        StudyError: dp-accounting is not installed, or the releases are about different neighbours.
    """
    made = tuple(sorted((r, n) for r, n in releases.items() if n))
    if len({r.sampling == "fixed" for r, _ in made}) > 1:
        raise StudyError(
            "releases by a fixed number of units and by others do not add up: their neighbours differ",
            remedy="keep to one sampling",
        )
    return _epsilon(made, delta)


@functools.lru_cache(maxsize=4_096)
def _epsilon(releases: tuple[tuple[Release, int], ...], delta: float) -> float:
    if not releases:
        return 0.0
    known = _library()
    if all(r.sampling == "all" for r, _ in releases):
        precision = sum(n / r.noise**2 for r, n in releases)
        return float(known.get_epsilon_gaussian(1 / math.sqrt(precision), delta))
    found = _rdp(releases, delta)
    if releases[0][0].sampling == "fixed" or found > RDP_BEYOND:
        return found
    from dp_accounting.pld import PLDAccountant  # noqa: PLC0415

    accountant = PLDAccountant(neighboring_relation=known.NeighboringRelation.ADD_OR_REMOVE_ONE)
    for release, times in releases:
        accountant.compose(_event(release), times)
    return float(accountant.get_epsilon(delta))


def _rdp(releases: tuple[tuple[Release, int], ...], delta: float) -> float:
    from dp_accounting.rdp import RdpAccountant  # noqa: PLC0415

    relation = _library().NeighboringRelation
    fixed = releases[0][0].sampling == "fixed"
    accountant = RdpAccountant(neighboring_relation=relation.REPLACE_ONE if fixed else relation.ADD_OR_REMOVE_ONE)
    for release, times in releases:
        accountant.compose(_event(release), times)
    return float(accountant.get_epsilon(delta))


def _event(release: Release) -> Any:
    events = _library()
    if release.sampling == "poisson":
        return events.PoissonSampledDpEvent(min(1.0, release.rate), events.GaussianDpEvent(release.noise))
    if release.sampling == "fixed":
        replaced = events.GaussianDpEvent(release.noise / 2)
        return events.SampledWithoutReplacementDpEvent(release.population, release.size, replaced)
    return events.GaussianDpEvent(release.noise)


def rounds_within(
    release: Release, target_epsilon: float, delta: float, spent: Mapping[Release, int] | None = None, most: int = ROUNDS_MAX
) -> int:
    """How many more releases of this kind stay within the target; at most `most`."""
    before = dict(spent or {})

    def fits(rounds: int) -> bool:
        return epsilon({**before, release: before.get(release, 0) + rounds}, delta) <= target_epsilon

    if not fits(1):
        return 0
    low, high = 1, 2
    while high <= most and fits(high):
        low, high = high, high * 2
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def noise_for(release: Release, rounds: int, target_epsilon: float, delta: float) -> float:
    """The least noise multiplier, to a hundredth, with which so many rounds stay within the target."""

    def fits(noise: float) -> bool:
        return epsilon({release._replace(noise=noise): rounds}, delta) <= target_epsilon

    low, high = 1, 2  # hundredths
    while not fits(high / 100):
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle / 100) else (middle, high)
    return high / 100


@functools.cache
def _library() -> Any:
    """dp-accounting, when it is needed: it takes seconds to load, and few edges have it."""
    try:
        import dp_accounting  # noqa: PLC0415
    except ImportError as exc:
        raise StudyError(
            "differential privacy needs dp-accounting, which is not here",
            remedy="pip install 'wardround[hub]' at a hub, 'wardround[dp]' at an edge that trains with learner.dp_sgd",
        ) from exc
    logging.getLogger("absl").setLevel(logging.ERROR)  # orders that do not converge are left out, which only loosens the figure
    return dp_accounting


class Exposure(NamedTuple):
    """One noisy sum that a patient is in. `noise` is over what one term of theirs can move it by; each of their `examples` is
    such a term, in the sum by a coin of its own of chance `rate`."""

    noise: float
    rate: float = 1.0
    examples: int = 1


class Figure(NamedTuple):
    """An epsilon; `least`: it may be more, and nobody had reason to look further."""

    epsilon: float
    least: bool = False


def exposed(made: Mapping[Exposure, int], delta: float, enough: float = RDP_BEYOND) -> Figure:
    """Epsilon of one patient, all examples added or taken out together, over all exposures, each so many times.

    Gaussians add up by the closed form. Of DP-SGD k examples of a patient are in a batch by k coins: a mixture of Gaussians whose
    means are binomial (Ganesh, Tight Group-Level DP Guarantees for DP-SGD with Sampling via Mixture of Gaussians Mechanisms,
    arXiv:2401.10294), composed as privacy loss distributions. Above `enough` the search ends: fewer examples cost less, so a
    figure for some of them is one that all of them exceed.
    """
    whole = tuple(sorted((_rounded(e), n) for e, n in made.items() if n))
    if not whole:
        return Figure(0.0)
    if all(e.rate >= 1.0 for e, _ in whole):
        precision = sum(n * (e.examples / e.noise) ** 2 for e, n in whole)
        return Figure(float(_library().get_epsilon_gaussian(1 / math.sqrt(precision), delta)))
    most = max(e.examples for e, _ in whole)
    for rung in (r for r in EXPOSED_RUNGS if r < most):
        some = tuple((e._replace(examples=min(e.examples, rung)), n) for e, n in whole)
        if (found := _exposed(some, delta)) > enough:
            return Figure(found, least=True)
    return Figure(_exposed(whole, delta))


def _rounded(exposure: Exposure) -> Exposure:
    """Examples rounded up to one of four numbers in a doubling: so that as many patients share a figure."""
    k = exposure.examples
    step = 1 << max(0, k.bit_length() - 3)
    return exposure._replace(examples=-(-k // step) * step)


@functools.lru_cache(maxsize=1_024)
def _exposed(exposures: tuple[tuple[Exposure, int], ...], delta: float) -> float:
    precision = sum(n * (e.examples / e.noise) ** 2 for e, n in exposures if e.rate >= 1.0)
    parts = [_loss(Exposure(1 / math.sqrt(precision)))] if precision else []
    left_out, steps = 0.0, Counter[Exposure]()
    for e, n in exposures:
        if e.rate < 1.0:
            steps[e] += n
    for e, n in steps.items():
        parts.append(_loss(e).self_compose(n))
        left_out += n * TAIL
    total = functools.reduce(lambda one, other: one.compose(other), parts)
    # a mixture without its tail t is within (-ln(1 - t), t) of itself: both add up over steps
    return float(total.get_epsilon_for_delta(delta - left_out)) + left_out if delta > left_out else math.inf


@functools.lru_cache(maxsize=256)
def _loss(exposure: Exposure) -> Any:
    """The privacy loss of one sum."""
    _library()
    from dp_accounting.pld import privacy_loss_distribution as pld  # noqa: PLC0415

    if exposure.rate >= 1.0:
        return pld.from_gaussian_mechanism(exposure.noise, value_discretization_interval=LOSS_STEP)
    counts, chances = _in_a_batch(exposure.examples, exposure.rate)
    return pld.from_mixture_gaussian_mechanism(exposure.noise, counts, chances, value_discretization_interval=LOSS_STEP)


def _in_a_batch(examples: int, rate: float) -> tuple[list[float], list[float]]:
    """How many of so many examples are in a batch, and with which chance each: without an upper tail of TAIL, and with runs of
    counts taken for their highest where there are many."""
    chances = [
        math.exp(
            math.lgamma(examples + 1)
            - math.lgamma(i + 1)
            - math.lgamma(examples - i + 1)
            + i * math.log(rate)
            + (examples - i) * math.log1p(-rate)
        )
        for i in range(examples + 1)
    ]
    tail, most = 0.0, examples
    while most > 1 and tail + chances[most] <= TAIL:
        tail, most = tail + chances[most], most - 1
    run = max(1, -(-most // COUNTS_MAX))
    found: dict[int, float] = {}
    for i in range(most + 1):
        highest = 0 if i == 0 else min(most, -(-i // run) * run)
        found[highest] = found.get(highest, 0.0) + chances[i]
    whole = sum(found.values())
    return [float(i) for i in found], [c / whole for c in found.values()]
