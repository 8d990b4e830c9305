"""What Prometheus reads: counts of events since the hub started, and how things stand at the moment it asks.

Names and units by Prometheus' conventions (https://prometheus.io/docs/practices/naming/). Labels are bounded: edges, studies,
jobs and sinks, at most LABELS_MAX of each, and never a patient or a device. A score stands beside its threshold.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from wardround.errors import PortTaken
from wardround.watch.calibration import CalibrationReport

LABELS_MAX = 2_000
ROUND_BUCKETS_S = (0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0, 3_600.0)
Outcome = Literal["accepted", "refused", "quarantined", "failed"]


@dataclass(frozen=True, slots=True)
class EdgeFacts:
    """One edge now. Times are microseconds since 1970; 0: not known."""

    name: str
    up: bool
    seen_us: int = 0
    spooled: int = 0  # observations
    spool_bytes: int = 0
    certificate_us: int = 0  # when its certificate ends


@dataclass(frozen=True, slots=True)
class StudyFacts:
    """One study now; scores are None until a model was scored on held-back examples."""

    name: str
    round_number: int
    edges_reported: int
    edges_asked: int
    metric: str = ""
    score: float | None = None
    worst: float | None = None


@dataclass(frozen=True, slots=True)
class SinkFacts:
    """One sink of alerts now."""

    name: str
    waiting: int
    delivered: int
    given_up: int
    failing: bool


@dataclass(frozen=True, slots=True)
class Facts:
    """How the hub stands."""

    version: str = ""
    simulated: bool = False
    edges: Sequence[EdgeFacts] = ()
    studies: Sequence[StudyFacts] = ()
    sinks: Sequence[SinkFacts] = ()
    alerts: Sequence[tuple[str, str]] = ()  # (priority, state) of each open one
    inbox_waiting: int = 0
    set_aside: int = 0
    behind_s: float | None = None
    jobs: Sequence[tuple[str, int]] = ()  # name, when it last succeeded
    hub_certificate_us: int = 0


@dataclass(frozen=True, slots=True)
class Training:
    """What the watch of one study's training says of its newest round."""

    scores: Mapping[tuple[str, str], tuple[float, float]]
    report: CalibrationReport


@dataclass(slots=True)
class _Rounds:
    committed: int = 0
    abandoned: int = 0
    seconds: float = 0.0
    last_us: int = 0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(ROUND_BUCKETS_S) + 1))


