"""What the Bedside screen asks of the hub: from heartbeats to its read model, and the way back to an edge.

Consent is asked twice: the edge leaves out whom its own register does not let go, and here nobody is shown whom the hub's copy
keeps back, or who is known at another edge than the one that speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace

from wardround.bedside.told import RESTS_ON, MayTell
from wardround.clock import Clock
from wardround.console.bedside_model import BedsideLoad, BedsideRow, BedsideView
from wardround.console.model import URGENCY, Overview, Priority
from wardround.console.shared import Shared
from wardround.desks.seen import Seen
from wardround.errors import WardroundError
from wardround.learn.grpc_wire import Beat
from wardround.records import EdgeLoad, OpenAlert
from wardround.threads import pairs
from wardround.trust.roles import Act

ROWS_MAX = 20_000
ALLOW = "acknowledge_from_hub = true under [bedside] of that edge's edge.toml allows it"


class HubBedsideDesk:
    """Of one hub. May be called from any thread."""

    def __init__(
        self,
        clock: Clock,
        *,
        beats: Mapping[str, Beat],
        attached: Callable[[], set[str]],
        overview: Callable[[], Overview],
        edge_of: Mapping[str, str],
        may_show: MayTell,
        check: Callable[[str, Act], None],
        record: Callable[..., None],
        tell: Callable[[str, str, str], None],
    ) -> None:
        """`may_show(subject, codes)`: consent for care lets the hub show each of these; `tell(edge, alert, who)` sends it."""
        self._clock, self._beats, self._attached, self._overview = clock, beats, attached, overview
        self._edge_of, self._may_show = edge_of, may_show
        self._check, self._record, self._tell = check, record, tell
        self._view = Shared(self._build, clock, of=lambda: overview().now_us)
        self._seen = Seen(clock)

    def view(self) -> BedsideView:
        """The newest read model."""
        return self._view()

    def seen(self, who: str) -> bool:
        """Somebody sees of whom alerts are.

        Raises:
            NotAllowed: their role does not cover patients' data.
            WardroundError: it cannot be recorded, and must not be shown.
        """
        self._check(who, Act.PATIENTS)
        self._seen.record(who, lambda: self._record("view", "alerts at the bedside opened", who))
        return True

    def acknowledge(self, who: str, edge: str, alert_id: str) -> None:
        """Tell the edge that somebody is on it.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: there is no such alert, or the edge is away, or does not allow it.
        """
        self._check(who, Act.ACKNOWLEDGE)
        beat = self._beats.get(edge)
        found = next((a for a in beat.alerts if a.alert_id == alert_id), None) if beat is not None else None
        if beat is None or found is None:
            raise WardroundError(f"there is no alert {alert_id} at {edge}", remedy="it may be over; look at the list again")
        if found.category == "physiological":
            self._check(who, Act.PATIENTS)
        if not beat.acknowledges:
            raise WardroundError(f"{edge} does not let its alerts be acknowledged from here", remedy=ALLOW)
        if edge not in self._attached():
            raise WardroundError(f"{edge} is not connected", remedy=f"`wardround edge alerts ack {alert_id}` there does it")
        self._record("change", "alert at an edge acknowledged", who, alert=alert_id, edge=edge)
        self._tell(edge, alert_id, who)

    # -- the read model

    def _build(self) -> BedsideView:
        state = {e.name: e.state for e in self._overview().edges}
        beats = [(edge, beat) for edge, beat in sorted(pairs(self._beats)) if edge in state]
        rows = [self._row(edge, beat, a, stale=state[edge] == "silent") for edge, beat in beats for a in beat.alerts]
        rows.sort(key=lambda r: (not r.needs_person, URGENCY.index(r.priority), r.edge, r.alert_id))
        loads = [(edge, load) for edge, beat in beats for load in beat.load]
        by_category = [[load for _, load in loads if load.category == category] for category in ("physiological", "technical")]
        return BedsideView(
            self._clock.now_us(),
            tuple(rows[:ROWS_MAX]),
            tuple(_load(edge, [load]) for edge, load in loads if load.alerts),
            tuple(_load("", own) for own in by_category if any(load.alerts for load in own)),
            watching=len({edge for edge, load in loads if load.patient_days > 0}),
            more=max(0, len(rows) - ROWS_MAX),
        )

    def _row(self, edge: str, beat: Beat, alert: OpenAlert, *, stale: bool) -> BedsideRow:
        priority: Priority = alert.priority if alert.priority in URGENCY else "info"
        row = BedsideRow(edge, alert.alert_id, priority, alert.category, alert.state, stale, beat.acknowledges)
        about = alert.about
        if about is None or self._edge_of.get(about.subject) != edge:
            return row
        codes = RESTS_ON.get(about.kind, ())
        if not codes or not self._may_show(about.subject, codes):
            return row
        return replace(
            row,
            subject=about.subject,
            title=about.title,
            since_us=about.since_us,
            news2=about.news2,
            acknowledged_by=about.acknowledged_by,
        )


def _load(edge: str, loads: Iterable[EdgeLoad]) -> BedsideLoad:
    """Of one edge, or of several together; a median of medians is none, and is left out."""
    own = list(loads)
    alerts, judged, days = sum(x.alerts for x in own), sum(x.judged for x in own), sum(x.patient_days for x in own)
    return BedsideLoad(
        edge,
        own[0].category,
        alerts,
        alerts / days if days > 0 else None,
        sum(x.acknowledged for x in own) / alerts if alerts else None,
        own[0].answer_s if len(own) == 1 else None,
        judged,
        sum(x.actionable for x in own) / judged if judged else None,
    )
