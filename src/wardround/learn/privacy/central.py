"""`clear-dp`: the hub sees every update, and the model that it makes says little about any one unit. And every mode's budget.

Each update is clipped as a whole to one length, the *sum* gets Gaussian noise, and is divided by the number of units that is
expected, never by the number that came: how many came is data. What was spent is in the ledger before the noise is drawn.
Sources: McMahan, Ramage, Talwar, Zhang, Learning Differentially Private Recurrent Language Models, ICLR 2018, arXiv:1710.06963;
Andrew, Thakkar, McMahan, Ramaswamy, Differentially Private Learning with Adaptive Clipping, NeurIPS 2021, arXiv:1905.03871.
"""

from __future__ import annotations

import math
import secrets
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wardround.clock import Clock
from wardround.errors import StudyError, UpdateRefused
from wardround.learn.blobs import Blobs
from wardround.learn.models import Parameters, TensorSource, is_running
from wardround.learn.privacy.accounting import ROUNDS_MAX, Release, epsilon, rounds_within
from wardround.learn.privacy.banded import Banded
from wardround.learn.privacy.ledger import Entry, Ledger, spent
from wardround.learn.privacy.noise import discrete_gaussian
from wardround.learn.privacy.samplers import sampler_of
from wardround.records import EdgeId

if TYPE_CHECKING:
    from wardround.learn.privacy.modes import PrivacySettings
    from wardround.learn.study import Study