class Metrics:
    """Counts events, and answers scrapes. Safe to use from several threads."""

    def __init__(self, facts: Callable[[], Facts]) -> None:
        self._facts = facts
        self._lock = threading.Lock()
        self._observations = self._samples = 0
        self._rounds: dict[str, _Rounds] = {}
        self._updates: dict[tuple[str, str], int] = {}
        self._scores: dict[tuple[str, str], tuple[float, float]] = {}  # (study, edge): score, threshold
        self._training: dict[str, Training] = {}
        self._said: dict[str, Mapping[tuple[str, str], tuple[float, float]]] = {}
        self._stop: Callable[[], None] | None = None

    # -- events

    def watched(self, study: str, scores: Mapping[tuple[str, str], tuple[float, float]], report: CalibrationReport) -> None:
        """A round was looked at: the newest score of each (sign, edge) with its threshold, and how far calibration is."""
        with self._lock:
            self._training[study] = Training(dict(list(scores.items())[-LABELS_MAX:]), report)

    def said(self, study: str, scores: Mapping[tuple[str, str], tuple[float, float]]) -> None:
        """What edges say of themselves in a study whose hub sees no update: by (screen, edge), as `watched`."""
        with self._lock:
            self._said[study] = dict(list(scores.items())[-LABELS_MAX:])

    def arrived(self, observations: int, samples: int) -> None:
        """Observations have become durable at the hub."""
        with self._lock:
            self._observations += observations
            self._samples += samples

    def round_committed(self, study: str, seconds: float, t_us: int) -> None:
        """A round ended with a model."""
        with self._lock:
            rounds = self._rounds.setdefault(study, _Rounds())
            rounds.committed, rounds.seconds, rounds.last_us = rounds.committed + 1, rounds.seconds + seconds, t_us
            rounds.buckets[sum(1 for limit in ROUND_BUCKETS_S if seconds > limit)] += 1

    def round_abandoned(self, study: str) -> None:
        """A round ended without one."""
        with self._lock:
            self._rounds.setdefault(study, _Rounds()).abandoned += 1

    def update(self, study: str, outcome: Outcome) -> None:
        """What became of an edge's update."""
        with self._lock:
            self._updates[study, outcome] = self._updates.get((study, outcome), 0) + 1

    def scored(self, study: str, edge: str, score: float, threshold: float) -> None:
        """The screen looked at an update."""
        with self._lock:
            self._scores.pop((study, edge), None)
            self._scores[study, edge] = (score, threshold)
            for old in list(self._scores)[:-LABELS_MAX]:
                del self._scores[old]

    # -- scrapes

    def serve(self, host: str, port: int) -> int:
        """Answer on `/metrics`, in a thread; the port.

        Raises:
            PortTaken: another process listens there.
        """
        registry = CollectorRegistry()
        registry.register(self)
        try:
            server, thread = start_http_server(port, addr=host, registry=registry)
        except OSError as exc:
            raise PortTaken(host, port, setting="metrics.port") from exc

        def stop() -> None:
            server.shutdown()
            thread.join(5.0)
            server.server_close()

        self._stop = stop
        return int(server.server_port)

    def close(self) -> None:
        """Stop answering."""
        if self._stop is not None:
            self._stop()

    def collect(self) -> Iterator[Metric]:
        """Every metric as it stands."""
        facts = self._facts()
        yield _gauge("info", "What runs", [((facts.version, str(facts.simulated).lower()), 1)], "version", "simulated")
        yield from self._events()
        yield from _fleet(facts)
        yield from _studies(facts)
        with self._lock:
            training, said = dict(self._training), dict(self._said)
        yield from _training(training)
        yield from _own_screens(said)
        yield from _alerts(facts)
        yield _gauge("inbox_waiting_observations", "Receipted, not in the lake yet", [((), facts.inbox_waiting)])
        yield _gauge("quarantined_records", "Set aside at the hub, with a reason", [((), facts.set_aside)])
        if facts.behind_s is not None:
            yield _gauge("gold_behind_seconds", "How far gold tables are behind what has arrived", [((), facts.behind_s)])
        rows = [((name,), t_us / 1e6) for name, t_us in facts.jobs[:LABELS_MAX]]
        yield _gauge("job_last_success_timestamp_seconds", "When a job last succeeded", rows, "job")
        yield _gauge(
            "hub_certificate_expiry_timestamp_seconds", "End of the hub's certificate", [((), facts.hub_certificate_us / 1e6)]
        )

    def _events(self) -> Iterator[Metric]:
        with self._lock:
            rounds = {name: (r.committed, r.abandoned, r.seconds, r.last_us, list(r.buckets)) for name, r in self._rounds.items()}
            updates, scores = dict(self._updates), dict(self._scores)
            observations, samples = self._observations, self._samples
        yield _counter("observations", "Observations made durable", [((), observations)])
        yield _counter("samples", "Samples in them", [((), samples)])
        done = [((s, "committed"), r[0]) for s, r in rounds.items()] + [((s, "abandoned"), r[1]) for s, r in rounds.items()]
        yield _counter("rounds", "Rounds that ended", done, "study", "outcome")
        durations = HistogramMetricFamily("wardround_round_duration_seconds", "From opened to committed", labels=["study"])
        for study, (_, _, seconds, _, buckets) in rounds.items():
            total, named = 0, []
            for limit, count in zip((*map(str, ROUND_BUCKETS_S), "+Inf"), buckets, strict=True):
                total += count
                named.append((limit, float(total)))
            durations.add_metric([study], named, seconds)
        yield durations
        newest = [((s,), r[3] / 1e6) for s, r in rounds.items() if r[3]]
        yield _gauge("round_last_success_timestamp_seconds", "When a round was last committed", newest, "study")
        yield _counter("updates", "What became of updates", list(updates.items()), "study", "outcome")
        yield _gauge(
            "update_score",
            "The screen's score of an edge's newest update",
            [(k, v[0]) for k, v in scores.items()],
            "study",
            "edge",
        )
        limits = {study: threshold for (study, _), (_, threshold) in scores.items()}
        yield _gauge("update_score_threshold", "Above it an update is set aside", [((s,), t) for s, t in limits.items()], "study")


