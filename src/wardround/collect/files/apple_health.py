"""Apple Health exports, the zip or its export.xml: quantities and sleep, read as a stream in bounded memory.

Source: the document type definition in every export, and HKUnit's documentation. It is read twice: once to see that it is whole
and well-formed, once for its records. A percentage in an export is a fraction of one. Records inside a Correlation also stand by
themselves, and are taken once. Entities are refused, whatever they stand for; who the person is, is read over.
"""

from __future__ import annotations

import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import BinaryIO
from xml.parsers import expat

from wardround.collect.devices.reading import Reading
from wardround.collect.files.opened import Items, Known, Opened
from wardround.errors import DecodeError

CHUNK = 1 << 16
PROLOGUE = 1 << 18  # within which an internal document type definition must end
TOKEN_BYTES_MAX = 1 << 20
DEPTH_MAX = 32
XML_BYTES_MAX = 32_000_000_000
RATIO_MAX = 300  # of a packed export; a real one is packed to a twentieth or a fiftieth
MEMBERS_MAX = 100_000
_ID = "HKQuantityTypeIdentifier"
# Type to signal; where the table's unit says more than the export's, that unit.
_TYPES: dict[str, tuple[str, str]] = {
    "HeartRate": ("heart-rate", ""), "RestingHeartRate": ("resting-heart-rate", ""),
    "HeartRateVariabilitySDNN": ("hrv-sdnn", ""), "RespiratoryRate": ("respiratory-rate", ""),
    "OxygenSaturation": ("spo2", ""), "BodyTemperature": ("body-temperature", ""),
    "BloodPressureSystolic": ("systolic", ""), "BloodPressureDiastolic": ("diastolic", ""),
    "BloodGlucose": ("glucose", ""), "BodyMass": ("body-weight", ""), "Height": ("body-height", ""),
    "BodyFatPercentage": ("body-fat", ""), "BodyMassIndex": ("body-mass-index", "kg/m2"),
    "StepCount": ("steps", ""), "ActiveEnergyBurned": ("active-energy", ""),
    "PeripheralPerfusionIndex": ("perfusion-index", ""), "RunningSpeed": ("speed", ""), "WalkingSpeed": ("speed", ""),
    "RunningPower": ("power", ""), "CyclingPower": ("power", ""), "CyclingCadence": ("cadence", ""),
}  # fmt: skip
_SLEEP = {
    "InBed": "in-bed", "Asleep": "asleep", "AsleepUnspecified": "asleep", "Awake": "W", "AsleepCore": "light", "AsleepDeep": "N3",
    "AsleepREM": "R",
}  # fmt: skip
_SLEEP_TYPE, _SLEEP_VALUE = "HKCategoryTypeIdentifierSleepAnalysis", "HKCategoryValueSleepAnalysis"
_UNITS = {
    "count/min": "/min", "degC": "Cel", "degF": "[degF]", "mmHg": "mm[Hg]", "lb": "[lb_av]", "ft": "[ft_i]", "in": "[in_i]",
    "mi": "[mi_i]", "Cal": "kcal", "km/hr": "km/h", "mi/hr": "[mi_i]/h", "count": "1",
}  # fmt: skip
_MOLES = re.compile(r"mmol<180\.1558\d{0,12}>/L")
_DATE = re.compile(r"(\d{4})-(\d{2})-(\d{2}) (\d{2}):(\d{2}):(\d{2}) ([+-])(\d{2})(\d{2})")
_DOCTYPE = re.compile(rb"<!DOCTYPE\s[^\[>]*(?:\[.*?\]\s*)?>", re.DOTALL)
_NUMBER = re.compile(r"[+-]?\d{1,18}(?:\.\d{0,30})?(?:[eE][+-]?\d{1,3})?")
# What zipfile and zlib say of bytes that are no zip.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError, ValueError, RuntimeError)
_SUMMARIES = ("Workout", "ActivitySummary", "ClinicalRecord", "Audiogram", "VisionPrescription")


def is_apple_health(head: bytes) -> bool:
    """Whether a file that begins so may be an export: XML of HealthData, or any zip."""
    return b"<HealthData" in head or b"<!DOCTYPE HealthData" in head or head.startswith(b"PK\x03\x04")


def read(file: Opened, _known: Known) -> Items:
    """Readings of an export, one a record.

    Raises:
        DecodeError: no export, not whole, or with entities.
    """
    with _xml(file) as stream:
        for _ in _elements(stream):
            pass
    types: Counter[str] = Counter()
    with _xml(file) as stream:
        for depth, tag, attributes in _elements(stream):
            if depth != 2:
                continue
            if tag == "Record":
                try:
                    yield _reading(attributes)
                except DecodeError as error:
                    yield error
            elif tag in _SUMMARIES:
                types[tag] += 1
    if types:
        counted = ", ".join(f"{n} {tag}" for tag, n in types.items())
        yield DecodeError("summary-not-taken", f"no measurements of their own: {counted}")


class _Xml:
    """The XML of an export, whichever way it is packed."""

    def __init__(self, stream: BinaryIO, archive: zipfile.ZipFile | None) -> None:
        self._stream, self._archive = stream, archive

    def __enter__(self) -> BinaryIO:
        return self._stream

    def __exit__(self, *_: object) -> None:
        if self._archive is not None:
            self._stream.close()
            self._archive.close()


