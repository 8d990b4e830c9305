"""What hides an edge from the hub: `[privacy]` of study.toml, and which studies each mode can be had for.

`clear`: the hub sees every update. `blind`: it sees their sum (decision 7). `clear-dp`: it sees every update, and the model that
it makes of them says little about any one unit (central.py). `blind-dp`: it sees a sum that is noisy already (distributed.py).
What a mode cannot have is refused by name here, rather than left out in silence.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import msgspec

from wardround.errors import LearnError, StudyError
from wardround.learn.privacy.dp_checks import check_dp
from wardround.learn.privacy.graph import CIRCLE_MAX, EDGES_MIN
from wardround.learn.privacy.groups import GROUP_EDGES_MIN, GROUPS_MIN
from wardround.learn.privacy.wire import Session
from wardround.malformed import MALFORMED
from wardround.settings import Settings

if TYPE_CHECKING:
    from wardround.learn.study import Study

MODES = ("clear", "clear-dp", "blind", "blind-dp", "blind-groups")
# Their fold looks at the updates' mean by examples alone, and nothing that an edge keeps hangs on whether its own update counted.
BLIND_STRATEGIES = ("fedavg", "fedprox", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "fedbn", "ditto", "fine-tuning")
# These fold the sums of groups, as they fold updates where the hub sees them.
GROUP_STRATEGIES = ("coordinate-median", "trimmed-mean", "geometric-median", "centered-clipping")
WEIGHT_MAX, CLIP_MAX = 35_000, 1e6


class PrivacySettings(Settings, frozen=True):
    """What hides an update from the hub, or its subjects from the model."""

    mode: str = "clear"  # blind: the hub learns the sum of a round's updates; -dp: noise hides each unit in the model
    clip: float = 8.0  # blind: of a value of an update; an update with a larger one is scaled down as a whole
    weight_max: int = 10_000  # blind: examples that an edge counts for at most
    group_edges: int = 10  # blind-groups: edges of a group at least, whose sum the hub learns
    unit: str = "edge"  # clear-dp, blind-dp, as all that follows: what the noise hides
    clip_norm: float = 1.0  # L2 length that a unit's update is clipped to; of the first round, where it adapts
    clip_quantile: float = 0.0  # share of units that the clip should leave as they are; 0: the clip stays
    noise: float = 1.0  # noise multiplier: standard deviation of the noise in the sum, over the clip
    mechanism: str = "gaussian"  # noise of each round's own; banded: noise that rounds share (banded.py)
    sampler: str = "exact"  # who draws the hub's noise: samplers.py; opendp: OpenDP's
    band: int = 8  # banded: an edge takes part in one of so many rounds
    population: int = 0  # units that take part at least
    sampling: str = "all"  # or poisson, fixed: a share of them, by chance
    sample: float = 1.0  # poisson, fixed: that share
    target_epsilon: float = 8.0  # the study ends rather than spend more
    delta: float = 1e-5
    scale_mean: tuple[float, ...] = ()  # of each feature, from public data; empty: from simulated patients
    scale_std: tuple[float, ...] = ()

    @property
    def has_budget(self) -> bool:
        """Whether noise hides each unit, and a ledger says what that has cost."""
        return self.mode.endswith("-dp")

    @property
    def by_patient(self) -> bool:
        """Whether each patient of an edge is clipped, at the edge."""
        return self.mode == "clear-dp" and self.unit == "patient"

    @property
    def patient_noise(self) -> float:
        """Noise of a round over what one patient can move its sum by: another update of their edge is two clips away."""
        return 0.0 if not self.has_budget else self.noise if self.by_patient else self.noise / 2

    @property
    def is_banded(self) -> bool:
        """Whether rounds share noise."""
        return self.mechanism == "banded"


class MaskSettings(msgspec.Struct, frozen=True):
    """What an edge must know to mask an update; it travels in Order.masks. `nonce` is the session's own."""

    clip: float
    weight_max: int
    edges_min: int
    nonce: bytes
    group_edges: int = 0
    clip_norm: float = 0.0  # above 0: updates are clipped to this length and get noise before the masks (distributed.py)
    noise: float = 0.0
    expected: float = 0.0  # units that the sum is divided by
    false_alarms: float = (
        0.0  # above 0: the edge screens its own update and reports (own_report.py), by this budget in 1,000 rounds
    )


def screens_itself(study: Study) -> bool:
    """Whether the study's edges screen their own updates and say so. What a screen says hangs on the edge's data, without noise:
    where a budget is kept, of the study or of an edge, nothing of it may leave, and nobody may sit out because of it."""
    hidden = study.privacy.mode in ("blind", "blind-groups") and not study.learner.dp_sgd.on
    return hidden and study.watch.own_screens


def mask_settings(study: Study, nonce: bytes, edges: int = 1) -> bytes:
    """As Order.masks holds them, for a round of so many edges."""
    own = study.privacy
    if own.has_budget:  # a clip of 0, with which an edge that knows of no noise can mask nothing
        dp = (own.clip_norm, own.noise, float(own.population))
        return msgspec.msgpack.encode(MaskSettings(0.0, 1, study.rounds.edges_min, nonce, 0, *dp))
    group_edges = own.group_edges if own.mode == "blind-groups" else 0
    budget = study.watch.false_alarms_per_1000 / max(1, edges) if screens_itself(study) else 0.0
    masks = MaskSettings(own.clip, own.weight_max, study.rounds.edges_min, nonce, group_edges, false_alarms=budget)
    return msgspec.msgpack.encode(masks)


