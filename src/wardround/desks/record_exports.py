"""A patient's whole record as a file, for whoever may export: what $everything of the API gives, in one Bundle, page by page.

It stands in the audit log and in the book of exports before its first byte: an erasure's receipt then names it. Consent is asked
anew at every page; if it is withdrawn meanwhile the file breaks off, and is no Bundle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from wardround.api.fhir import device, patient
from wardround.clock import Clock
from wardround.console.record_exports import ROWS, RecordsPage
from wardround.console.shared import Shared
from wardround.desks.patients import PatientRecords
from wardround.errors import WardroundError
from wardround.trust.audit import subject_ref
from wardround.trust.exports import ExportBook
from wardround.trust.roles import Act

PAGE, KEEP_S = 200, 10.0
FORMAT = "fhir-r4"


class HubRecordExports:
    """Of one hub. May be called from any thread."""

    def __init__(
        self,
        records: PatientRecords,
        book: ExportBook,
        clock: Clock,
        *,
        edge_of: Mapping[str, str],
        check: Callable[[str, Act], None],
        record: Callable[..., None],
    ) -> None:
        """`edge_of` has every subject of whom the lake holds something."""
        self._records, self._book, self._clock = records, book, clock
        self._edge_of, self._check, self._record = edge_of, check, record
        self._names = Shared(records.patients, clock, keep_s=KEEP_S)

    def listed(self, who: str, *, find: str = "", page: int = 1) -> RecordsPage:
        """A page of whom something may be exported.

        Raises:
            NotAllowed: their role does not cover exports.
        """
        self._check(who, Act.EXPORT)
        matching = [name for name in self._names() if name.startswith(find.lower())]
        page = min(max(1, page), max(1, -(-len(matching) // ROWS)))
        rows = matching[(page - 1) * ROWS : page * ROWS]
        return RecordsPage(tuple((n, self._edge_of.get(n, "")) for n in rows if self._records.shows(n)), page, len(matching))

    def everything(self, who: str, subject: str, base: str) -> Iterator[bytes] | None:
        """The record as a FHIR Bundle, in parts; None: nothing of such a patient may be shown. `base` is FHIR's address.

        Raises:
            NotAllowed: their role does not cover exports.
            WardroundError: it cannot be recorded, and must not be given.
        """
        self._check(who, Act.EXPORT)
        if not self._records.shows(subject):
            return None
        number = self._book.add("", who, FORMAT, [subject], self._clock.now_us())
        self._record("export", "a patient's record taken away at the console", who, subject=subject_ref(subject), number=number)
        return self._parts(who, subject, base, number)

    def _parts(self, who: str, subject: str, base: str, number: int) -> Iterator[bytes]:
        at = datetime.fromtimestamp(self._clock.now_us() / 1e6, UTC).isoformat(timespec="seconds")
        yield f'{{"resourceType":"Bundle","type":"collection","timestamp":"{at}","entry":['.encode()
        first = [patient(subject), *(device(name, subject) for name in self._records.devices(subject))]
        yield b",".join(_entry(resource, base) for resource in first)
        after, given = None, len(first)
        while True:
            if not self._records.shows(subject):
                raise WardroundError("consent was withdrawn while the record was given", remedy="nothing is left to do")
            rows = self._records.keys(subject, None, since_us=None, until_us=None, after=after, count=PAGE)
            made = self._records.resources(subject, rows)
            if made:
                yield b"," + b",".join(_entry(resource, base) for resource in made)
            given += len(made)
            if len(rows) < PAGE:
                break
            after = rows[-1].place
        yield b"]}"
        self._record("export", "a patient's record given whole", who, number=number, resources=given)


def _entry(resource: Mapping[str, Any], base: str) -> bytes:
    address = f"{base}/{resource['resourceType']}/{resource['id']}"
    return msgspec.json.encode({"fullUrl": address, "resource": resource})
