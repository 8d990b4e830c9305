"""What a hub that may act does about an alert of the study: the live book of responses (watch/respond.py), on a fleet.

Rollback and pause, where the study does not turn them off. The other responses stay with people: quarantine by the screens is in
the fleet already. Rounds are the only clock here, so limits of hours are not asked.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from wardround.errors import RoundGivenUp
from wardround.learn.fleet import Fleet
from wardround.learn.models import Parameters
from wardround.learn.study import Study
from wardround.settings import RespondSettings, ResponseSettings
from wardround.watch.alerts import Alert, State
from wardround.watch.model_findings import finding
from wardround.watch.model_watch import Deviation, ModelWatch, for_updates
from wardround.watch.respond import Act, Entry, ResponseBook, Situation

LOOKED_BACK = 3  # newest rounds that a divergence is told from (detectors/step.py): no model of theirs counts as good


class Remedy:
    """Of one run."""

    def __init__(self, study: Study, fleet: Fleet) -> None:
        off = {a.value: _mode(getattr(study.respond, a.value), "off") for a in Act if a not in (Act.ROLLBACK, Act.PAUSE)}
        self._settings: RespondSettings = msgspec.structs.replace(
            study.respond, **off, rollback=_acting(study.respond.rollback), pause=_acting(study.respond.pause)
        )
        self._study, self._fleet, self._book = study, fleet, ResponseBook()
        self._open: dict[tuple[str, str], Alert] = {}
        self.held: Parameters | None = None  # the model that was gone back to last, which predicts during a pause

    def look(self, number: int, deviations: Sequence[Deviation], watch: ModelWatch) -> list[Entry]:
        """What is done after round `number`, in order; after a pause no round follows."""
        for deviation in deviations:
            key = (deviation.kind, deviation.edge)
            if deviation.state == "over":
                self._open.pop(key, None)
            elif key not in self._open:
                found = finding(self._study.name, deviation, number)
                name = "/".join((*key, str(number)))
                self._open[key] = Alert(alert_id=name, state=State.FIRING, finding=found, raised_us=number, changed_us=number)
        return self._respond(number, watch)

    def given_up(self, number: int, why: RoundGivenUp, watch: ModelWatch) -> list[Entry]:
        """What is done when round `number` comes to nothing, attempt after attempt: nothing, if edges were missing."""
        if not for_updates(why.spoilt, why.delivered, self._study.rounds.edges_min):
            return []
        for _ in range(why.attempts):
            watch.abandoned(number)
        return self._respond(number, watch)

    def _respond(self, number: int, watch: ModelWatch) -> list[Entry]:
        done: list[Entry] = []
        for alert in self._open.values():
            now = self._situation(number, watch, paused=any(e.act is Act.PAUSE for e in done))
            entry = self._book.consider(alert, self._settings, now, number)
            if isinstance(entry, Entry):
                done.append(self._do(entry, number))
        if any(e.act is Act.ROLLBACK for e in done):
            watch.went_back()
        return done

    def _situation(self, number: int, watch: ModelWatch, *, paused: bool) -> Situation:
        return Situation(
            study=self._study.name,
            round_number=number,  # a rollback takes no number of its own here
            edges=frozenset(self._fleet.names),
            paused=paused,
            newest=number,
            last_good=max(0, number - LOOKED_BACK),
            shown=watch.shown(),
            setting_aside=watch.setting_aside(),
            abandoned=watch.abandoned_attempts(),
        )

    def _do(self, entry: Entry, number: int) -> Entry:
        before = any(e.cause == entry.cause and e.act is Act.ROLLBACK for e in self._book.entries())
        if entry.act is Act.ROLLBACK:
            self.held = self._fleet.roll_back(entry.to_round)
        elif not before:  # a limit forbade going back: the newest model that was good predicts all the same
            self.held = self._fleet.roll_back(max(0, number - LOOKED_BACK))
        return self._book.settle(entry.response_id, done=True, answer="", now_us=number)


def _mode(own: ResponseSettings, mode: str) -> ResponseSettings:
    return msgspec.structs.replace(own, mode=mode)


def _acting(own: ResponseSettings) -> ResponseSettings:
    return own if own.mode == "off" else msgspec.structs.replace(own, mode="act", limit_hours=0.0)
