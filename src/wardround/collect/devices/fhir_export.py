"""Observations as FHIR, without loss of their numbers: what is written here, devices/fhir.py reads back to the last bit.

A scalar is a valueQuantity, a regular run a SampledData on the device's own integer grid. R4's SampledData knows no offsets, so
an irregular run becomes one Observation a sample there; R5 carries it as it is. Device time, clock error and flags are
extensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from wardround.collect.devices.reading import quotient
from wardround.records import YEAR_1_US, YEAR_9999_US, Observation, Validity

Release = Literal["R4", "R5"]
EXTENSION = "https://wardround.dev/fhir/"
_SYSTEMS = {"loinc": "http://loinc.org", "mdc": "urn:iso:std:iso:11073:10101"}
_STATUS: Mapping[int, str] = {Validity.ONGOING: "preliminary", Validity.VALIDATED: "amended", Validity.QUESTIONABLE: "unknown"}
_ABSENT = {Validity.CALIBRATING: "temp-unknown", Validity.INVALID: "error", Validity.NOT_AVAILABLE: "unknown"}


def resources(observation: Observation, release: Release = "R4") -> list[dict[str, Any]]:
    """The Observation resources of one observation: one, or one a sample for an irregular run in R4."""
    if observation.value_text is not None:
        return [_resource(observation, observation.t0_us, {"valueString": observation.value_text})]
    if observation.values is None:
        return [_resource(observation, observation.t0_us, {"valueQuantity": _quantity(observation.value, observation.unit)})]
    if observation.offsets_us is not None and release == "R4":
        pairs = zip(observation.times_us().tolist(), observation.samples().tolist(), strict=True)
        return [_resource(observation, t, {"valueQuantity": _quantity(v, observation.unit)}) for t, v in pairs]
    if observation.n == 1:
        value = float(observation.samples()[0])
        return [_resource(observation, observation.t0_us, {"valueQuantity": _quantity(value, observation.unit)})]
    return [_resource(observation, observation.t0_us, {"valueSampledData": _sampled(observation, release)})]


def resource_id(t0_us: int, edge: str, boot: str, seq: int) -> str:
    """The id of the resource of one row of the lake. It begins with the row's time, by which the row is found again."""
    digest = hashlib.sha256(f"{edge}\0{boot}\0{seq}".encode()).hexdigest()[:32]
    return f"{t0_us + 2**63:016x}-{digest}"


def time_of(name: str) -> int | None:
    """The time of the row that a resource's id names; None: it is no such id."""
    time, bar, _ = name.partition("-")
    if not bar or len(time) != 16 or set(time) - set("0123456789abcdef"):
        return None
    t0_us = int(time, 16) - 2**63
    return t0_us if YEAR_1_US <= t0_us <= YEAR_9999_US else None


def instant(t_us: int) -> str:
    """A FHIR instant in UTC, to the microsecond."""
    whole = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=t_us)
    return whole.strftime("%Y-%m-%dT%H:%M:%S") + f".{whole.microsecond:06d}Z"


def _resource(observation: Observation, t_us: int, value: Mapping[str, Any]) -> dict[str, Any]:
    system, _, code = observation.code.partition(":")
    coding = {"system": _SYSTEMS[system], "code": code} if system in _SYSTEMS else _own(observation.code)
    found: dict[str, Any] = {
        "resourceType": "Observation",
        "extension": [
            _extension("device-time", "valueInstant", instant(observation.t0_device_us)),
            _extension("clock-error-us", "valueDecimal", observation.clock_error_us),
            _extension("flags", "valueInteger", observation.flags),
        ],
        "status": _STATUS.get(observation.validity, "final"),
        "code": {"coding": [coding]},
        "subject": {"identifier": {"system": "urn:wardround:subject", "value": observation.subject}},
        "device": {"identifier": {"system": "urn:wardround:device", "value": f"{observation.edge}/{observation.device}"}},
        "effectiveDateTime": instant(t_us),
    }
    absent = _ABSENT.get(Validity(observation.validity))
    if absent is not None:  # a number that must not be believed does not travel as one
        system = "http://terminology.hl7.org/CodeSystem/data-absent-reason"
        return found | {"dataAbsentReason": {"coding": [{"system": system, "code": absent}]}}
    return found | dict(value)


def _own(code: str) -> dict[str, str]:
    return {"system": "urn:wardround:code", "code": code}


def _extension(name: str, kind: str, value: object) -> dict[str, Any]:
    return {"url": EXTENSION + name, kind: value}


def _quantity(value: float | None, unit: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "system": "http://unitsofmeasure.org", "code": unit}


def _sampled(observation: Observation, release: Release) -> dict[str, Any]:
    origin = _quantity(observation.origin, observation.unit)
    data = " ".join(map(str, observation.counts().tolist()))
    found: dict[str, Any] = {"origin": origin, "factor": observation.scale, "dimensions": 1, "data": data}
    if observation.offsets_us is not None:
        offsets = (observation.times_us() - observation.t0_us).tolist()
        return found | {"intervalUnit": "us", "offsets": " ".join(map(str, offsets))}
    assert observation.period_us is not None  # noqa: S101 - a run of several is regular or has offsets
    if release == "R5":
        return found | {"interval": observation.period_us, "intervalUnit": "us"}
    return found | {"period": quotient(observation.period_us, 1e3)}
