"""Governance's addresses: the screen, the dialog that erases, and what may be taken away as a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse

from wardround.console import governance
from wardround.console.door import Sessions
from wardround.console.files import given
from wardround.console.governance_model import GovernanceView
from wardround.console.looking import Facts, Looking, Reply, Screen
from wardround.console.model import Overview
from wardround.console.reading import Reading

AGAIN_S = 3.0


class Governance(Protocol):
    """What these pages ask of the hub. Everything may raise NotAllowed."""

    def view(self, who: str, *, find: str = "", page: int = 1, number: int | None = None) -> GovernanceView:
        """The whole screen."""

    def erase(self, who: str, subject: str, again: str, reason: str) -> int:
        """Ask for an erasure; its number. Raises WardroundError: it is not asked for, and why."""

    def audit_lines(self, who: str) -> Iterator[bytes]:
        """The whole log. Raises WardroundError."""

    def receipt(self, who: str, number: int) -> Mapping[str, Any] | None:
        """An erasure with every receipt; None: there is none of this number."""


class GovernancePages:
    """Governance's pages over one console."""

    def __init__(self, desk: Governance, overview: Callable[[], Overview]) -> None:
        self._desk, self._overview = desk, overview
        self._views: Reading[GovernanceView] = Reading(again_s=AGAIN_S)

    def screens(self) -> tuple[Screen, ...]:
        """All of it, and all of it with one erasure whole."""
        acts = {"ask-erase": self._ask_erase, "erase": self._erase}
        return tuple(
            Screen(path, "Governance", governance.frame, self._sections, acts)
            for path in ("/governance", "/governance/erasures/{item}")
        )

    def _sections(self, looking: Looking) -> dict[str, str]:
        find, number = looking.params.get("find", ""), None
        if looking.item:
            number = int(looking.item) if looking.item.isdecimal() and len(looking.item) < 10 else -1
        at = looking.number("page")
        page = self._views.look(looking.held, lambda: self._desk.view(looking.name, find=find, page=at, number=number))
        if page.refused is not None:
            return governance.refused(looking)
        return governance.sections(self._overview(), page.value, looking)

    def _ask_erase(self, facts: Facts, _: Looking) -> Reply:
        return Reply(dialog=governance.erase_dialog(facts.get("subject", "")))

    def _erase(self, facts: Facts, looking: Looking) -> Reply:
        subject = facts.get("subject", "")
        number = self._desk.erase(looking.name, subject, facts.get("typed", ""), facts.get("reason", ""))
        return Reply(go=f"/governance/erasures/{number}")

    def add_files(self, app: FastAPI, sessions: Sessions) -> None:
        """The audit log, and receipts."""

        @app.get("/governance/audit.log")
        def audit(request: Request) -> Response:
            return given(sessions, request, lambda who: StreamingResponse(self._desk.audit_lines(who), media_type="text/plain"))

        @app.get("/governance/erasures/{number}/receipt.json")
        def receipt(request: Request, number: int) -> Response:
            def answer(who: str) -> Response:
                found = self._desk.receipt(who, number)
                return JSONResponse(found) if found is not None else PlainTextResponse("There is no such erasure.", 404)

            return given(sessions, request, answer)
