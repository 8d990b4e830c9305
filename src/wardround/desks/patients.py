"""Patients' rows of the lake as FHIR reads them: what consent for care lets a clinician see, with an entry in the audit log."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from wardround.api.fhir import Row
from wardround.clock import Clock
from wardround.collect.devices.fhir_export import resource_id, resources, time_of
from wardround.desks.seen import Seen
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, DAY_US, OBSERVATIONS, rows_to_observations, start_of
from wardround.records import Consent, Purpose
from wardround.trust.audit import subject_ref
from wardround.trust.consent import ConsentRegister

ORDER = ("t0_us", "edge", "boot", "edge_seq")
KEYS = (*ORDER, "code")


class PatientRecords:
    """The records of one hub. May be called from any thread."""

    def __init__(
        self,
        lake: Lake,
        consents: ConsentRegister,
        clock: Clock,
        *,
        subjects: Callable[[], Collection[str]],
        record: Callable[..., None],
    ) -> None:
        """`subjects()` are those of whom the lake holds something."""
        self._lake, self._consents = lake, consents
        self._subjects, self._record = subjects, record
        self._seen = Seen(clock)

    def patients(self) -> Sequence[str]:
        """Pseudonyms of whom something may be shown, in order."""
        return sorted(s for s in list(self._subjects()) if self._shows_any(s))

    def shows(self, subject: str) -> bool:
        """Whether something of this one may be shown."""
        return subject in self._subjects() and self._shows_any(subject)

    def devices(self, subject: str) -> Sequence[str]:
        """`edge/device` of what has measured the patient, in order."""
        table = self._shown(self._lake.read(BRONZE, columns=("edge", "device", "code"), subjects=[subject]), subject)
        pairs = table.group_by(["edge", "device"]).aggregate([]).to_pylist()
        return sorted(f"{pair['edge']}/{pair['device']}" for pair in pairs)

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
        """Of the first rows that begin in this time, stand after a place and may be shown, in order.

        Raises:
            ValueError: `after` is no place.
        """
        if after is not None:
            since_us = max(int(after[0]), since_us) if since_us is not None else int(after[0])
        found: list[Row] = []
        for begin_us, end_us in self._stretches(subject, codes, since_us, until_us):
            table = self._lake.read(BRONZE, columns=KEYS, subjects=[subject], codes=codes, since_us=begin_us, until_us=end_us)
            table = self._shown(table, subject).filter(pc.field("t0_us") >= begin_us)  # not one that only reaches into it
            if after is not None:
                table = table.filter(_after(tuple(after)))
            first = table.sort_by([(name, "ascending") for name in ORDER]).slice(0, count - len(found)).to_pylist()
            found += [Row((row["t0_us"], row["edge"], row["boot"], row["edge_seq"]), row["code"]) for row in first]
            if len(found) >= count:
                break
        return found

    def _stretches(
        self, subject: str, codes: Sequence[str] | None, since_us: int | None, until_us: int | None
    ) -> Iterator[tuple[int, int]]:
        """The time of a search piece by piece, a day with rows first, then twice as many each time: a page is at its beginning,
        and of a patient who was measured for a year the rest is not read for it."""
        days = self._lake.days(BRONZE, subjects=[subject], codes=codes, since_us=since_us, until_us=until_us)
        n = 1
        while days:
            some, days, n = days[:n], days[n:], 2 * n
            begin_us, end_us = start_of(some[0]), start_of(some[-1]) + DAY_US
            begin_us = begin_us if since_us is None else max(begin_us, since_us)
            end_us = end_us if until_us is None else min(end_us, until_us)
            if begin_us < end_us:
                yield begin_us, end_us

    def resources(self, subject: str, rows: Sequence[Row]) -> Sequence[Mapping[str, Any]]:
        """Observation resources of these rows, in their order."""
        if not rows:
            return []
        table = self._lake.read(
            BRONZE,
            columns=OBSERVATIONS.names,
            subjects=[subject],
            codes=sorted({row.code for row in rows}),
            since_us=rows[0].place[0],
            until_us=rows[-1].place[0] + 1,
        )
        names = zip(*(table.column(name).to_pylist() for name in ("edge", "boot", "edge_seq")), strict=True)
        whose = f"Patient/{subject}"
        wanted = {resource_id(*row.place) for row in rows}
        found: dict[str, list[dict[str, Any]]] = {}
        for name, observation in zip(names, rows_to_observations(table), strict=True):
            row_id = resource_id(observation.t0_us, *name)
            if row_id in wanted:
                made = [r | {"subject": {**r["subject"], "reference": whose}} for r in resources(observation, "R4")]
                found[row_id] = [r | {"id": row_id if len(made) == 1 else f"{row_id}-{i}"} for i, r in enumerate(made)]
        return [resource for row in rows for resource in found.get(resource_id(*row.place), [])]

    def find(self, resource: str) -> tuple[str, Sequence[Mapping[str, Any]]]:
        """Whose the Observation resource of this id is, and it; ("", ()): there is none that may be shown."""
        t0_us = time_of(resource)
        if t0_us is None:
            return "", ()
        table = self._lake.read(BRONZE, columns=("subject", *KEYS), since_us=t0_us, until_us=t0_us + 1)
        for row in table.filter(pc.field("t0_us") == t0_us).to_pylist():
            place, subject = (row["t0_us"], row["edge"], row["boot"], row["edge_seq"]), row["subject"]
            if resource.startswith(resource_id(*place)) and self.shows(subject) and self._shows(subject, row["code"]):
                made = self.resources(subject, [Row(place, row["code"])])
                return subject, [one for one in made if one["id"] == resource]
        return "", ()

    def seen(self, who: str, subject: str, kind: str) -> None:
        """Somebody sees a patient's data. Raises WardroundError: it cannot be recorded, and must not be shown."""
        self._seen.record(
            (who, subject, kind), lambda: self._record(kind, "observations read over FHIR", who, subject=subject_ref(subject))
        )

    def _shown(self, table: pa.Table, subject: str) -> pa.Table:
        """The rows of signals that consent for care lets people see."""
        codes = [code for code in pc.unique(table.column("code")).to_pylist() if self._shows(subject, code)]
        return table.filter(pc.is_in(table.column("code"), value_set=pa.array(codes, pa.string())))

    def _shows(self, subject: str, code: str) -> bool:
        return self._consents.choose(subject, code, Purpose.CARE)[0] is Consent.RAW

    def _shows_any(self, subject: str) -> bool:
        return self._consents.keeps(subject, Purpose.CARE, Consent.RAW)


def _after(place: tuple[Any, ...]) -> Any:
    """Rows after this place in the order of rows."""
    if len(place) != len(ORDER) or [type(part) for part in place] != [int, str, str, int]:
        raise ValueError("no place")
    found: Any = pc.field(ORDER[-1]) > place[-1]
    for name, part in reversed(list(zip(ORDER[:-1], place[:-1], strict=True))):
        found = (pc.field(name) > part) | ((pc.field(name) == part) & found)
    return found
