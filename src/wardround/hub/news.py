"""The news of a study's rounds: to the watch, to what Prometheus reads, to the edges it concerns, to what happened."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from wardround.learn.messages import Notice, RoundEvent
from wardround.records import EdgeId
from wardround.store import Quarantined, Store
from wardround.studies import Studies
from wardround.watch.metrics import Metrics
from wardround.watch.watcher import Watch

log = structlog.get_logger(__name__)


class RoundNews:
    """Called with each event of each round, from the threads of the coordinators."""

    def __init__(
        self,
        *,
        store: Store,
        watch: Watch,
        metrics: Metrics,
        studies: Studies,
        tell: Callable[[EdgeId, Notice], None],
        happened: Callable[[str, str], None],
    ) -> None:
        """`tell` sends an edge a notice of its study, `happened` adds a line to what happened."""
        self._store = store
        self._watch = watch
        self._metrics = metrics
        self._studies = studies
        self._tell = tell
        self._happened = happened

    def __call__(self, event: RoundEvent) -> None:
        """Say one event to everybody whom it concerns."""
        study, number = event.study, event.round_number
        if event.kind == "committed":
            self._watch.round_committed(study)
            self._metrics.round_committed(study, event.seconds, event.t_us)
            for replay in event.replayed:
                self._tell(replay.edge, Notice(study, replay.from_round, "accepted", "", f"replayed into round {number}"))
                self._happened(f"{replay.edge}'s update of round {replay.from_round} replayed", f"into round {number} of {study}")
            for edge, score in event.screen.items():
                if edge not in event.aside:
                    self._watch.score(study, edge, number, score)
                self._scored(study, edge, score)
            log.info("round committed", study=study, round_number=number, edges=len(event.folded), duration_s=event.seconds)
        elif event.kind in ("accepted", "failed"):
            self._metrics.update(study, "accepted" if event.kind == "accepted" else "failed")
        elif event.kind == "refused":
            self._metrics.update(study, "refused")
            self._store.set_aside(Quarantined(event.t_us, event.edge, "update", event.reason, event.detail))
            self._watch.update_refused(study, event.edge, number, event.reason, event.detail)
        elif event.kind == "quarantined":
            self._tell(EdgeId(event.edge), Notice(study, number, "aside", event.reason, f"until round {event.until_round}"))
            self._metrics.update(study, "quarantined")
            self._watch.edge_quarantined(
                study,
                event.edge,
                number,
                reason=event.reason,
                score=event.score,
                threshold=event.threshold,
                until_round=event.until_round,
            )
        elif event.kind in ("on-trial", "admitted"):
            self._tried(event)
        elif event.kind == "released":
            self._tell(EdgeId(event.edge), Notice(study, number, "released"))
            self._watch.edge_released(study, event.edge)
            self._happened(f"{event.edge} counts again", f"from round {number} of {study}")
        elif event.kind == "abandoned":
            self._watch.round_abandoned(study, number, event.reason)
            self._metrics.round_abandoned(study)
        elif event.kind == "finished":
            self._studies.finished(study)
            self._happened(f"Study {study} finished", f"{number} rounds, model {event.model[:8]}")

    def _tried(self, event: RoundEvent) -> None:
        """A trial has begun, or ended well; one that ends badly is a quarantine."""
        study, number, edge = event.study, event.round_number, EdgeId(event.edge)
        if event.kind == "admitted":
            self._tell(edge, Notice(study, number, "released"))
            self._happened(
                f"{edge} is admitted to {study}", f"its trial ended well in round {number}: it counts from the next on"
            )
            return
        words = f"its first {event.threshold:.0f} updates weigh nothing while they are looked at"
        self._tell(edge, Notice(study, number, "aside", "on-trial", words))
        self._happened(f"{edge} is on trial in {study}", f"since round {number}; {words}")

    def _scored(self, study: str, edge: str, score: float) -> None:
        running = self._studies.running.get(study)
        if running is not None:
            self._metrics.scored(study, edge, score, running.study.triage.screen_threshold)
