"""The ward as the console shows it: subjects by need, and one subject's record, of what consent for care lets people see.

The list is read anew while somebody looks; a record is read for who has opened it, which is in the audit log before it is shown.
Down-sampling is done here: minutes, hours or days by the length of the time, and the extremes of each column of a waveform.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import structlog

from wardround.clock import Clock
from wardround.collect.signals import Signal
from wardround.console.model import URGENCY, Priority
from wardround.console.ward_model import (
    HOUR_US,
    PER_PAGE,
    SPANS,
    FindingView,
    Point,
    RecordView,
    SubjectRow,
    TrendView,
    VitalView,
    WardList,
    WaveView,
)
from wardround.desks.seen import Seen
from wardround.errors import NotAllowed, WardroundError
from wardround.process.catalogue import NEWS2_CODES
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, DAY_US, OBSERVATIONS, TREND, VITALS, WARNING, rows_to_observations
from wardround.process.transforms.vitals import VITALS as BY_MINUTE
from wardround.process.transforms.vitals import WINDOW_US
from wardround.records import Consent, Observation, Purpose
from wardround.threads import pairs
from wardround.trust.audit import subject_ref
from wardround.trust.consent import ConsentRegister
from wardround.trust.roles import Act, check_act
from wardround.watch.alerts import Alert

log = structlog.get_logger(__name__)
AGAIN_S, WANTED_S = 15.0, 30.0  # between two looks at the list; after somebody has last looked
IDLE_S = 300.0  # between two looks while nobody does, so that whoever comes next sees a list at once
LIST_HOURS, LATELY_US = 12, 15 * 60_000_000
USUAL_US, USUAL_HOURS_MIN = 7 * DAY_US, 12
TRENDS_MAX, WAVES_MAX, FINDINGS_MAX = 12, 4, 20
WAVE_LOOK_US, WAVE_SECONDS, WAVE_COLUMNS = 600_000_000, 8.0, 640
WAVE_PERIOD_US_MAX = 100_000.0  # slower than 10 Hz is a trend


class Ward:
    """The ward of one hub. May be called from any thread."""

    def __init__(
        self,
        lake: Lake,
        consents: ConsentRegister,
        clock: Clock,
        *,
        edge_of: Mapping[str, str],
        alerts: Callable[[], Sequence[Alert]],
        signal: Callable[[str], Signal | None],
        role: Callable[[str], str],
        record: Callable[..., None],
    ) -> None:
        """`edge_of` has every subject of whom the lake holds something; `role(who)` is asked at every look."""
        self._lake, self._consents, self._clock = lake, consents, clock
        self._edge_of, self._alerts, self._signal = edge_of, alerts, signal
        self._role, self._record = role, record
        self._reading, self._recorded = threading.Lock(), Seen(clock)
        self._list: tuple[SubjectRow, ...] | None = None
        self._by_name: dict[str, SubjectRow] = {}
        self._edges: tuple[str, ...] = ()
        self._looked_us = 0
        self._looked_s = self._wanted_s = float("-inf")

    # -- the list

    def look(self) -> None:
        """Read the list again if it is time: often while somebody looks."""
        with self._reading:
            now_s = self._clock.monotonic_s()
            if now_s - self._looked_s < (AGAIN_S if now_s - self._wanted_s <= WANTED_S else IDLE_S):
                return
            self._looked_s = now_s
            try:
                self._take(self._read_list())
                self._looked_us = self._clock.now_us()
            except WardroundError as error:  # the last look stays, with its time
                log.error("the ward could not be read", error=str(error))

    def subjects(
        self, who: str, *, edge: str = "", find: str = "", page: int = 1, kept: Sequence[str] | None = None
    ) -> WardList | None:
        """A page of the list; None while it is being read.

        Args:
            edge: subjects of this edge alone.
            find: subjects whose pseudonym begins so.
            kept: the subjects of a page that is open, in the order in which they stay there.

        Raises:
            NotAllowed: their role does not cover patients' data.
        """
        self._check(who)
        self._wanted_s = self._clock.monotonic_s()
        everybody = self._list
        if everybody is None:
            return None
        self._seen(who, "the ward's list opened", "")
        matching: Sequence[SubjectRow] = everybody
        if edge or find:
            matching = [r for r in everybody if (not edge or r.edge == edge) and r.subject.startswith(find.lower())]
        pages = max(1, -(-len(matching) // PER_PAGE))
        page = min(max(1, page), pages)
        rows, newer = matching[(page - 1) * PER_PAGE : page * PER_PAGE], 0
        if kept is not None:
            newer = sum(a.subject != b for a, b in zip(rows, kept, strict=False)) + abs(len(rows) - len(kept))
            rows = [row for subject in kept if (row := self._by_name.get(subject)) is not None]
        rows = [row for row in rows if self._consents.keeps(row.subject, Purpose.CARE, Consent.RAW)]  # since the look, too
        return WardList(tuple(rows), page, len(matching), len(everybody), self._edges, self._looked_us, newer)

    def rising(self, who: str, least: int) -> tuple[SubjectRow, ...] | None:
        """Subjects whose NEWS2 is so many points above its lowest of the last hours, the steepest first; None: not read yet.
        Raises NotAllowed."""
        self._check(who)
        self._wanted_s = self._clock.monotonic_s()
        if self._list is None:
            return None
        self._seen(who, "the ward's list opened", "")
        found = [r for r in self._list if r.rise >= least and self._consents.keeps(r.subject, Purpose.CARE, Consent.RAW)]
        return tuple(sorted(found, key=lambda r: (-r.rise, _need(r))))

    def _take(self, rows: tuple[SubjectRow, ...]) -> None:
        """Once for everybody who looks: a page of ten thousand subjects then costs no more than its rows."""
        self._by_name = {row.subject: row for row in rows}
        self._edges = tuple(sorted({row.edge for row in rows}))
        self._list = rows

    def _read_list(self) -> tuple[SubjectRow, ...]:
        now_us = self._clock.now_us()
        since_us = (now_us // HOUR_US - LIST_HOURS) * HOUR_US
        warnings = self._lake.read(WARNING, columns=["subject", "t_us", "total", "red", "points", "missing"], since_us=since_us)
        scores = _grouped(warnings.sort_by("t_us").to_pylist())
        trends = self._lake.read(TREND, columns=["subject", "width_us", "completeness"], since_us=now_us - 2 * HOUR_US)
        hours = trends.filter(pc.field("width_us") == HOUR_US).group_by("subject").aggregate([("completeness", "mean")])
        complete = dict(zip(hours.column("subject").to_pylist(), hours.column("completeness_mean").to_pylist(), strict=True))
        lately = self._lake.read(VITALS, columns=["subject", "t_us"], since_us=now_us - LATELY_US)
        newest = lately.group_by("subject").aggregate([("t_us", "max")])
        last = dict(zip(newest.column("subject").to_pylist(), newest.column("t_us_max").to_pylist(), strict=True))
        urgent: dict[str, Priority] = {}
        for alert in self._alerts():
            finding = alert.finding
            if finding.subject and alert.open and finding.category == "physiological":
                known = urgent.get(finding.subject, finding.priority)
                urgent[finding.subject] = min(known, finding.priority, key=URGENCY.index)
        rows = [
            _row(subject, edge, scores.get(subject, ()), complete.get(subject), last.get(subject, 0), urgent.get(subject))
            for subject, edge in pairs(self._edge_of)
            if self._consents.keeps(subject, Purpose.CARE, Consent.RAW)
        ]
        rows = [r if r.news2 is None or self._may_score(r.subject) else _unscored(r) for r in rows]
        return tuple(sorted(rows, key=_need))

    # -- a record

    def record(self, who: str, subject: str, *, span: str, at_us: int | None = None, why: str = "") -> RecordView | None:
        """A subject's record; None where there is nothing of such a subject that may be shown.

        Args:
            span: one of SPANS.
            at_us: the end of the time, for a link to a moment that has passed; None: now.
            why: the alert that led here, for the audit log.

        Raises:
            NotAllowed: their role does not cover patients' data.
            WardroundError: it cannot be recorded, or read, and is not shown.
        """
        self._check(who)
        if subject not in self._edge_of or not self._consents.keeps(subject, Purpose.CARE, Consent.RAW):
            return None
        self._seen(who, "a patient's record opened at the console", subject, why)
        until_us = at_us if at_us is not None else self._clock.now_us()
        since_us = until_us - SPANS[span][1]
        hourly = self._trend_rows(subject, min(since_us, until_us - USUAL_US), until_us, daily=SPANS[span][1] > 15 * DAY_US)
        minutes = self._minutes(subject, min(until_us - HOUR_US, max(since_us, until_us - 4 * HOUR_US)), until_us)
        warnings = self._warnings(subject, since_us, until_us)
        newest = warnings[-1] if warnings and until_us - warnings[-1]["t_us"] < 2 * HOUR_US else None
        points: Mapping[str, int] = msgspec.json.decode(newest["points"], type=dict[str, int]) if newest is not None else {}
        row = _row(subject, self._edge_of[subject], warnings, None, 0, None)
        return RecordView(
            subject=subject,
            edge=self._edge_of[subject],
            span=span,
            since_us=since_us,
            until_us=until_us,
            live=at_us is None,
            news2=row if newest is not None else None,
            missing=tuple(newest["missing"].split(",")) if newest is not None and newest["missing"] else (),
            vitals=self._vitals(hourly, minutes, points, until_us),
            scores=tuple((r["t_us"], r["total"], bool(r["missing"])) for r in warnings if r["t_us"] >= since_us),
            trends=self._trends(hourly, minutes, span, since_us),
            waves=self._waves(subject, until_us),
            findings=self._findings(subject, since_us, until_us),
        )

    def _trend_rows(self, subject: str, since_us: int, until_us: int, *, daily: bool) -> list[dict[str, Any]]:
        columns = ["code", "unit", "t_us", "width_us", "n", "completeness", "mean", "low", "p05", "p95", "high", "last"]
        table = self._lake.read(TREND, columns=columns, subjects=[subject], since_us=since_us, until_us=until_us)
        if not daily:
            table = table.filter(pc.field("width_us") == HOUR_US)
        return [r for r in table.sort_by("t_us").to_pylist() if r["n"] and self._shows(subject, r["code"])]

    def _minutes(self, subject: str, since_us: int, until_us: int) -> list[dict[str, Any]]:
        columns = ["code", "t_us", "mean", "low", "high"]
        table = self._lake.read(VITALS, columns=columns, subjects=[subject], since_us=since_us, until_us=until_us)
        return [r for r in table.sort_by("t_us").to_pylist() if self._shows(subject, r["code"])]

    def _warnings(self, subject: str, since_us: int, until_us: int) -> list[dict[str, Any]]:
        if not self._may_score(subject):
            return []
        columns = ["subject", "t_us", "total", "red", "points", "missing"]
        found = self._lake.read(
            WARNING, columns=columns, subjects=[subject], since_us=min(since_us, until_us - LIST_HOURS * HOUR_US),
            until_us=until_us + HOUR_US,
        )  # fmt: skip
        return list(found.sort_by("t_us").to_pylist())

    def _vitals(
        self, hourly: Sequence[dict[str, Any]], minutes: Sequence[dict[str, Any]], points: Mapping[str, int], until_us: int
    ) -> tuple[VitalView, ...]:
        """Those that a NEWS2 is made of, and what else comes by the minute."""
        found = []
        for code in dict.fromkeys((*NEWS2_CODES, *BY_MINUTE)):
            hours = [r for r in hourly if r["code"] == code and r["width_us"] == HOUR_US]
            own = [r for r in minutes if r["code"] == code]
            if not hours and not own:
                continue
            signal = self._signal(code)
            at_us, value = (own[-1]["t_us"], own[-1]["mean"]) if own else (hours[-1]["t_us"], hours[-1]["last"])
            earlier = [r for r in hours if until_us - USUAL_US <= r["t_us"] < until_us - LIST_HOURS * HOUR_US]
            usual = None
            if len(earlier) >= USUAL_HOURS_MIN:
                usual = (float(np.median([r["p05"] for r in earlier])), float(np.median([r["p95"] for r in earlier])))
            means = tuple(r["mean"] for r in hours if r["t_us"] >= until_us - LIST_HOURS * HOUR_US - HOUR_US)
            title, unit = (signal.title, signal.unit) if signal is not None else (code, "")
            of = NEWS2_CODES.get(code, "").replace("_", "-")
            found.append(VitalView(code, title, unit, value, at_us, points.get(of), usual, means))
        return tuple(found)

    def _trends(
        self, hourly: Sequence[dict[str, Any]], minutes: Sequence[dict[str, Any]], span: str, since_us: int
    ) -> tuple[TrendView, ...]:
        length_us = SPANS[span][1]
        width_us = WINDOW_US if length_us <= 4 * HOUR_US else HOUR_US if length_us <= 15 * DAY_US else DAY_US
        windows = [r for r in hourly if r["width_us"] == max(width_us, HOUR_US) and r["t_us"] + r["width_us"] > since_us]
        found = []
        for code in _in_order(r["code"] for r in windows):
            own = [r for r in windows if r["code"] == code]
            drawn = [r for r in minutes if r["code"] == code and r["t_us"] >= since_us] if width_us == WINDOW_US else own
            signal = self._signal(code)
            found.append(
                TrendView(
                    code,
                    signal.title if signal is not None else code,
                    own[0]["unit"],
                    tuple(Point(r["t_us"], r["mean"], r["low"], r["high"]) for r in drawn),
                    width_us,
                    tuple((r["t_us"], r["width_us"], r["completeness"]) for r in own),
                )
            )
        return tuple(found[:TRENDS_MAX])

    def _waves(self, subject: str, until_us: int) -> tuple[WaveView, ...]:
        columns = OBSERVATIONS.names
        table = self._lake.read(BRONZE, columns=columns, subjects=[subject], since_us=until_us - WAVE_LOOK_US, until_us=until_us)
        fast = (pc.field("period_us") > 0) & (pc.field("period_us") <= WAVE_PERIOD_US_MAX)
        table = table.filter(fast)
        codes = [c for c in _in_order(pc.unique(table.column("code")).to_pylist()) if self._shows(subject, c)][:WAVES_MAX]
        found = []
        for code in codes:
            own = rows_to_observations(_last_rows(table.filter(pc.field("code") == code)))
            signal = self._signal(code)
            title, unit = (signal.title, signal.unit) if signal is not None else (code, "")
            start_us, drawn = columns_of(own, WAVE_SECONDS, WAVE_COLUMNS)
            found.append(WaveView(code, title, unit, start_us, WAVE_SECONDS, drawn))
        return tuple(found)

    def _findings(self, subject: str, since_us: int, until_us: int) -> tuple[FindingView, ...]:
        own = [
            FindingView(a.alert_id, f.title, f.detail, f.priority, f.since_us, a.open)
            for a in self._alerts()
            if (f := a.finding).subject == subject and f.since_us < until_us and (a.open or a.changed_us >= since_us)
        ]
        return tuple(sorted(own, key=lambda f: (not f.open, URGENCY.index(f.priority), -f.since_us))[:FINDINGS_MAX])

    # -- who may see what

    def _check(self, who: str) -> None:
        check_act(who, self._role(who), Act.PATIENTS)

    def _seen(self, who: str, what: str, subject: str, why: str = "") -> None:
        """Raises WardroundError: it cannot be recorded, and must not be shown."""
        facts = ({"subject": subject_ref(subject)} if subject else {}) | ({"why": why[:40]} if why else {})
        self._recorded.record((who, subject), lambda: self._record("view", what, who, **facts))

    def _shows(self, subject: str, code: str) -> bool:
        return self._consents.choose(subject, code, Purpose.CARE)[0] is Consent.RAW

    def _may_score(self, subject: str) -> bool:
        """A score says something of every signal that it may be made of."""
        return self._consents.allows(subject, tuple(NEWS2_CODES), Purpose.CARE, Consent.RAW)


def may_see(role: str) -> bool:
    """Whether this role covers patients' data."""
    try:
        check_act("", role, Act.PATIENTS)
    except NotAllowed:
        return False
    return True


