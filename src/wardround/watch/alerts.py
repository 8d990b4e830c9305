"""The alert book: one alert per cause, from seen to resolved. Pure: findings and times in, transitions out.

    (none) --> pending --> firing --> acknowledged
                             |             |
                             +--> resolved <+        firing again when it is back within the cool-down

A cause that must last (`Policy.pending_us`) is pending first, and forgotten when it does not. One that has gone is held for
`Policy.keep_us`; one that comes and goes (FLAP_CHANGES times in FLAP_US) is held until it was away for FLAP_US, so that a
flapping one is one line and one message. Beside its state an alert can be *silenced* (somebody does not want to hear of it
until a time), *inhibited* (another open alert explains it) and *escalated* (nobody took it): none of these hides it.

States follow Prometheus and BICEPS practice, priorities IEC 60601-1-8.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import Literal

import msgspec

COOL_DOWN_US = 600_000_000
FLAP_CHANGES, FLAP_US = 4, 1_800_000_000
ALERTS_MAX = 5_000
SILENCES_MAX = 500
HISTORY_MAX = 50  # transitions kept with an alert; every one of them is also told to whoever watches
NOTES_MAX = 5
Priority = Literal["high", "medium", "low", "info"]
Category = Literal["technical", "physiological", "model", "security"]
LABELS = ("kind", "edge", "device", "signal", "study", "job", "subject")
Sources = Mapping[tuple[object, ...], str]  # (an inhibition's number, its labels' values): the alert that explains
_ORDER = {"high": 0, "medium": 1, "low": 2, "info": 3}
MINUTE_US = 60_000_000


class State(StrEnum):
    """Where an alert stands."""

    PENDING = "pending"
    FIRING = "firing"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a detector saw. `kind` and the labels (edge to subject) are its fingerprint: one cause, one alert.

    `subject` is a pseudonym, and `device` is called as people like: after its patient, it may be. Both stay where the alert is:
    no sink is given them. `title_out` is the title without the device; without one it leaves as "a device" and its edge.
    """

    kind: str
    title: str
    priority: Priority
    category: Category
    since_us: int  # first deviation
    detected_us: int
    edge: str = ""
    device: str = ""
    signal: str = ""
    study: str = ""
    job: str = ""  # what the hub does by the clock
    subject: str = ""
    detail: str = ""
    evidence: tuple[tuple[float, float], ...] = ()  # (time or round, value)
    evidence_unit: str = ""
    threshold: float | None = None
    impact: str = ""
    causes: tuple[str, ...] = ()
    action: str = ""
    title_out: str = ""

    @property
    def fingerprint(self) -> str:
        """The same for the same cause."""
        labels = (self.kind, self.edge, self.device, self.signal, self.study)
        return "|".join((*labels, *filter(None, (self.job, self.subject))))


class Response(msgspec.Struct, frozen=True, kw_only=True):
    """What Wardround did about an alert, and whether that was undone. `undo` names the command; empty: nothing to undo.

    `person_too`: what was done bounds the harm, and a person must still put it right.
    """

    what: str
    person_too: bool = False
    undo: str = ""
    until: str = ""
    undone_us: int = 0
    undone_by: str = ""
    reason: str = ""


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the book is with one kind of cause."""

    pending_us: int = 0  # a cause fires once it has been there for so long
    keep_us: int = 0  # and is over once it has been away for so long


class Inhibition(msgspec.Struct, frozen=True, kw_only=True):
    """While an alert of kind `source` is open, those of kinds `targets` with the same labels `equal` are explained by it."""

    source: str
    targets: tuple[str, ...]
    equal: tuple[str, ...]


class Rules(msgspec.Struct, frozen=True, kw_only=True):
    """What the book goes by. `escalate_us`: by priority, after how long without an acknowledgement the next people are told."""

    policies: Mapping[str, Policy] = MappingProxyType({})
    inhibitions: tuple[Inhibition, ...] = (
        Inhibition(
            source="edge-silent", targets=("signal-silent", "sensor-dead", "device-silent", "completeness"), equal=("edge",)
        ),
        *(Inhibition(source=kind, targets=("trend-unusual",), equal=("edge", "subject")) for kind in ("news2", "own-baseline")),
        Inhibition(source="update-poisoned", targets=("update-refused", "edge-loss", "input-drift"), equal=("edge", "study")),
        Inhibition(source="input-dead", targets=("input-drift", "edge-loss", "confidence-low"), equal=("edge", "study")),
        Inhibition(source="input-drift", targets=("edge-loss", "confidence-low"), equal=("edge", "study")),
        Inhibition(source="federation-shift", targets=("edge-loss", "confidence-low"), equal=("study",)),
        *(
            Inhibition(source=kind, targets=("joint-advisory",), equal=("edge", "study"))
            for kind in ("edge-loss", "input-drift", "input-dead", "edge-slow", "confidence-low", "update-poisoned")
        ),
        Inhibition(source="model-diverged", targets=("edge-loss", "round-abandoned"), equal=("study",)),
    )
    escalate_us: Mapping[str, tuple[int, ...]] = MappingProxyType(
        {"high": (5 * MINUTE_US, 15 * MINUTE_US), "medium": (60 * MINUTE_US,)}
    )


class Silence(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody does not want to hear of some alerts for a while. `matchers`: label to pattern (`*`, `?`), all must fit."""

    silence_id: str
    matchers: dict[str, str]
    until_us: int
    who: str
    reason: str
    made_us: int

    def fits(self, finding: Finding) -> bool:
        """Whether it is about this cause."""
        return all(fnmatch.fnmatchcase(getattr(finding, label), pattern) for label, pattern in self.matchers.items())


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One step of an alert's life; `who` is empty where nobody acted."""

    t_us: int
    what: str
    who: str = ""
    why: str = ""