def _xml(file: Opened) -> _Xml:
    file.stream.seek(0)
    packed = file.stream.read(4) == b"PK\x03\x04"
    file.stream.seek(0)
    if not packed:
        return _Xml(file.stream, None)
    try:
        archive = zipfile.ZipFile(file.stream)
        members = archive.infolist()
        if len(members) > MEMBERS_MAX:
            raise DecodeError("too-large", f"the zip has {len(members)} files")
        for member in members:
            if not member.filename.endswith(".xml") or member.filename.endswith("_cda.xml"):
                continue
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                continue
            with archive.open(member) as stream:
                if b"<HealthData" not in stream.read(PROLOGUE):
                    continue
            if member.file_size > min(XML_BYTES_MAX, RATIO_MAX * max(member.compress_size, 1_000)):
                raise DecodeError("too-large", f"{member.file_size} bytes packed into {member.compress_size}")
            return _Xml(archive.open(member), archive)  # type: ignore[arg-type]  # a ZipExtFile reads like any file
    except _ZIP_ERRORS as exc:
        raise DecodeError("malformed-zip", f"the zip cannot be read: {str(exc)[:80]}") from exc
    raise DecodeError("format-not-read", "a zip that holds no Apple Health export")


def _elements(stream: BinaryIO) -> Iterator[tuple[int, str, dict[str, str]]]:
    """Depth, tag and attributes of each element, as it begins.

    Raises:
        DecodeError: "malformed-xml", "entities", "too-large" or "truncated".
    """
    found: list[tuple[int, str, dict[str, str]]] = []
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEPTH_MAX:
            raise DecodeError("malformed-xml", f"elements are nested {depth} deep")
        if depth == 1 and tag != "HealthData":
            raise DecodeError("format-not-read", f"XML of <{tag[:40]}> is no Apple Health export")
        found.append((depth, tag, attributes))

    def end(_tag: str) -> None:
        nonlocal depth
        depth -= 1

    def refuse(*_: object) -> None:
        raise DecodeError("entities", "the XML declares entities; an export has none")

    parser = expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.EntityDeclHandler = refuse
    fed = 0
    try:
        for chunk in _chunks(stream):
            _feed(parser, chunk)
            fed += len(chunk)
            if fed - parser.CurrentByteIndex > TOKEN_BYTES_MAX:
                raise DecodeError("too-large", "one element of the XML is larger than a megabyte")
            yield from found
            found.clear()
        _feed(parser, b"", last=True)
    except _ZIP_ERRORS as exc:
        raise DecodeError("malformed-zip", f"the zip cannot be read: {str(exc)[:80]}") from exc
    yield from found


def _feed(parser: expat.XMLParserType, data: bytes, *, last: bool = False) -> None:
    try:
        parser.Parse(data, last)
    except expat.ExpatError as exc:
        reason = "truncated" if exc.code in (expat.errors.codes[m] for m in _CUT) else "malformed-xml"
        raise DecodeError(reason, f"the XML does not hold: {exc}") from exc
    except (LookupError, ValueError) as exc:
        raise DecodeError("malformed-xml", f"its encoding is not known: {str(exc)[:80]}") from exc


_CUT = (expat.errors.XML_ERROR_NO_ELEMENTS, expat.errors.XML_ERROR_UNCLOSED_TOKEN)


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    """The document without its type definition: what Apple writes there does not always hold, and nothing of it is needed."""
    head = stream.read(PROLOGUE)
    if doctype := _DOCTYPE.search(head, 0, len(head)):
        if b"<!ENTITY" in doctype[0]:
            raise DecodeError("entities", "the XML declares entities; an export has none")
        head = head[: doctype.start()] + head[doctype.end() :]
    total = len(head)
    for at in range(0, len(head), CHUNK):
        yield head[at : at + CHUNK]
    while chunk := stream.read(CHUNK):
        total += len(chunk)
        if total > XML_BYTES_MAX:
            raise DecodeError("too-large", f"the XML has more than {XML_BYTES_MAX} bytes")
        yield chunk


def _reading(attributes: dict[str, str]) -> Reading:
    """One Record.

    Raises:
        DecodeError: its value or its times are none.
    """
    type_, value = attributes.get("type", ""), attributes.get("value", "")
    t_us = _time(attributes.get("startDate", ""))
    if _time(attributes.get("endDate", "")) < t_us:
        raise DecodeError("time", f"{type_[:60]}: it ends before it begins")
    if type_ == _SLEEP_TYPE:
        word = _SLEEP.get(value.removeprefix(_SLEEP_VALUE))
        if word is None:
            raise DecodeError("no-value", f"sleep of kind {value[:60]!r} is not known")
        return Reading(name=type_, also=("sleep-stage",), unit="1", t_us=t_us, text=word)
    if not type_.startswith(_ID):
        raise DecodeError("unknown-code", f"records of type {type_[:60]!r} are no quantities")
    if not _NUMBER.fullmatch(value):
        raise DecodeError("no-value", f"{type_[:60]}: {value[:20]!r} is no number")
    key, unit = _TYPES.get(type_.removeprefix(_ID), ("", ""))
    number, given = float(value), attributes.get("unit", "")
    if given == "%":
        given = "1"
        if number > 1.0:
            raise DecodeError("percent", f"{type_[:60]}: {number:g} is no fraction of one, as a percentage is in an export")
    elif _MOLES.fullmatch(given):
        given = "mmol/L"
    elif key == "body-mass-index" and given == "count":
        given = unit
    return Reading(name=type_, also=(key,) if key else (), unit=_UNITS.get(given, given), t_us=t_us, value=number)


def _time(text: str) -> int:
    match = _DATE.fullmatch(text)
    if match is None:
        raise DecodeError("time", f"{text[:40]!r} is no date with its zone")
    year, month, day, hour, minute, second = (int(match[i]) for i in range(1, 7))
    offset = timedelta(hours=int(match[8]), minutes=int(match[9]))
    try:
        zone = timezone(offset if match[7] == "+" else -offset)
        at = datetime(year, month, day, hour, minute, second, tzinfo=zone)
    except ValueError as exc:
        raise DecodeError("time", f"{text[:40]!r} is no time: {exc}") from exc
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
