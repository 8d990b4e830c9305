"""Flower's records to and from parcels. The one place that knows how a RecordDict is made."""

from __future__ import annotations

from typing import Any

from flwr.app import Array, ArrayRecord, ConfigRecord, Message, Metadata, MetricRecord, RecordDict

from wardround.flower.parcel import ARRAYS, CONFIG, METRICS, ArrayPart, Record, decode, encode


def packed(content: Any) -> bytes:
    """A RecordDict as a parcel."""
    records = []
    for name, record in content.items():
        if isinstance(record, ArrayRecord):
            parts = tuple(ArrayPart(key, a.dtype, tuple(a.shape), a.stype, a.data) for key, a in record.items())
            records.append(Record(name, ARRAYS, parts))
        else:
            kind = METRICS if isinstance(record, MetricRecord) else CONFIG
            records.append(Record(name, kind, values=dict(record.items())))
    return encode(records)


def unpacked(data: bytes) -> Any:
    """The RecordDict of a parcel; of nothing, an empty one.

    Raises:
        UpdateRefused: it is none.
    """
    content = RecordDict()
    for record in decode(data) if data else []:
        if record.kind == ARRAYS:
            arrays = ArrayRecord()
            for a in record.arrays:
                arrays[a.name] = Array(a.dtype, a.shape, a.stype, bytes(a.data))
            content[record.name] = arrays
        elif record.kind == METRICS:
            content[record.name] = MetricRecord(dict(record.values))
        else:
            content[record.name] = ConfigRecord(dict(record.values))
    return content


def message(facts: dict[str, Any], content: Any, *, run_id: int, src: int, dst: int) -> Any:
    """The message that `facts` describe, as it is at its receiver."""
    metadata = Metadata(
        run_id=run_id,
        message_id=facts["id"],
        src_node_id=src,
        dst_node_id=dst,
        reply_to_message_id="",
        group_id=facts["group"],
        created_at=facts["created_at"],
        ttl=facts["ttl"],
        message_type=facts["type"],
    )
    return Message(content=content, metadata=metadata)
