"""A study: one model trained for one purpose, as written in study.toml and checked before anything starts.

`parse_study` finds what is not written right (types, unknown keys); `check` finds what cannot be run: an unknown task, a
quorum above the edges there are, a deadline that has passed before it begins, a mode this hub cannot honour.
Each key has its line in docs/settings.md; EXAMPLE is what `wardround study new` writes.
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import msgspec

from wardround.errors import LearnError, SettingsError, StudyError
from wardround.learn.schedule import check_schedule
from wardround.learn.scores import METRICS
from wardround.settings import NAME_PATTERN, ScheduleSettings, Settings, parse_settings

LEARNER_KINDS = ("mlp", "cnn", "tcn", "gru", "torch", "sklearn", "xgboost")
TIME_KINDS = ("cnn", "tcn", "gru")  # networks along time
PULLING_STRATEGIES = ("fedprox", "scaffold", "feddyn", "ditto")  # they add to each step at the edge
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
PRIVACY_MODES = ("none",)
PARAMETERS_MAX = 50_000_000  # hidden layers beyond this do not train on an edge
STUDY_BYTES_MAX = 1_000_000


class TaskShape(Protocol):
    """What a study needs to know of a task; the root hands in process.transforms.TASKS."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def feature_names(self) -> tuple[str, ...]: ...

    @property
    def metric(self) -> str: ...


class LearnerSettings(Settings, frozen=True):
    """What trains, and how an edge trains it."""

    kind: str = "mlp"
    hidden: tuple[int, ...] = (32,)  # units, or channels of a convolution, of each hidden layer; none: logistic regression
    channels: int = 1  # cnn, tcn, gru: runs of equal length that a row of features is made of
    kernel: int = 5  # cnn, tcn: steps that a convolution looks at
    epochs: int = 1  # passes over the edge's examples in a round
    batch: int = 32
    learning_rate: float = 0.02
    momentum: float = 0.9
    l2: float = 1e-3  # on the weights, not on the biases
    seed: int = 0
    class_weighting: str = "none"  # balanced: by the class counts of all edges together
    clip: float = 6.0  # scaled features are held within +- this many standard deviations
    module: str = ""  # torch: "package.module:function" that makes the network
    trees: int = 1  # xgboost: steps of boosting in a round, each one tree (a tree for each class, if there are three or more)
    depth: int = 4  # xgboost: splits from a tree's root to its leaves


# What to start from, by task: chosen by leaving out training subjects, never by looking at those held back.
PRESETS: Mapping[str, LearnerSettings] = MappingProxyType(
    {
        "activity": LearnerSettings(hidden=(), epochs=3, batch=16),
        "ventricular-beats": LearnerSettings(class_weighting="balanced"),
    }
)


class RoundSettings(Settings, frozen=True):
    """How the hub runs the rounds."""

    count: int = 20
    edges_min: int = 3  # quorum: of two, each could subtract itself and see the other
    deadline_s: float = 60.0  # then the round commits with those who answered, if they are a quorum
    over_selection: float = 1.0  # ask this many times the edges wanted, so that stragglers cost nothing
    edges_max: int = 0  # edges wanted in a round; 0: all that are there
    examples_min: int = 10  # an edge with fewer labelled examples is not asked
    interval_s: float = 0.0  # from the end of a round to the start of the next
    mode: str = "synchronous"  # buffered: a model for every `buffer` updates, and nobody waits for the slow
    buffer: int = 10  # buffered: updates that make a model
    staleness_max: int = 10  # buffered: models made since the one an update is based on; older ones are not taken


