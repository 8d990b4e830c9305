"""A patient's trends at the bedside: what was never seen of a vital sign, hour by hour, where the edge's settings ask for it.

The hours come from the bedside watch, whose memory they are kept with: a state for each patient, written in the transaction that
moves the cursor, and only when an hour of theirs is over.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from wardround.bedside.findings import TREND_KIND, UNITS, trend_finding, trend_fingerprint
from wardround.watch.alerts import Alert, Finding
from wardround.watch.trend_novelty import TrendNovelty

log = structlog.get_logger(__name__)
PREFIX = "trend/"  # begins the name of what is kept of a patient


class Trends:
    """Of one edge. Under its bedside watch's lock."""

    def __init__(
        self, edge: str, *, on: bool, now_us: Callable[[], int], tell: Callable[[Finding], None], clear: Callable[..., None]
    ) -> None:
        """`clear(fingerprint, why)` ends an alert, if it is open. Where `on` is false nothing is learnt, and what was goes."""
        self._edge, self._now_us, self._tell, self._clear = edge, now_us, tell, clear
        self._novelty = TrendNovelty() if on else None
        self._left: Mapping[str, bytes] = {}  # what is kept of when it was on

    def hour(self, subject: str, vital: str, hour: int, median: float) -> None:
        """An hour of a vital sign is over."""
        found = self._novelty.hour(subject, vital, hour, median) if self._novelty is not None else None
        if found is not None:
            self._tell(trend_finding(self._edge, found, self._now_us()))

    def look(self, alerts: Iterable[Alert]) -> None:
        """End what is new no more; about once a minute."""
        standing = self._novelty.standing(self._now_us()) if self._novelty is not None else ()
        own = {trend_fingerprint(self._edge, vital, subject) for subject, vital in standing}
        for alert in alerts:
            if alert.finding.kind == TREND_KIND and alert.finding.fingerprint not in own:
                self._clear(alert.finding.fingerprint, "")

    def subjects(self) -> list[str]:
        """Every patient that is remembered."""
        return self._novelty.subjects() if self._novelty is not None else []

    def forget(self, subject: str, why: str) -> None:
        """A patient is watched no more."""
        if self._novelty is not None:
            self._novelty.forget(subject)
        for vital in UNITS:
            self._clear(trend_fingerprint(self._edge, vital, subject), why)

    def states(self) -> Mapping[str, bytes]:
        """What is to be kept, by name; empty: it goes."""
        if self._novelty is None:
            return self._left
        return {PREFIX + subject: state for subject, state in self._novelty.changed().items()}

    def kept(self) -> None:
        """What `states` gave is on the disk."""
        self._left = {}
        if self._novelty is not None:
            self._novelty.settled()

    def restore(self, states: Iterable[tuple[str, bytes]]) -> None:
        """Take up what was kept; what cannot be read is learned anew."""
        if self._novelty is None:
            self._left = {name: b"" for name, _ in states}
            return
        for name, state in states:
            try:
                self._novelty.restore(name.removeprefix(PREFIX), state)
            except ValueError as error:
                log.warning("a patient's trends cannot be read", edge_id=self._edge, reason=str(error))
