"""Reconstruction: what a hub that wants to can read of an edge's examples out of what it sees of one update.

Two attacks. The closed form needs no search: the gradient of a dense layer's weights is input times error, that of its bias is
the error, so their ratio is an input, exactly for a batch of one whatever the steps, and for every unit that one example alone
moves (Boenisch et al. 2023, arXiv:2112.02918). The other is gradient inversion (learners/jax_inversion.py), which begins there.

An example is *read* when a guess is nearer to it than a tenth of its size, on the learner's scale; *by chance* is how often the
same guesses are as near to an example that was not in the training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np

from wardround.attacks.measures import Estimate, Floats, share
from wardround.attacks.target import Target, View, fleet_of, in_mode, smallest_sum, views
from wardround.errors import StudyError
from wardround.learn.learners import Learner, make_learner
from wardround.learn.learners.jax_inversion import invert, small_enough
from wardround.learn.learners.jax_learner import JaxLearner
from wardround.learn.learners.rows import scaled
from wardround.learn.local import train_locally
from wardround.learn.models import Parameters, Tensor
from wardround.learn.strategies import make_strategy
from wardround.learn.study import Study
from wardround.records import Examples, concatenate

READ = 0.1  # distance of a guess to an example over the example's size, below which it is read
ERROR_MIN = 1e-6  # of the largest error of a layer: smaller ones are rounding
ROWS = (1, 4, 16)  # of the victim's examples
ALL_ROWS = 0


@dataclass(frozen=True, slots=True)
class Case:
    """A training that is attacked."""

    rows: int  # of the victim; ALL_ROWS: an edge's own
    whole: bool  # one step over all rows, as in the papers; else as the study trains

    @property
    def words(self) -> str:
        rows = "all its rows" if self.rows == ALL_ROWS else "1 row" if self.rows == 1 else f"{self.rows} rows"
        return f"{rows}, {'1 step' if self.whole else 'as the study trains'}"


CASES = (*(Case(rows, whole) for rows in ROWS for whole in (True, False)), Case(ALL_ROWS, whole=False))


@dataclass
class Inversion:
    """What became of an attack in a mode, on what a hub sees, over all trials of a case."""

    mode: str
    seen: str
    attack: str  # closed-form, search
    case: Case
    hits: int = 0
    by_chance: int = 0
    rows: int = 0
    errors: list[float] = field(default_factory=list)  # relative, of each row's nearest guess

    def result(self) -> Estimate:
        """The share of the examples that was read."""
        return share(self.hits, self.rows, self.by_chance / self.rows if self.rows else 0.0)


@dataclass(frozen=True, slots=True)
class _Trial:
    study: Study
    learner: Learner
    base: Parameters
    victim: Examples
    view: View
    round: int


def invert_updates(
    target: Target, mode: str, *, trials: int, steps: int, seed: int, after: int = 1
) -> Iterator[Inversion | None]:
    """None after each trial, and the results at the end.

    Args:
        trials: of each case, with another edge and other rows each.
        steps: of the search, at most.
        after: rounds of the study before the update that is attacked.

    Raises:
        StudyError: the mode is not to be had, or the learner's updates hold no layer of weights.
        LearnError: as Fleet.run.
    """
    study = in_mode(target, mode)
    base = _model_after(target, study, after)
    rng = np.random.default_rng([seed, trials])
    results: dict[tuple[str, str, Case], Inversion] = {}
    for case in CASES:
        for _ in range(trials):
            for trial, absent in _trained(target, study, base, case, rng, after + 1):
                _attack(trial, absent, mode, case, steps, results, int(rng.integers(2**31)))
            yield None
    yield from results.values()


def cases(trials: int) -> int:
    """How many trials there are in a mode."""
    return trials * len(CASES)


def closed_form(update: Parameters, features: int) -> Floats | None:
    """Inputs of the first dense layer, one a unit that was moved, shape (guesses, features); None without such a layer."""
    layer = _first_layer(update, features)
    if layer is None:
        return None
    weight, bias = (np.asarray(t, np.float64) for t in layer)
    moved = np.abs(bias) > ERROR_MIN * max(float(np.abs(bias).max()), 1e-300)
    found: Floats = (weight[:, moved] / bias[moved]).T
    return found


def nearest(guesses: Floats, rows: Floats) -> Floats:
    """Relative distance of each row to its nearest guess, shape (rows,); infinity without guesses."""
    sizes = np.maximum(np.linalg.norm(rows, axis=1), 1e-12)
    if not len(guesses):
        return np.full(len(rows), np.inf)
    found: Floats = np.array([np.linalg.norm(guesses - row, axis=1).min() for row in rows]) / sizes
    return found


def _first_layer(update: Parameters, features: int) -> tuple[Tensor, Tensor] | None:
    """Weights of shape (features, units) and the bias of the layer that sees the features."""
    for name in sorted(update):
        weight, bias = update[name], update.get(f"{name.removesuffix('weight')}bias")
        if not name.endswith("weight") or weight.ndim != 2 or bias is None:
            continue
        if weight.shape == (features, bias.size):
            return weight, bias.ravel()
        if weight.shape == (bias.size, features):  # PyTorch's way round
            return weight.T, bias.ravel()
    return None


def _model_after(target: Target, study: Study, rounds: int) -> Parameters:
    """The model that the attacked round starts from."""
    short = msgspec.structs.replace(study, rounds=msgspec.structs.replace(study.rounds, count=max(1, rounds)))
    fleet = fleet_of(target, short, target.population.edges)
    if rounds == 0:
        return fleet.first_model()
    for _ in fleet.run():
        pass
    return fleet.model


def _trained(
    target: Target, study: Study, base: Parameters, case: Case, rng: np.random.Generator, number: int
) -> Iterator[tuple[_Trial, Examples]]:
    """A training of random rows of a random edge, as its hub sees it; and as many rows of that edge that were not in it."""
    settings = study.learner if not case.whole else msgspec.structs.replace(study.learner, epochs=1, batch=case.rows)
    adapted = msgspec.structs.replace(study, learner=settings)
    edges = {n: e.where(e.labels >= 0) for n, e in target.population.edges.items()}
    names = [n for n, e in sorted(edges.items()) if len(e) > (case.rows or study.rounds.examples_min)]
    seen = smallest_sum(study)
    if len(names) < seen:
        raise StudyError(f"{len(names)} edges have enough examples for the attack", remedy="give more data, or lower edges_min")
    chosen = [names[i] for i in rng.permutation(len(names))[:seen]]
    features = edges[chosen[0]].features.shape[1]
    learner = make_learner(settings, features, target.classes)
    parts = [_some(edges[n], case.rows, rng) for n in chosen]
    victim, rest = parts[0]
    absent = rest if len(rest) else concatenate((e for n, e in edges.items() if n != chosen[0]), victim.feature_names)
    rule = make_strategy(study.strategy, settings).rule
    updates = [train_locally(learner, settings, rule, base, {}, own, round_number=number) for own, _ in parts]
    made = [(u.update, u.examples) for u in updates]
    for view in views(adapted, base, made[0], made[1:]):
        yield _Trial(adapted, learner, base, victim, view, number), absent


def _some(examples: Examples, rows: int, rng: np.random.Generator) -> tuple[Examples, Examples]:
    """Some rows, and the others."""
    here = np.zeros(len(examples), bool)
    here[rng.permutation(len(examples))[: rows or len(examples)]] = True
    return examples.where(here), examples.where(~here)


def _attack(
    trial: _Trial,
    absent: Examples,
    mode: str,
    case: Case,
    steps: int,
    results: dict[tuple[str, str, Case], Inversion],
    seed: int,
) -> None:
    clip = trial.study.learner.clip
    rows = np.asarray(scaled(trial.victim.features, trial.base, clip), np.float64)
    others = np.asarray(scaled(absent.features, trial.base, clip), np.float64)
    others = others[np.random.default_rng(seed).permutation(len(others))[: len(rows)]]
    for attack, guesses in _guesses(trial, steps, seed):
        one = results.setdefault((trial.view.what, attack, case), Inversion(mode, trial.view.what, attack, case))
        errors = nearest(guesses, rows)
        one.errors += errors.tolist()
        one.hits += int((errors < READ).sum())
        one.by_chance += int((nearest(guesses, others) < READ).sum())
        one.rows += len(rows)


def _guesses(trial: _Trial, steps: int, seed: int) -> Iterator[tuple[str, Floats]]:
    features = trial.victim.features.shape[1]
    found = closed_form(trial.view.update, features)
    if found is not None:
        yield "closed form", found
    own, rows = trial.study.learner, len(trial.victim)
    if steps and isinstance(trial.learner, JaxLearner) and small_enough(rows, own.epochs, own.batch):
        labels = trial.victim.labels.astype(np.int32)
        seen = trial.view.update
        seeds = {"seed": own.seed, "round": trial.round, "guess_seed": seed}
        first = (
            None if found is None or not len(found) else found[labels % len(found)]
        )  # a class has a unit in a model of one layer
        yield "search", invert(trial.learner, trial.base, seen, labels, steps=steps, start=first, **seeds)
