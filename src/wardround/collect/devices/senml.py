"""SenML (RFC 8428), JSON and CBOR, to readings and back.

A reading is a run of one signal as the device sent it: its own name, unit and time. Plain records of one name in a pack
become one run, regular if their steps agree to a microsecond. A long run may travel as one record whose `vd` holds
little-endian integers, described by labels that a reader must understand (RFC 8428 section 4.4, they end in "_"):
`type_` (i2, i4), `period_` (seconds) or `offsets_` (int32 microseconds from the record's time), `scale_`, `origin_`.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import Any, Literal

import cbor2
import msgspec
import numpy as np

from wardround.collect.devices.reading import SAMPLES_MAX, Reading, quantise, quotient
from wardround.errors import DecodeError

PACK_BYTES_MAX = 1_000_000
RECORDS_MAX = 20_000
NAME_MAX = 200
RELATIVE_BELOW = 2**28  # a time below this is relative to now (section 4.5.3)
RUN_GAP_US = 600_000_000
RUN_SPAN_US = 2**31 - 1  # what offsets can hold
VERSION = 10
LABELS = {-1: "bver", -2: "bn", -3: "bt", -4: "bu", -5: "bv", -6: "bs", 0: "n", 1: "u", 2: "v", 3: "vs", 4: "vb", 5: "s"}
LABELS |= {6: "t", 7: "ut", 8: "vd"}
_NUMBERS = {name: number for number, name in LABELS.items()}
_RUN_LABELS = {"type_", "period_", "offsets_", "scale_", "origin_"}
_FLOATS = ("bt", "bv", "bs", "v", "s", "t", "ut", "period_", "scale_", "origin_")
_TEXTS = ("bn", "bu", "n", "u", "vs", "type_")


def decode_pack(payload: bytes, *, now_us: int) -> list[Reading]:
    """The readings of a pack, in the order of their first record; plain records of one name and unit become one run.

    Args:
        payload: JSON if it begins with "[", CBOR otherwise.
        now_us: what relative times are relative to.
    Raises:
        DecodeError: whatever does not hold; nothing of the pack is taken.
    """
    if len(payload) > PACK_BYTES_MAX:
        raise DecodeError("too-large", f"the pack has {len(payload)} bytes, more than {PACK_BYTES_MAX}")
    records = _parse(payload)
    if not isinstance(records, list) or not records:
        raise DecodeError("malformed-senml", "a SenML pack is a non-empty array of records")
    if len(records) > RECORDS_MAX:
        raise DecodeError("too-large", f"the pack has {len(records)} records, more than {RECORDS_MAX}")
    base: dict[str, Any] = {}
    points: dict[tuple[str, str], list[tuple[int, float]]] = {}
    order: list[tuple[str, str] | Reading] = []
    for raw in records:
        record = _record(raw)
        base.update({k: v for k, v in record.items() if k in ("bn", "bt", "bu", "bv", "bs", "bver")})
        _resolve(record, base, now_us, points, order)
    readings: list[Reading] = []
    for entry in order:
        if isinstance(entry, Reading):
            readings.append(entry)
        else:
            readings += [r for part in _apart(sorted(points[entry])) for r in _run(*entry, part)]
    return readings


def encode_pack(readings: Sequence[Reading], *, base_name: str, form: Literal["json", "cbor"]) -> bytes:
    """A pack of readings, one record each; times are absolute."""
    records: list[dict[str, Any]] = []
    for i, reading in enumerate(readings):
        record: dict[str, Any] = {"bn": base_name} if i == 0 else {}
        record |= {"n": reading.name, "u": reading.unit, "t": reading.t_us / 1e6}
        if reading.text is not None:
            record["vs"] = reading.text
        elif reading.values is None:
            record["v"] = reading.value
        else:
            record |= {"vd": _data(reading.values, form), "type_": reading.values_type}
            record |= {"scale_": reading.scale, "origin_": reading.origin}
            if reading.offsets_us is not None:
                record["offsets_"] = _data(reading.offsets_us, form)
            elif reading.period_us is not None:
                record["period_"] = quotient(reading.period_us, 1e6)
        records.append(record)
    if form == "json":
        return msgspec.json.encode(records)
    return cbor2.dumps([{_NUMBERS.get(k, k): v for k, v in record.items()} for record in records])


def _data(data: bytes, form: str) -> bytes | str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode() if form == "json" else data


def _parse(payload: bytes) -> Any:
    try:
        if payload[:1].lstrip() == b"[":
            return msgspec.json.decode(payload)
        stream = BytesIO(payload)
        parsed = cbor2.load(stream)
    except (msgspec.DecodeError, cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError, MemoryError) as exc:
        raise DecodeError("malformed-senml", f"the payload is neither SenML JSON nor CBOR: {str(exc)[:120]}") from exc
    if stream.tell() != len(payload):
        raise DecodeError("malformed-senml", "bytes follow the CBOR pack")
    return parsed


def _record(raw: Any) -> dict[str, Any]:
    """One record with text labels and checked types."""
    if not isinstance(raw, dict):
        raise DecodeError("malformed-senml", "a record is not a map")
    record: dict[str, Any] = {}
    for key, value in raw.items():
        label = LABELS.get(key, key) if isinstance(key, int) and not isinstance(key, bool) else key
        if not isinstance(label, str):
            raise DecodeError("malformed-senml", f"label {str(label)[:40]!r} is not known")
        if label.endswith("_") and label not in _RUN_LABELS:
            raise DecodeError("must-understand", f"label {label[:40]!r} must be understood and is not")
        record[label] = value
    for label in _FLOATS:
        if label in record:
            record[label] = _number(record[label], label)
    for label in _TEXTS:
        if label in record and (not isinstance(record[label], str) or len(record[label]) > NAME_MAX):
            raise DecodeError("malformed-senml", f"{label} is not a short text")
    if record.get("bver", 5) not in range(5, VERSION + 1):
        raise DecodeError("version", f"SenML version {str(record['bver'])[:20]} is not known")
    return record


def _number(value: Any, label: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise DecodeError("malformed-senml", f"{label} is not a number")
    try:
        number = float(value)
    except OverflowError as exc:
        raise DecodeError("malformed-senml", f"{label} is too large") from exc
    if not math.isfinite(number):
        raise DecodeError("not-finite", f"{label} is not finite")
    return number


def _resolve(
    record: dict[str, Any],
    base: dict[str, Any],
    now_us: int,
    points: dict[tuple[str, str], list[tuple[int, float]]],
    order: list[tuple[str, str] | Reading],
) -> None:
    """Resolve one record against the base fields, into a point of a run or a run of its own."""
    kinds = [k for k in ("v", "vs", "vb", "vd", "s") if k in record]
    if not kinds and "n" not in record and "bv" not in record:
        return  # a record of base fields alone
    name = f"{base.get('bn', '')}{record.get('n', '')}".rpartition(":")[2] if "n" not in record else record["n"]
    if not name or len(name) > NAME_MAX:
        raise DecodeError("no-name", "a record has no name")
    unit = record.get("u", base.get("bu", ""))
    seconds = base.get("bt", 0.0) + record.get("t", 0.0)
    if abs(seconds) > 1e11:
        raise DecodeError("time", f"time {seconds:g} s is out of any range")
    t_us = round(seconds * 1e6) + (now_us if seconds < RELATIVE_BELOW else 0)
    if len([k for k in kinds if k != "s"]) > 1:
        raise DecodeError("malformed-senml", f"{name} has more than one value")
    if "vd" in record and not _RUN_LABELS.isdisjoint(record):
        order.append(_packed(record, name, unit, t_us))
    elif "vd" in record:
        text = base64.urlsafe_b64encode(_bytes(record["vd"], name)).decode()
        order.append(Reading(name=name, unit=unit, t_us=t_us, text=text))
    elif "vs" in record:
        order.append(Reading(name=name, unit=unit, t_us=t_us, text=record["vs"]))
    elif "vb" in record:
        if not isinstance(record["vb"], bool):
            raise DecodeError("malformed-senml", f"vb of {name} is not a truth value")
        order.append(Reading(name=name, unit=unit or "1", t_us=t_us, value=float(record["vb"])))
    elif "v" in record or "bv" in base:
        key = (name, unit)
        if key not in points:
            points[key] = []
            order.append(key)
        points[key].append((t_us, base.get("bv", 0.0) + record.get("v", 0.0)))
    else:
        raise DecodeError("no-value", f"{name} has no value that is kept (a sum alone is not)")


def _packed(record: dict[str, Any], name: str, unit: str, t_us: int) -> Reading:
    """A run out of one record's vd."""
    kind = record.get("type_")
    if kind not in ("i2", "i4"):
        raise DecodeError("malformed-run", f"type_ of {name} must be i2 or i4")
    values = _bytes(record["vd"], name)
    size = 2 if kind == "i2" else 4
    n = len(values) // size
    if n == 0 or len(values) % size or n > SAMPLES_MAX:
        raise DecodeError("malformed-run", f"vd of {name} holds no whole number of samples, or more than {SAMPLES_MAX}")
    offsets = _bytes(record["offsets_"], name) if "offsets_" in record else None
    if offsets is not None and len(offsets) != 4 * n:
        raise DecodeError("malformed-run", f"{name} has {n} samples and {len(offsets) // 4} offsets")
    period_us = record["period_"] * 1e6 if "period_" in record else None
    if offsets is None and n > 1 and (period_us is None or not 1.0 <= period_us <= 86_400e6):
        raise DecodeError("malformed-run", f"{name} needs period_ (1 us to a day) or offsets_")
    scale = record.get("scale_", 1.0)
    if scale == 0.0:
        raise DecodeError("malformed-run", f"scale_ of {name} is zero")
    return Reading(
        name=name,
        unit=unit,
        t_us=t_us,
        n=n,
        period_us=None if offsets is not None else period_us,
        offsets_us=offsets,
        values=values,
        values_type=kind,
        scale=scale,
        origin=record.get("origin_", 0.0),
    )


