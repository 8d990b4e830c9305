"""What hub, edges and relays say to each other over gRPC, to and from the product's own records."""

from __future__ import annotations

from dataclasses import dataclass

from wardround.learn import rounds
from wardround.learn.messages import Order, Upload, UploadReceipt
from wardround.wire import wardround_pb2 as pb

SERVICE = "wardround.v1.Learn"
RELAY = "wardround.v1.Relay"
CHUNK = 512 * 1024
IDLE_S = 30.0  # an upload that brings no byte for so long is over; it resumes with the next call


@dataclass(frozen=True, slots=True)
class Beat:
    """What an edge says of itself, a few times a minute."""

    examples: int
    spooled: int
    spool_bytes: int
    working_on: str
    version: str = ""


def upload_of(header: pb.UpdateHeader) -> Upload:
    return Upload(
        study=header.study,
        round_number=header.round,
        task=header.task,
        base=header.base_model,
        size=header.size,
        sha256=header.sha256[:64],
        examples=header.examples,
        metrics=dict(header.metrics),
    )


def receipt_of(receipt: UploadReceipt) -> pb.UpdateReceipt:
    return pb.UpdateReceipt(accepted=receipt.accepted, reason=receipt.reason, detail=receipt.detail)


def to_wire(message: Order | rounds.Cancel, study: str) -> pb.HubMessage:
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
        )
    )


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
    )
