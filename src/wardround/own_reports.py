"""What edges say of themselves in a study whose hub sees no update, at the hub: from their reports to alerts that name them.

An edge is believed: nobody can look, and one that lies says nothing here. The reports of one attempt at a round are looked at
together, so that what many edges find at once is one alert.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from wardround.learn.messages import RoundEvent
from wardround.learn.own_report import OwnReport, scores_of
from wardround.watch.detectors.seen import Detector, Deviation, EdgeSeen, RoundSeen, Standing
from wardround.watch.detectors.told import Told
from wardround.watch.model_watch import ModelWatch
from wardround.watch.own_watch import own_signs

QUEUE_MAX = 64
EDGES_MAX = 20_000
Scores = Mapping[str, tuple[float, float]]


class OwnReports:
    """Of one study. `told` and `end` are called one at a time, under the coordinator's lock; the rest by whoever looks, one at a
    time as well."""

    def __init__(self, state: bytes = b"") -> None:
        """`state` as `state()` gave it; what cannot be read begins anew."""
        self._watch = ModelWatch("own-reports", make=_told)
        if state:
            self._watch.restore(state)
        self._shipped = {name: sign.default for name, sign in own_signs().items()}
        self._of, self._reports = (0, 0), dict[str, EdgeSeen]()  # the newest round and attempt
        self._waiting: deque[RoundSeen] = deque(maxlen=QUEUE_MAX)
        self._newest: dict[str, OwnReport] = {}  # by edge

    def told(self, event: RoundEvent) -> None:
        """One report has come. Returns at once."""
        report = event.own_report
        if report is None:
            return
        of = (report.round_number, report.attempt)
        if of > self._of:
            self.end()
            self._of = of
        if len(self._reports) < EDGES_MAX:
            self._reports[event.edge] = EdgeSeen(own=scores_of(report, self._shipped), aside=bool(report.sits_out))
        self._newest.pop(event.edge, None)
        self._newest[event.edge] = report  # the newest last
        while len(self._newest) > EDGES_MAX:
            del self._newest[next(iter(self._newest))]

    def end(self) -> None:
        """The newest attempt is over: what has come is looked at. What comes late is looked at with the next."""
        reports, self._reports = self._reports, {}
        if reports:
            self._waiting.append(RoundSeen(number=self._of[0], edges=reports))

    def look(self) -> list[Deviation] | None:
        """What the reports that wait show; None where none wait."""
        found: list[Deviation] | None = None
        while self._waiting:
            found = (found or []) + self._watch.round(self._waiting.popleft())
        return found

    def standing(self) -> list[Standing]:
        """What is not over."""
        return self._watch.standing()

    def scores(self) -> dict[tuple[str, str], tuple[float, float]]:
        """The newest scores with their thresholds, by (screen, edge)."""
        newest = dict(self._newest)
        return {(name, edge): pair for edge, report in newest.items() for name, pair in scores_of(report, self._shipped).items()}

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        return self._watch.state()


def _told(features: Sequence[str]) -> list[Detector]:
    del features
    return [Told()]
