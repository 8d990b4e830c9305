"""FHIR R4: patients by pseudonym, devices, observations, and everything of one patient, as consent for care allows.
Bundles come in through `fhir_ingest.py`.

A page of a search is found in two steps: the keys of all rows that match (a few columns), then the samples of those that are on
the page. Who sees a patient's data is in the audit log, once in ten minutes for a patient.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Protocol
from urllib.parse import urlencode

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request
from fastapi.responses import Response

from wardround.api.callers import Caller, Callers
from wardround.api.fhir_described import MEDIA_TYPE, OUTCOMES, answers
from wardround.api.fhir_search import parse_codes, parse_dates, parse_place, write_place
from wardround.api.one_thread import HereRoute
from wardround.api.problems import Refused
from wardround.trust.roles import Act

COUNT_MAX = 200
USED = ("_id", "identifier", "patient", "subject", "code", "date", "_count", "_page")  # what a link says was searched by
SUBJECT_SYSTEM, DEVICE_SYSTEM = "urn:wardround:subject", "urn:wardround:device"
Count = Annotated[int, Query(alias="_count", ge=1, le=COUNT_MAX, description="Resources a page, at most.")]
Place = Annotated[str, Query(alias="_page", max_length=200, description="As in the link `next` of the page before.")]
Dates = Annotated[
    list[str] | None, Query(alias="date", description="`ge2026-03-01`, `lt2026-03-01T12:00:00Z`; may be given again.")
]
Subject = Annotated[
    str, Query(max_length=120, pattern=r"^(Patient/)?[a-z2-7-]*$", description="The pseudonym, or `Patient/` and it.")
]
Code = Annotated[str, Query(max_length=2_000, description="`http://loinc.org|8867-4`, or `8867-4`; several with commas.")]


@dataclass(frozen=True, slots=True)
class Row:
    """The key of a row of the lake. `place` is where it stands in the order of rows: time, edge, boot and sequence."""

    place: tuple[int, str, str, int]
    code: str


class Records(Protocol):
    """What is read of the lake, as far as consent for care goes."""

    def patients(self) -> Sequence[str]:
        """Pseudonyms of whom something may be shown, in order."""

    def shows(self, subject: str) -> bool:
        """Whether something of this one may be shown."""

    def devices(self, subject: str) -> Sequence[str]:
        """`edge/device` of what has measured the patient, in order."""

    def keys(
        self,
        subject: str,
        codes: Sequence[str] | None,
        *,
        since_us: int | None,
        until_us: int | None,
        after: Sequence[Any] | None,
        count: int,
    ) -> Sequence[Row]:
        """Of the first rows after a place that may be shown, in order."""

    def resources(self, subject: str, rows: Sequence[Row]) -> Sequence[Mapping[str, Any]]:
        """Observation resources of these rows, in their order; more than one for a row whose samples are irregular."""

    def find(self, resource: str) -> tuple[str, Sequence[Mapping[str, Any]]]:
        """Whose the Observation of this id is, and it; ("", ()): there is none that may be shown."""

    def seen(self, who: str, subject: str, kind: str) -> None:
        """An entry of the audit log: `view` or `export`."""


def make_fhir_router(records: Records, callers: Callers, version: str) -> APIRouter:
    """All routes under /fhir."""
    router = APIRouter(prefix="/fhir", tags=["FHIR R4"], responses=OUTCOMES, route_class=HereRoute)
    looks = [Depends(callers.may(Act.PATIENTS))]
    Exports = Annotated[Caller, Depends(callers.may(Act.EXPORT))]  # noqa: N806 - a type, for FastAPI

    def known(subject: str) -> str:
        name = subject.removeprefix("Patient/")
        if not records.shows(name):
            raise Refused(404, f"no patient {name!r} can be shown", remedy="see /fhir/Patient; consent decides")
        return name

    @router.get("/metadata", responses=answers("CapabilityStatement", "What this server can do."))
    def metadata() -> Response:
        """What this server can do."""
        return _fhir(capability(version))

    @router.get("/Patient", responses=answers("Bundle", "A page of patients."), dependencies=looks)
    def patients(
        request: Request,
        _id: Annotated[str, Query(max_length=120)] = "",
        identifier: Annotated[str, Query(max_length=200)] = "",
        count: Count = 50,
        page: Place = "",
    ) -> Response:
        """Patients by pseudonym."""
        found = list(records.patients())
        system, bar, value = identifier.rpartition("|")
        for wanted in (_id, value):
            found = [name for name in found if not wanted or name == wanted]
        if bar and system != SUBJECT_SYSTEM:
            found = []
        after = parse_place(page, (str,))
        rest = [name for name in found if after is None or name > after[0]]
        more = write_place([rest[count - 1]]) if len(rest) > count else ""
        return _fhir(bundle(request, [patient(name) for name in rest[:count]], more, total=len(found)))

    @router.get("/Patient/{subject}", responses=answers("Patient", "The patient."), dependencies=looks)
    def one(subject: str) -> Response:
        """One patient."""
        return _fhir(patient(known(subject)))

    @router.get("/Device", responses=answers("Bundle", "Devices."), dependencies=looks)
    def devices(request: Request, patient: Subject) -> Response:
        """What has measured a patient."""
        name = known(patient)
        found = [device(made_by, name) for made_by in records.devices(name)]
        return _fhir(bundle(request, found, "", total=len(found)))

    @router.get("/Patient/{subject}/$everything", responses=answers("Bundle", "A page of all of it."))
    def everything(
        request: Request, subject: str, who: Exports, date: Dates = None, count: Count = COUNT_MAX, page: Place = ""
    ) -> Response:
        """All that may be shown of a patient: the patient, what has measured it, and its observations, page by page."""
        name = known(subject)
        records.seen(who.person, name, "export")
        found, more = _page(records, name, None, date or [], count, page)
        first = [patient(name), *(device(d, name) for d in records.devices(name))] if not page else []
        return _fhir(bundle(request, [*first, *found], more))

    _add_observations(router, records, callers, known)
    return router


def _add_observations(router: APIRouter, records: Records, callers: Callers, known: Callable[[str], str]) -> None:
    Looks = Annotated[Caller, Depends(callers.may(Act.PATIENTS))]  # noqa: N806 - a type, for FastAPI

    @router.get("/Observation", responses=answers("Bundle", "A page of observations."))
    def observations(
        request: Request,
        who: Looks,
        patient: Subject = "",
        subject: Subject = "",
        code: Code = "",
        date: Dates = None,
        count: Count = 50,
        page: Place = "",
    ) -> Response:
        """A patient's observations, the oldest first."""
        if not (patient or subject):
            raise Refused(400, "whose observations?", remedy="add patient=PSEUDONYM; /fhir/Patient lists them")
        name = known(patient or subject)
        records.seen(who.person, name, "view")
        found, more = _page(records, name, parse_codes(code), date or [], count, page)
        return _fhir(bundle(request, found, more))

    @router.get("/Observation/{resource}", responses=answers("Observation", "The observation."))
    def observation(resource: Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9.-]+$")], who: Looks) -> Response:
        """One observation."""
        name, found = records.find(resource)
        if not found:
            raise Refused(404, "no observation of this id can be shown", remedy="see /fhir/Observation; consent decides")
        records.seen(who.person, name, "view")
        return _fhir(found[0])


