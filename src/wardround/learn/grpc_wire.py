"""What hub, edges and relays say to each other over gRPC, to and from the product's own records."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from wardround.learn import rounds
from wardround.learn.condition import Condition
from wardround.learn.heartbeats import INTERVAL_S_MAX
from wardround.learn.manifests import Signed
from wardround.learn.messages import MaskStep, Notice, Order, Release, Upload, UploadReceipt
from wardround.learn.own_report import SCREENS_MAX, OwnReport, Screen, SignedReport
from wardround.records import AlertAbout, EdgeLoad, OpenAlert
from wardround.row_counts import BYTES_MAX
from wardround.trust.denied import DenyList
from wardround.wire import wardround_pb2 as pb

SERVICE = "wardround.v1.Learn"
RELAY = "wardround.v1.Relay"
CHUNK = 512 * 1024
PASSED_ON_MAX = 1_000
METRICS_MAX = 200  # of one update
SIGNATURE_MAX = 128  # bytes; of P-256, DER, at most 72
ALERTS_MAX = 200  # open at one edge: more are not told
WORD_MAX, NAME_MAX, TITLE_MAX, DIGEST_MAX = 20, 80, 200, 64
LOADS_MAX, NEWS2_MAX = 4, 20
DAYS_MAX = 1e9  # a longer time is no figure
SINCE_US_MAX = 32_503_680_000_000_000  # the year 3000: nor is a later one
HELD_MAX = 256  # models that an edge may say it holds
STRIDE_MIN, STRIDE_FIRST = 4 * 1024, 128 * 1024
BUFFERED = 1024 * 1024  # what buffers may hold of a stream: taken up at once, on its way for long
MESSAGE_S = 1.0
IDLE_S = 30.0  # an upload that brings no byte for so long is over; it resumes with the next call


class Stride:
    """How many bytes the next message of a stream carries: few, until the link has shown that it moves more.

    A slow link is judged by its progress, and progress is seen message by message. Buffers on the way (HTTP/2's window, the
    system's) take the first bytes at once, however slow the link is, so those say nothing; from what passed beyond them a
    message is as large as passes in about a second. At `first` = 128 KiB a link may be as slow as 4.4 kB/s; who was
    interrupted begins with less (`attempt`), down to a link of 140 bytes/s.
    """

    def __init__(self, *, attempt: int = 0, first: int = STRIDE_FIRST, clock: Callable[[], float] = time.monotonic) -> None:
        self._first = max(STRIDE_MIN, first >> min(attempt, 16))
        self._clock, self._began, self._bytes = clock, clock(), 0
        self.size = self._first

    def passed(self, size: int) -> None:
        """So many bytes were taken up by the stream."""
        self._bytes += size
        moved = self._bytes - BUFFERED
        if moved > 0:
            seconds = max(self._clock() - self._began, 1e-6)
            self.size = min(CHUNK, max(self._first, int(moved / seconds * MESSAGE_S)))


@dataclass(frozen=True, slots=True)
class Beat:
    """What an edge says of itself, a few times a minute."""

    examples: int
    spooled: int
    spool_bytes: int
    working_on: str
    version: str = ""
    condition: Condition | None = None
    model: str = ""  # the newest one it trained from
    passed_on: Mapping[str, int] = field(default_factory=dict)  # bytes of models, by the edge they went to
    models: tuple[str, ...] = ()  # held for predictions, by digest
    alerts: tuple[OpenAlert, ...] = ()  # open at the edge itself
    load: tuple[EdgeLoad, ...] = ()  # its alarm load
    acknowledges: bool = False  # people at the hub may acknowledge them
    interval_s: float = 0.0  # the next beat comes within so long; 0: it was not said


def beat_of(beat: pb.Heartbeat) -> Beat:
    return Beat(
        beat.examples,
        beat.spooled,
        beat.spool_bytes,
        beat.working_on[:TITLE_MAX],
        condition=condition_of(beat.condition) if beat.HasField("condition") else None,
        model=beat.model[:DIGEST_MAX],
        passed_on={edge[:NAME_MAX]: n for edge, n in list(beat.passed_on.items())[:PASSED_ON_MAX]},
        models=tuple(model[:DIGEST_MAX] for model in beat.models[:HELD_MAX]),
        alerts=_alerts_of(beat),
        load=tuple(map(_load_of, beat.load[:LOADS_MAX])),
        acknowledges=beat.acknowledges,
        interval_s=beat.interval_s if 0.0 < beat.interval_s <= INTERVAL_S_MAX else 0.0,
    )


def _alerts_of(beat: pb.Heartbeat) -> tuple[OpenAlert, ...]:
    about = {said.alert[:WORD_MAX]: _about_of(said) for said in beat.about[:ALERTS_MAX]}
    found = (
        (a.id[:WORD_MAX], a.priority[:WORD_MAX], a.category[:WORD_MAX], a.state[:WORD_MAX]) for a in beat.alerts[:ALERTS_MAX]
    )
    return tuple(OpenAlert(*words, about=about.get(words[0])) for words in found)


def _about_of(said: pb.AlertAbout) -> AlertAbout:
    news2 = min(said.news2, NEWS2_MAX) if said.HasField("news2") else None
    words = said.subject[:NAME_MAX], said.kind[:WORD_MAX], said.title[:TITLE_MAX]
    since_us = said.since_us if 0 < said.since_us < SINCE_US_MAX else 0
    return AlertAbout(*words, since_us, news2, said.acknowledged_by[:NAME_MAX])


def _load_of(load: pb.EdgeLoad) -> EdgeLoad:
    """Of a figure that is none, such as NaN, nothing is made."""
    days = load.patient_days if 0.0 <= load.patient_days < DAYS_MAX else 0.0
    answer_s = load.answer_s if load.HasField("answer_s") and 0.0 <= load.answer_s < DAYS_MAX else None
    judged, acknowledged = min(load.judged, load.alerts), min(load.acknowledged, load.alerts)
    return EdgeLoad(
        load.category[:WORD_MAX], load.alerts, days, acknowledged, answer_s, judged, actionable=min(load.actionable, judged)
    )


def alerts_to_wire(alerts: Sequence[OpenAlert]) -> list[pb.EdgeAlert]:
    """What is open at an edge: numbers."""
    return [pb.EdgeAlert(id=a.alert_id, priority=a.priority, category=a.category, state=a.state) for a in alerts[:ALERTS_MAX]]


def about_to_wire(alerts: Sequence[OpenAlert]) -> list[pb.AlertAbout]:
    """Of whom, where consent lets that go."""
    return [
        pb.AlertAbout(
            alert=a.alert_id,
            subject=a.about.subject,
            kind=a.about.kind,
            title=a.about.title[:TITLE_MAX],
            since_us=a.about.since_us,
            news2=a.about.news2,
            acknowledged_by=a.about.acknowledged_by,
        )
        for a in alerts[:ALERTS_MAX]
        if a.about is not None
    ]


def loads_to_wire(loads: Sequence[EdgeLoad]) -> list[pb.EdgeLoad]:
    """An edge's alarm load."""
    return [pb.EdgeLoad(**msgspec.structs.asdict(load)) for load in loads[:LOADS_MAX]]


def condition_of(message: pb.Condition) -> Condition:
    return Condition(
        charging=message.charging,
        battery=message.battery if message.HasField("battery") else None,
        network=message.network[:40],
        signal_dbm=message.signal_dbm if message.HasField("signal_dbm") else None,
        metered=message.metered,
        load=message.load,
        unwilling=message.unwilling[:40],
    )


def condition_to_wire(condition: Condition) -> pb.Condition:
    return pb.Condition(
        charging=condition.charging,
        battery=condition.battery,
        network=condition.network,
        signal_dbm=condition.signal_dbm,
        metered=condition.metered,
        load=condition.load,
        unwilling=condition.unwilling,
    )


def upload_of(header: pb.UpdateHead, certificate: bytes) -> Upload:
    """What a header announces, on a connection with this certificate. What is cut off breaks the edge's signature."""
    return Upload(
        study=header.study,
        round_number=header.round,
        task=header.task,
        base=header.base_model,
        size=header.size,
        sha256=header.sha256[:64],
        examples=header.examples,
        metrics={name[:NAME_MAX]: value for name, value in list(header.metrics.items())[:METRICS_MAX]},
        signature=header.signature[:SIGNATURE_MAX],
        certificate=certificate,
        rows=header.rows[: BYTES_MAX + 1],
    )


def head_of(signed: Signed | None) -> pb.ModelHead:
    """The head of a model's stream."""
    if signed is None:
        return pb.ModelHead()
    return pb.ModelHead(manifest=signed.manifest, signature=signed.signature, certificate=signed.certificate)


def receipt_of(receipt: UploadReceipt) -> pb.UpdateReceipt:
    return pb.UpdateReceipt(accepted=receipt.accepted, reason=receipt.reason, detail=receipt.detail)


def masks_to_wire(step: MaskStep) -> pb.Masks:
    return pb.Masks(study=step.study, round=step.round_number, attempt=step.attempt, body=step.body)


def masks_of(message: pb.Masks) -> MaskStep:
    return MaskStep(message.study, message.round, message.attempt, message.body)


def own_report_to_wire(signed: SignedReport) -> pb.OwnReport:
    report = signed.report
    return pb.OwnReport(
        study=report.study,
        round=report.round_number,
        attempt=report.attempt,
        screens=[pb.OwnScreen(name=s.name, score=s.score, threshold=s.threshold) for s in report.screens],
        sits_out=report.sits_out,
        signature=signed.signature,
    )


def own_report_of(message: pb.OwnReport) -> SignedReport:
    """What an edge says of itself; own_report.check_report says whether it may."""
    screens = tuple(Screen(s.name, s.score, s.threshold) for s in message.screens[: SCREENS_MAX + 1])
    report = OwnReport(message.study, message.round, message.attempt, screens, message.sits_out)
    return SignedReport(report, message.signature[:SIGNATURE_MAX])


def to_wire(message: Order | rounds.Cancel | Release | Notice | MaskStep, study: str) -> pb.HubMessage:
    if isinstance(message, MaskStep):
        return pb.HubMessage(masks=masks_to_wire(message))
    if isinstance(message, Notice):
        return pb.HubMessage(
            notice=pb.Notice(
                study=message.study,
                round=message.round_number,
                verdict=message.verdict,
                reason=message.reason,
                detail=message.detail,
            )
        )
    if isinstance(message, Release):
        return pb.HubMessage(
            release=pb.Release(
                study=message.study,
                round=message.number,
                model=message.model,
                stage=message.stage,
                settings=message.settings,
                temperature=message.temperature,
            )
        )
    if isinstance(message, rounds.Cancel):
        return pb.HubMessage(cancel=pb.Cancel(study=study, reason=message.reason))
    return pb.HubMessage(
        order=pb.Order(
            study=message.study,
            round=message.round_number,
            attempt=message.attempt,
            task=message.task,
            base_model=message.base,
            settings=message.settings,
            deadline_s=message.deadline_s,
            model=message.model,
            relay=message.relay,
            relay_address=message.relay_address,
            children=message.children,
            kept_since=message.kept_since,
            masks=message.masks,
        )
    )


def denied_to_wire(denied: DenyList) -> pb.HubMessage:
    return pb.HubMessage(denied=pb.Denied(names=sorted(denied.names), serials=sorted(denied.serials)))


def interval_to_wire(seconds: float) -> pb.HubMessage:
    return pb.HubMessage(heartbeat_interval=pb.HeartbeatInterval(seconds=seconds))


def denied_of(message: pb.Denied) -> DenyList:
    return DenyList(frozenset(message.names), frozenset(message.serials))


def release_of(message: pb.Release) -> Release:
    return Release(message.study, message.round, message.model, message.stage, message.settings, message.temperature)


def order_of(message: pb.Order) -> Order:
    return Order(
        study=message.study,
        round_number=message.round,
        attempt=message.attempt,
        task=message.task,
        base=message.base_model,
        settings=message.settings,
        deadline_s=message.deadline_s,
        model=message.model,
        relay=message.relay,
        relay_address=message.relay_address,
        children=tuple(message.children),
        kept_since=message.kept_since,
        masks=message.masks,
    )