GRID = 2**24  # steps of the grid in the length that units are clipped to
COUNT_GRID = 2**20  # and in a half, of the count of units that were short enough
CLIP_RATE = 0.2  # of adaptive clipping (Andrew et al., section 3.1)
COUNT_NOISE = 1 / 20  # of the expected units: the count's noise (the same)
CLIP_MIN, CLIP_MAX = 1e-9, 1e9
PATIENTS = "patients"  # how many an update is a sum over, among its metrics
PATIENTS_MAX = 4_096  # of an edge: with more, rounding a sum to float32 could move it by more than BY_PATIENT says
BY_PATIENT = 1 - 2.0**-10  # of the clip: covers that rounding, of two sums of PATIENTS_MAX terms, and the hub's own grid
MARGIN = 1 - 2.0**-40  # what scaling by a float may add to a length

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Plan:
    """What every round of a study releases, and how its noise is shared out."""

    release: Release
    expected: float  # units in a round; the sum is divided by it
    count_noise: float  # of the count of short units; 0: the clip is fixed
    sum_noise: float  # noise multiplier of the sum: more than the release's, where the count takes its part
    band: int = 1  # rounds of which a unit is in one: they cost one release together

    def paid(self, rounds: int) -> int:
        """How many releases so many rounds cost, from the first on."""
        return -(-rounds // self.band)

    def after(self, made: Mapping[Release, int], rounds: int, more: int) -> Counter[Release]:
        """What is spent when `more` rounds come after so many that have cost `made`."""
        found = Counter(made)
        found[self.release] += self.paid(rounds + more) - self.paid(rounds)
        return found

    def left(self, own: PrivacySettings, made: Mapping[Release, int], rounds: int, most: int = ROUNDS_MAX) -> int:
        """How many rounds more keep to the target; at most about `most`."""
        releases = rounds_within(self.release, own.target_epsilon, own.delta, made, most=self.paid(most))
        return self.band * (self.paid(rounds) + releases) - rounds

    @classmethod
    def of(cls, own: PrivacySettings) -> Plan:
        """Of a study's settings.

        Raises:
            StudyError: the count of short units would take all of the budget.
        """
        rate = own.sample if own.sampling != "all" else 1.0
        size = max(1, round(own.population * rate)) if own.sampling == "fixed" else 0
        release = Release(own.noise, own.sampling, *((rate,) if own.sampling == "poisson" else (1.0,)), size)
        if own.sampling == "fixed":
            release = release._replace(population=own.population)
        expected = float(size) if size else own.population * rate
        if own.is_banded:
            return cls(release, expected / own.band, 0.0, own.noise, own.band)
        if own.clip_quantile == 0:
            return cls(release, expected, 0.0, own.noise)
        count_noise = COUNT_NOISE * expected
        left = own.noise**-2 - (2 * count_noise) ** -2
        if left <= 0:
            raise StudyError(
                f"privacy.clip_quantile is {own.clip_quantile:g}, and {expected:g} units in a round are too few for "
                f"privacy.noise {own.noise:g}: counting them alone would cost the whole budget",
                remedy="set privacy.clip_quantile = 0 and choose privacy.clip_norm, or ask more units, above 10 times the noise",
            )
        return cls(release, expected, count_noise, left**-0.5)


class Central:
    """The private half of a study's rounds. Not safe by itself: the coordinator calls it under its lock."""

    def __init__(self, study: Study, ledger: Ledger, clock: Clock, blobs: Blobs, released: Collection[int] = ()) -> None:
        """`released` are the rounds whose models were made of updates; `blobs` keeps what noise rounds share.

        Raises:
            StudyError: the ledger knows less than was released; or as sampler_of.
        """
        self._study, self._own, self._ledger, self._clock = study, study.privacy, ledger, clock
        self.plan = Plan.of(study.privacy)
        self._sampler = sampler_of(study.privacy.sampler)  # None: our own
        self._banded = Banded(study.name, study.privacy.band, blobs, self._sampler) if study.privacy.is_banded else None
        if missing := sorted(set(released) - {entry.round for entry in ledger.entries}):
            raise StudyError(
                f"the privacy ledger of {study.name} knows nothing of round {missing[0]}, whose model is there",
                remedy="put the ledger back from a backup that is no older than the last round, or start another study",
            )
        self._known_good = 0  # releases in all that are known to be within the target
        self.fits(max(1, study.rounds.count - len(ledger.entries)))  # asked once, as it may take a second

    # -- the budget

    @property
    def epsilon(self) -> float:
        """What has been spent."""
        return epsilon(spent(self._ledger.entries), self._own.delta)

    def fits(self, more: int = 1) -> bool:
        """Whether so many more releases stay within the target."""
        total = len(self._ledger.entries) + more
        if total <= self._known_good:
            return True
        made = self.plan.after(spent(self._ledger.entries), len(self._ledger.entries), more)
        if epsilon(made, self._own.delta) > self._own.target_epsilon:
            return False
        self._known_good = total
        return True

    def check_more(self, more: int) -> None:
        """Whether a study may have so many rounds more.

        Raises:
            StudyError: the budget does not reach; it says how many rounds are left.
        """
        if not self.fits(more):
            made = spent(self._ledger.entries)
            left = self.plan.left(self._own, made, len(self._ledger.entries), most=more)
            raise StudyError(
                f"{more} more rounds would overspend privacy.target_epsilon {self._own.target_epsilon:g}",
                remedy=f"{left} {'round is' if left == 1 else 'rounds are'} left; `wardround study budget` shows what was spent",
            )

    # -- who takes part

    def enough(self, eligible: Collection[EdgeId]) -> bool:
        """Whether a round may begin among these: with fewer, each would be drawn more often than is reckoned."""
        return self.plan.release.sampling == "all" or len(eligible) >= self._own.population

    def choose(self, eligible: Sequence[EdgeId]) -> tuple[EdgeId, ...]:
        """Who is asked, by chance that nobody can foresee; perhaps nobody."""
        release, chance = self.plan.release, secrets.SystemRandom()
        if release.sampling == "poisson":
            return tuple(sorted(e for e in eligible if chance.random() < release.rate))
        if release.sampling == "fixed":
            return tuple(sorted(chance.sample(list(eligible), release.size)))
        return tuple(sorted(e for e in eligible if self._is_due(e)))

    def _is_due(self, edge: EdgeId) -> bool:
        """Whether the next release is one that an edge may be in."""
        row = len(self._ledger.entries)
        return self._banded is None or self._banded.slot(edge) == row % self._banded.band

    def check_due(self, edges: Collection[EdgeId]) -> None:
        """Whether these may be in the next release: a kill in the middle of one makes it the turn of others.

        Raises:
            StudyError: they may not; what they sent comes to nothing, and others are asked.
        """
        if early := sorted(e for e in edges if not self._is_due(e)):
            raise StudyError(
                f"{early[0]} was in a release less than privacy.band = {self._own.band} releases ago, or another's turn has come",
                remedy="nothing: the round is drawn anew",
            )

    # -- the release

    @property
    def clip(self) -> float:
        """The length that units are clipped to now."""
        entries = self._ledger.entries
        return entries[-1].clip_next if entries else self._own.clip_norm

    def mean(
        self, number: int, attempt: int, base: TensorSource, names: Collection[str], updates: Sequence[TensorSource]
    ) -> Parameters:
        """The noisy mean update: spent first, then released.

        Raises:
            StudyError: the budget does not reach.
            StorageFull: the ledger could not be written; nothing is released.
        """
        self.check_more(1)
        clip = self.clip
        sums: dict[str, Integers] = {name: np.zeros(math.prod(base.shapes()[name]), np.int64) for name in sorted(names)}
        short = 0
        for update in updates:
            if self._own.by_patient:  # each patient is clipped already, where its data are
                add_whole(sums, update, clip)
            else:
                short += add_clipped(sums, update, clip)
        clip_next = self._next_clip(clip, short, len(updates))
        parameters = sum(len(total) for total in sums.values())
        row = len(self._ledger.entries)
        self._write_down(number, attempt, clip, clip_next, parameters)
        step, deviation = clip / GRID / self.plan.expected, self.plan.sum_noise * GRID
        draw = self._sampler or discrete_gaussian
        if self._banded is not None:
            noisy = self._banded.noisy(row, sums, deviation)
        else:
            noisy = {name: (total + draw(deviation, len(total))).astype(np.float64) for name, total in sums.items()}
        shapes = base.shapes()
        return {name: (total * step).astype(base.dtype(name)).reshape(shapes[name]) for name, total in noisy.items()}

    def spend(self, number: int, attempt: int, parameters: int) -> None:
        """Pay for a sum that is noisy already, before it is unmasked.

        Raises:
            StudyError: the budget does not reach.
            StorageFull: the ledger could not be written; nothing may be released.
        """
        self.check_more(1)
        self._write_down(number, attempt, self.clip, self.clip, parameters)

    def spend_once(self, number: int, attempt: int) -> None:
        """Pay for a sum that edges may have opened, and that came to nothing here, unless that was done."""
        last = self._ledger.entries[-1] if self._ledger.entries else None
        if last is None or (last.round, last.attempt) != (number, attempt):
            self._write_down(number, attempt, self.clip, self.clip, 0)

    def _write_down(self, number: int, attempt: int, clip: float, clip_next: float, parameters: int) -> None:
        rows = len(self._ledger.entries)
        times = self.plan.paid(rows + 1) - self.plan.paid(rows)  # of a band of rounds the first pays for all
        entry = Entry(number, attempt, self._clock.now_us(), self.plan.release, clip, clip_next, parameters, times)
        self._ledger.append(entry)

    def _next_clip(self, clip: float, short: int, came: int) -> float:
        """Towards the quantile that the study asks for, by a noisy count of the updates that were short enough."""
        if not self.plan.count_noise:
            return clip
        half = (2 * short - came) * COUNT_GRID // 2  # each counts a half more or less: it moves the count by that much
        noise = (self._sampler or discrete_gaussian)(self.plan.count_noise * COUNT_GRID, 1)[0]
        share = 0.5 + float(half + noise) / COUNT_GRID / self.plan.expected
        return min(CLIP_MAX, max(CLIP_MIN, clip * math.exp(-CLIP_RATE * (share - self._own.clip_quantile))))


def add_clipped(sums: Mapping[str, Integers], update: TensorSource, clip: float) -> bool:
    """Add an update, scaled down to length `clip` if it is longer, to sums on the grid of clip / GRID; whether it was short.

    Values are cut towards zero on the grid, so the length of what is added is never above GRID steps.
    """
    norm = math.sqrt(sum(_squares(update, name, len(total)) for name, total in sums.items()))
    scale = GRID / clip * (min(1.0, clip / norm) if norm else 1.0) * MARGIN
    for _ in range(64):
        parts = {name: np.trunc(_values(update, name, len(total)) * scale).astype(np.int64) for name, total in sums.items()}
        if sum(int(np.dot(part, part)) for part in parts.values()) <= GRID**2:
            break
        scale *= MARGIN**1024  # a float's rounding made it too long
    else:
        raise AssertionError("an update cannot be made short enough")
    for name, part in parts.items():
        sums[name][:] += part
    return norm <= clip


def add_whole(sums: Mapping[str, Integers], update: TensorSource, clip: float) -> None:
    """Add a sum over patients, each clipped to length `clip`, to sums on the grid."""
    for name, total in sums.items():
        np.add(total, np.trunc(_values(update, name, len(total)) * (GRID / clip)).astype(np.int64), out=total)


def check_patients(norm: float, metrics: Mapping[str, float], clip: float) -> None:
    """Whether an update can be a sum over as many patients as its edge says, each no longer than the clip.

    Raises:
        UpdateRefused: "patients" or "clip".
    """
    patients = metrics.get(PATIENTS, 0.0)
    if not 1 <= patients <= PATIENTS_MAX:
        raise UpdateRefused("patients", f"a sum over {patients:g} patients; 1 to {PATIENTS_MAX} are believed")
    if norm > patients * clip:
        raise UpdateRefused("clip", f"its norm is {norm:.3g}, and {patients:g} patients clipped to {clip:g} cannot be longer")


def check_model(model: Mapping[str, object]) -> None:
    """Whether noise can be added to a model's tensors.

    Raises:
        StudyError: it has tensors that follow the batches, or counts.
    """
    for name, tensor in model.items():
        if is_running(name):
            raise StudyError(
                f"noise is asked for, and the model has `{name[:60]}`: noise could make a variance negative",
                remedy="use a network without batch normalisation (group or layer normalisation does as well)",
            )
        if np.asarray(tensor).dtype.kind != "f":
            raise StudyError(
                f"noise is asked for, and `{name[:60]}` of the model holds whole numbers", remedy="use a network without"
            )


def _values(update: TensorSource, name: str, size: int) -> NDArray[np.float64]:
    return np.asarray(update.block(name, 0, size), np.float64)


def _squares(update: TensorSource, name: str, size: int) -> float:
    values = _values(update, name, size)
    return float(np.dot(values, values))
