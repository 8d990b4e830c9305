"""A patient's record to take away: whom consent lets be exported, and everything of one as a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol
from urllib.parse import quote

from fastapi import FastAPI, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from wardround.console import parts
from wardround.console.door import Sessions
from wardround.console.files import given
from wardround.console.frame import GOVERNANCE, page
from wardround.console.looking import Looking, Screen
from wardround.console.model import Overview
from wardround.console.reading import Reading
from wardround.console.words import count, safe
from wardround.trust.roles import Act

PATH, ROWS, AGAIN_S = "/records", 50, 5.0
NAME_CHARS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
WORDS = "Taking away a patient's record is for data officers."


@dataclass(frozen=True, slots=True)
class RecordsPage:
    """One page of the patients who may be exported, by pseudonym; `matching` of them in all."""

    rows: tuple[tuple[str, str], ...]  # pseudonym and edge
    page: int
    matching: int

    @property
    def pages(self) -> int:
        """How many there are, at least one."""
        return max(1, -(-self.matching // ROWS))


class RecordExports(Protocol):
    """What is asked of the hub. Everything may raise NotAllowed."""

    def listed(self, who: str, *, find: str = "", page: int = 1) -> RecordsPage:
        """A page of whom something may be exported."""

    def everything(self, who: str, subject: str, base: str) -> Iterator[bytes] | None:
        """The record as a FHIR Bundle, in parts; None: nothing of such a patient may be shown. Raises WardroundError."""


class RecordExportPages:
    """The page and the file over one console."""

    def __init__(self, desk: RecordExports) -> None:
        self._desk = desk
        self._pages: Reading[RecordsPage] = Reading(again_s=AGAIN_S)

    def screens(self) -> tuple[Screen, ...]:
        """The one page."""
        return (Screen(PATH, "Records", frame, self._sections),)

    def _sections(self, looking: Looking) -> dict[str, str]:
        find, at = looking.params.get("find", ""), looking.number("page")
        read = self._pages.look(looking.held, lambda: self._desk.listed(looking.name, find=find, page=at))
        if read.refused is not None:
            return {"answer": parts.answer(WORDS), "records": parts.no_permission(looking, Act.EXPORT, "Records are not listed.")}
        return sections(read.value, looking)

    def add_files(self, app: FastAPI, sessions: Sessions) -> None:
        """The file."""

        @app.get("/records/{subject}/everything.json")
        def everything(request: Request, subject: str) -> Response:
            def answer(who: str) -> Response:
                found = self._desk.everything(who, subject, f"{request.base_url}fhir")
                if found is None:
                    return PlainTextResponse("There is no such patient of whom anything may be shown.", 404)
                name = subject if set(subject) <= NAME_CHARS else "record"
                headers = {"content-disposition": f'attachment; filename="{name}.json"'}
                return StreamingResponse(found, media_type="application/fhir+json", headers=headers)

            return given(sessions, request, answer)


def frame(view: Overview, looking: Looking) -> str:
    """The page around its sections."""
    main = '<section class="panel" aria-label="Records" id="records"></section>'
    return page(view, who=looking.name, role=looking.role, here=GOVERNANCE.address, main=main)


def sections(found: RecordsPage | None, looking: Looking) -> dict[str, str]:
    """Every part of the page by the id of its element."""
    told = "What consent for care shows, as a FHIR R4 Bundle under the hub's own pseudonym. Each download is in the audit log."
    if found is None:
        return {
            "answer": parts.answer("One moment: the register is being read.", told),
            "records": '<p class="calm dim">One moment.</p>',
        }
    find = looking.params.get("find", "")
    matching = "that matches" if found.matching == 1 else "that match"
    words = f"{count(found.matching, 'record')} {f'{matching} ' if find else ''}can be taken away."
    head = parts.head("Records", "who asked for their data is given all of it; for a study use an export with names of its own")
    form = (
        f'<form class="filter" method="get" action="{PATH}"><label class="vh" for="rec-find">Pseudonym begins with</label>'
        f'<input id="rec-find" name="find" value="{safe(find)}" maxlength="100" placeholder="pseudonym begins with" '
        'autocomplete="off" spellcheck="false"><button class="btn small">Show</button></form>'
    )
    if not found.rows:
        empty = parts.empty(
            "No subject matches", "Consent for care has to be raw for a signal that has come.", "wardround hub consent"
        )
        return {"answer": parts.answer(words, told), "records": head + form + empty}
    rows = "".join(_row(looking, subject, edge) for subject, edge in found.rows)
    table = '<table class="tight"><thead><tr><th>Subject</th><th>Edge</th><td class="th"></td></tr></thead>'
    pages = parts.pages(looking, "page", found.page, found.pages, found.matching, ROWS, "subject")
    body = f'<div class="tw" tabindex="0" role="region" aria-label="Subjects">{table}<tbody>{rows}</tbody></table></div>{pages}'
    return {"answer": parts.answer(words, told), "records": head + form + body}


def _row(looking: Looking, subject: str, edge: str) -> str:
    address = f"{PATH}/{quote(subject, safe='')}/everything.json"
    give = parts.link_button(looking, Act.EXPORT, "Take away", address, kind="small", download=True)
    return (
        f'<tr data-key="{safe(subject)}"><td class="mono">{safe(subject)}</td><td>{safe(edge)}</td><td class="r">{give}</td></tr>'
    )
