"""Whether a study can be run: an unknown task, a quorum above the edges there are, a deadline that has passed before it begins, a
mode this hub cannot honour. Each is one StudyError that names the key and what to write instead.
"""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Collection, Mapping

from wardround.errors import StudyError
from wardround.learn.privacy.dp_sgd_checks import check_dp_sgd
from wardround.learn.privacy.modes import check_privacy, edges_max
from wardround.learn.responses import check_respond
from wardround.learn.schedule import check_schedule
from wardround.learn.scores import METRICS
from wardround.learn.study import (
    LearnerSettings,
    RelaySettings,
    ReleaseSettings,
    RoundSettings,
    ScoreSettings,
    StatisticsSettings,
    StrategySettings,
    Study,
    TaskShape,
    TriageSettings,
    WatchSettings,
)
from wardround.settings import NAME_PATTERN

LEARNER_KINDS = ("mlp", "cnn", "tcn", "gru", "torch", "sklearn", "xgboost")
TIME_KINDS = ("cnn", "tcn", "gru")  # networks along time
PULLING_STRATEGIES = ("fedprox", "scaffold", "feddyn", "ditto")  # they add to each step at the edge
TRIAL_MIN = 3  # updates: two of them are held against those before
TREES_MAX = 100_000  # of a study's last model
PLAIN_SGD_STRATEGIES = ("scaffold", "feddyn")  # their formulas assume steps without momentum
STRATEGY_NAMES = (
    "fedavg",
    "fedprox",
    "fedavgm",
    "fedadagrad",
    "fedadam",
    "fedyogi",
    "fednova",
    "scaffold",
    "feddyn",
    "fedbn",
    "ditto",
    "fine-tuning",
    "qfedavg",
    "coordinate-median",
    "trimmed-mean",
    "krum",
    "multi-krum",
    "geometric-median",
    "centered-clipping",
    "fltrust",
    "bagging",
)
CLASS_WEIGHTINGS = ("none", "balanced")
KINDS = ("model", "statistics")
MODES = ("synchronous", "buffered")
COMPRESSIONS = ("none", "float16", "int8", "top-k")
SPARSE_IS_FATAL = ("coordinate-median", "trimmed-mean")  # of most coordinates most edges would send nothing
PROMOTIONS = ("auto", "manual")
PARAMETERS_MAX = 50_000_000  # hidden layers beyond this do not train on an edge


def check(
    study: Study,
    tasks: Mapping[str, TaskShape],
    *,
    edges: Collection[str] | None = None,
    signals: Collection[str] = (),
    modes: Collection[str] = MODES,
) -> None:
    """Whether this hub can run this study as it is written.

    Args:
        tasks: what this version can make examples for, by name.
        edges: the names of the edges that have joined, when they are known.
        signals: names and codes of the code table, for a study of kind `statistics`.
        modes: what this hub can honour.

    Raises:
        StudyError: the first thing that does not hold, with what to do.
    """
    _check(
        re.fullmatch(NAME_PATTERN, study.name) is not None, f"name `{study.name}`", "use a-z, 0-9 and -, at most 40 characters"
    )
    _one_of("kind", study.kind, KINDS)
    if study.kind == "statistics":
        _check_statistics(study.statistics, signals)
    else:
        _one_of("task", study.task, tasks)
        _check_learner(study.learner, tasks[study.task])
    _check_rounds(study.rounds)
    check_schedule(study.schedule)
    _check_strategy(study.strategy, study.learner, study.rounds)
    _one_of("rounds.mode", study.rounds.mode, modes)
    check_privacy(study)
    check_dp_sgd(study)
    _check_compression(study)
    _check_relay(study.relay)
    _check_score(study.score)
    _check_triage(study.triage)
    _check_trial(study)
    _check_watch(study.watch)
    _check_release(study.release)
    check_respond(study.respond)
    if edges is not None:
        _check_edges(study, edges)


