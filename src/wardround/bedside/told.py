"""What an edge tells its hub of its own alerts. Pure but for the question of consent.

A number, how urgent, about a patient or not: that is said of every one that is open. Of whom, what and since when is said only
where the patient's consent for care is `raw` for every signal that the alert rests on, whose values reach the hub then anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from wardround.bedside.vitals import CODES
from wardround.process.transforms import TASKS
from wardround.records import AlertAbout, EdgeLoad, OpenAlert
from wardround.watch.alarm_load import alarm_load
from wardround.watch.alerts import Alert
from wardround.watch.live_model import LiveKind

LOAD_DAYS, DAY_US, DAY_MINUTES = 7, 86_400_000_000, 1_440
LIVE_TASKS: Mapping[LiveKind, str] = {"ectopic-run": "ventricular-beats", "activity-fall": "activity"}
RESTS_ON: Mapping[str, Collection[str]] = {
    "news2": tuple(CODES),
    "own-baseline": tuple(CODES),
    **{kind: tuple(TASKS[task].signals) for kind, task in LIVE_TASKS.items()},
}
MayTell = Callable[[str, Collection[str]], bool]  # (subject, codes): consent for care is `raw` for each of them


def told_of(alerts: Iterable[Alert], may_tell: MayTell) -> tuple[OpenAlert, ...]:
    """What the hub is told of what is open."""
    return tuple(
        OpenAlert(a.alert_id, a.finding.priority, a.finding.category, a.state.value, _about(a, may_tell)) for a in alerts
    )


def _about(alert: Alert, may_tell: MayTell) -> AlertAbout | None:
    finding = alert.finding
    codes = RESTS_ON.get(finding.kind, ())  # of a kind that is not known here nothing is said
    if not finding.subject or not codes or not may_tell(finding.subject, codes):
        return None
    score = finding.evidence[-1][1] if finding.evidence and finding.evidence_unit == "NEWS2" else None
    news2 = round(score) if score is not None else None
    return AlertAbout(finding.subject, finding.kind, finding.title, finding.since_us, news2, alert.acknowledged_by)


def load_of(alerts: Iterable[Alert], minutes: Mapping[int, int], now_us: int) -> tuple[EdgeLoad, ...]:
    """The alarm load of the last days, by category. `minutes`: watched patient minutes, by day since 1970."""
    first = now_us // DAY_US - LOAD_DAYS
    days = sum(n for day, n in minutes.items() if day > first) / DAY_MINUTES
    found = alarm_load(alerts, since_us=(first + 1) * DAY_US, until_us=now_us + 1, patient_days=days)
    return tuple(
        EdgeLoad(
            load.category,
            load.alerts,
            days,
            round((load.acknowledged or 0.0) * load.alerts),
            load.answer_s,
            load.judged,
            round((load.actionable or 0.0) * load.judged),
        )
        for load in found
        if not load.kind
    )
