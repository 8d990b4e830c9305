"""What an alert says of a deviation of training: what, how far, what it means, why (ranked), what to do.

The ranking goes by signature, as the simulated faults have it: a loss that rises with quiet inputs is a change of labels or of
concept; one feature that moved at once is a unit or a new sensor, and many are other patients; a step of the hub that grew with
quiet edges is a setting of the hub; an edge that is slow though its training is not has a slow link.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from wardround.watch.alerts import Category, Finding, Priority
from wardround.watch.detectors.seen import Deviation

NAMED_MAX = 12  # edges named in a text
ONE_FEATURE = 3.0  # times the next one's: it is one feature's matter
BLIND = "Estimated without labels, so blind to concept drift: where the same inputs come to mean another thing it stays quiet."
_OF = {
    "edge-loss": "a higher loss",
    "input-drift": "other inputs than before",
    "input-dead": "an input that no longer varies",
    "edge-slow": "slow answers",
    "confidence-low": "a less confident model",
    "edge-own-screen": "something wrong with themselves",
}
_SCREENS = {
    "not-finite": "values of its update are no numbers",
    "own-norm": "its update is far longer than usual",
    "own-direction": "its update has turned away from its usual way",
    "own-gain": "its update makes the model worse on its own rows",
    "loss": "the model fits its own rows worse than it did",
    "inputs": "its inputs have changed",
    "input-variance": "an input no longer varies",
    "confidence": "the model is less sure of its rows",
}


@dataclass(frozen=True, slots=True)
class _Words:
    title: str
    detail: str
    impact: str
    causes: tuple[str, ...]
    action: str
    priority: Priority = "medium"
    category: Category = "model"


def finding(study: str, deviation: Deviation, now_us: int, beside: Collection[str] = ()) -> Finding:
    """The finding of a deviation. `beside`: the kinds of what else is open at the same edge (of the study, for a study's own)."""
    words = WORDS[deviation.kind](study, deviation, beside)
    return Finding(
        kind=deviation.kind,
        title=words.title,
        priority=words.priority,
        category=words.category,
        since_us=now_us,
        detected_us=now_us,
        edge=deviation.edge,
        study=study,
        signal=deviation.of,
        detail=f"Round {deviation.round_number}: {words.detail}; score {deviation.score:.3g}, limit {deviation.threshold:.3g}.",
        evidence=deviation.evidence,
        evidence_unit=deviation.unit,
        threshold=deviation.threshold,
        impact=words.impact,
        causes=words.causes,
        action=words.action,
    )


def _edge_loss(_study: str, d: Deviation, beside: Collection[str]) -> _Words:
    labels = "labels changed there: another convention, another person, a swapped column"
    concept = "the same measurements mean something else there now (concept drift)"
    inputs = "its inputs changed: see the alert about them"
    moved = bool({"input-drift", "input-dead"} & set(beside))
    if d.sign == "first-loss":
        return _Words(
            f"The model fits {d.edge} worse than one that has learned nothing",
            f"the loss of the model on its own examples is {d.value:.3g}, that of the untrained model was {d.usual:.3g}; "
            "at most edges it has fallen",
            f"What the model says at {d.edge} is wrong; what it teaches harms the others.",
            ("its labels mean something else: another convention, a swapped column", "the measurements mean another thing there"),
            f"Compare the labels of {d.edge} with those of other edges; set it aside if they are wrong.",
        )
    return _Words(
        f"The model fits {d.edge} worse than it did",
        f"the loss of the model on its own examples is {d.value:.3g}, usually {d.usual:.3g}"
        + ("" if moved else "; its inputs look as before"),
        f"What the model says at {d.edge} is less reliable; what it teaches may harm the others.",
        (inputs, labels, concept) if moved else (labels, concept, "a poisoned model: see whether other edges show it"),
        f"Compare the labels of {d.edge} before and after round {d.since_round}; set it aside if they are wrong.",
    )


def _diverged(study: str, d: Deviation, beside: Collection[str]) -> _Words:
    step = d.sign == "step"
    hub = "a setting of the hub: learning rate or strategy"
    poison, fewer = "updates that no screen refused", "fewer edges in a round than usual"
    shift = "labels or patients changed at many edges"
    causes = (shift, poison, hub) if not step or "federation-shift" in beside else (hub, poison, fewer)
    told = f"the step from model to model is {d.value:.3g} long" if step else f"the loss over all edges is {d.value:.3g}"
    return _Words(
        f"The model of {study} moves away from where it was",
        f"{told}, usually {d.usual:.3g}",
        "Every edge is given this model. The newest one that passed the gates is kept.",
        causes,
        f"Pause it, look at what changed since round {d.since_round}, and go back: `wardround study rollback {study}`.",
        priority="high",
    )


def _participation(study: str, d: Deviation, _beside: Collection[str]) -> _Words:
    return _Words(
        f"Fewer edges than usual answer in {study}",
        f"{d.value:.0f} edges answered, usually {d.usual:.1f}",
        "The model learns from fewer patients; who is missing is not in it.",
        ("a network or a site is down", "schedules or conditions forbid training", "edges were revoked, or fail to train"),
        "`wardround edge tree` says why each edge is not asked.",
        category="technical",
    )


def _slow(_study: str, d: Deviation, _beside: Collection[str]) -> _Words:
    parts = dict(d.parts)
    trained, usually = parts.get("training"), parts.get("training usually")
    machine = "its machine: load, heat, a throttled processor, or much more data"
    link = "its link: Wi-Fi, a proxy, a metered line"
    own = trained is not None and usually is not None and trained > 1.5 * usually
    told = f"; its training took {trained:.3g} s, usually {usually:.3g} s" if trained is not None and usually is not None else ""
    return _Words(
        f"{d.edge} answers more slowly than it did",
        f"{d.value:.3g} s from order to update, usually {d.usual:.3g} s{told}",
        "Rounds wait for it, up to their deadline.",
        (machine, link) if own or trained is None else (link, machine),
        f"Look at load and link of {d.edge}; ask fewer edges a round (rounds.edges_max) if it stays so.",
        priority="low",
        category="technical",
    )


def _drift(study: str, d: Deviation, _beside: Collection[str]) -> _Words:
    first, second = (*[v for _, v in d.parts], 0.0, 0.0)[:2]
    alone = first > ONE_FEATURE * second
    sensor = f"{d.parts[0][0]} is measured otherwise: a unit, a new sensor, a calibration" if d.parts else "a sensor changed"
    patients, made = "other patients, or other care, than before", "a change in how features are made"
    return _Words(
        f"What the model is fed at {d.edge} has changed",
        f"population stability index {_listed(d)}",
        "The model was made for other inputs; what it says there may be wrong though it looks sure.",
        (sensor, patients, made) if alone else (patients, sensor, made),
        f"Compare {d.parts[0][0] if d.parts else 'the inputs'} at {d.edge} before and after round {d.since_round}; to stay so: "
        f"`wardround study calibrate {study} --again`.",
        priority="low",
    )


def _dead(_study: str, d: Deviation, _beside: Collection[str]) -> _Words:
    feature = d.parts[0][0] if d.parts else "a feature"
    return _Words(
        f"{feature} at {d.edge} no longer varies",
        f"fall of its variance, over the limit: {_listed(d)}",
        "What this feature told the model is lost there, and the model is taught that it is constant.",
        ("the sensor or its cable has failed", "a default is filled in where nothing is measured", "one patient alone, at rest"),
        f"Have the device behind {feature} at {d.edge} looked at.",
        category="technical",
    )


def _confidence(_study: str, d: Deviation, _beside: Collection[str]) -> _Words:
    return _Words(
        f"The model is probably right less often at {d.edge}",
        f"accuracy estimated without labels {d.value:.3f}, usually {d.usual:.3f}. {BLIND}",
        f"What the model says at {d.edge} is less reliable.",
        ("harder cases than before", "noisier signals", "other patients than before"),
        f"Have some examples of {d.edge} labelled and compare.",
        priority="low",
    )


def _own_screen(study: str, d: Deviation, _beside: Collection[str]) -> _Words:
    names = [name for name, _ in d.parts]
    told = "; ".join(f"{_SCREENS.get(name, name)} ({name}, {ratio:.3g} times its limit)" for name, ratio in d.parts)
    inputs = "a sensor, a unit, or other patients than before"
    labels = "labels changed there, or mean something else"
    machine = "its machine or its training: memory, a library, a version"
    first = (inputs,) if {"inputs", "input-variance"} & set(names) else ()
    then = (machine, labels) if names and names[0].startswith(("own-", "not-")) else (labels, machine)
    return _Words(
        f"{d.edge} has found itself out in {study}",
        f"by its own screens: {told or 'it says no more'}",
        "It sits its rounds out by itself, so the model learns nothing from its patients until that is over."
        if d.value
        else "It goes on training, and its update counts.",
        (*first, *then),
        f"Look at {d.edge} and at what changed there about round {d.since_round}. The hub sees no update of this study: "
        "all that is known is what the edge says of itself.",
        priority="medium" if d.value else "low",
    )


def _common(study: str, d: Deviation, beside: Collection[str]) -> _Words:
    named = ", ".join(d.edges[:NAMED_MAX]) + (f" and {len(d.edges) - NAMED_MAX} more" if len(d.edges) > NAMED_MAX else "")
    what = _OF.get(d.of, d.of)
    edge = "something that these edges share: a software or device update, a policy of care, a season, a network"
    hub = "the hub: its model, its settings, its machine"
    return _Words(
        f"{len(d.edges)} edges of {study} show {what} at once",
        f"within a few rounds {what} at {named}",
        "One cause is likelier than as many.",
        (hub, edge) if "model-diverged" in beside or d.of == "edge-slow" else (edge, hub),
        f"Ask what changed at these edges about round {d.since_round}. If a group of them is to stay so: a study of its own.",
    )


WORDS: dict[str, Callable[[str, Deviation, Collection[str]], _Words]] = {
    "edge-loss": _edge_loss,
    "model-diverged": _diverged,
    "participation-low": _participation,
    "edge-slow": _slow,
    "input-drift": _drift,
    "input-dead": _dead,
    "confidence-low": _confidence,
    "edge-own-screen": _own_screen,
    "federation-shift": _common,
}


def _listed(d: Deviation) -> str:
    return ", ".join(f"{name} {value:.2g}" for name, value in d.parts)