def _check_learner(learner: LearnerSettings, task: TaskShape) -> None:
    _one_of("learner.kind", learner.kind, LEARNER_KINDS)
    _one_of("learner.class_weighting", learner.class_weighting, CLASS_WEIGHTINGS)
    if learner.kind in TIME_KINDS:
        _check(bool(learner.hidden), f"a {learner.kind} without learner.hidden", "name the units of one layer at least")
        fits = learner.channels >= 1 and len(task.feature_names) % learner.channels == 0
        _check(fits, f"learner.channels {learner.channels} of {len(task.feature_names)} features", "give every channel as many")
        _between("learner.kernel", learner.kernel, 1, 1_000)
    sizes = (len(task.feature_names), *learner.hidden, len(task.classes))
    _check(all(n >= 1 for n in learner.hidden), "learner.hidden", "every hidden layer needs at least one unit")
    parameters = sum((a + 1) * b for a, b in itertools.pairwise(sizes))
    _check(parameters <= PARAMETERS_MAX, f"learner.hidden makes {parameters} parameters", f"stay below {PARAMETERS_MAX}")
    _between("learner.epochs", learner.epochs, 1, 1_000)
    _between("learner.batch", learner.batch, 1, 65_536)
    _between("learner.learning_rate", learner.learning_rate, 1e-9, 100.0)
    _between("learner.momentum", learner.momentum, 0.0, 0.999)
    _between("learner.l2", learner.l2, 0.0, 1.0)
    _between("learner.clip", learner.clip, 0.1, 1e6)
    _between("learner.seed", learner.seed, 0, 2**32 - 1)
    named = (learner.kind == "torch") == bool(learner.module)
    _check(named, f"learner.module `{learner.module}` of a {learner.kind}", 'kind "torch" needs one, and no other kind has one')
    _between("learner.trees", learner.trees, 1, 1_000)
    _between("learner.depth", learner.depth, 1, 16)


def _check_statistics(statistics: StatisticsSettings, signals: Collection[str]) -> None:
    _check(bool(statistics.signals), "statistics.signals is empty: nothing", 'name signals, such as ["heart-rate", "spo2"]')
    for name in statistics.signals:
        near = difflib.get_close_matches(name, signals, n=1, cutoff=0.4)
        remedy = f"did you mean `{near[0]}`?" if near else "use a key or a code of the code table"
        _check(name in signals, f"statistics.signals: `{name}`", remedy)
    _between("statistics.bins", statistics.bins, 2, 1_000)
    _between("statistics.last_days", statistics.last_days, 0.0, 36_500.0)
    _between("statistics.subjects_min", statistics.subjects_min, 2, 1_000_000)


def _check_rounds(rounds: RoundSettings) -> None:
    _between("rounds.count", rounds.count, 1, 1_000_000)
    _between("rounds.edges_min", rounds.edges_min, 1, 1_000_000)
    _between("rounds.deadline_s", rounds.deadline_s, 0.1, 30 * 86_400.0)
    _between("rounds.interval_s", rounds.interval_s, 0.0, 365 * 86_400.0)
    _between("rounds.over_selection", rounds.over_selection, 1.0, 10.0)
    _between("rounds.edges_max", rounds.edges_max, 0, 1_000_000)
    _between("rounds.examples_min", rounds.examples_min, 1, 1_000_000_000)
    _between("rounds.buffer", rounds.buffer, 1, 1_000_000)
    _between("rounds.staleness_max", rounds.staleness_max, 0, 10_000)
    if rounds.mode == "buffered" and rounds.buffer < rounds.edges_min:
        raise StudyError(
            f"rounds.buffer is {rounds.buffer}, and rounds.edges_min {rounds.edges_min}: no buffer would ever be a quorum",
            remedy="raise rounds.buffer, or lower the quorum",
        )
    if 0 < rounds.edges_max < rounds.edges_min:
        raise StudyError(
            f"rounds.edges_min is {rounds.edges_min}, and a round asks for {rounds.edges_max} edges at most",
            remedy="raise rounds.edges_max, set it to 0 for all edges, or lower the quorum",
        )