def decode_mask_settings(data: bytes) -> MaskSettings:
    """The inverse of mask_settings.

    Raises:
        LearnError: they cannot be read.
    """
    try:
        return msgspec.msgpack.decode(data, type=MaskSettings)
    except MALFORMED as exc:
        raise LearnError(f"the order's masks cannot be read: {exc}", remedy="bring edge and hub to the same version") from exc


def session_of(study: str, round_number: int, attempt: int, task: str, base: str, settings: bytes, masks: bytes) -> Session:
    """The session of an order: hub and edge make it each for themselves."""
    digest = hashlib.sha256(len(settings).to_bytes(8) + settings + masks).hexdigest()
    own = decode_mask_settings(masks)
    groups = own.group_edges if task == "train" else 0  # sums of round 0 are added in any case: one circle hides them better
    return Session(study, round_number, attempt, task, base, digest, own.edges_min, groups)


def check_privacy(study: Study) -> None:
    """Whether the study's mode can be had with the rest of it.

    Raises:
        StudyError: the first thing that cannot, and what to do.
    """
    own = study.privacy
    _check(own.mode in MODES, f"privacy.mode is `{own.mode}`, which this hub does not have", f"choose one of: {', '.join(MODES)}")
    _check(0 < own.clip <= CLIP_MAX, f"privacy.clip is {own.clip:g}", f"choose a value above 0, up to {CLIP_MAX:g}")
    _check(1 <= own.weight_max <= WEIGHT_MAX, f"privacy.weight_max is {own.weight_max}", f"choose a value from 1 to {WEIGHT_MAX}")
    if own.has_budget:
        check_dp(study)
    if not own.mode.startswith("blind"):
        return
    blind, grouped = f"privacy.mode is `{own.mode}`", own.mode == "blind-groups"
    _check(
        study.kind == "model", f"{blind} and kind is `{study.kind}`: who answers for a signal would be seen", 'use kind = "model"'
    )
    if grouped:
        _check_groups(study)
    _check(
        grouped or study.strategy.name in BLIND_STRATEGIES,
        f"{blind} and strategy.name is `{study.strategy.name}`: it looks at single updates, and the hub sees their sum alone",
        f"choose one of: {', '.join(BLIND_STRATEGIES)}",
    )
    _check(
        study.rounds.mode == "synchronous",
        f"{blind} and rounds.mode is `{study.rounds.mode}`: masks cancel among those who start together",
        'choose rounds.mode = "synchronous"',
    )
    _check(
        study.rounds.over_selection == 1.0,
        f"{blind} and rounds.over_selection is {study.rounds.over_selection:g}: who is asked and left out costs the hub most",
        "choose rounds.over_selection = 1.0",
    )
    _check(
        study.rounds.edges_min >= EDGES_MIN,
        f"{blind} and rounds.edges_min is {study.rounds.edges_min}: of two edges, each could subtract itself and see the other",
        f"choose rounds.edges_min = {EDGES_MIN} or more",
    )
    _check(
        max(study.rounds.edges_min, study.rounds.edges_max) <= CIRCLE_MAX,
        f"{blind}, rounds.edges_min is {study.rounds.edges_min} and rounds.edges_max {study.rounds.edges_max}: every edge of a"
        f" round is sent the keys of all, and no message holds those of more than {CIRCLE_MAX:,}",
        f"choose {CIRCLE_MAX} or fewer for both",
    )
    _check(
        study.compression.update == "none" and not study.compression.zstd,
        f"{blind} and compression is asked for: masked updates look like noise, and do not shrink",
        'choose compression.update = "none" and compression.zstd = false',
    )


def _check_groups(study: Study) -> None:
    group, name = study.privacy.group_edges, study.strategy.name
    mode = "privacy.mode is `blind-groups`"
    _check(
        name in GROUP_STRATEGIES,
        f"{mode} and strategy.name is `{name}`: "
        + ("it gains nothing from groups" if name in BLIND_STRATEGIES else "it looks at single updates, not at sums of groups"),
        f"choose one of: {', '.join(GROUP_STRATEGIES)}" + ('; or mode = "blind"' if name in BLIND_STRATEGIES else ""),
    )
    _check(
        group >= GROUP_EDGES_MIN,
        f"{mode} and privacy.group_edges is {group}: so small a group hides nobody well",
        f"choose {GROUP_EDGES_MIN} or more",
    )
    _check(
        study.rounds.edges_min >= GROUPS_MIN * group,
        f"{mode} and rounds.edges_min is {study.rounds.edges_min}: a rule compares {GROUPS_MIN} groups of {group} at least",
        f"choose rounds.edges_min = {GROUPS_MIN * group} or more",
    )


def edges_max(study: Study) -> int | None:
    """How many edges can be in a round at most; None: as many as there are."""
    return CIRCLE_MAX if study.privacy.mode.startswith("blind") else None


def _check(holds: bool, what: str, remedy: str) -> None:
    if not holds:
        raise StudyError(what, remedy=remedy)
