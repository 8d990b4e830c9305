"""The watch: what the steps produce goes in; findings become alerts, and what can be done at once is done.

Plain values come in from the roots: the watch knows of no other step. Safe to use from several threads.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import msgspec

from wardround.clock import Clock
from wardround.records import Observation, is_sandbox
from wardround.watch import advisory, completeness_finding, hub_numbers, lateness, model_findings
from wardround.watch.advisory import Advice
from wardround.watch.alerts import Alert, AlertBook, Finding, Response, Silence
from wardround.watch.detectors.completeness import Incomplete
from wardround.watch.detectors.seen import Deviation, Standing
from wardround.watch.detectors.sensors import SensorChange, Sensors
from wardround.watch.edge_certificates import ENDED, ENDING, certificate_findings, certificate_fingerprint
from wardround.watch.hub_numbers import Unusual
from wardround.watch.sensor_findings import FLAGGED, sensor_finding, sensor_fingerprint
from wardround.watch.timetable import Row

NEWS_MAX = 10_000
MISSED_BEATS = 3.0
EVIDENCE_MAX = 40
DRILL_ACTION = "Nothing has to be done: somebody put this fault in on purpose. `wardround drill --live` says what came of it."
OTHER_SCORES = ("twins", "peers", "trial")
_REFUSED = {
    "not-finite": "The update holds NaN or infinity.",
    "shape": "A tensor of the update has the wrong shape.",
    "names": "The update does not carry the tensors that were asked for.",
    "dtype": "A tensor of the update has the wrong type.",
    "truncated": "The update arrived incomplete.",
    "digest": "The update's bytes do not have the digest it announced.",
    "examples": "The update claims more examples than the edge has registered.",
    "norm": "The update is far larger than this edge's own past.",
    "base": "The update is not based on this round's model.",
}


@dataclass(frozen=True, slots=True)
class _Words:
    """How an alert says why a screen refused."""

    title: str
    score: str
    detail: str
    causes: tuple[str, ...]
    action: str


def _own_history(what: str) -> _Words:
    return _Words(
        "sends updates far from its own history",
        "Own-history score",
        f"the {what} of its update",
        ("labels or units changed at this edge", "a fault in training", "a hostile edge"),
        "Compare the data of {edge} before and after round {round_number}; then let it count again.",
    )


def _twins(of: str) -> _Words:
    return _Words(
        f"sends updates that are a copy of {of}",
        "Cosine",
        f"in two of three rounds its update points the way of {of}",
        ("an edge enrolled twice, or two edges on the same data", "an edge that does not train", "a hostile edge"),
        "Look at how {edge} trains and on what data; a copy and its original cannot be told apart, so both are set aside.",
    )


def _trial(what: str) -> _Words:
    return _Words(
        "was not admitted: its updates do not fit",
        "Score of its trial",
        f"the updates of its trial {what}",
        ("labels or units are wrong at this edge", "a fault in training, or a wrong sign", "a hostile edge"),
        "Look at the data of {edge} and how it trains; if it is merely different, let it count. It is tried again meanwhile.",
    )


def _peers(what: str) -> _Words:
    return _Words(
        "sends updates far from those of the others",
        "Score beside its peers",
        f"in its last rounds {what}",
        ("labels or units are wrong at this edge since it joined", "a fault in training", "a hostile edge"),
        "Compare the data of {edge} with those of other edges; if it is merely different, let it count again.",
    )


_QUARANTINED = {
    "own-history-norm": _own_history("size"),
    "own-history-direction": _own_history("direction"),
    "own-history-course": _own_history("course"),
    "own-history-drift": _own_history("course"),
    "peers-norm": _peers("the size of its update was another"),
    "peers-climb": _peers("and with each step of the model it wanted more of it, where they wanted less: as with a wrong sign"),
    "peers-path": _peers("and in all its first ones together its updates pointed against the way that the model went"),
    "peers-self": _peers("its updates did not agree with each other, as theirs do"),
    "trial-noise": _trial("do not resemble each other from round to round, as those of the others do"),
    "trial-direction": _trial("point against those of the others"),
    "twins-peer": _twins("another edge's"),
    "twins-stale": _twins("the hub's last step"),
}


@dataclass(frozen=True, slots=True)
class EdgeSeen:
    """What the watch knows of an edge's life."""

    last_us: int
    silent: bool
    stood_us: int = 0  # how long the hub itself had stood still by then, in all
    interval_s: float = 0.0  # between its heartbeats, as it said