def _check_strategy(strategy: StrategySettings, learner: LearnerSettings, rounds: RoundSettings) -> None:
    _one_of("strategy.name", strategy.name, STRATEGY_NAMES)
    _between("strategy.server_learning_rate", strategy.server_learning_rate, 0.0, 100.0)
    _between("strategy.proximal", strategy.proximal, 0.0, 1e3)
    _between("strategy.beta1", strategy.beta1, 0.0, 0.9999)
    _between("strategy.beta2", strategy.beta2, 0.0, 0.99999)
    _between("strategy.adaptivity", strategy.adaptivity, 1e-9, 1e3)
    _between("strategy.regularisation", strategy.regularisation, 1e-6, 1e3)
    _between("strategy.personal_pull", strategy.personal_pull, 0.0, 1e3)
    _between("strategy.personal_epochs", strategy.personal_epochs, 1, 1_000)
    _between("strategy.fairness", strategy.fairness, 0.0, 100.0)
    _between("strategy.faulty_share", strategy.faulty_share, 0.0, 0.49)
    _between("strategy.radius", strategy.radius, 0.0, 1e9)
    if strategy.name in PLAIN_SGD_STRATEGIES and rounds.mode == "buffered":
        raise StudyError(
            f"strategy.name is `{strategy.name}` and rounds.mode is `buffered`: its corrections assume one base for all",
            remedy='choose rounds.mode = "synchronous", or another strategy',
        )
    if strategy.name in PLAIN_SGD_STRATEGIES and learner.momentum > 0:
        raise StudyError(
            f"strategy.name is `{strategy.name}` and learner.momentum is {learner.momentum:g}: its formula needs plain steps",
            remedy="set learner.momentum = 0.0, and raise learner.learning_rate to match",
        )
    _check_together(strategy, learner, rounds)
    _check(strategy.name != "fedbn" or bool(strategy.private), "fedbn with an empty strategy.private", "name what stays")


def _check_together(strategy: StrategySettings, learner: LearnerSettings, rounds: RoundSettings) -> None:
    """Whether the learner does what the strategy asks of edges."""
    if (learner.kind == "xgboost") != (strategy.name == "bagging"):
        raise StudyError(
            f"learner.kind is `{learner.kind}` and strategy.name is `{strategy.name}`: trees are appended, tensors are averaged",
            remedy='use learner.kind = "xgboost" together with strategy.name = "bagging"',
        )
    if learner.kind == "sklearn" and strategy.name in PULLING_STRATEGIES:
        raise StudyError(
            f"strategy.name is `{strategy.name}`: it pulls at every step, and scikit-learn's steps have no place for that",
            remedy='use learner.kind = "mlp" with learner.hidden = [], which is the same model, or another strategy',
        )
    grown = rounds.count * learner.trees * max(rounds.edges_min, rounds.edges_max)
    _check(
        learner.kind != "xgboost" or grown <= TREES_MAX,
        f"an ensemble of {grown} trees",
        f"stay below {TREES_MAX}: fewer rounds, trees or edges",
    )


def _check_compression(study: Study) -> None:
    own, strategy = study.compression, study.strategy.name
    _one_of("compression.update", own.update, COMPRESSIONS)
    _between("compression.top_k_share", own.top_k_share, 1e-5, 1.0)
    if strategy == "bagging" and (own.zstd or own.update != "none"):
        raise StudyError(
            "compression is asked for and strategy.name is `bagging`: the size of an update of trees follows from no model",
            remedy='choose compression.update = "none" and compression.zstd = false',
        )
    if own.update == "none":
        return
    if strategy in PLAIN_SGD_STRATEGIES:
        raise StudyError(
            f"compression.update is `{own.update}` and strategy.name `{strategy}`: hub and edge would keep different corrections",
            remedy='choose compression.update = "none" (zstd may stay), or another strategy',
        )
    if own.update == "top-k" and strategy in SPARSE_IS_FATAL:
        raise StudyError(
            f"compression.update is `top-k` and strategy.name `{strategy}`: of most coordinates most edges would send nothing",
            remedy='choose "int8" or "float16", or another strategy',
        )


def _check_relay(relay: RelaySettings) -> None:
    seen: set[str] = set()
    for parent, children in relay.children.items():
        for child in children:
            _check(child not in seen, f"relay.children: `{child}` has two relays, which", "name it once")
            seen.add(child)
            above = parent
            for _ in range(len(relay.children) + 1):
                if above == child:
                    raise StudyError(f"relay.children goes in a circle at `{child}`", remedy="let the tree begin at the hub")
                above = relay.parent(above)


def _check_score(score: ScoreSettings) -> None:
    if score.metric:
        _one_of("score.metric", score.metric, METRICS)
    _between("score.held_back", score.held_back, 0.0, 0.9)


