"""What a FHIR search asks for: dates with their prefixes, codes with their systems, places in a result."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from wardround.api.problems import Refused

SYSTEMS = {"http://loinc.org": "loinc:", "urn:iso:std:iso:11073:10101": "mdc:", "urn:wardround:code": ""}
DATE = re.compile(
    r"(?P<prefix>[a-z]{2})?(?P<year>\d{4})(-(?P<month>\d\d)(-(?P<day>\d\d)(T(?P<hour>\d\d):(?P<minute>\d\d)"
    r"(:(?P<second>\d\d)(\.(?P<part>\d{1,6}))?)?(?P<zone>Z|[+-]\d\d:\d\d))?)?)?"
)
CODES_MAX = 50


@dataclass(frozen=True, slots=True)
class Span:
    """From a time until before another, in microseconds; None: open."""

    since_us: int | None = None
    until_us: int | None = None


def parse_dates(texts: Sequence[str]) -> Span:
    """All `date` parameters together, each `[prefix]YYYY[-MM[-DD[THH:MM[:SS[.ffffff]]Z]]]`, as FHIR has it.

    Raises:
        Refused: one is no date, or has a prefix that is not known here.
    """
    since: list[int] = []
    until: list[int] = []
    for text in texts:
        found = DATE.fullmatch(text.replace(" ", "+"))
        if found is None:
            raise Refused(400, f"date={text[:40]!r} is no date", remedy="write date=ge2026-03-01 or date=2026-03-01T08:00:00Z")
        begin_us, end_us = _interval(found)
        prefix = found["prefix"] or "eq"
        if prefix == "eq":
            since.append(begin_us)
            until.append(end_us)
        elif prefix in ("ge", "sa"):
            since.append(begin_us if prefix == "ge" else end_us)
        elif prefix == "gt":
            since.append(end_us)
        elif prefix in ("lt", "eb"):
            until.append(begin_us)
        elif prefix == "le":
            until.append(end_us)
        else:
            raise Refused(400, f"the prefix {prefix!r} of a date is not known here", remedy="use eq, ge, gt, le, lt, sa or eb")
    return Span(max(since, default=None), min(until, default=None))


def _interval(found: re.Match[str]) -> tuple[int, int]:
    """The first microsecond of what is written, and the first after it."""
    day = f"{found['year']}-{found['month'] or '01'}-{found['day'] or '01'}"
    zone = "+00:00" if found["zone"] in (None, "Z") else found["zone"]
    try:
        begin = datetime.fromisoformat(f"{day}T{found['hour'] or '00'}:{found['minute'] or '00'}:{found['second'] or '00'}{zone}")
        part = found["part"]
        if found["month"] is None:
            end = begin.replace(year=begin.year + 1)
        elif found["day"] is None:
            end = (begin.replace(day=1) + timedelta(days=32)).replace(day=1)
        elif found["hour"] is None:
            end = begin + timedelta(days=1)
        elif found["second"] is None:
            end = begin + timedelta(minutes=1)
        elif part is None:
            end = begin + timedelta(seconds=1)
        else:
            begin += timedelta(microseconds=int(part.ljust(6, "0")))
            end = begin + timedelta(microseconds=10 ** (6 - len(part)))
        return _us(begin), _us(end)
    except (ValueError, OverflowError) as error:
        raise Refused(400, f"there is no such date: {found.group()[:40]!r}", remedy="correct it") from error


def parse_codes(text: str) -> list[str] | None:
    """Codes of the code table out of `code=system|code,code`; None when nothing was asked for.

    Raises:
        Refused: a system that is not known here.
    """
    if not text:
        return None
    codes: list[str] = []
    for one in text.split(",")[: CODES_MAX + 1]:
        system, bar, code = one.rpartition("|")
        if bar and system not in SYSTEMS:
            raise Refused(400, f"the code system {system[:80]!r} is not known here", remedy=f"use {', '.join(SYSTEMS)}")
        codes += [SYSTEMS[system] + code] if bar else [prefix + code for prefix in SYSTEMS.values()]
    if len(codes) > CODES_MAX:
        raise Refused(400, f"more than {CODES_MAX} codes", remedy="ask for fewer")
    return codes


def write_place(place: Sequence[int | str]) -> str:
    """Where a page ended, for its `next` link."""
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode().rstrip("=")


def parse_place(text: str, kinds: tuple[type, ...]) -> list[Any] | None:
    """Where the page before ended; None: the first page.

    Args:
        kinds: what its parts are.

    Raises:
        Refused: it is none of ours.
    """
    if not text:
        return None
    try:
        found = json.loads(base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or tuple(type(part) for part in found) != kinds or _too_long(found):
        raise Refused(400, "_page is no place in a result", remedy="follow the link `next` of the page before")
    return found


def _too_long(place: Sequence[int | str]) -> bool:
    return any(abs(part) >= 2**63 if isinstance(part, int) else len(part) > 200 for part in place)


def _us(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
