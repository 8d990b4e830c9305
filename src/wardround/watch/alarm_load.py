"""The alarm load: how many alerts a patient and day, how many people answered, how many needed anything done.

Of the alarms of wards and intensive care most need nothing (87 to 99 %), and answers slow as they pile up (Bonafide et al.,
J. Hosp. Med. 10(6), 2015). So every rule has to show its load. "Actionable" is what people said of an alert, never a guess:
alerts nobody judged do not count in that share. Pure.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from wardround.watch.alerts import Alert, Category, State


@dataclass(frozen=True, slots=True)
class Load:
    """Of one kind of alert, or of all of one category where `kind` is empty. Shares are None where there is nothing to share."""

    category: Category
    kind: str
    alerts: int
    per_patient_day: float | None
    acknowledged: float | None  # of all
    answer_s: float | None  # median, from firing to the first acknowledgement
    judged: int  # of which somebody said whether they needed something done
    actionable: float | None  # of the judged


def alarm_load(alerts: Iterable[Alert], *, since_us: int, until_us: int, patient_days: float) -> list[Load]:
    """The load of the alerts raised in a span in which patients were watched for `patient_days`; categories, then their kinds.

    A cause that came back and fired again was told again, so it counts again.
    """
    groups: dict[tuple[Category, str], list[tuple[Alert, int]]] = {}
    for alert in alerts:
        fired = [t.t_us for t in alert.history if t.what in ("firing", "firing again")] or [alert.raised_us]
        told = [t_us for t_us in fired if since_us <= t_us < until_us and alert.state is not State.PENDING]
        for t_us in told:
            for kind in ("", alert.finding.kind):
                groups.setdefault((alert.finding.category, kind), []).append((alert, t_us))
    return [_load(category, kind, found, patient_days) for (category, kind), found in sorted(groups.items())]


def _load(category: Category, kind: str, fired: list[tuple[Alert, int]], patient_days: float) -> Load:
    answers = [seconds for alert, t_us in fired if (seconds := _answer_s(alert, t_us)) is not None]
    judged = [a.actionable for a, _ in fired if a.actionable is not None]
    return Load(
        category=category,
        kind=kind,
        alerts=len(fired),
        per_patient_day=len(fired) / patient_days if patient_days > 0 else None,
        acknowledged=len(answers) / len(fired) if fired else None,
        answer_s=statistics.median(answers) if answers else None,
        judged=len(judged),
        actionable=sum(judged) / len(judged) if judged else None,
    )


def _answer_s(alert: Alert, fired_us: int) -> float | None:
    """Seconds until somebody was on it; None: nobody was before it was over."""
    for step in alert.history:
        if step.t_us >= fired_us and step.what in ("acknowledged", "resolved"):
            return (step.t_us - fired_us) / 1e6 if step.what == "acknowledged" else None
    return None