class StrategySettings(Settings, frozen=True):
    """How updates become the next model; each key but `name` is read by the strategies named beside it."""

    name: str = "fedavg"
    server_learning_rate: float = 0.0  # of the hub's step; 0: the strategy's own (1, or 0.1 for the adaptive ones)
    proximal: float = 0.01  # fedprox: mu
    beta1: float = 0.9  # fedavgm, fedadam, fedyogi, fedadagrad: momentum
    beta2: float = 0.99  # fedadam, fedyogi
    adaptivity: float = 1e-3  # fedadagrad, fedadam, fedyogi: tau
    regularisation: float = 0.1  # feddyn: alpha
    private: tuple[str, ...] = ("*norm*", "*bn*", "*.running_*")  # fedbn: names of the tensors that stay at their edge
    personal_pull: float = 0.1  # ditto: lambda
    personal_epochs: int = 1  # ditto, fine-tuning
    fairness: float = 1.0  # qfedavg: q
    faulty_share: float = 0.2  # trimmed-mean, krum, multi-krum: of a round's edges
    radius: float = 0.0  # centered-clipping; 0: the median distance of the round


class RelaySettings(Settings, frozen=True):
    """Which edges pass the model on, and to whom: a tree, or several."""

    children: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)

    def parent(self, edge: str) -> str:
        """The edge that this one fetches from first; empty: the hub."""
        return next((parent for parent, children in self.children.items() if edge in children), "")


class ScoreSettings(Settings, frozen=True):
    """What scores a model: subjects whose data never train one."""

    metric: str = ""  # empty: the task's own
    held_back: float = 0.2  # share of subjects, chosen by a hash of the pseudonym
    held_back_subjects: tuple[str, ...] = ()  # these as well, by pseudonym
    held_back_edges: tuple[str, ...] = ()  # every subject of these edges


class TriageSettings(Settings, frozen=True):
    """What an update must satisfy before it may count."""

    update_bytes_max: int = 256_000_000
    examples_max: int = 10_000_000
    norm_ratio_max: float = 10.0  # of an update's norm to the median of the edge's own past
    screen_threshold: float = 6.0  # of a score that is about 1 for an edge in health; more lets more pass
    screen_rounds_min: int = 4  # an edge's own history before the screen speaks
    twin_cosine_max: float = 0.92  # of an update to a peer's or to the last global step; more where the edges of a round agree
    quarantine_rounds: int = 30
    aside_rounds: int = 50  # an update that was set aside can be replayed for so many rounds
    aside_bytes_max: int = 1_000_000_000  # of such updates on the hub's disk; the oldest go first


class PrivacySettings(Settings, frozen=True):
    """What hides an update from the hub, or its subjects from the model."""

    mode: str = "none"


class ReleaseSettings(Settings, frozen=True):
    """How a model becomes the one that predicts: candidate, canary (on a ring of edges), current."""

    promotion: str = "auto"  # manual: `wardround study promote` alone
    canary_share: float = 0.2  # of the edges, chosen by a hash of their names; 0: no ring
    hold_rounds: int = 3  # rounds that a canary is tried for
    examples_min: int = 20  # held-back examples without which nothing is judged
    score_min: float = 0.0
    score_margin: float = 0.01  # a score may be worse than the current model's by so much
    worst_edge_margin: float = 0.05  # the worst edge's as well
    ece_margin: float = 0.03  # expected calibration error, higher is worse
    brier_margin: float = 0.02
    models_kept: int = 20  # newest models that stay on disk, beside those in use


class CompressionSettings(Settings, frozen=True):
    """How small an update travels (learn/compression.py); what a lossy form leaves out is added to the edge's next update."""

    update: str = "none"
    top_k_share: float = 0.01  # top-k: of each tensor's values, the largest
    zstd: bool = False  # packed once more, without loss


class StatisticsSettings(Settings, frozen=True):
    """What a study of kind `statistics` asks for."""

    signals: tuple[str, ...] = ()  # keys or codes of the code table
    bins: int = 40  # of each signal's plausible range
    last_days: float = 0.0  # 0: everything that an edge keeps
    subjects_min: int = 5  # an edge with fewer does not answer for a signal, and the hub does not publish one


class Study(Settings, frozen=True):
    """study.toml."""

    name: str
    kind: str = "model"  # or statistics: one round, whose sums are the result
    task: str = ""  # what an example is; of a model alone
    statistics: StatisticsSettings = StatisticsSettings()
    learner: LearnerSettings = LearnerSettings()
    rounds: RoundSettings = RoundSettings()
    schedule: ScheduleSettings = ScheduleSettings()
    strategy: StrategySettings = StrategySettings()
    relay: RelaySettings = RelaySettings()
    score: ScoreSettings = ScoreSettings()
    triage: TriageSettings = TriageSettings()
    privacy: PrivacySettings = PrivacySettings()
    compression: CompressionSettings = CompressionSettings()
    release: ReleaseSettings = ReleaseSettings()