class Watch:
    """One hub's watch."""

    def __init__(
        self,
        *,
        clock: Clock,
        heartbeat_s: float,
        signal_title: Callable[[str], str],
        on_change: Callable[[Sequence[Alert]], None],
        saved: bytes = b"",
    ) -> None:
        """`on_change` gets every alert that was raised, acknowledged, changed or resolved, those of one act together and in their
        order: it persists and notifies, while others go on."""
        self._clock, self._heartbeat_s = clock, heartbeat_s
        self._signal_title, self._on_change = signal_title, on_change
        self._lock, self._telling = threading.RLock(), threading.RLock()  # who tells holds no lock that the hub's loop waits for
        self._depth = 0
        self._news: deque[Alert] = deque(maxlen=NEWS_MAX)  # changed, and not told yet; a tick tells what is there
        self._stood_us = 0
        self._book = AlertBook()
        self._sensors = Sensors()
        self._edges: dict[str, EdgeSeen] = {}
        self._excused = set[str]()  # silent, and expected to be
        self._expected: dict[str, tuple[int, int]] = {}  # not here since the hub's start: since when, and until when it may be
        self._scores: dict[tuple[str, str], list[tuple[float, float]]] = {}
        if saved:
            self._book.restore(saved)

    # -- what comes in

    def observe(self, observations: Sequence[Observation]) -> None:
        """Observations that have just become durable at the hub."""
        with self._acting():
            for change in self._sensors.observe_all(observations, self._clock.now_us()):
                self._sensor(change)

    def edge_seen(self, edge: str, interval_s: float | None = None) -> None:
        """A sign of life of an edge, which with a heartbeat says how long it is until the next one. It waits for no disk: what it
        changes is told with the next tick."""
        with self._acting(tells=False):
            known = self._edges.get(edge)
            if interval_s is None:
                interval_s = known.interval_s if known is not None else 0.0
            self._edges[edge] = EdgeSeen(self._clock.now_us(), silent=False, stood_us=self._stood_us, interval_s=interval_s)
            self._excused.discard(edge)
            self._expected.pop(edge, None)
            if known is None or known.silent:  # of an edge that was silent when the hub ended there is an alert and no more
                self._clear(_fingerprint("edge-silent", edge))

    def expect(self, edges: Collection[str], *, within_s: float) -> None:
        """These were here before the hub's start: one that is not back within so long is silent."""
        with self._lock:
            since_us = self._clock.now_us()
            self._expected = dict.fromkeys(edges, (since_us, since_us + round(within_s * 1e6)))

    def score(self, study: str, edge: str, round_number: int, score: float) -> None:
        """The screen's score of an edge's update: evidence for later."""
        with self._lock:
            series = self._scores.setdefault((study, edge), [])
            series.append((float(round_number), score))
            del series[:-EVIDENCE_MAX]

    def update_refused(self, study: str, edge: str, round_number: int, reason: str, detail: str) -> None:
        """Triage refused an update; an edge that is set aside already has its alert."""
        with self._lock:
            if self._book.is_open(_fingerprint("update-poisoned", edge, study=study)):
                return
        now_us = self._clock.now_us()
        self._raise(
            Finding(
                kind="update-refused",
                title=f"{edge} sent an update that cannot count",
                priority="medium",
                category="model",
                since_us=now_us,
                detected_us=now_us,
                edge=edge,
                study=study,
                signal=reason,
                detail=f"Round {round_number}: {_REFUSED.get(reason, reason)} {detail}".strip(),
                impact="The round goes on without this edge.",
                causes=("a fault in the edge's software or memory", "a damaged link", "a hostile edge"),
                action=f"Look at the log of {edge}; its data is not affected.",
            ),
            Response(what=f"refused before the fold, round {round_number}"),
        )

    def edge_quarantined(
        self, study: str, edge: str, round_number: int, *, reason: str, score: float, threshold: float, until_round: int
    ) -> None:
        """The screen refused an update and set its edge aside."""
        with self._acting():
            if not reason.startswith(OTHER_SCORES):  # the series is of own history's
                self.score(study, edge, round_number, score)
            now_us = self._clock.now_us()
            words = _QUARANTINED.get(reason, _own_history("course"))
            self._raise(
                Finding(
                    kind="update-poisoned",
                    title=f"{edge} {words.title}",
                    priority="medium",
                    category="model",
                    since_us=now_us,
                    detected_us=now_us,
                    edge=edge,
                    study=study,
                    detail=f"{words.score} {score:.3g}, threshold {threshold:.3g}: {words.detail}.",
                    evidence=() if reason.startswith(OTHER_SCORES) else tuple(self._scores.get((study, edge), ())),
                    evidence_unit=words.score.lower(),
                    threshold=threshold,
                    impact="None so far: the update was set aside before it was folded.",
                    causes=words.causes,
                    action=words.action.format(edge=edge, round_number=round_number),
                ),
                Response(
                    what=f"quarantined in round {round_number}, weight 0",
                    undo=f"release:{study}:{edge}",
                    until=f"until round {until_round}",
                ),
            )

    def edge_released(self, study: str, edge: str) -> None:
        """An edge counts again."""
        self._clear(_fingerprint("update-poisoned", edge, study=study))

    def trained(self, study: str, deviations: Sequence[Deviation], standing: Collection[Standing]) -> None:
        """What a study's training showed in a round, and what stands after it: alerts of anything else of it are over."""
        with self._acting():
            now_us = self._clock.now_us()
            own = {_fingerprint(kind, edge, signal=of, study=study) for kind, edge, of in standing}
            for fingerprint in self._open_of(study) - own:
                self._clear(fingerprint)
            for deviation in deviations:
                fingerprint = _fingerprint(deviation.kind, deviation.edge, signal=deviation.of, study=study)
                if deviation.state == "new" or (deviation.state == "on" and not self._book.is_open(fingerprint)):
                    beside = [kind for kind, edge, _ in standing if edge == deviation.edge and kind != deviation.kind]
                    self._raise(model_findings.finding(study, deviation, now_us, beside))

    def _open_of(self, study: str) -> set[str]:
        """Fingerprints of the open alerts of a study's training."""
        findings = (a.finding for a in self._book.open_alerts())
        return {f.fingerprint for f in findings if f.study == study and f.kind in model_findings.WORDS}

    def advised(self, study: str, advice: Sequence[Advice], standing: Collection[str]) -> None:
        """What joint detectors say of a study's edges: a note on what is open of an edge, or a notice of its own. `standing`: the
        edges that they speak of; a notice of any other one is over."""
        with self._acting():
            of_study = [a for a in self._book.open_alerts() if a.finding.study == study]
            for alert in of_study:
                if alert.finding.kind == advisory.KIND and alert.finding.edge not in standing:
                    self._clear(alert.finding.fingerprint)
            for one in advice:
                known = [a for a in of_study if a.finding.edge == one.edge and a.finding.kind != advisory.KIND]
                for alert in known:
                    self._changed(self._book.noted(alert.alert_id, f"Round {one.round_number}: {one.words}."))
                if not known:
                    self._raise(advisory.finding(study, one, self._clock.now_us()))

    def is_well(self, study: str) -> bool:
        """Whether no alert of a study is open, beside those of its training, and advice."""
        with self._lock:
            findings = [a.finding for a in self._book.open_alerts()]
        return not any(f.study == study and f.kind not in {*model_findings.WORDS, advisory.KIND} for f in findings)

    def drill_over(self, study: str) -> None:
        """A live drill has ended: its alerts are over, and what was kept for their evidence goes."""
        if not is_sandbox(study):
            return
        with self._acting():
            for alert in self._book.open_alerts():
                if alert.finding.study == study:
                    now_us = self._clock.now_us()
                    self._changed(self._book.clear(alert.finding.fingerprint, now_us, "the drill is over", at_once=True))
            self._scores = {key: series for key, series in self._scores.items() if key[0] != study}

    def round_abandoned(self, study: str, round_number: int, reason: str) -> None:
        """A round ended without a model."""
        now_us = self._clock.now_us()
        self._raise(
            Finding(
                kind="round-abandoned",
                title=f"Round {round_number} of {study} found too few edges",
                priority="low",
                category="technical",
                since_us=now_us,
                detected_us=now_us,
                study=study,
                detail=f"{reason}. It is tried again; nothing is lost.",
                causes=("edges are out of reach", "edges have too few examples yet"),
                action="Look at which edges are connected.",
            )
        )

    def round_committed(self, study: str) -> None:
        """A round ended with a model."""
        self._clear(_fingerprint("round-abandoned", "", study=study))

    def certificates(self, ends: Mapping[str, tuple[int, int]]) -> None:
        """When each edge's newest certificate was issued and when it ends, but of those revoked; call it about once a minute."""
        with self._acting():
            for edge, what, finding in certificate_findings(ends, self._clock.now_us()):
                if finding is not None:
                    self._raise(finding)
                else:
                    self._clear(certificate_fingerprint(edge, what))
            gone = {a.finding.edge for a in self._book.open_alerts() if a.finding.kind == "certificate"} - set(ends)
            for edge in gone:
                for what in (ENDED, ENDING):
                    self._clear(certificate_fingerprint(edge, what))

    def tick(self, off: Collection[str] = (), *, stood_s: float = 0.0) -> None:
        """Look at the clock: silent edges, silent signals. Call it once a second.

        Args:
            off: edges whose silence is expected.
            stood_s: how long the hub itself has stood still since the last tick: that time is no edge's silence.
        """
        with self._acting():
            now_us = self._clock.now_us()
            self._stood_us += round(stood_s * 1e6)
            for edge, seen in list(self._edges.items()):
                quiet_s = (now_us - seen.last_us - (self._stood_us - seen.stood_us)) / 1e6
                if not seen.silent and quiet_s > MISSED_BEATS * max(self._heartbeat_s, seen.interval_s):
                    self._fell_silent(edge, replace(seen, silent=True), seen.last_us, off)
                elif seen.silent and edge in self._excused and edge not in off:  # it should be back by now
                    self._excused.discard(edge)
                    self._edge_silent(edge, seen.last_us or now_us, now_us)
            for edge, (since_us, until_us) in list(self._expected.items()):
                if now_us - self._stood_us > until_us:
                    del self._expected[edge]
                    self._fell_silent(edge, EdgeSeen(0, silent=True), since_us, off)
            for change in self._sensors.tick(now_us, {edge for edge, seen in self._edges.items() if seen.silent}):
                self._sensor(change)
            self._settle(now_us)

    def late(self, rows: Collection[Row]) -> None:
        """What is late of what the hub does by the clock; every other alert of that kind is over."""
        now_us = self._clock.now_us()
        self._all_of(lateness.KIND, [lateness.finding(row, now_us) for row in rows if row.late_s])

    def incomplete(self, rows: Collection[Incomplete]) -> None:
        """What comes with holes now; every other alert of that kind is over."""
        now_us = self._clock.now_us()
        kind = completeness_finding.KIND
        self._all_of(kind, [completeness_finding.finding(row, self._signal_title(row.code), now_us) for row in rows])

    def unusual(self, found: Collection[Unusual], standing: Collection[str]) -> None:
        """What was never seen of the hub's own numbers; `standing`: the numbers of which it is not over."""
        for alert in self.open_alerts():
            if alert.finding.kind == hub_numbers.KIND and alert.finding.signal not in standing:
                self._clear(alert.finding.fingerprint)
        for one in found:
            self._raise(hub_numbers.finding(one, self._clock.now_us()))

    def _all_of(self, kind: str, findings: Sequence[Finding]) -> None:
        """These are there now, and no other of their kind."""
        found = {f.fingerprint: f for f in findings}
        for alert in self.open_alerts():
            if alert.finding.kind == kind and alert.finding.fingerprint not in found:
                self._clear(alert.finding.fingerprint)
        for finding in found.values():
            self._raise(finding)

    # -- what people do

    def acknowledge(self, alert_id: str, who: str) -> bool:
        """Someone is on it."""
        with self._acting():
            return self._changed(self._book.acknowledge(alert_id, who, self._clock.now_us()))

    def judge(self, alert_id: str, actionable: bool, who: str) -> bool:
        """Someone says whether an alert needed something done; whether there is such an alert."""
        with self._acting():
            judged = self._book.judge(alert_id, actionable=actionable, who=who, now_us=self._clock.now_us())
            return self._changed(judged)

    def undo(self, alert_id: str, who: str, reason: str) -> str:
        """Note that a response is undone; the command that undoes it, empty when there is nothing to undo."""
        with self._acting():
            known = self._book.get(alert_id)
            command = known.response.undo if known is not None and known.response is not None else ""
            return command if self._changed(self._book.undone(alert_id, who, reason, self._clock.now_us())) else ""

    def responded(self, alert_id: str, response: Response) -> bool:
        """Note on an alert what was done about it."""
        with self._acting():
            return self._changed(self._book.answered(alert_id, response, self._clock.now_us()))

    def silence(self, matchers: Mapping[str, str], *, until_us: int, who: str, reason: str) -> Silence:
        """Tell nobody of alerts that fit, until a time.

        Raises:
            ValueError: it makes no sense, and why.
        """
        with self._acting():
            now_us = self._clock.now_us()
            silence = self._book.silence(matchers, until_us=until_us, who=who, reason=reason, now_us=now_us)
            self._settle(now_us)
            return silence

    def unsilence(self, silence_id: str) -> bool:
        """End a silence now."""
        with self._acting():
            ended = self._book.unsilence(silence_id)
            self._settle(self._clock.now_us())
            return ended

    # -- what can be seen

    def alert(self, alert_id: str) -> Alert | None:
        """An alert by its id."""
        with self._lock:
            return self._book.get(alert_id)

    def silences(self) -> list[Silence]:
        """The silences that hold."""
        with self._lock:
            return self._book.silences()

    def alerts(self) -> list[Alert]:
        """Every alert, newest first."""
        with self._lock:
            return self._book.alerts()

    def open_alerts(self) -> list[Alert]:
        """What is open, who needs a person first."""
        with self._lock:
            return self._book.open_alerts()

    def edges(self) -> Mapping[str, EdgeSeen]:
        """When each edge was last seen."""
        with self._lock:
            return dict(self._edges)

    def save(self) -> bytes:
        """The alert book."""
        with self._lock:
            return self._book.save()

    # -- how

    def _sensor(self, change: SensorChange) -> None:
        if change.over:
            self._clear(sensor_fingerprint(change))
            return
        finding = sensor_finding(change, self._signal_title, self._clock.now_us())
        self._raise(finding, FLAGGED if change.what == "flat" else None)

    def _fell_silent(self, edge: str, seen: EdgeSeen, since_us: int, off: Collection[str]) -> None:
        self._edges[edge] = seen
        if edge in off:
            self._excused.add(edge)
        else:
            self._edge_silent(edge, since_us, self._clock.now_us())

    def _edge_silent(self, edge: str, since_us: int, now_us: int) -> None:
        self._raise(
            Finding(
                kind="edge-silent",
                title=f"{edge} is silent",
                priority="medium",
                category="technical",
                since_us=since_us,
                detected_us=now_us,
                edge=edge,
                detail="It spools at the edge; nothing is lost yet.",
                impact="Rounds go on without it.",
                causes=("the edge is off or restarts", "the network between is down", "its certificate has ended"),
                action=f"Check the power and the link of {edge}.",
            ),
            Response(what="rounds go on without it; its data waits in its spool"),
        )

    def _raise(self, finding: Finding, response: Response | None = None) -> None:
        if is_sandbox(finding.study):
            words = {"title": f"DRILL: {finding.title}", "impact": "None: a drill, in a sandbox.", "action": DRILL_ACTION}
            finding = msgspec.structs.replace(finding, **words)
            response = msgspec.structs.replace(response, undo="") if response is not None else None
        with self._acting():
            self._changed(self._book.raise_(finding, self._clock.now_us(), response))

    def _clear(self, fingerprint: str) -> None:
        with self._acting():
            self._changed(self._book.clear(fingerprint, self._clock.now_us()))

    def _settle(self, now_us: int) -> None:
        """What a new or ended silence changes."""
        self._news.extend(self._book.tick(now_us))

    def _changed(self, alert: Alert | None) -> bool:
        if alert is None:
            return False
        self._news.append(alert)
        return True

    @contextmanager
    def _acting(self, *, tells: bool = True) -> Iterator[None]:
        """One act, which may have others in it. What it changed is told once it is whole, and without the lock: whoever changes
        the book takes the lock here and nowhere else, or would hold it against who is telling."""
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1
                whole = self._depth == 0
        if whole and tells:
            self._tell()

    def _tell(self) -> None:
        """Whoever comes second waits for the first, and then knows what it changed to be told."""
        with self._telling:
            with self._lock:
                news = list(self._news)
                self._news.clear()
            if not news:
                return
            try:
                self._on_change(news)
            except BaseException:  # a full disk, as a rule: told again with the next tick
                with self._lock:
                    self._news.extendleft(reversed(news))
                raise


def _fingerprint(kind: str, edge: str, device: str = "", signal: str = "", study: str = "") -> str:
    return "|".join((kind, edge, device, signal, study))
