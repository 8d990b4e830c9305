"""What a Flower message carries, as bytes: records in their order, each of arrays, metrics or settings.

Layout: eight bytes little-endian length of the header, the header as JSON, then the arrays' bytes as Flower made them (each a
`.npy` file), one after the other. Nothing is translated on the way, so an app finds what the other side put in. Both sides of
both sockets use this file, so it imports nothing but Python's own library. Read strictly: it came from another machine.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from wardround.errors import UpdateRefused

ARRAYS, METRICS, CONFIG = "arrays", "metrics", "config"
HEADER_BYTES_MAX = 16_000_000
RECORDS_MAX, ARRAYS_MAX, DIMENSIONS_MAX = 1_000, 100_000, 32
Scalar: TypeAlias = int | float | str | bytes | bool
Value: TypeAlias = Scalar | list[int] | list[float] | list[str] | list[bytes] | list[bool]


@dataclass(frozen=True, slots=True)
class ArrayPart:
    """One array as Flower serialises it. `dtype` and `shape` are empty in messages of its older interface."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    stype: str  # how `data` was made: "numpy.ndarray" is a .npy file
    data: bytes | memoryview


@dataclass(frozen=True, slots=True)
class Record:
    """One record of a message: `arrays`, or `values` of metrics (numbers) or of a config."""

    name: str
    kind: str
    arrays: tuple[ArrayPart, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)


def encode(records: Sequence[Record]) -> bytes:
    """Records as bytes; the same records give the same bytes."""
    table = [
        {
            "name": record.name,
            "kind": record.kind,
            "arrays": [[a.name, a.dtype, list(a.shape), a.stype, len(a.data)] for a in record.arrays],
            "values": [[name, _plain(value)] for name, value in record.values.items()],
        }
        for record in records
    ]
    header = json.dumps(table, separators=(",", ":")).encode()
    return b"".join([len(header).to_bytes(8, "little"), header, *(a.data for r in records for a in r.arrays)])


def decode(data: bytes) -> list[Record]:
    """The inverse of encode; arrays are views of `data`.

    Raises:
        UpdateRefused: `malformed`; the message says what does not hold.
    """
    view = memoryview(data)
    size = int.from_bytes(view[:8], "little")
    if len(view) < 8 or size > min(HEADER_BYTES_MAX, len(view) - 8):
        raise _malformed("its header is cut off or too large")
    try:
        table = json.loads(bytes(view[8 : 8 + size]))
        if not isinstance(table, list) or len(table) > RECORDS_MAX:
            raise _malformed("its header is not a list of records")
        at, records, arrays = 8 + size, [], 0
        for row in table:
            parts = []
            for name, dtype, shape, stype, length in row["arrays"]:
                dimensions = tuple(_whole(n) for n in shape)
                if len(dimensions) > DIMENSIONS_MAX or _whole(length) > len(view) - at or (arrays := arrays + 1) > ARRAYS_MAX:
                    raise _malformed(f"array {str(name)[:60]} does not fit")
                parts.append(ArrayPart(_text(name), _text(dtype), dimensions, _text(stype), view[at : at + length]))
                at += length
            values = {_text(name): _restored(value) for name, value in row["values"]}
            records.append(Record(_text(row["name"]), _kind(row["kind"]), tuple(parts), values))
    except (ValueError, TypeError, KeyError, RecursionError, binascii.Error) as exc:
        raise _malformed(f"its header cannot be read ({type(exc).__name__})") from exc
    if at != len(view):
        raise _malformed(f"{len(view) - at} bytes belong to no array")
    return records


def _plain(value: Any) -> Any:
    """JSON's form of a value: bytes as an object, so that a text of the same letters stays a text."""
    if isinstance(value, bytes):
        return {"b": base64.b64encode(value).decode()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    return value


def _restored(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["b"], validate=True)
    if isinstance(value, list):
        if any(isinstance(v, list) for v in value):
            raise _malformed("a value is a list of lists")
        return [_restored(v) for v in value]
    if not isinstance(value, str | int | float | bool):
        raise _malformed("a value is neither a number nor a text")
    return value


def _whole(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise _malformed("a size is not a whole number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise _malformed("a name is not a text")
    return value


def _kind(value: Any) -> str:
    if value not in (ARRAYS, METRICS, CONFIG):
        raise _malformed("a record is of no known kind")
    return str(value)


def _malformed(what: str) -> UpdateRefused:
    return UpdateRefused("malformed", f"not a Flower message: {what}")
