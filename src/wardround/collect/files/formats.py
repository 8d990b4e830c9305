"""Which format a file has, by its content, and its readings. Formats that are not read are known by name, so that they are
refused with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, get_args

import msgspec

from wardround.collect.devices import decoders
from wardround.collect.devices.decoders import Notification
from wardround.collect.devices.gatt import Source
from wardround.collect.devices.senml import RELATIVE_BELOW, decode_pack
from wardround.collect.files import apple_health, edf, fit, wfdb, wfdb_annotations, wfdb_header
from wardround.collect.files.opened import Items, Known, Opened
from wardround.errors import DecodeError
from wardround.malformed import MALFORMED

Format = Literal["fit", "wfdb", "wfdb-annotations", "edf", "apple-health", "senml", "fhir", "gatt"]
FORMATS: tuple[Format, ...] = get_args(Format)
MESSAGE_BYTES_MAX = 10_000_000
HEAD = 4096


def read(file: Opened, known: Known, format_: Format | None = None) -> Items:
    """The readings of a file, in the format given or detected; parts that cannot be taken come as errors among them.

    Raises:
        DecodeError: of the file, nothing may be taken. "no-date" means that `known.start_us` would make it readable.
    """
    format_ = format_ or detect(file)
    empty = True
    for item in _READERS[format_](file, known):
        empty = False
        yield item
    if empty:
        raise DecodeError("no-measurements", f"the {format_} file holds no measurement")


def detect(file: Opened) -> Format:
    """The format of a file.

    Raises:
        DecodeError: "unknown-format", or the name of a format that is known and not read.
    """
    file.stream.seek(0)
    head = file.stream.read(HEAD)
    if not head:
        raise DecodeError("empty", "the file is empty")
    for format_, fits in _BY_HEAD.items():
        if fits(head):
            return format_
    if (part := _part_of_record(file)) is not None:
        return part
    if b"<gpx" in head:
        raise DecodeError("format-not-read", "GPX is not read: where a patient is, is no signal")
    for magic, name in _NOT_READ.items():
        if head.startswith(magic):
            raise DecodeError("format-not-read", f"{name} is not read")
    if _is_senml(head):  # the last: one byte says little
        return "senml"
    raise DecodeError("unknown-format", f"its content is none of: {', '.join(FORMATS)}")


def _is_json(head: bytes, bracket: bytes, word: bytes = b"") -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(bracket) and word in head


def _is_senml(head: bytes) -> bool:
    return _is_json(head, b"[") or 0x80 <= head[0] <= 0x9B or head[0] == 0x9F  # an array, of JSON or of CBOR


_BY_HEAD: Mapping[Format, Callable[[bytes], bool]] = {
    "fit": fit.is_fit,
    "edf": edf.is_edf,
    "apple-health": apple_health.is_apple_health,
    "wfdb": wfdb_header.is_header,
    "fhir": lambda head: _is_json(head, b"{", b'"resourceType"'),
    "gatt": lambda head: _is_json(head, b"{", b'"characteristic"') or _is_json(head, b"[", b'"characteristic"'),
}


def _part_of_record(file: Opened) -> Format | None:
    """What a file is to the WFDB header beside it: its signals, which are read with it, or annotations."""
    try:
        with file.beside(f"{file.name.partition('.')[0]}.hea") as stream:
            header = wfdb_header.parse(stream.read(wfdb_header.HEADER_BYTES_MAX + 1))
    except DecodeError:
        return None
    if file.name in {line.file for line in header.signals}:
        raise DecodeError("part-of-record", f"a signal file of record {header.name}: import {header.name}.hea, which reads it")
    return "wfdb-annotations"


def _fhir(file: Opened, known: Known) -> Items:
    found = decoders.decode("fhir", file.whole(MESSAGE_BYTES_MAX), _source(known))
    yield from found.readings
    yield from found.refused


def _senml(file: Opened, known: Known) -> Items:
    """A pack. Its relative times are relative to when it was written, which a file does not say."""
    readings = decode_pack(file.whole(MESSAGE_BYTES_MAX), now_us=known.start_us or 0)
    if known.start_us is None and any(r.t_us < RELATIVE_BELOW * 1_000_000 for r in readings):
        raise DecodeError("no-date", "its times are relative, and a file does not say to what")
    yield from readings


def _gatt(file: Opened, known: Known) -> Items:
    """Notifications in JSON, as a gateway or a sniffer wrote them down; `hex` is another name of `value`."""
    data = file.whole(MESSAGE_BYTES_MAX)
    try:
        raw = msgspec.json.decode(data, type=list[dict[str, object]] | dict[str, object])
        parts = msgspec.convert([_notification(p) for p in (raw if isinstance(raw, list) else [raw])], list[Notification])
    except (*MALFORMED, RecursionError) as exc:
        raise DecodeError("malformed-gatt", f"not Bluetooth notifications in JSON: {str(exc)[:120]}") from exc
    if known.start_us is None and any(part.t is None for part in parts):
        raise DecodeError("no-date", "its notifications do not say when they came")
    found = decoders.decode("gatt", msgspec.json.encode(parts), _source(known))
    yield from found.readings
    yield from found.refused


def _notification(part: dict[str, object]) -> dict[str, object]:
    fields = {"value": part["hex"]} if "hex" in part else {}
    return fields | {k: v for k, v in part.items() if k in ("characteristic", "value", "t")}


def _source(known: Known) -> Source:
    return Source(known.now_us if known.start_us is None else known.start_us, known.zone)


_READERS: Mapping[Format, Callable[[Opened, Known], Items]] = {
    "fit": fit.read,
    "wfdb": wfdb.read,
    "wfdb-annotations": wfdb_annotations.read,
    "edf": edf.read,
    "apple-health": apple_health.read,
    "senml": _senml,
    "fhir": _fhir,
    "gatt": _gatt,
}
_NOT_READ = {
    b"%PDF": "PDF",
    b"<?xml": "XML that is no Apple Health export",
    b"PAR1": "Parquet",
    b"\x89HDF": "HDF5",
    b"\x1f\x8b": "gzip (unpack it first)",
    b"MATLAB 5.0": "MATLAB 5 (a WFDB record is imported by its .hea header)",
    b"SQLite format 3": "SQLite",
}