class Alert(msgspec.Struct, frozen=True, kw_only=True):
    """One cause, as people see it."""

    alert_id: str
    state: State
    finding: Finding
    raised_us: int
    changed_us: int
    times: int = 1  # how often the cause was seen
    acknowledged_by: str = ""
    resolved_us: int = 0
    response: Response | None = None
    silenced_by: str = ""  # a silence's id
    inhibited_by: str = ""  # an alert's id
    level: int = 0  # how often it was escalated
    flapping: bool = False
    gone_us: int = 0  # the cause is away since then, and the alert is held
    told: bool = False  # people were told, so they are told as well when it is over
    notes: tuple[str, ...] = ()  # what else was seen meanwhile: for people, and nobody is told
    actionable: bool | None = None  # whether it needed something done, by who looked; None: nobody has said
    history: tuple[Transition, ...] = ()

    @property
    def open(self) -> bool:
        """Whether the cause is still there."""
        return self.state is not State.RESOLVED

    @property
    def handled(self) -> bool:
        """Whether Wardround has done what can be done without a person."""
        return self.response is not None and self.response.undone_us == 0 and not self.response.person_too

    @property
    def quiet(self) -> bool:
        """Whether nobody is to be told of it: not yet, not now, or because of another one."""
        return self.state is State.PENDING or bool(self.silenced_by) or bool(self.inhibited_by)

    @property
    def worth_telling(self) -> bool:
        """Whether a sink is given it as it stands: it is not quiet, or those who know of it should know that it is over."""
        return not self.quiet if self.open else self.told


class _Saved(msgspec.Struct):
    number: int
    alerts: list[Alert]
    silences: list[Silence] = []
    silence_number: int = 0


def escalates_us(alert: Alert, rules: Rules) -> int:
    """When the next people are told of an alert that nobody has taken, microseconds since 1970; 0: never, as things stand."""
    steps = rules.escalate_us.get(alert.finding.priority, ())
    waits = alert.state is State.FIRING and not alert.handled and not alert.quiet and not alert.gone_us
    if not waits or alert.level >= len(steps):
        return 0
    begun = ("firing", "firing again", "more urgent")
    since_us = next((t.t_us for t in reversed(alert.history) if t.what in begun), alert.raised_us)
    return since_us + steps[alert.level]