def columns_of(
    observations: Sequence[Observation], seconds: float, columns: int
) -> tuple[int, tuple[tuple[float, float] | None, ...]]:
    """When the newest `seconds` of these runs begin, and lowest and highest value of each column: a peak never disappears."""
    if not observations:
        return 0, ()
    ends = [int(o.times_us()[-1]) for o in observations]
    end_us = max(ends) + 1
    start_us = end_us - round(seconds * 1e6)
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    for o, last_us in zip(observations, ends, strict=True):
        if last_us < start_us:
            continue
        times, values = o.times_us(), o.samples()
        at = ((times - start_us) * columns // (end_us - start_us)).astype(np.int64)
        fits = (at >= 0) & (at < columns) & np.isfinite(values)
        np.minimum.at(low, at[fits], values[fits])
        np.maximum.at(high, at[fits], values[fits])
    return start_us, tuple((float(a), float(b)) if a <= b else None for a, b in zip(low, high, strict=True))


def _last_rows(table: pa.Table) -> pa.Table:
    """Rows that have a sample in the newest seconds."""
    newest = pc.max(table.column("t1_us")).as_py()
    return table.filter(pc.field("t1_us") >= newest - round(WAVE_SECONDS * 1e6)).sort_by("t0_us")


def _grouped(rows: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["subject"], []).append(row)
    return found


def _in_order(codes: Any) -> list[str]:
    """What a NEWS2 is made of first, then the rest by name."""
    first = {code: i for i, code in enumerate(NEWS2_CODES)}
    return sorted(set(codes), key=lambda c: (first.get(c, len(first)), c))


def _row(
    subject: str, edge: str, scores: Sequence[dict[str, Any]], complete: float | None, last_us: int, priority: Priority | None
) -> SubjectRow:
    if not scores:
        return SubjectRow(subject, edge, complete=complete, last_us=last_us, priority=priority)
    newest = scores[-1]
    return SubjectRow(
        subject, edge, newest["total"], bool(newest["missing"]), newest["red"], tuple(s["total"] for s in scores), complete,
        last_us, priority,
    )  # fmt: skip


def _unscored(row: SubjectRow) -> SubjectRow:
    return SubjectRow(row.subject, row.edge, complete=row.complete, last_us=row.last_us, priority=row.priority)


def _need(row: SubjectRow) -> tuple[int, int, bool, str]:
    urgency = URGENCY.index(row.priority) if row.priority is not None else len(URGENCY)
    return urgency, -(row.news2 if row.news2 is not None else -1), not row.red, row.subject
