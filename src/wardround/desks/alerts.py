"""What the Alerts screen asks of the hub: from the alert book to its read model, and the acts of people, each by their role."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from wardround.clock import Clock
from wardround.console.alert_model import AlertDetail, AlertRow, AlertsView, Group, LoadView, SilenceView, Step
from wardround.console.alerts import LOAD_DAYS
from wardround.console.model import Overview
from wardround.console.shared import Shared
from wardround.errors import WardroundError
from wardround.trust.roles import Act
from wardround.watch.alarm_load import alarm_load
from wardround.watch.alerts import LABELS, Alert, Rules, Silence, State, escalates_us, needs_person

MINUTES_MAX = 7 * 24 * 60
REASON_CHARS = 300
ROWS_MAX = 2_000
RELATED_MAX = 5
LOAD_KEEP_S = 10.0
LONG_AGO = 1e9  # seconds since 1970: an evidence's x beyond it is a time, below it a round
IN_MICROSECONDS = 1e13


class Watch(Protocol):
    """The watch, as far as it is asked here."""

    def alerts(self) -> list[Alert]: ...

    def alert(self, alert_id: str) -> Alert | None: ...

    def open_alerts(self) -> list[Alert]: ...

    def silences(self) -> list[Silence]: ...

    def silence(self, matchers: dict[str, str], *, until_us: int, who: str, reason: str) -> Silence: ...

    def unsilence(self, silence_id: str) -> bool: ...

    def judge(self, alert_id: str, actionable: bool, who: str) -> bool: ...


class HubAlertsDesk:
    """Of one hub. May be called from any thread."""

    def __init__(
        self,
        watch: Watch,
        clock: Clock,
        *,
        overview: Callable[[], Overview],
        check: Callable[[str, Act], None],
        record: Callable[..., None],
    ) -> None:
        """`overview` is the console's read model, which has the words of an undo; `check(who, act)` raises NotAllowed."""
        self._watch, self._clock, self._overview, self._check, self._record = watch, clock, overview, check, record
        self._rules = Rules()
        self._view = Shared(self._build, clock, of=lambda: overview().now_us)
        self._load = Shared(self._loads, clock, keep_s=LOAD_KEEP_S)

    def alerts(self) -> AlertsView:
        """The newest read model."""
        return self._view()

    def alert(self, alert_id: str) -> AlertDetail | None:
        """One alert whole; None: there is none of this number."""
        found = self._watch.alert(alert_id)
        if found is None or found.state is State.PENDING:
            return None
        need = {a.alert_id for a in needs_person([found])}
        finding, response = found.finding, found.response
        silence = next((s for s in self._watch.silences() if s.silence_id == found.silenced_by), None)
        undo = next((a.undo_title for a in self._overview().alerts if a.alert_id == alert_id), "")
        evidence, by_time = _evidence(finding.evidence)
        return AlertDetail(
            row=self._row(found, need),
            kind=finding.kind,
            labels=tuple((name, getattr(finding, name)) for name in LABELS if name != "kind" and getattr(finding, name)),
            detected_us=finding.detected_us,
            raised_us=found.raised_us,
            detail=finding.detail,
            evidence=evidence,
            evidence_unit=finding.evidence_unit,
            threshold=finding.threshold,
            by_time=by_time,
            impact=finding.impact,
            causes=finding.causes,
            action=finding.action,
            notes=found.notes,
            history=tuple(Step(t.t_us, t.what, t.who, t.why) for t in found.history),
            times=found.times,
            flapping=found.flapping,
            explained_by=found.inhibited_by,
            silence=_silence(silence) if silence is not None else None,
            actionable=found.actionable,
            response_until=response.until if response is not None else "",
            undone_by=response.undone_by if response is not None else "",
            undo_reason=response.reason if response is not None else "",
            undo_title=undo,
            related=self._related(found),
        )

    def silence(self, alert_id: str, who: str, minutes: int, reason: str) -> SilenceView:
        """Tell nobody of this cause for a while.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: no such alert, no reason, or not a span that may be.
        """
        self._check(who, Act.ACKNOWLEDGE)
        found = self._watch.alert(alert_id)
        if found is None:
            raise WardroundError(f"there is no alert {alert_id}", remedy="it may be over; look at the list again")
        if not 1 <= minutes <= MINUTES_MAX:
            raise WardroundError(f"a silence of {minutes} minutes is none", remedy=f"choose 1 to {MINUTES_MAX:,} minutes")
        if not reason.strip():
            raise WardroundError("a silence needs a reason", remedy="say why: who comes next reads it")
        matchers = {name: glob.escape(value) for name in LABELS if (value := getattr(found.finding, name))}
        until_us = self._clock.now_us() + minutes * 60_000_000
        self._record("change", "alerts: silence", who, alert=alert_id, minutes=minutes, reason=reason[:REASON_CHARS])
        try:
            made = self._watch.silence(matchers, until_us=until_us, who=who, reason=reason[:REASON_CHARS])
        except ValueError as error:
            raise WardroundError(str(error), remedy="see `wardround alert silences`") from error
        self._view.forget()
        return _silence(made)

    def unsilence(self, silence_id: str, who: str) -> None:
        """End a silence now.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: it does not hold any more.
        """
        self._check(who, Act.ACKNOWLEDGE)
        self._record("change", "alerts: unsilence", who, silence=silence_id)
        if not self._watch.unsilence(silence_id):
            raise WardroundError(f"{silence_id} does not hold any more", remedy="nothing is left to end")
        self._view.forget()

    def judge(self, alert_id: str, who: str, *, actionable: bool) -> None:
        """Say whether it needed something done.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: there is no such alert.
        """
        self._check(who, Act.ACKNOWLEDGE)
        self._record("change", "alerts: judge", who, alert=alert_id, actionable=actionable)
        if not self._watch.judge(alert_id, actionable, who):
            raise WardroundError(f"there is no alert {alert_id}", remedy="look at the list again")
        self._load.forget()

    # -- the read model

    def _build(self) -> AlertsView:
        open_ = self._watch.open_alerts()
        resolved = [a for a in self._watch.alerts() if not a.open]
        need = {a.alert_id for a in needs_person(open_)}
        rows = tuple(self._row(a, need) for a in (open_ + resolved)[:ROWS_MAX] if a.state is not State.PENDING)
        return AlertsView(self._clock.now_us(), rows, tuple(map(_silence, self._watch.silences())), self._load())

    def _loads(self) -> tuple[LoadView, ...]:
        now_us = self._clock.now_us()
        since_us = now_us - LOAD_DAYS * 86_400_000_000
        found = alarm_load(self._watch.alerts(), since_us=since_us, until_us=now_us + 1, patient_days=0.0)
        return tuple(
            LoadView(f.category, f.alerts, f.acknowledged, f.answer_s, f.judged, f.actionable) for f in found if not f.kind
        )

    def _row(self, alert: Alert, need: set[str]) -> AlertRow:
        finding, response = alert.finding, alert.response
        done = ""
        if response is not None and not response.undone_us:
            done = ", ".join(part for part in (response.what, response.until) if part)
        return AlertRow(
            alert_id=alert.alert_id,
            title=finding.title,
            where=", ".join(where_of(alert)),
            category=finding.category,
            priority=finding.priority,
            group=_group(alert, alert.alert_id in need),
            state=alert.state.value,
            since_us=finding.since_us,
            response=done,
            acknowledged_by=alert.acknowledged_by,
            silenced=bool(alert.silenced_by),
            escalates_us=escalates_us(alert, self._rules),
        )

    def _related(self, alert: Alert) -> tuple[tuple[str, str], ...]:
        edge = alert.finding.edge
        others = [a for a in self._watch.open_alerts() if edge and a.finding.edge == edge and a.alert_id != alert.alert_id]
        return tuple((a.alert_id, a.finding.title) for a in others[:RELATED_MAX])


def _group(alert: Alert, needs: bool) -> Group:
    if not alert.open:
        return "resolved"
    return "now" if needs else "handled" if alert.handled else "wait"


def where_of(alert: Alert) -> Iterable[str]:
    """What an alert is about, as people are told it."""
    finding = alert.finding
    if finding.edge:
        yield finding.edge
    for name in ("device", "study", "job", "subject"):
        if value := getattr(finding, name):
            yield f"{name} {value}"


def _silence(silence: Silence) -> SilenceView:
    words = ", ".join(f"{name} {pattern}" for name, pattern in silence.matchers.items())
    return SilenceView(silence.silence_id, words, silence.until_us, silence.who, silence.reason)


def _evidence(points: Sequence[tuple[float, float]]) -> tuple[tuple[tuple[float, float], ...], bool]:
    """In order of x, a time in microseconds; whether x is a time."""
    kept = sorted(points)
    if not kept or kept[-1][0] < LONG_AGO:
        return tuple(kept), False
    factor = 1.0 if kept[-1][0] >= IN_MICROSECONDS else 1e6
    return tuple((x * factor, y) for x, y in kept), True
