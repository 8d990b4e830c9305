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
from collections.abc import Mapping
from typing import Any, NamedTuple

from wardround.errors import StudyError

SAMPLINGS = ("all", "poisson", "fixed")
ROUNDS_MAX = 1_000_000
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