class LocalRule(msgspec.Struct, frozen=True, kw_only=True):
    """The edge's half of a strategy; learn/local.py carries it out. What stands at its default asks for nothing."""

    proximal: float = 0.0  # pull towards the model that the round began with
    controls: bool = False  # SCAFFOLD's control variates
    dynamic: float = 0.0  # FedDyn's alpha
    private: tuple[str, ...] = ()  # patterns (fnmatch) of tensors that stay at the edge
    personal: str = ""  # ditto, fine-tuning: a model of the edge's own
    personal_pull: float = 0.0
    personal_epochs: int = 0
    trees: bool = False  # an update holds new trees, of other shapes than the base: learn/trees.py says which may count


class TrainingSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What an edge needs to know of a study; it travels in Order.settings. Unknown fields of a newer hub are ignored."""

    task: str
    learner: LearnerSettings
    score: ScoreSettings
    examples_min: int
    features: str  # digest of the feature names: hub and edge must compute the same features
    classes: int
    rule: LocalRule = LocalRule()
    code: str = ""  # digest of the source that learner.module names: hub and edge must train the same network
    compression: CompressionSettings = CompressionSettings()


def parse_study(text: str, *, where: str) -> Study:
    """A study from TOML text.

    Raises:
        SettingsError: it is not TOML, has an unknown key, or a value does not fit.
    """
    return parse_settings(text, Study, where=where)


def load_study(path: Path) -> Study:
    """A study from its file.

    Raises:
        SettingsError: the file is missing or cannot be read, or as parse_study.
    """
    try:
        with path.open("rb") as file:
            data = file.read(STUDY_BYTES_MAX + 1)
    except FileNotFoundError as exc:
        raise SettingsError(f"{path} does not exist", remedy="`wardround study new` writes an example to start from") from exc
    except OSError as exc:
        raise SettingsError(f"{path} cannot be read: {exc.strerror}", remedy="check the path and its permissions") from exc
    if len(data) > STUDY_BYTES_MAX:
        raise SettingsError(f"{path} is larger than {STUDY_BYTES_MAX} bytes", remedy="is this the right file?")
    try:
        return parse_study(data.decode(), where=str(path))
    except UnicodeDecodeError as exc:
        raise SettingsError(f"{path} is not UTF-8 text", remedy="save the file as UTF-8") from exc


def training_settings(study: Study, task: TaskShape, rule: LocalRule, code: str = "") -> TrainingSettings:
    """The part of a study that goes to the edges; `rule` is the strategy's, `code` the digest of a learner of the user's own."""
    return TrainingSettings(
        task=study.task,
        learner=study.learner,
        score=study.score,
        examples_min=study.rounds.examples_min,
        features=features_digest(task.feature_names),
        classes=len(task.classes),
        rule=rule,
        code=code,
        compression=study.compression,
    )


def encode_training(settings: TrainingSettings) -> bytes:
    """MessagePack, as Order.settings holds it."""
    return msgspec.msgpack.encode(settings)


def decode_training(data: bytes) -> TrainingSettings:
    """The inverse of encode_training.

    Raises:
        LearnError: the bytes are not settings for training.
    """
    try:
        return msgspec.msgpack.decode(data, type=TrainingSettings)
    except msgspec.DecodeError as exc:  # a newer hub may know keys that this edge does not
        raise LearnError(f"the order's settings cannot be read: {exc}", remedy="bring edge and hub to the same version") from exc


def features_digest(feature_names: Sequence[str]) -> str:
    """Short name of a list of features: hub and edge compare it before they train."""
    return hashlib.sha256("\n".join(feature_names).encode()).hexdigest()[:16]


def is_held_back(score: ScoreSettings, subject: str, edge: str) -> bool:
    """Whether a subject of an edge scores models and never trains one: the same answer everywhere, for the whole study."""
    if subject in score.held_back_subjects or edge in score.held_back_edges:
        return True
    place = int.from_bytes(hashlib.sha256(b"held back\0" + subject.encode()).digest()[:8], "big") / 2**64
    return place < score.held_back


def check(
    study: Study,
    tasks: Mapping[str, TaskShape],
    *,
    edges: Collection[str] | None = None,
    signals: Collection[str] = (),
    modes: Collection[str] = MODES,
    privacy_modes: Collection[str] = PRIVACY_MODES,
) -> None:
    """Whether this hub can run this study as it is written.

    Args:
        tasks: what this version can make examples for, by name.
        edges: the names of the edges that have joined, when they are known.
        signals: names and codes of the code table, for a study of kind `statistics`.
        modes, privacy_modes: what this hub can honour.

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
    _one_of("privacy.mode", study.privacy.mode, privacy_modes)
    _check_compression(study)
    _check_relay(study.relay)
    _check_score(study.score)
    _check_triage(study.triage)
    _check_release(study.release)
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
    if study.privacy.mode != "none":
        raise StudyError(
            f"compression.update is `{own.update}` and privacy.mode `{study.privacy.mode}`: what is kept back breaks its bound",
            remedy='choose compression.update = "none"',
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
    _between("triage.norm_ratio_max", triage.norm_ratio_max, 1.0, 1e6)
    _between("triage.screen_threshold", triage.screen_threshold, 1.0, 1e6)
    _between("triage.twin_cosine_max", triage.twin_cosine_max, 0.5, 1.0)
    _between("triage.screen_rounds_min", triage.screen_rounds_min, 2, 10_000)
    _between("triage.quarantine_rounds", triage.quarantine_rounds, 1, 1_000_000)
    _between("triage.aside_rounds", triage.aside_rounds, 0, 1_000_000)
    _between("triage.aside_bytes_max", triage.aside_bytes_max, 0, 2**50)


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


def _check(holds: bool, what: str, remedy: str) -> None:
    if not holds:
        raise StudyError(f"{what} cannot be run", remedy=remedy)


def _one_of(key: str, value: str, known: Collection[str]) -> None:
    if value not in known:
        raise StudyError(f"{key} is `{value}`, which this hub does not have", remedy=f"choose one of: {', '.join(sorted(known))}")


def _between(key: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise StudyError(f"{key} is {value:g}", remedy=f"choose a value from {low:g} to {high:g}")


EXAMPLE = """\
# A study: one model, trained for one purpose by edges that keep their data.
# Check it with `wardround study check STUDY.toml`; docs/settings.md lists every key.
name = "{name}"
task = "{task}"             # what an example is: {tasks}

[learner]
kind = "mlp"
hidden = {hidden}            # units of each hidden layer; [] is logistic regression
epochs = {epochs}                  # passes over an edge's own examples in a round
batch = {batch}                  # examples in one step of gradient descent
learning_rate = {learning_rate}
l2 = {l2}
seed = 0                    # the same seed and data give the same model
class_weighting = "{class_weighting}" # "balanced": rare classes count alike, by the counts of all edges together

[rounds]
count = 20
edges_min = 3               # quorum; of two edges, each could subtract itself and see the other
deadline_s = 60.0           # then the round commits with those who answered
examples_min = 10           # an edge with fewer labelled examples is not asked
interval_s = 0.0            # pause between rounds

[score]
held_back = 0.2             # share of subjects that score every model and never train one

[triage]
norm_ratio_max = 10.0       # an update this many times larger than the edge's own past is set aside
quarantine_rounds = 30
"""


def example_study(name: str, task: str, tasks: Collection[str]) -> str:
    """The text of a study to start from."""
    learner = PRESETS.get(task, LearnerSettings())
    return EXAMPLE.format(
        name=name,
        task=task,
        tasks=", ".join(f'"{t}"' for t in sorted(tasks)),
        hidden=list(learner.hidden),
        epochs=learner.epochs,
        batch=learner.batch,
        learning_rate=learner.learning_rate,
        l2=learner.l2,
        class_weighting=learner.class_weighting,
    )
