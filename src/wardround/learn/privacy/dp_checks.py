"""Which studies can be had with differential privacy: what would undo the guarantee is refused by name."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wardround.errors import StudyError
from wardround.learn.privacy.accounting import SAMPLINGS, epsilon
from wardround.learn.privacy.banded import BAND_MAX
from wardround.learn.privacy.central import CLIP_MAX, CLIP_MIN, Plan
from wardround.learn.privacy.distributed import levels
from wardround.learn.privacy.graph import EDGES_MIN
from wardround.learn.privacy.samplers import EXACT, SAMPLERS

if TYPE_CHECKING:
    from wardround.learn.study import Study

UNITS = ("edge", "patient")
MECHANISMS = ("gaussian", "banded")
BANDED_MIN = 10  # edges whose turn it is in a round, on average: by a hash of their names some rounds have fewer
# Their fold sees the noisy mean alone, and no edge keeps anything that hangs on an earlier round.
DP_STRATEGIES = ("fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi")
EXPECTED_MIN = 30  # units that a Poisson coin lets in on average: below, an empty round would not be rare enough
NOISE_MIN, NOISE_MAX = 0.05, 1e4
WHY_NOT = {
    "fednova": "its weights hang on how far each edge went",
    "scaffold": "its control variates carry what edges learnt in earlier rounds past the clip",
    "feddyn": "its slopes carry what edges learnt in earlier rounds past the clip",
    "fedbn": "edges keep tensors that carry earlier rounds past the accounting",
    "ditto": "edges keep models that carry earlier rounds past the accounting",
    "fine-tuning": "edges keep models that carry earlier rounds past the accounting",
    "qfedavg": "its weights hang on the edges' losses",
    "coordinate-median": "what one edge can move a median by has no bound that noise could hide",
    "trimmed-mean": "whom it trims hangs on the others, and one edge can move it by more than its own length",
    "krum": "whom it picks hangs on all, and one edge can change the pick",
    "multi-krum": "whom it picks hangs on all, and one edge can change the pick",
    "geometric-median": "its weights hang on all, and one edge can change each of them",
    "centered-clipping": "it clips around its own memory, by a radius that hangs on the data",
    "fltrust": "its weights hang on data of the hub",
    "bagging": "trees say what they split on: no noise on tensors hides that",
}


def check_dp(study: Study) -> None:
    """Whether a study with a budget is sound, and within it.

    Raises:
        StudyError: the first thing that is not, and what to do.
    """
    _check_numbers(study)
    _check_company(study)
    own, plan = study.privacy, Plan.of(study.privacy)
    total = epsilon({plan.release: plan.paid(study.rounds.count)}, own.delta)
    if total > own.target_epsilon:
        left = plan.left(own, {}, 0, most=study.rounds.count)
        raise StudyError(
            f"{study.rounds.count} rounds cost epsilon {total:.3g} at delta {own.delta:g}, and privacy.target_epsilon is "
            f"{own.target_epsilon:g}: {left} {'round fits' if left == 1 else 'rounds fit'}",
            remedy="fewer rounds, more privacy.noise, or a higher target; `wardround study budget --plan` shows what each costs",
        )


def _check_numbers(study: Study) -> None:
    own = study.privacy
    _one_of("privacy.unit", own.unit, UNITS)
    _one_of("privacy.sampling", own.sampling, SAMPLINGS)
    _between("privacy.clip_norm", own.clip_norm, CLIP_MIN, CLIP_MAX)
    _between("privacy.clip_quantile", own.clip_quantile, 0.0, 0.99)
    _between("privacy.noise", own.noise, NOISE_MIN, NOISE_MAX)
    _between("privacy.target_epsilon", own.target_epsilon, 1e-3, 1e4)
    _one_of("privacy.mechanism", own.mechanism, MECHANISMS)
    _one_of("privacy.sampler", own.sampler, SAMPLERS)
    _check(
        own.sampler == EXACT or own.mode == "clear-dp",
        f"privacy.sampler is `{own.sampler}` and privacy.mode is `{own.mode}`: there edges draw the noise, each its part",
        'choose privacy.sampler = "exact", or privacy.mode = "clear-dp"',
    )
    if own.is_banded:
        _check_banded(study)
    if own.unit == "patient":
        _check_patients(study)
    if own.mode == "blind-dp":
        _check_masked(study)
    _check(
        own.population >= 2,
        f"privacy.population is {own.population}",
        f"say how many {own.unit}s take part at least: the sum of updates is divided by that number, not by those who came",
    )
    _check(
        0 < own.delta < 1 / own.population,
        f"privacy.delta is {own.delta:g}",
        f"choose one well below 1/{own.population}: at {1 / own.population:g} giving one whole unit away would be allowed",
    )
    if own.sampling == "all":
        return
    _check(
        0 < own.sample < 1, f"privacy.sample is {own.sample:g}", 'choose a share above 0 and below 1, or privacy.sampling = "all"'
    )
    expected = own.sample * own.population
    _check(
        own.sampling != "poisson" or expected >= EXPECTED_MIN,
        f'privacy.sampling is "poisson" and {expected:g} edges take part in a round on average',
        f"raise privacy.sample until it is {EXPECTED_MIN}, as a round without anybody cannot be had; or choose another sampling",
    )
    _check(
        own.sampling != "fixed" or round(expected) >= study.rounds.edges_min,
        f'privacy.sampling is "fixed" and {round(expected)} edges are drawn, fewer than rounds.edges_min',
        "raise privacy.sample, or lower the quorum",
    )


def _check_patients(study: Study) -> None:
    """What one patient must not decide for the others of its edge."""
    own, patient = study.privacy, 'privacy.unit is "patient"'
    _check(
        own.sampling == "all",
        f"{patient} and privacy.sampling is `{own.sampling}`: a hub draws edges, with all their patients",
        'choose privacy.sampling = "all"',
    )
    _check(
        own.clip_quantile == 0,
        f"{patient} and privacy.clip_quantile is {own.clip_quantile:g}: who was short is known at the edges alone",
        "choose privacy.clip_quantile = 0 and a privacy.clip_norm",
    )
    _check(
        study.rounds.examples_min == 1,
        f"{patient} and rounds.examples_min is {study.rounds.examples_min}: one patient could decide whether others count",
        "choose rounds.examples_min = 1",
    )


def _check_banded(study: Study) -> None:
    """What noise that rounds share asks for."""
    own, banded = study.privacy, 'privacy.mechanism is "banded"'
    _check(own.mode == "clear-dp", f"{banded} and privacy.mode is `{own.mode}`: edges share no noise", 'choose mode = "clear-dp"')
    _check(
        own.unit == "edge",
        f"{banded} and privacy.unit is `{own.unit}`: the hub keeps edges apart in time, and knows no patients",
        'choose unit = "edge", or mechanism = "gaussian"',
    )
    _check(
        own.sampling == "all",
        f"{banded} and privacy.sampling is `{own.sampling}`: whose turn it is hangs on no chance",
        'choose privacy.sampling = "all"',
    )
    _check(
        own.clip_quantile == 0,
        f"{banded} and privacy.clip_quantile is {own.clip_quantile:g}: rounds that share noise have one clip",
        "choose privacy.clip_quantile = 0 and a privacy.clip_norm",
    )
    _check(2 <= own.band <= BAND_MAX, f"{banded} and privacy.band is {own.band}", f"choose 2 to {BAND_MAX} rounds")
    _check(
        own.population >= BANDED_MIN * own.band,
        f"{banded}, privacy.band is {own.band} and privacy.population {own.population}: some rounds would be nobody's turn",
        f"choose a privacy.band of at most a {BANDED_MIN}th of the edges",
    )


def _check_masked(study: Study) -> None:
    """What masks have no place for."""
    own, blind = study.privacy, "privacy.mode is `blind-dp`"
    _check(own.unit == "edge", f"{blind} and privacy.unit is `{own.unit}`: masks have no place for that yet", 'choose "edge"')
    _check(
        own.sampling == "all",
        f"{blind} and privacy.sampling is `{own.sampling}`: whom the hub draws, it knows, and chance hides nobody from it",
        'choose privacy.sampling = "all"',
    )
    _check(
        own.clip_quantile == 0,
        f"{blind} and privacy.clip_quantile is {own.clip_quantile:g}: who was short is known at the edges alone",
        "choose privacy.clip_quantile = 0 and a privacy.clip_norm",
    )
    _check(own.population >= EDGES_MIN, f"{blind} and privacy.population is {own.population}", f"masks need {EDGES_MIN} edges")
    try:
        levels(own.population, own.noise)
    except ValueError as exc:
        raise StudyError(f"{blind}, and {exc}", remedy="less privacy.noise, or fewer edges") from exc


def _check_company(study: Study) -> None:
    """What else the study asks for."""
    dp, rounds = f"privacy.mode is `{study.privacy.mode}`", study.rounds
    _check(study.kind == "model", f"{dp} and kind is `{study.kind}`: its sums have no noise", 'use kind = "model"')
    name = study.strategy.name
    _check(
        name in DP_STRATEGIES,
        f"{dp} and strategy.name is `{name}`: {WHY_NOT.get(name, 'what one edge can move it by is not known')}",
        f"choose one of: {', '.join(DP_STRATEGIES)}",
    )
    _check(
        rounds.mode == "synchronous",
        f"{dp} and rounds.mode is `{rounds.mode}`: an edge could count several times in one model",
        'choose rounds.mode = "synchronous"',
    )
    _check(
        rounds.over_selection == 1.0 and rounds.edges_max == 0,
        f"{dp}, and rounds.edges_max or rounds.over_selection chooses among edges by their past",
        "leave both out; privacy.sampling and privacy.sample say who takes part",
    )
    _check(
        study.learner.class_weighting == "none",
        f"{dp} and learner.class_weighting is `{study.learner.class_weighting}`: its weights would be counts without noise",
        'choose learner.class_weighting = "none"',
    )
    _check(
        study.compression.update == "none",
        f"{dp} and compression.update is `{study.compression.update}`: what it leaves out of one round comes in a later one",
        'choose compression.update = "none" (zstd may stay)',
    )
    _check(
        not study.watch.row_counts,
        f"{dp} and watch.row_counts is on: histograms of an edge's rows would be shown without noise",
        "set watch.row_counts = false",
    )
    _check(
        study.respond.quarantine.mode != "act",
        f"{dp} and respond.quarantine acts by itself: who counts would hang on what edges sent, without noise",
        'choose "dry-run" or "off", and decide by hand',
    )


def _check(holds: bool, what: str, remedy: str) -> None:
    if not holds:
        raise StudyError(what, remedy=remedy)


def _one_of(key: str, value: str, known: tuple[str, ...]) -> None:
    _check(value in known, f"{key} is `{value}`, which this hub does not have", f"choose one of: {', '.join(known)}")


def _between(key: str, value: float, low: float, high: float) -> None:
    _check(math.isfinite(value) and low <= value <= high, f"{key} is {value:g}", f"choose a value from {low:g} to {high:g}")