def _training(training: Mapping[str, Training]) -> Iterator[Metric]:
    scores = [((s, e, sign), score) for s, t in training.items() for (sign, e), (score, _) in t.scores.items()]
    yield _gauge("training_score", "A sign's score; edge is empty for the study", scores, "study", "edge", "sign")
    limits = [((s, t.sign), t.value) for s, own in training.items() for t in own.report.thresholds]
    yield _gauge("training_score_threshold", "Above it a score is an alarm", limits, "study", "sign")
    rounds = [((s,), own.report.rounds) for s, own in training.items()]
    yield _gauge("calibration_healthy_rounds", "Healthy rounds that thresholds are calibrated on so far", rounds, "study")
    needed = [((s,), own.report.needed) for s, own in training.items()]
    yield _gauge("calibration_needed_rounds", "Healthy rounds that calibration needs", needed, "study")


def _own_screens(said: Mapping[str, Mapping[tuple[str, str], tuple[float, float]]]) -> Iterator[Metric]:
    rows = [((study, edge, screen), pair) for study, own in said.items() for (screen, edge), pair in own.items()]
    labels = ("study", "edge", "screen")
    yield _gauge("own_screen_score", "What an edge says of its own update, coarse", [(k, p[0]) for k, p in rows], *labels)
    yield _gauge("own_screen_threshold", "Above it the edge has found itself out", [(k, p[1]) for k, p in rows], *labels)


def _fleet(facts: Facts) -> Iterator[Metric]:
    edges = facts.edges[:LABELS_MAX]
    yield _gauge("edges_registered", "Edges that have joined and are not revoked", [((), len(facts.edges))])
    yield _gauge("edge_up", "Whether an edge is heard of", [((e.name,), int(e.up)) for e in edges], "edge")
    seen = [((e.name,), e.seen_us / 1e6) for e in edges if e.seen_us]
    yield _gauge("edge_last_seen_timestamp_seconds", "An edge's last sign of life", seen, "edge")
    yield _gauge("edge_spooled_observations", "Waiting at an edge", [((e.name,), e.spooled) for e in edges], "edge")
    yield _gauge("edge_spool_bytes", "Bytes of them", [((e.name,), e.spool_bytes) for e in edges], "edge")
    ends = [((e.name,), e.certificate_us / 1e6) for e in edges if e.certificate_us]
    yield _gauge("edge_certificate_expiry_timestamp_seconds", "End of an edge's certificate", ends, "edge")


def _studies(facts: Facts) -> Iterator[Metric]:
    studies = facts.studies[:LABELS_MAX]
    yield _gauge("study_round", "The newest committed round", [((s.name,), s.round_number) for s in studies], "study")
    reported, asked = [((s.name,), s.edges_reported) for s in studies], [((s.name,), s.edges_asked) for s in studies]
    yield _gauge("round_edges_reported", "Edges whose update was in the newest round", reported, "study")
    yield _gauge("round_edges_asked", "Edges that take part in a study", asked, "study")
    scores = [((s.name, s.metric), s.score) for s in studies if s.score is not None]
    yield _gauge("study_score", "The newest model on held-back examples", scores, "study", "metric")
    worst = [((s.name, s.metric), s.worst) for s in studies if s.worst is not None]
    yield _gauge("study_worst_edge_score", "The same at the edge where it is worst", worst, "study", "metric")


def _alerts(facts: Facts) -> Iterator[Metric]:
    counts: dict[tuple[str, ...], float] = {}
    for key in facts.alerts:
        counts[key] = counts.get(key, 0) + 1
    yield _gauge("alerts", "Open alerts", list(counts.items()), "priority", "state")
    sinks = facts.sinks[:LABELS_MAX]
    yield _gauge(
        "alert_sink_waiting_messages", "Messages that a sink does not have yet", [((s.name,), s.waiting) for s in sinks], "sink"
    )
    yield _gauge("alert_sink_failing", "Whether its last delivery failed", [((s.name,), int(s.failing)) for s in sinks], "sink")
    yield _counter(
        "alert_sink_delivered_messages", "Messages a sink has taken", [((s.name,), s.delivered) for s in sinks], "sink"
    )
    yield _counter(
        "alert_sink_given_up_messages", "Messages let go undelivered", [((s.name,), s.given_up) for s in sinks], "sink"
    )


def _gauge(name: str, help_: str, rows: Sequence[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
    return _filled(GaugeMetricFamily(f"wardround_{name}", help_, labels=labels), rows)


def _counter(name: str, help_: str, rows: Sequence[tuple[tuple[str, ...], float]], *labels: str) -> Metric:
    return _filled(CounterMetricFamily(f"wardround_{name}", help_, labels=labels), rows)


def _filled(family: Any, rows: Sequence[tuple[tuple[str, ...], float]]) -> Metric:
    for values, value in rows:
        family.add_metric(list(values), value)
    metric: Metric = family
    return metric
