"""What the bedside watch saw, as findings: the words people read at the edge, and the priority of IEC 60601-1-8.

What to do about a score is the response that its publisher gives with it (Royal College of Physicians, NEWS2, London 2017, chart
4). Physiological and technical findings are kept apart by their category, all the way to the message that leaves.
"""

from __future__ import annotations

from typing import Literal

from wardround.bedside.vitals import vitals_of
from wardround.clock import utc
from wardround.process.transforms.early_warning import news2
from wardround.watch.alerts import Finding
from wardround.watch.bedside import VOTES, VOTES_NEEDED, Episode
from wardround.watch.live_model import LiveEpisode
from wardround.watch.trend_novelty import UnusualHour

TREND_KIND = "trend-unusual"
ENDING_SHARE = 0.25  # of a certificate's life: one that is renewed at two thirds of it never has so little left
UNITS = {
    "pulse": "/min",
    "respiratory-rate": "/min",
    "spo2": "%",
    "systolic": "mm[Hg]",
    "temperature": "Cel",
    "oxygen": "L/min",
}
_RESPONSE = {
    "high": "Emergency assessment by a team with critical care competence; continuous monitoring.",
    "medium": "Urgent review by a clinician; observe at least hourly.",
}
_CAUSES = {
    "news2": ("the patient is getting worse", "a vital sign is measured wrongly", "a chronic state: see the scale for SpO2"),
    "own-baseline": ("the patient is getting worse", "activity, pain, fever or a new drug", "a sensor has moved"),
}


def episode_fingerprint(edge: str, kind: str, subject: str) -> str:
    """Of the alert that an episode is about."""
    return "|".join((kind, edge, "", "", "", subject))


def episode_finding(edge: str, episode: Episode) -> Finding:
    """What has lasted about a patient; the evidence are the scores of the last minutes."""
    scored = news2(vitals_of(episode.values))
    now = ", ".join(f"{name} {_value(name, value)}" for name, value in sorted(episode.values.items()))
    if episode.kind == "news2":
        title = f"NEWS2 {episode.score} or more lasts" if episode.score >= 5 else "A vital sign with 3 points of NEWS2 lasts"
        detail = f"{now}. Medians of nine minutes; {VOTES_NEEDED} of the last {VOTES} minutes scored so."
        if scored.missing:
            detail += f" Not known, so the score is at least this: {', '.join(scored.missing)}."
        threshold = 7.0 if episode.priority == "high" else 5.0
    else:
        title = f"{' and '.join(episode.away)} are away from this patient's own usual"
        detail = f"{now}. Against hourly medians of up to two days."
        threshold = None
    return Finding(
        kind=episode.kind,
        title=title,
        priority=episode.priority,
        category="physiological",
        since_us=episode.since_us,
        detected_us=episode.seen_us,
        edge=edge,
        subject=episode.subject,
        detail=detail,
        evidence=tuple((float(t_us), float(score)) for t_us, score in episode.scores),
        evidence_unit="NEWS2",
        threshold=threshold,
        impact="Decision support: it may come late, and it may be wrong.",
        causes=_CAUSES[episode.kind],
        action=f"Look at the patient. {_RESPONSE[episode.priority]}",
    )


def trend_fingerprint(edge: str, vital: str, subject: str) -> str:
    """Of the alert about an hour of a vital sign that was never so."""
    return "|".join((TREND_KIND, edge, "", vital, "", subject))


def trend_finding(edge: str, found: UnusualHour, now_us: int) -> Finding:
    """What was never seen of one vital sign in this patient: a notice."""
    return Finding(
        kind=TREND_KIND,
        title=f"{found.vital}: {_value(found.vital, found.value)} was never seen in this patient",
        priority="low",
        category="physiological",
        since_us=found.t_us,
        detected_us=now_us,
        edge=edge,
        signal=found.vital,
        subject=found.subject,
        detail=f"Novelty {found.score:.3g}, limit {found.threshold:.3g}, of the hour's median against all hours since it began.",
        evidence=found.evidence,
        evidence_unit=UNITS.get(found.vital, ""),
        impact="Decision support: it says that something is new, not that it is bad.",
        causes=("the patient's state has changed", "a treatment was changed", "a sensor has moved, or is another one"),
        action="Look at the trend. It becomes usual by itself.",
    )


def live_finding(edge: str, episode: LiveEpisode) -> Finding:
    """What the current model found; its alert is named as that of an episode."""
    sure = f"The model is {episode.confidence:.0%} sure, on the scale of patients who never trained it."
    if episode.kind == "ectopic-run":
        title = f"A run of ventricular beats, {episode.rate:.0f}/min"
        detail = f"{episode.count} or more in a row. {sure}"
        causes = ("ventricular tachycardia", "aberrant conduction or an accelerated idioventricular rhythm", "artefact")
        action = "Look at the patient and at the ECG."
    else:
        title = "This patient moves much less than usual"
        detail = f"Walking of the last day: {episode.rate:.0%} of the usual, from {episode.count:,} windows. {sure}"
        causes = ("the patient is getting worse", "bed rest was ordered", "the device is worn elsewhere")
        action = "Ask the patient."
    return Finding(
        kind=episode.kind,
        title=title,
        priority=episode.priority,
        category="physiological",
        since_us=episode.since_us,
        detected_us=episode.seen_us,
        edge=edge,
        subject=episode.subject,
        detail=detail,
        impact="Decision support: a model's opinion, blind to what it has never seen.",
        causes=causes,
        action=action,
    )


def certificate_fingerprint(edge: str, what: str) -> str:
    """Of the alert about one of the edge's certificates."""
    return "|".join(("certificate", edge, "", what, ""))


def certificate_finding(
    edge: str, what: Literal["identity", "listener"], *, not_before_us: int, not_after_us: int, now_us: int
) -> Finding | None:
    """A certificate of this edge that has ended, or ends without having been renewed; None: it is in good order."""
    life_us, left_us = not_after_us - not_before_us, not_after_us - now_us
    if left_us > ENDING_SHARE * life_us:
        return None
    ended = left_us <= 0
    ends = f"{utc(not_after_us):%Y-%m-%d %H:%M} UTC"
    harm = {
        "identity": "The hub does not answer this edge any more: observations wait in the spool, nothing is trained.",
        "listener": "Devices that check it do not connect: what they keep themselves is not lost.",
    }[what]
    return Finding(
        kind="certificate",
        title=f"The {what} certificate of {edge} {'has ended' if ended else 'is not renewed'}",
        priority="medium" if ended else "low",
        category="technical",
        since_us=min(now_us, round(not_after_us - ENDING_SHARE * life_us)),
        detected_us=now_us,
        edge=edge,
        signal=what,
        detail=f"It {'ended' if ended else 'ends'} {ends}; an edge renews it at two thirds of its life.",
        impact=harm if ended else f"From then on: {harm[0].lower()}{harm[1:]}",
        causes=("the hub is out of reach", "this edge was revoked", "the clock of this machine is wrong"),
        action="Bring the hub into reach; if it has ended, `wardround hub invite` there and `wardround edge join` here.",
    )


def _value(name: str, value: float) -> str:
    if name == "consciousness":
        return "alert" if value < 0.5 else "not alert"
    return f"{value:.1f} {UNITS[name]}" if name in ("temperature", "oxygen") else f"{value:.0f} {UNITS[name]}"
