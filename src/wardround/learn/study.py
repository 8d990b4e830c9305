"""A study: one model trained for one purpose, as written in study.toml and checked before anything starts.

`parse_study` finds what is not written right (types, unknown keys), `study_checks.check` what cannot be run. Each key has its
line in docs/settings.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from wardround.errors import LearnError, SettingsError
from wardround.learn.privacy.modes import PrivacySettings
from wardround.malformed import MALFORMED
from wardround.settings import RespondSettings, ScheduleSettings, Settings, parse_settings

STUDY_BYTES_MAX = 1_000_000


class TaskShape(Protocol):
    """What a study needs to know of a task; the root hands in process.transforms.TASKS."""

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def feature_names(self) -> tuple[str, ...]: ...

    @property
    def metric(self) -> str: ...


class DpSgdSettings(Settings, frozen=True):
    """Noise in every step of an edge's training (learners/dp_sgd.py): it hides each example from whoever reads the updates."""

    noise: float = 0.0  # noise multiplier: standard deviation of a step's noise over the clip; 0: there is none
    clip: float = 1.0  # L2 length that each example's gradient is clipped to
    epsilon_max: float = 8.0  # an edge trains no more rather than spend more on an example of its own
    delta: float = 1e-5

    @property
    def on(self) -> bool:
        """Whether training has noise."""
        return self.noise > 0


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
    dp_sgd: DpSgdSettings = DpSgdSettings()


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
    examples_ratio_max: float = 10.0  # of what an edge weighs to the median of its round
    norm_ratio_max: float = 10.0  # of an update's norm to the median of the edge's own past
    screen_threshold: float = 6.0  # of a score that is about 1 for an edge in health; more lets more pass
    screen_rounds_min: int = 4  # an edge's own history before the screen speaks
    twin_cosine_max: float = 0.92  # of an update to a peer's or to the last global step; more where the edges of a round agree
    quarantine_rounds: int = 30
    trial_rounds: int = 0  # updates of an edge that joins later which weigh nothing, while it is scored; 0: it counts at once
    aside_rounds: int = 50  # an update that was set aside can be replayed for so many rounds
    aside_bytes_max: int = 1_000_000_000  # of such updates on the hub's disk; the oldest go first


class WatchSettings(Settings, frozen=True):
    """How the training is watched (watch/model_watch.py)."""

    row_counts: bool = True  # edges send histograms of their newest rows with an update: counts, no values
    own_screens: bool = (
        True  # blind, blind-groups: edges screen their own updates, sit out what they find, and say so (own_watch.py)
    )
    false_alarms_per_1000: float = 2.0  # rounds: the budget that thresholds are calibrated to
    advisory: tuple[Literal["ecod", "half-space-trees"], ...] = ()  # joint detectors: they advise, and nothing is done by it


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
    watch: WatchSettings = WatchSettings()
    privacy: PrivacySettings = PrivacySettings()
    compression: CompressionSettings = CompressionSettings()
    release: ReleaseSettings = ReleaseSettings()
    respond: RespondSettings = RespondSettings()

    @property
    def begins_public(self) -> bool:
        """Whether the first model is made of nobody's data: sums over patients would be a release without noise."""
        return self.kind == "model" and (self.privacy.has_budget or self.learner.dp_sgd.on)


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
    row_counts: bool = False
    patient_noise: float = 0.0  # of a round's sum, over what one patient can move it by (patient_budget.py); 0: there is none
    patient_clip: float = 0.0  # above 0: the update is a sum over patients, each clipped to this length (by_patient.py)


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
        row_counts=study.watch.row_counts,
        patient_noise=study.privacy.patient_noise,
        patient_clip=study.privacy.clip_norm if study.privacy.by_patient else 0.0,
    )


def encode_training(settings: TrainingSettings) -> bytes:
    """MessagePack, as Order.settings holds it.

    DP-SGD is left out where it is off: an edge of an older version reads the order. Where it is on that edge finds a key that it
    does not know, and declines by name: it never trains without the noise.
    """
    if settings.learner.dp_sgd.on:
        return msgspec.msgpack.encode(settings)
    plain = msgspec.to_builtins(settings)
    del plain["learner"]["dp_sgd"]
    return msgspec.msgpack.encode(plain)


def decode_training(data: bytes) -> TrainingSettings:
    """The inverse of encode_training.

    Raises:
        LearnError: the bytes are not settings for training.
    """
    try:
        return msgspec.msgpack.decode(data, type=TrainingSettings)
    except MALFORMED as exc:  # a newer hub may know keys that this edge does not
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