def _bytes(value: Any, name: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        try:
            return base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as exc:
            raise DecodeError("malformed-run", f"data of {name} is not base64url") from exc
    raise DecodeError("malformed-run", f"data of {name} is not a byte string")


def _apart(points: list[tuple[int, float]]) -> Iterator[list[tuple[int, float]]]:
    """Sorted points, cut where time stands still for long: a point with a wrong clock spoils no other."""
    start = 0
    for i in range(1, len(points)):
        if points[i][0] - points[i - 1][0] > RUN_GAP_US or points[i][0] - points[start][0] > RUN_SPAN_US:
            yield points[start:i]
            start = i
    yield points[start:]


def _run(name: str, unit: str, points: list[tuple[int, float]]) -> list[Reading]:
    """Plain records to one run, regular or irregular, of scaled integers; to scalars where no grid has them all."""
    t_us, n = points[0][0], len(points)
    values = np.array([v for _, v in points])
    counts, scale, origin = quantise(values)
    if n == 1 or not np.allclose(origin + counts * scale, values, rtol=1e-13, atol=0.0):
        return [Reading(name=name, unit=unit, t_us=t, value=v) for t, v in points]
    times = np.array([t for t, _ in points], np.int64) - t_us
    steps = np.diff(times)
    regular = bool(steps.min() > 0 and steps.max() - steps.min() <= 1)
    run = Reading(
        name=name,
        unit=unit,
        t_us=t_us,
        n=n,
        period_us=float(times[-1]) / (n - 1) if regular else None,
        offsets_us=None if regular else times.astype("<i4").tobytes(),
        values=counts.astype("<i4").tobytes(),
        values_type="i4",
        scale=scale,
        origin=origin,
    )
    return [run]