class AlertBook:
    """All alerts that matter now, newest last."""

    def __init__(self, rules: Rules | None = None, *, prefix: str = "A") -> None:
        """`prefix` begins the ids of its alerts: two books that tell the same people do not name two causes alike."""
        self._rules, self._prefix = rules or Rules(), prefix
        self._alerts: dict[str, Alert] = {}  # by id
        self._by_fingerprint: dict[str, str] = {}
        self._silences: dict[str, Silence] = {}
        self._number = self._silence_number = 0

    # -- causes

    def raise_(self, finding: Finding, now_us: int, response: Response | None = None) -> Alert | None:
        """A cause was seen: the new or changed alert, or None when people already know, or need not know yet."""
        known = self._known(finding.fingerprint)
        if known is not None and known.open:
            return self._seen_again(known, finding, now_us, response)
        policy = self._rules.policies.get(finding.kind, Policy())
        if known is not None and now_us - known.resolved_us < COOL_DOWN_US:
            again = self._move(
                known,
                now_us,
                "firing again",
                state=State.FIRING,
                finding=finding,
                times=known.times + 1,
                resolved_us=0,
                acknowledged_by="",
                level=0,
                response=response or known.response,
            )
            return self._placed(again)
        self._number += 1
        pending = policy.pending_us > now_us - finding.since_us
        alert = Alert(
            alert_id=f"{self._prefix}-{self._number:04d}",
            state=State.PENDING if pending else State.FIRING,
            finding=finding,
            raised_us=now_us,
            changed_us=now_us,
            response=response,
            history=(Transition(t_us=now_us, what="pending" if pending else "firing"),),
        )
        placed = self._placed(alert)
        return None if pending else placed

    def clear(self, fingerprint: str, now_us: int, why: str = "", *, at_once: bool = False) -> Alert | None:
        """The cause is gone: the resolved alert, or None when there was none open, or it is held for a while. `why`: if not by
        itself, how it is known. `at_once`: it cannot come back, and nothing is held."""
        known = self._known(fingerprint)
        if known is None or not known.open:
            return None
        if known.state is State.PENDING:
            del self._alerts[known.alert_id], self._by_fingerprint[fingerprint]
            return None
        if self._hold_us(known) and not at_once:
            if not known.gone_us:
                self._put(msgspec.structs.replace(known, gone_us=now_us))
            return None
        return self._put(self._resolved(known, now_us, why))

    def tick(self, now_us: int) -> list[Alert]:
        """Look at the clock: the alerts that changed. Call it about once a second."""
        changed: list[Alert] = []
        for ended in [s for s in self._silences.values() if s.until_us <= now_us]:
            del self._silences[ended.silence_id]
        sources = self._sources()
        for alert in [a for a in self._alerts.values() if a.open]:
            moved = self._ticked(alert, now_us, sources)
            if moved is not None:
                changed.append(self._put(moved))
        return changed

    # -- people

    def acknowledge(self, alert_id: str, who: str, now_us: int) -> Alert | None:
        """Someone is on it; None when there is no such open alert, or someone already is."""
        known = self._alerts.get(alert_id)
        if known is None or known.state is not State.FIRING:
            return None
        return self._put(self._move(known, now_us, "acknowledged", who=who, state=State.ACKNOWLEDGED, acknowledged_by=who))

    def answered(self, alert_id: str, response: Response, now_us: int) -> Alert | None:
        """What was done about it; None when there is no such alert, or it says so already."""
        known = self._alerts.get(alert_id)
        if known is None or known.response == response:
            return None
        return self._put(self._move(known, now_us, "answered", why=response.what, response=response))

    def judge(self, alert_id: str, *, actionable: bool, who: str, now_us: int) -> Alert | None:
        """Someone says whether it needed something done, also once it is over; nobody is told of that. None: no such alert."""
        known = self._alerts.get(alert_id)
        if known is None:
            return None
        step = Transition(t_us=now_us, what="actionable" if actionable else "not actionable", who=who)
        history = (*known.history[-(HISTORY_MAX - 1) :], step)
        return self._put(msgspec.structs.replace(known, actionable=actionable, history=history))

    def noted(self, alert_id: str, note: str) -> Alert | None:
        """Write something beside the evidence of an open alert; nobody is told of that. None: there is no such alert."""
        known = self._alerts.get(alert_id)
        if known is None or not known.open:
            return None
        return self._put(msgspec.structs.replace(known, notes=(*known.notes[1 - NOTES_MAX :], note)))

    def forget(self, subject: str) -> list[str]:
        """A patient is erased: take out their alerts and the silences that name them; the ids of the alerts."""
        gone = [a for a in self._alerts.values() if a.finding.subject == subject]
        for alert in gone:
            del self._alerts[alert.alert_id]
            self._by_fingerprint.pop(alert.finding.fingerprint, None)
        self._silences = {i: s for i, s in self._silences.items() if s.matchers.get("subject") != subject}
        return [a.alert_id for a in gone]

    def undone(self, alert_id: str, who: str, reason: str, now_us: int) -> Alert | None:
        """What was done about it was undone; None when there was nothing to undo."""
        known = self._alerts.get(alert_id)
        if known is None or known.response is None or not known.response.undo or known.response.undone_us:
            return None
        response = msgspec.structs.replace(known.response, undone_us=now_us, undone_by=who, reason=reason)
        return self._put(self._move(known, now_us, "undone", who=who, why=reason, response=response))

    def silence(self, matchers: Mapping[str, str], *, until_us: int, who: str, reason: str, now_us: int) -> Silence:
        """Tell nobody of alerts that fit, until a time. They stay where people look.

        Raises:
            ValueError: no matcher, an unknown label, a time that is over, or too many silences; says which.
        """
        if not matchers or not all(matchers.values()):
            raise ValueError("a silence needs at least one label with a pattern, such as edge=icu-a")
        if unknown := set(matchers) - set(LABELS):
            raise ValueError(f"there is no label `{sorted(unknown)[0]}`: {', '.join(LABELS)}")
        if until_us <= now_us:
            raise ValueError("a silence must end in the future")
        if len(self._silences) >= SILENCES_MAX:
            raise ValueError(f"there are {SILENCES_MAX} silences already; end some first")
        self._silence_number += 1
        silence = Silence(
            silence_id=f"S-{self._silence_number:04d}",
            matchers=dict(matchers),
            until_us=until_us,
            who=who,
            reason=reason,
            made_us=now_us,
        )
        self._silences[silence.silence_id] = silence
        return silence

    def unsilence(self, silence_id: str) -> bool:
        """End a silence now."""
        return self._silences.pop(silence_id, None) is not None

    # -- what can be seen

    def get(self, alert_id: str) -> Alert | None:
        """An alert by its id."""
        return self._alerts.get(alert_id)

    def is_open(self, fingerprint: str) -> bool:
        """Whether people already know of this cause."""
        known = self._known(fingerprint)
        return known is not None and known.open

    def alerts(self) -> list[Alert]:
        """Every alert, newest first."""
        return sorted(self._alerts.values(), key=lambda a: (-a.raised_us, a.alert_id))

    def open_alerts(self) -> list[Alert]:
        """What is open and more than pending: who needs a person first, then by priority, then the oldest."""
        found = [a for a in self._alerts.values() if a.open and a.state is not State.PENDING]
        return sorted(found, key=lambda a: (a.handled or a.quiet, _ORDER[a.finding.priority], a.raised_us))

    def silences(self) -> list[Silence]:
        """Those that hold, the one that ends first first."""
        return sorted(self._silences.values(), key=lambda s: (s.until_us, s.silence_id))

    def save(self) -> bytes:
        """The whole book."""
        saved = _Saved(self._number, list(self._alerts.values()), list(self._silences.values()), self._silence_number)
        return msgspec.json.encode(saved)

    def head(self) -> bytes:
        """The book without its alerts, for who keeps each of them by itself."""
        return msgspec.json.encode(_Saved(self._number, [], list(self._silences.values()), self._silence_number))

    def restore(self, data: bytes, alerts: Iterable[bytes] = ()) -> None:
        """Take up a saved book, or its head with its alerts, each as JSON, in the order they were raised."""
        saved = msgspec.json.decode(data, type=_Saved)
        saved.alerts += [msgspec.json.decode(alert, type=Alert) for alert in alerts]
        self._number, self._silence_number = saved.number, saved.silence_number
        self._alerts = {a.alert_id: a for a in saved.alerts}
        self._by_fingerprint = {a.finding.fingerprint: a.alert_id for a in saved.alerts}
        self._silences = {s.silence_id: s for s in saved.silences}

    # -- how

    def _known(self, fingerprint: str) -> Alert | None:
        return self._alerts.get(self._by_fingerprint.get(fingerprint, ""))

    def _seen_again(self, known: Alert, finding: Finding, now_us: int, response: Response | None) -> Alert | None:
        """What was done first stays, unless it was undone since; what has become more urgent is told anew, whoever was on it."""
        changed = response is not None and (known.response is None or known.response.undone_us > 0)
        seen = msgspec.structs.replace(known, times=known.times + 1, gone_us=0)
        if _ORDER[finding.priority] < _ORDER[known.finding.priority] and known.state is not State.PENDING:
            finding = msgspec.structs.replace(finding, since_us=known.finding.since_us)
            seen = self._move(seen, now_us, "more urgent", finding=finding, state=State.FIRING, acknowledged_by="", level=0)
            changed = True
        if changed and response is not None:
            seen = self._move(seen, now_us, "answered", why=response.what, response=response)
        seen = self._put(seen)
        return seen if changed else None

    def _ticked(self, alert: Alert, now_us: int, sources: Sources) -> Alert | None:
        """What the time makes of an open alert; None: nothing."""
        if alert.state is State.PENDING:
            pending_us = self._rules.policies.get(alert.finding.kind, Policy()).pending_us
            if now_us - alert.finding.since_us < pending_us:
                return None
            return self._surroundings(self._move(alert, now_us, "firing", state=State.FIRING), sources)
        if alert.gone_us and now_us - alert.gone_us >= self._hold_us(alert):
            return self._resolved(alert, now_us)
        placed = self._surroundings(alert, sources)
        if placed != alert:
            what = self._what_surrounds(alert, placed)
            return self._move(placed, now_us, what)
        next_us = escalates_us(alert, self._rules)
        if next_us and now_us >= next_us:
            return self._move(alert, now_us, f"escalated to level {alert.level + 1}", level=alert.level + 1)
        return None

    def _surroundings(self, alert: Alert, sources: Sources) -> Alert:
        """The alert with the silence and the other alert that keep it quiet, as they are now."""
        silenced = next((s.silence_id for s in self._silences.values() if s.fits(alert.finding)), "")
        explained = (
            sources.get((number, *(getattr(alert.finding, label) for label in rule.equal)), "")
            for number, rule in enumerate(self._rules.inhibitions)
            if alert.finding.kind in rule.targets
        )
        return msgspec.structs.replace(alert, silenced_by=silenced, inhibited_by=next(filter(None, explained), ""))

    def _sources(self) -> Sources:
        """The alerts that explain others, by rule and labels: looked up once, however many they explain."""
        found: dict[tuple[object, ...], str] = {}
        for number, rule in enumerate(self._rules.inhibitions):
            for alert in self._alerts.values():
                if alert.finding.kind == rule.source and alert.open and alert.state is not State.PENDING:
                    found.setdefault((number, *(getattr(alert.finding, label) for label in rule.equal)), alert.alert_id)
        return found

    def _what_surrounds(self, before: Alert, after: Alert) -> str:
        if after.silenced_by != before.silenced_by:
            return f"silenced by {after.silenced_by}" if after.silenced_by else "no longer silenced"
        return f"explained by {after.inhibited_by}" if after.inhibited_by else f"no longer explained by {before.inhibited_by}"

    def _hold_us(self, alert: Alert) -> int:
        """How long an alert stays once its cause has gone."""
        return FLAP_US if alert.flapping else self._rules.policies.get(alert.finding.kind, Policy()).keep_us

    def _resolved(self, alert: Alert, now_us: int, why: str = "") -> Alert:
        alert = msgspec.structs.replace(alert, gone_us=0, flapping=False, inhibited_by="")
        return self._move(alert, now_us, "resolved", why=why, state=State.RESOLVED, resolved_us=now_us)

    def _placed(self, alert: Alert) -> Alert:
        """A firing alert with what is around it, in the book."""
        turns = [t for t in alert.history if t.what in ("firing again", "resolved") and alert.changed_us - t.t_us <= FLAP_US]
        flapping = len(turns) >= FLAP_CHANGES
        if flapping and not alert.flapping:
            alert = self._move(alert, alert.changed_us, "flapping", flapping=True)
        return self._put(self._surroundings(alert, self._sources()))

    def _move(self, alert: Alert, now_us: int, what: str, *, who: str = "", why: str = "", **changes: object) -> Alert:
        step = Transition(t_us=now_us, what=what, who=who, why=why)
        history = (*alert.history[-(HISTORY_MAX - 1) :], step)
        return msgspec.structs.replace(alert, changed_us=now_us, history=history, **changes)

    def _put(self, alert: Alert) -> Alert:
        if alert.open and not alert.quiet and not alert.told:
            alert = msgspec.structs.replace(alert, told=True)
        if alert.alert_id not in self._alerts and len(self._alerts) >= ALERTS_MAX:
            oldest = next((a for a in self._alerts.values() if not a.open), next(iter(self._alerts.values())))
            del self._alerts[oldest.alert_id]
            if self._by_fingerprint.get(oldest.finding.fingerprint) == oldest.alert_id:
                del self._by_fingerprint[oldest.finding.fingerprint]
        self._alerts[alert.alert_id] = alert
        self._by_fingerprint[alert.finding.fingerprint] = alert.alert_id
        return alert


def needs_person(alerts: Iterable[Alert]) -> Sequence[Alert]:
    """Open, not handled, not silenced or explained, and of a priority that should not wait."""
    return [a for a in alerts if a.open and not a.handled and not a.quiet and a.finding.priority in ("high", "medium")]
