"""HL7 FHIR Observations and Bundles, R4 (4.0.1) and R5 (5.0.0), to readings.

What is not a measured number of a patient is refused by name, entry by entry: a status that takes a result back, a comparator
(">100" is not 100), a unit that is not UCUM, a time without its zone, a code map, an unknown modifier. Components and value
become a reading each. SampledData's "E", "L" and "U" are no numbers: the run is cut there, and the parts are flagged.
The patient is the registered device's; a payload that speaks of two is refused. Narrative, references and ranges are read over.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any, TypeVar

import msgspec
import numpy as np

from wardround.collect.devices.reading import SAMPLES_MAX, Decoded, Reading, packed, quantise
from wardround.errors import DecodeError
from wardround.records import Quality, Validity

T = TypeVar("T")
BYTES_MAX = 10_000_000
ENTRIES_MAX = 10_000
COMPONENTS_MAX = 200
UCUM = "http://unitsofmeasure.org"
SYSTEMS = {
    "urn:iso:std:iso:11073:10101": "mdc:",
    "urn:oid:2.16.840.1.113883.6.24": "mdc:",
    "http://loinc.org": "loinc:",
    "urn:wardround:code": "",
}
BUNDLES = ("collection", "transaction", "batch", "searchset", "message", "history")
_STATUS = {
    "final": Validity.VALID,
    "amended": Validity.VALIDATED,
    "corrected": Validity.VALIDATED,
    "appended": Validity.VALIDATED,
    "preliminary": Validity.ONGOING,
    "unknown": Validity.QUESTIONABLE,
}
_MEMBERS = ("registered", "cancelled", "entered-in-error", "specimen-in-process", "modified")
_INTERVALS_US = {"ms": 1e3, "s": 1e6, "us": 1.0, "min": 60e6, "h": 3_600e6}
_DATE_TIME = re.compile(r"(\d{4})-(\d{2})-(\d{2})(?:T(\d{2}:\d{2}:\d{2})(?:\.(\d+))?(Z|[+-]\d{2}:\d{2})?)?")
_NOT_A_VALUE = ("E", "L", "U")
DAY_ERROR_US = 26 * 3_600_000_000  # noon of a date, give or take half a day and fourteen hours of zone


class Coding(msgspec.Struct, frozen=True):
    """Of a Coding, what says which signal it is."""

    system: str = ""
    code: str = ""


class CodeableConcept(msgspec.Struct, frozen=True):
    """CodeableConcept."""

    coding: tuple[Coding, ...] = ()
    text: str = ""


class Quantity(msgspec.Struct, frozen=True):
    """Quantity and SimpleQuantity; numbers as they are written."""

    value: Decimal | None = None
    comparator: str = ""
    unit: str = ""
    system: str = ""
    code: str = ""


class Period(msgspec.Struct, frozen=True):
    """Period."""

    start: str = ""
    end: str = ""


class SampledData(msgspec.Struct, frozen=True, rename="camel"):
    """SampledData: R4's `period` in milliseconds, or R5's `interval` in its unit."""

    origin: Quantity = Quantity()
    period: Decimal | None = None
    interval: Decimal | None = None
    interval_unit: str = ""
    factor: Decimal | None = None
    lower_limit: Decimal | None = None
    upper_limit: Decimal | None = None
    dimensions: int = 1
    code_map: str = ""
    offsets: str = ""
    data: str = ""


class Reference(msgspec.Struct, frozen=True):
    """Reference."""

    reference: str = ""


class Component(msgspec.Struct, frozen=True, rename="camel"):
    """A component, and what an Observation has in common with one."""

    code: CodeableConcept = CodeableConcept()
    value_quantity: Quantity | None = None
    value_sampled_data: SampledData | None = None
    value_codeable_concept: CodeableConcept | None = None
    value_string: str | None = None
    value_boolean: bool | None = None
    value_integer: int | None = None
    value_range: Any = None
    value_ratio: Any = None
    value_time: Any = None
    value_date_time: Any = None
    value_period: Any = None
    value_attachment: Any = None
    value_reference: Any = None
    data_absent_reason: CodeableConcept | None = None
    modifier_extension: Any = None


class Observation(Component, frozen=True, rename="camel"):
    """An Observation resource."""

    resource_type: str = "Observation"
    implicit_rules: str = ""
    status: str = ""
    subject: Reference = Reference()
    effective_date_time: str = ""
    effective_instant: str = ""
    effective_period: Period | None = None
    effective_timing: Any = None
    component: tuple[Component, ...] = ()


class _Any(msgspec.Struct, frozen=True, rename="camel"):
    resource_type: str = ""
    type: Any = ""  # a code in a Bundle, something else in other resources
    implicit_rules: str = ""


class _Entry(msgspec.Struct, frozen=True):
    resource: msgspec.Raw = msgspec.Raw()


class _Bundle(msgspec.Struct, frozen=True):
    entry: tuple[_Entry, ...] = ()


_any = msgspec.json.Decoder(_Any)
_bundle = msgspec.json.Decoder(_Bundle)
_observation = msgspec.json.Decoder(Observation)


def decode(payload: bytes) -> Decoded:
    """Readings of an Observation or of the Observations of a Bundle; what cannot be taken of it is in `refused`.

    Raises:
        DecodeError: the payload is neither, or speaks of several patients; nothing of it is taken.
    """
    if len(payload) > BYTES_MAX:
        raise DecodeError("too-large", f"the payload has {len(payload)} bytes, more than {BYTES_MAX}")
    readings: list[Reading] = []
    refused: list[DecodeError] = []
    subjects: set[str] = set()
    for where, outcome in _observations(payload):
        if isinstance(outcome, DecodeError):
            refused.append(outcome)
            continue
        subjects.add(outcome.subject.reference)
        found = of_observation(outcome, where)
        readings += found.readings
        refused += found.refused
    if len(subjects - {""}) > 1:
        raise DecodeError("several-subjects", f"the bundle speaks of {len(subjects)} patients, and a device has one")
    return Decoded(tuple(readings), tuple(refused))


def _observations(payload: bytes) -> Iterator[tuple[str, Observation | DecodeError]]:
    head = _parse(_any, payload, "the payload")
    if head.implicit_rules:
        raise DecodeError("must-understand", "the payload has implicitRules")
    if head.resource_type == "Observation":
        yield "Observation", _parse(_observation, payload, "the Observation")
        return
    if head.resource_type != "Bundle":
        raise DecodeError("resource-type", f"a {head.resource_type[:40] or 'resource without a type'} holds no observation")
    if head.type not in BUNDLES:
        raise DecodeError("bundle-type", f"a Bundle of type {str(head.type)[:40]!r} brings no observations")
    entries = _parse(_bundle, payload, "the Bundle").entry
    if len(entries) > ENTRIES_MAX:
        raise DecodeError("too-large", f"the Bundle has {len(entries)} entries, more than {ENTRIES_MAX}")
    for number, entry in enumerate(entries):
        where = f"entry[{number}]"
        if not bytes(entry.resource):
            continue
        try:
            kind = _parse(_any, bytes(entry.resource), where)
            if kind.resource_type != "Observation":
                continue  # patients, devices and provenance travel along
            yield where, _parse(_observation, bytes(entry.resource), where)
        except DecodeError as error:
            yield where, error


def _parse(decoder: msgspec.json.Decoder[T], data: bytes, what: str) -> T:
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as exc:
        raise DecodeError("malformed-fhir", f"{what} is not FHIR JSON: {str(exc)[:160]}") from exc


def of_observation(observation: Observation, where: str) -> Decoded:
    """Readings of one Observation, and what of it cannot be taken; `where` begins the words of a refusal."""
    try:
        validity = _checked(observation)
        t_us, error_us = _effective(observation)
    except DecodeError as error:
        return Decoded(refused=(DecodeError(error.reason, f"{where}: {error}"),))
    if len(observation.component) > COMPONENTS_MAX:
        return Decoded(refused=(DecodeError("too-large", f"{where}: {len(observation.component)} components"),))
    readings: list[Reading] = []
    refused: list[DecodeError] = []
    own = [] if observation.component and not _has_value(observation) else [(where, observation)]
    parts: list[tuple[str, Component]] = [*own, *((f"{where}.component[{i}]", c) for i, c in enumerate(observation.component))]
    for place, part in parts:
        try:
            readings += _of_component(part, t_us, error_us, validity)
        except DecodeError as error:
            refused.append(DecodeError(error.reason, f"{place}: {error}"))
    return Decoded(tuple(readings), tuple(refused))


def _checked(observation: Observation) -> Validity:
    if observation.implicit_rules or observation.modifier_extension:
        raise DecodeError("must-understand", "it has implicitRules or a modifierExtension")
    if observation.status not in _STATUS:
        known = observation.status in _MEMBERS
        raise DecodeError("status", f"status {observation.status[:40]!r} is {'no result' if known else 'not known'}")
    return _STATUS[observation.status]


def _has_value(part: Component) -> bool:
    return part.data_absent_reason is not None or any(getattr(part, f) is not None for f in _VALUES)


_VALUES = tuple(f for f in Component.__struct_fields__ if f.startswith("value_"))


def _of_component(part: Component, t_us: int, error_us: int, validity: Validity) -> list[Reading]:
    """The reading of a component: several when a run is cut.

    Raises:
        DecodeError: there is no number in it that can be believed.
    """
    if part.modifier_extension:
        raise DecodeError("must-understand", "it has a modifierExtension")
    if part.data_absent_reason is not None:
        codes = part.data_absent_reason.coding
        raise DecodeError("data-absent", codes[0].code[:40] if codes else part.data_absent_reason.text[:40])
    names = _names(part.code)
    common: dict[str, Any] = {"name": names[0], "also": names[1:], "t_error_us": error_us, "validity": int(validity)}
    common["flags"] = int(Quality.CLOCK_UNSYNCED) if error_us else 0
    if part.value_quantity is not None:
        return [Reading(unit=_unit(part.value_quantity), t_us=t_us, value=_number(part.value_quantity), **common)]
    if part.value_sampled_data is not None:
        return list(_runs(part.value_sampled_data, t_us, common))
    if part.value_integer is not None:
        return [Reading(unit="1", t_us=t_us, value=float(part.value_integer), **common)]
    if part.value_boolean is not None:
        return [Reading(unit="1", t_us=t_us, value=float(part.value_boolean), **common)]
    text = part.value_string
    if part.value_codeable_concept is not None:
        coding = part.value_codeable_concept.coding
        text = coding[0].code if coding and coding[0].code else part.value_codeable_concept.text
    if text:
        return [Reading(unit="1", t_us=t_us, text=text[:200], **common)]
    found = next((f for f in _VALUES if getattr(part, f) is not None), "")
    raise DecodeError("value-type" if found else "no-value", f"{found or 'no value'} is not a measured number")


def _names(code: CodeableConcept) -> tuple[str, ...]:
    """Names for the code table, the device nomenclature first: a profile adds a coarser LOINC code to it."""
    names = [SYSTEMS[c.system] + c.code for c in code.coding if c.system in SYSTEMS and c.code]
    if not names:
        given = ", ".join(f"{c.system}|{c.code}" for c in code.coding[:3]) or code.text[:60] or "none"
        raise DecodeError("unknown-code", f"no LOINC, MDC or own code: {given[:160]}")
    return tuple(sorted(dict.fromkeys(names), key=lambda n: not n.startswith("mdc:")))


def _unit(quantity: Quantity) -> str:
    if quantity.system == UCUM and quantity.code:
        return quantity.code
    raise DecodeError("unit-not-ucum", f"unit {quantity.unit[:40]!r} has no UCUM code")


def _number(quantity: Quantity) -> float:
    if quantity.comparator:
        raise DecodeError("comparator", f"the value is {quantity.comparator[:4]!r} a number, not one")
    if quantity.value is None:
        raise DecodeError("no-value", "the quantity has no value")
    return _finite(quantity.value)


def _finite(value: Decimal) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise DecodeError("not-finite", "a number is too large")
    return number


def _runs(sampled: SampledData, t_us: int, common: dict[str, Any]) -> Iterator[Reading]:
    """The runs of numbers in a SampledData, cut where a sample is none."""
    period_us, offsets = _steps(sampled)
    factor = 1.0 if sampled.factor is None else _finite(sampled.factor)
    if factor == 0.0:
        raise DecodeError("malformed-run", "factor is zero")
    words = sampled.data.split()
    if not 0 < len(words) <= SAMPLES_MAX:
        raise DecodeError("malformed-run", f"{len(words)} samples; a run has 1 to {SAMPLES_MAX}")
    if offsets is not None and len(offsets) != len(words):
        raise DecodeError("malformed-run", f"{len(words)} samples and {len(offsets)} offsets")
    unit, origin = _unit(sampled.origin), _number(sampled.origin)
    before = ""
    for start, end in _numbers(words):
        after = words[end] if end < len(words) else ""
        counts, scale, shift = _counts(words[start:end])
        values, kind = packed(counts)
        flags = Quality(common["flags"])
        flags |= Quality.GAP_BEFORE if start else Quality.NONE
        flags |= Quality.SATURATED if {before, after} & {"L", "U"} else Quality.NONE
        n = end - start
        own = None if offsets is None else offsets[start:end]
        first_us = round(start * period_us) if own is None else int(own[0])
        regular = own is None and n > 1
        yield Reading(
            **(common | {"flags": int(flags)}),
            unit=unit,
            t_us=t_us + first_us,
            n=n,
            period_us=period_us if regular else None,
            offsets_us=None if own is None or n == 1 else (own - own[0]).astype("<i4").tobytes(),
            values=values,
            values_type=kind,
            scale=scale * factor,
            origin=origin + shift * factor,
        )
        before = words[end] if end < len(words) else ""


def _numbers(words: Sequence[str]) -> Iterator[tuple[int, int]]:
    """From and to of each stretch of numbers."""
    start: int | None = None
    found = False
    for i, word in enumerate(words):
        if word in _NOT_A_VALUE:
            if start is not None:
                yield start, i
            start = None
        elif start is None:
            start, found = i, True
    if start is not None:
        yield start, len(words)
    if not found:
        raise DecodeError("data-absent", "no sample is a number")


def _counts(words: Sequence[str]) -> tuple[np.ndarray[Any, np.dtype[np.int64]], float, float]:
    """Counts, scale and origin: the integers as they are, decimals on their own grid."""
    try:
        if all(w.lstrip("-").isdecimal() for w in words):
            return np.array([int(w) for w in words], np.int64), 1.0, 0.0
        numbers = np.array([float(Decimal(w)) for w in words])
    except (InvalidOperation, OverflowError, ValueError) as exc:
        raise DecodeError("malformed-run", f"a sample is neither a number nor E, L or U: {str(exc)[:60]}") from exc
    if not np.isfinite(numbers).all():
        raise DecodeError("not-finite", "a sample is not finite")
    return quantise(numbers)


def _steps(sampled: SampledData) -> tuple[float, np.ndarray[Any, np.dtype[np.int64]] | None]:
    """The period in microseconds, or the offset of each sample."""
    if sampled.dimensions != 1:
        raise DecodeError("dimensions", f"{sampled.dimensions} dimensions in one run are not taken apart")
    if sampled.code_map:
        raise DecodeError("code-map", "samples are codes of a map that is not here")
    unit_us = _INTERVALS_US.get(sampled.interval_unit)
    if sampled.offsets:
        if unit_us is None:
            raise DecodeError("malformed-run", f"offsets in {sampled.interval_unit[:20]!r}")
        try:
            offsets = np.array([round(float(Decimal(w)) * unit_us) for w in sampled.offsets.split()], np.int64)
        except (InvalidOperation, OverflowError, ValueError) as exc:
            raise DecodeError("malformed-run", "an offset is not a number") from exc
        if len(offsets) == 0 or offsets.min() < 0 or offsets.max() >= 2**31:
            raise DecodeError("malformed-run", "offsets go from 0 to 35 minutes")
        return 0.0, offsets
    if sampled.period is not None:
        period_us = _finite(sampled.period) * 1e3
    elif sampled.interval is not None and unit_us is not None:
        period_us = _finite(sampled.interval) * unit_us
    else:
        raise DecodeError("malformed-run", "neither period nor interval with its unit")
    if not 1.0 <= period_us <= 86_400e6:
        raise DecodeError("malformed-run", f"a period of {period_us:g} us; from 1 us to a day are taken")
    return period_us, None


def _effective(observation: Observation) -> tuple[int, int]:
    """Microseconds since 1970, and what is open of it. A period's start is its time."""
    if observation.effective_timing is not None:
        raise DecodeError("time", "effectiveTiming is a plan, not a time")
    period = observation.effective_period
    text = observation.effective_date_time or observation.effective_instant or (period.start if period is not None else "")
    if not text:
        raise DecodeError("no-time", "it does not say when")
    return instant(text)


def instant(text: str) -> tuple[int, int]:
    """Microseconds since 1970 and their error bound, of a FHIR dateTime.

    Raises:
        DecodeError: "time" or "no-time-zone".
    """
    match = _DATE_TIME.fullmatch(text)
    if match is None:
        raise DecodeError("time", f"{text[:40]!r} is coarser than a day, or no FHIR dateTime")
    year, month, day, clock, fraction, zone = match.groups()
    try:
        if clock is None:
            noon = datetime(int(year), int(month), int(day), 12, tzinfo=UTC)
            return round(noon.timestamp()) * 1_000_000, DAY_ERROR_US
        if zone is None:
            raise DecodeError("no-time-zone", f"{text[:40]!r} has no time zone")
        leap = clock.endswith(":60")  # a leap second is the first of the next minute, as POSIX counts
        whole = datetime.fromisoformat(f"{year}-{month}-{day}T{clock[:6] + '59' if leap else clock}{zone.replace('Z', '+00:00')}")
    except (ValueError, OverflowError) as exc:
        raise DecodeError("time", f"{text[:40]!r} is no time: {exc}") from exc
    seconds = (whole - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1) + leap
    return seconds * 1_000_000 + int(((fraction or "") + "000000")[:6]), 0
