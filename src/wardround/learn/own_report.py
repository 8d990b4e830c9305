"""What an edge says of itself where masks hide its update: its screens' scores, coarse, and whether it sits the round out.

A score is said in quarters of its threshold, up to four times it, and the threshold in quarters of the shipped one: at most 8
bits a screen and round, whatever the edge's data are. That a score is beyond its threshold survives the rounding. The report is
signed with the edge's own key under a context of its own, and is of one attempt at one round. An edge sends one only where the
order asks for it (privacy.modes.MaskSettings.false_alarms), so that edges and hubs of other versions go on without.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from wardround.errors import CertificateRefused, UpdateRefused
from wardround.trust.signatures import OWN_REPORT_CONTEXT, check_edge_signature

STEPS = 4  # of a threshold
SCORE_STEPS_MAX = 4 * STEPS
THRESHOLD_STEPS_MAX = 3 * STEPS  # no calibration goes beyond 2.5 times the shipped threshold
SCREENS_MAX = 16
NAME_MAX = 40


class Screen(msgspec.Struct, frozen=True, array_like=True):
    """One screen's answer: `score` in quarters of the threshold, above STEPS where it is beyond; `threshold` in quarters of the
    shipped one."""

    name: str
    score: int
    threshold: int

    @property
    def beyond(self) -> bool:
        """Whether the screen has found something."""
        return self.score > STEPS


class OwnReport(msgspec.Struct, frozen=True):
    """Of one edge and one attempt at a round. `sits_out`: the screen for which it gives no update; empty: it gives one."""

    study: str
    round_number: int
    attempt: int
    screens: tuple[Screen, ...] = ()
    sits_out: str = ""


class SignedReport(msgspec.Struct, frozen=True):
    """A report with its edge's signature, as it travels."""

    report: OwnReport
    signature: bytes


def coarse(name: str, score: float, threshold: float, shipped: float) -> Screen:
    """A screen's answer in steps. A score that is no number counts as the largest."""
    ratio = STEPS * score / threshold if math.isfinite(score) else float(SCORE_STEPS_MAX)
    beyond = not score <= threshold
    steps = max(STEPS + 1, min(SCORE_STEPS_MAX, math.floor(ratio))) if beyond else max(0, min(STEPS, math.floor(ratio)))
    return Screen(name, steps, max(1, min(THRESHOLD_STEPS_MAX, round(STEPS * threshold / shipped))))


def scores_of(report: OwnReport, shipped: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """(score, threshold) by screen, as far as they were said; of screens that this version does not know, in thresholds."""
    found: dict[str, tuple[float, float]] = {}
    for screen in report.screens:
        threshold = screen.threshold / STEPS * shipped.get(screen.name, 1.0)
        found[screen.name] = (screen.score / STEPS * threshold, threshold)
    return found


def signed_part(report: OwnReport) -> bytes:
    """The bytes that an edge signs, under OWN_REPORT_CONTEXT."""
    return msgspec.json.encode(report)


def check_report(edge: str, signed: SignedReport, certificate: bytes) -> OwnReport:
    """A report that the edge on the connection has signed, and that says no more than a report may.

    Raises:
        UpdateRefused: "own-report".
    """
    report = signed.report
    screens = report.screens
    if len(screens) > SCREENS_MAX or len({s.name for s in screens}) != len(screens):
        raise UpdateRefused("own-report", f"it names {len(screens)} screens; {SCREENS_MAX}, each once, are the most")
    for screen in screens:
        if not 0 < len(screen.name) <= NAME_MAX or not screen.name.isascii() or not screen.name.replace("-", "").isalnum():
            raise UpdateRefused("own-report", "a screen has no name that could be one")
        if not (0 <= screen.score <= SCORE_STEPS_MAX and 0 < screen.threshold <= THRESHOLD_STEPS_MAX):
            raise UpdateRefused("own-report", f"screen {screen.name} says {screen.score} of {screen.threshold} steps")
    if report.sits_out and not any(s.name == report.sits_out and s.beyond for s in screens):
        raise UpdateRefused("own-report", "it sits the round out for a screen that has found nothing")
    try:
        check_edge_signature(signed_part(report), signed.signature, certificate, edge, context=OWN_REPORT_CONTEXT)
    except CertificateRefused as error:
        raise UpdateRefused("own-report", f"{error}; {error.remedy}") from error
    return report
