"""A file is given to who is signed in and may have it; anybody else is told why not, and what to do."""

from __future__ import annotations

import pytest
from fastapi import Request
from fastapi.responses import PlainTextResponse

from wardround.clock import ManualClock
from wardround.console.door import COOKIE, Sessions
from wardround.console.files import given
from wardround.errors import NotAllowed, StorageFull, WardroundError


def asked(answer, *, signed_in=True, **how):
    sessions = Sessions(ManualClock(), life_s=60.0, idle_s=0.0, standing=lambda _: "stands")
    cookie = f"{COOKIE}={sessions.start('dora', 'data-officer', None, 'stands')}" if signed_in else ""
    found = given(sessions, Request({"type": "http", "headers": [(b"cookie", cookie.encode())]}), answer, **how)
    return found.status_code, bytes(found.body).decode(), found.headers.get("cache-control", "")


def raises(error):
    def answer(_who):
        raise error

    return answer


def test_who_is_signed_in_is_given_it_and_no_cache_keeps_it():
    assert asked(lambda who: PlainTextResponse(f"of {who}")) == (200, "of dora", "no-store")
    assert asked(raises(AssertionError("asked for nobody")), signed_in=False)[:2] == (401, "Sign in first.")


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (NotAllowed("this is for data officers"), 403, "this is for data officers."),
        (StorageFull("no room", remedy="free the disk"), 503, "no room. Free the disk."),
        (WardroundError("no room"), 503, "no room."),
    ],
)
def test_why_not_is_said_with_what_to_do(error, status, said):
    assert asked(raises(error))[:2] == (status, said)


def test_what_failed_has_the_status_that_its_page_says():
    assert asked(raises(WardroundError("it runs")), failed=409)[0] == 409
