"""Alerts out of a hub, answers into it: its outbox, what people ask from the command line, what other processes are shown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import structlog

from wardround.clock import Clock
from wardround.desks.console import AT_EDGES, SILENCES, SINKS, HubDesk
from wardround.errors import WardroundError
from wardround.hub.recorder import Recorder
from wardround.learn.grpc_wire import Beat
from wardround.records import is_sandbox
from wardround.settings import HubSettings
from wardround.store import AlertRecord, Store
from wardround.threads import pairs
from wardround.trust.certificates import write_private
from wardround.watch.alerts import Alert
from wardround.watch.delivery.messages import Origin
from wardround.watch.delivery.outbox import Outbox
from wardround.watch.delivery.routes import routes
from wardround.watch.watcher import Watch

log = structlog.get_logger(__name__)
TOLD_AGAIN_US = 3_600_000_000


class Telling:
    """One hub's. `changed` is called by the watch, the rest from the hub's loops."""

    def __init__(
        self,
        home: Path,
        settings: HubSettings,
        *,
        store: Store,
        clock: Clock,
        watch: Watch,
        recorder: Recorder,
    ) -> None:
        """Open the outbox; nothing is sent until it is started."""
        self._store, self._clock, self._watch, self._recorder = store, clock, watch, recorder
        self.drills = set[str]()  # live drills whose alerts go to people; those of others stay at the console
        origin = Origin(hub=settings.name, site=settings.site, simulated=settings.simulated, console=settings.public_url)
        ways = routes(settings.notify, home, origin, write_private)
        self.outbox = Outbox(home / "outbox.sqlite", ways, clock, self._told_of)
        self._shown: dict[str, bytes] = {}  # what other processes were last shown

    def changed(self, alerts: Sequence[Alert]) -> None:
        """Alerts have another state: on the disk first, then to those who are told."""
        self._store.put_alerts(
            [AlertRecord(a.alert_id, a.state.value, a.raised_us, a.changed_us, msgspec.to_builtins(a)) for a in alerts]
        )
        self._store.save_state("alert-book", self._watch.save())
        for alert in alerts:
            self._said(alert)

    def _said(self, alert: Alert) -> None:
        detail = alert.response.what if alert.response is not None else alert.finding.detail
        self._recorder.happened(f"{'Resolved: ' if not alert.open else ''}{alert.finding.title}", detail)
        log.warning(
            "alert", alert_id=alert.alert_id, state=alert.state.value, kind=alert.finding.kind, edge_id=alert.finding.edge
        )
        if self._goes_out(alert):
            self.outbox.put(alert)

    def _goes_out(self, alert: Alert) -> bool:
        return not is_sandbox(alert.finding.study) or alert.finding.study in self.drills

    def _told_of(self) -> list[Alert]:
        return [alert for alert in self._watch.open_alerts() if self._goes_out(alert)]

    def again(self) -> None:
        """Put every alert that matters now into the outbox; what a sink has is not sent again."""
        self.outbox.behind = False
        recent_us = self._clock.now_us() - TOLD_AGAIN_US
        for alert in self._watch.alerts():
            if (alert.open or alert.changed_us > recent_us) and self._goes_out(alert):
                self.outbox.put(alert)

    def answer(self, desk: HubDesk, beats: Mapping[str, Beat]) -> None:
        """What people ask of alerts from the command line, and how the sinks do, for those who look there."""
        for request in self._store.requests("alerts"):
            try:
                answered = replace(request, state="done", answer=desk.answer(request.act, request.body, request.who))
            except WardroundError as error:
                answered = replace(request, state="refused", answer=str(error))
            self._store.put_request(answered)
        if self.outbox.behind:
            self.again()
        at_edges = {edge: [a.bare() for a in beat.alerts] for edge, beat in pairs(beats) if beat.alerts}
        for key, value in ((SINKS, self.outbox.states()), (SILENCES, self._watch.silences()), (AT_EDGES, at_edges)):
            data = msgspec.json.encode(value)
            if self._shown.get(key) != data:
                self._shown[key] = data
                self._store.save_state(key, data)
