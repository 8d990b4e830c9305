"""The Ward's addresses: what a page asks of the hub when it opens, and again while it is looked at."""

from __future__ import annotations

import csv
import io
import weakref
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Protocol

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response

from wardround.console import ward
from wardround.console.door import Sessions
from wardround.console.files import given
from wardround.console.looking import Held, Looking, Screen
from wardround.console.model import Overview
from wardround.console.reading import Reading
from wardround.console.ward_model import DEFAULT_SPAN, SPANS, RecordView, WardList
from wardround.errors import NotAllowed

AGAIN_S = 5.0  # between two looks at a record that is open
FRESH_US = 30_000_000  # an older list is of when nobody looked: a page does not keep its order, as it is being read again


class Ward(Protocol):
    """What these pages ask of the hub. Everything but `look` may raise NotAllowed."""

    def subjects(
        self, who: str, *, edge: str = "", find: str = "", page: int = 1, kept: Sequence[str] | None = None
    ) -> WardList | None:
        """A page of the list; None while it is being read."""

    def look(self) -> None:
        """Read the list where somebody has asked for it and it is time."""

    def record(self, who: str, subject: str, *, span: str, at_us: int | None = None, why: str = "") -> RecordView | None:
        """A subject's record; None where nothing may be shown. Raises WardroundError."""


class WardPages:
    """The Ward's pages over one console."""

    def __init__(self, desk: Ward, overview: Callable[[], Overview]) -> None:
        self._ward, self._overview = desk, overview
        self._records: Reading[RecordView] = Reading(again_s=AGAIN_S)
        self._lists: Reading[bool] = Reading(again_s=AGAIN_S)
        self._kept: weakref.WeakKeyDictionary[Held, tuple[str, ...]] = weakref.WeakKeyDictionary()

    def screens(self) -> tuple[Screen, ...]:
        """The list, and the list beside one record."""
        return (
            Screen("/ward", "Ward", ward.frame, self._sections),
            Screen("/ward/{part}/{item}", "Ward", ward.frame, self._sections),
        )

    def _sections(self, looking: Looking) -> dict[str, str]:
        asked, subject = looking.params, looking.item
        edge, find, span, at_us = asked.get("edge", ""), asked.get("find", ""), span_of(looking), at_of(asked.get("at", ""))
        kept = self._kept.get(looking.held)
        try:
            found = self._ward.subjects(looking.name, edge=edge, find=find, page=looking.number("page"), kept=kept)
            if found is None:
                self._lists.look(looking.held, self._look, once=True)
                found = self._ward.subjects(looking.name, edge=edge, find=find, page=looking.number("page"))
        except NotAllowed:
            return ward.refused(looking)
        if found is not None and kept is None and self._overview().now_us - found.looked_us < FRESH_US:
            self._kept[looking.held] = tuple(row.subject for row in found.rows)
        record, reading, failed = None, False, ""
        if subject:
            why = asked.get("why", "")
            page = self._records.look(
                looking.held,
                lambda: self._ward.record(looking.name, subject, span=span, at_us=at_us, why=why),
                once=at_us is not None,
            )
            record, reading, failed = page.value, not page.done, page.failed
        parts = ward.sections(self._overview(), found, record, edge=edge, find=find, chosen=subject, reading=reading)
        if failed:
            parts["answer"] += '<p class="sub" role="alert">The record could not be read a moment ago; it is tried again.</p>'
        return parts

    def _look(self) -> bool:
        self._ward.look()
        return True

    def add_files(self, app: FastAPI, sessions: Sessions) -> None:
        """A trend as CSV."""

        @app.get("/ward/{edge}/{subject}/trend.csv")
        def trend(request: Request, subject: str, code: str = "", span: str = DEFAULT_SPAN, at: str = "") -> Response:
            def answer(who: str) -> Response:
                if span not in SPANS:
                    return PlainTextResponse(f"The time is one of: {', '.join(SPANS)}.", 400)
                text = csv_of(self._ward.record(who, subject, span=span, at_us=at_of(at), why="CSV"), code)
                if not text:
                    return PlainTextResponse("There is no such trend that may be shown.", 404)
                return Response(text, media_type="text/csv")

            return given(sessions, request, answer)


def csv_of(record: RecordView | None, code: str) -> str:
    """The trend of one signal, a window a line; empty where there is none."""
    found = next((t for t in record.trends if t.code == code), None) if record is not None else None
    if found is None:
        return ""
    sink = io.StringIO()
    rows = csv.writer(sink)
    rows.writerow(("time_utc", f"mean_{found.unit}", "low", "high"))
    for point in found.points:
        rows.writerow((datetime.fromtimestamp(point.t_us / 1e6, UTC).isoformat(), point.mean, point.low, point.high))
    return sink.getvalue()


def span_of(looking: Looking) -> str:
    """The time that the address asks for."""
    span = looking.params.get("span", DEFAULT_SPAN)
    return span if span in SPANS else DEFAULT_SPAN


def at_of(text: str) -> int | None:
    """Microseconds since 1970, of `2026-11-24T03:12Z` or of such a number; None where it is neither, which means now."""
    if text.isdecimal() and len(text) <= 17:
        return int(text)
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return round((at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() * 1e6)