def _page(
    records: Records, subject: str, codes: Sequence[str] | None, dates: Sequence[str], count: int, page: str
) -> tuple[list[Mapping[str, Any]], str]:
    span, after = parse_dates(dates), parse_place(page, (int, str, str, int))
    rows = records.keys(subject, codes, since_us=span.since_us, until_us=span.until_us, after=after, count=count + 1)
    more = write_place(rows[count - 1].place) if len(rows) > count else ""
    return list(records.resources(subject, rows[:count])), more


def patient(subject: str) -> dict[str, Any]:
    """A patient: nothing of a person is known here but the pseudonym."""
    return {
        "resourceType": "Patient",
        "id": subject,
        "identifier": [{"use": "secondary", "system": SUBJECT_SYSTEM, "value": subject}],
    }


def device(name: str, subject: str) -> dict[str, Any]:
    """A device, by edge and name, and whom it measures."""
    return {
        "resourceType": "Device",
        "id": hashlib.sha256(name.encode()).hexdigest()[:32],
        "identifier": [{"system": DEVICE_SYSTEM, "value": name}],
        "patient": {"reference": f"Patient/{subject}"},
    }


def bundle(request: Request, found: Iterable[Mapping[str, Any]], more: str, *, total: int | None = None) -> dict[str, Any]:
    """A page of a search, with the links to itself and to the next."""
    used = [(key, value) for key, value in request.query_params.multi_items() if key in USED]
    asked = [(key, value) for key, value in used if key != "_page"]
    path, base = request.url.path, f"{request.base_url}fhir"
    links = [{"relation": "self", "url": f"{path}?{urlencode(used)}".rstrip("?")}]
    if more:
        links.append({"relation": "next", "url": f"{path}?{urlencode([*asked, ('_page', more)])}"})
    made: dict[str, Any] = {"resourceType": "Bundle", "type": "searchset", "link": links}
    if total is not None:
        made["total"] = total
    entries = [
        {"fullUrl": f"{base}/{one['resourceType']}/{one['id']}", "resource": one, "search": {"mode": "match"}} for one in found
    ]
    return made | ({"entry": entries} if entries else {})


def capability(version: str) -> dict[str, Any]:
    """The CapabilityStatement."""

    def search(name: str, kind: str) -> dict[str, str]:
        return {"name": name, "type": kind}

    def resource(kind: str, *params: dict[str, str], read: bool = True) -> dict[str, Any]:
        interactions = [{"code": "search-type"}, *([{"code": "read"}] if read else [])]
        return {"type": kind, "interaction": interactions, "searchParam": list(params)}

    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2026-11-26",
        "kind": "instance",
        "software": {"name": "Wardround", "version": version},
        "implementation": {"description": "Patients are pseudonyms; consent for care decides what is shown."},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "security": {"description": "Authorization: Bearer, a token of the scope `patients`, `export` or `ingest`."},
                "interaction": [{"code": "transaction"}, {"code": "batch"}],
                "resource": [
                    resource("Patient", search("_id", "token"), search("identifier", "token"))
                    | {
                        "operation": [
                            {"name": "everything", "definition": "http://hl7.org/fhir/OperationDefinition/Patient-everything"}
                        ]
                    },
                    resource("Device", search("patient", "reference"), read=False),
                    resource(
                        "Observation",
                        search("patient", "reference"),
                        search("subject", "reference"),
                        search("code", "token"),
                        search("date", "date"),
                    ),
                ],
            }
        ],
    }


def _fhir(resource: Mapping[str, Any]) -> Response:
    return Response(msgspec.json.encode(resource), media_type=MEDIA_TYPE)