def _check_triage(triage: TriageSettings) -> None:
    _between("triage.update_bytes_max", triage.update_bytes_max, 1_000, 2**40)
    _between("triage.examples_max", triage.examples_max, 1, 2**40)
    _between("triage.examples_ratio_max", triage.examples_ratio_max, 1.0, 1e12)
    _between("triage.norm_ratio_max", triage.norm_ratio_max, 1.0, 1e6)
    _between("triage.screen_threshold", triage.screen_threshold, 1.0, 1e6)
    _between("triage.twin_cosine_max", triage.twin_cosine_max, 0.5, 1.0)
    _between("triage.screen_rounds_min", triage.screen_rounds_min, 2, 10_000)
    _between("triage.quarantine_rounds", triage.quarantine_rounds, 1, 1_000_000)
    _between("triage.aside_rounds", triage.aside_rounds, 0, 1_000_000)
    _between("triage.aside_bytes_max", triage.aside_bytes_max, 0, 2**50)


def _check_trial(study: Study) -> None:
    """A trial looks at each update, beside those of the others."""
    rounds, mode = study.triage.trial_rounds, study.privacy.mode
    _between("triage.trial_rounds", rounds, 0, 1_000)
    if rounds == 0:
        return
    _check(rounds >= TRIAL_MIN, f"a trial of {rounds} updates", f"say {TRIAL_MIN} or more: each is held against the one before")
    _check(
        mode == "clear",
        f"a trial (triage.trial_rounds) in privacy.mode `{mode}`, where nobody may look at one edge by itself,",
        'say triage.trial_rounds = 0, or privacy.mode = "clear"',
    )
    _check(
        study.kind == "model", f"a trial (triage.trial_rounds) in a study of kind `{study.kind}`", "say triage.trial_rounds = 0"
    )
    _check(
        study.strategy.name != "bagging",
        "a trial (triage.trial_rounds) of trees, which point nowhere,",
        "say triage.trial_rounds = 0",
    )


def _check_watch(watch: WatchSettings) -> None:
    _between("watch.false_alarms_per_1000", watch.false_alarms_per_1000, 0.001, 1_000.0)


def _check_release(release: ReleaseSettings) -> None:
    _one_of("release.promotion", release.promotion, PROMOTIONS)
    _between("release.canary_share", release.canary_share, 0.0, 1.0)
    _between("release.hold_rounds", release.hold_rounds, 0, 1_000_000)
    _between("release.examples_min", release.examples_min, 1, 1_000_000_000)
    for name in ("score_min", "score_margin", "worst_edge_margin", "ece_margin", "brier_margin"):
        _between(f"release.{name}", getattr(release, name), 0.0, 2.0)
    _between("release.models_kept", release.models_kept, 3, 1_000_000)


def _check_edges(study: Study, edges: Collection[str]) -> None:
    unknown = [name for name in study.score.held_back_edges if name not in edges]
    _check(
        not unknown, f"score.held_back_edges: `{unknown[0] if unknown else ''}` has not joined", "correct it, or invite that edge"
    )
    named = sorted({*study.relay.children, *(c for children in study.relay.children.values() for c in children)} - set(edges))
    _check(not named, f"relay.children: `{named[0] if named else ''}` has not joined", "correct it, or invite that edge")
    training = len(set(edges) - set(study.score.held_back_edges))
    if study.rounds.edges_min > training:
        raise StudyError(
            f"rounds.edges_min is {study.rounds.edges_min}, and {training} edges may train: no round would ever commit",
            remedy="invite more edges, hold back fewer, or lower the quorum",
        )
    most = edges_max(study)
    if most is not None and not study.rounds.edges_max and training > most:
        raise StudyError(
            f"privacy.mode is `{study.privacy.mode}` and {training:,} edges may train: more than {most:,} cannot be in one round",
            remedy=f"choose rounds.edges_max = {most} or fewer: each round then asks other edges",
        )


def _check(holds: bool, what: str, remedy: str) -> None:
    if not holds:
        raise StudyError(f"{what} cannot be run", remedy=remedy)


def _one_of(key: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise StudyError(f"{key} is `{value}`, which this hub does not have", remedy=f"choose one of: {', '.join(sorted(known))}")


def _between(key: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise StudyError(f"{key} is {value:g}", remedy=f"choose a value from {low:g} to {high:g}")
