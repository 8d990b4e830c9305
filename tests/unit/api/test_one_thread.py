"""A call is answered in one thread and not on the loop; what it says is the same, errors come after what was sent."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wardround.api.one_thread import OneThread


def threads_of(world, monkeypatch):
    """Where the token, the role and the records of a call are read."""
    found = []

    def noting(function):
        def noted(*args, **kwargs):
            found.append(threading.get_ident())
            return function(*args, **kwargs)

        return noted

    for thing, name in ((world.desk, "api_token"), (world.desk, "role"), (world.store, "edge"), (world.store, "edges")):
        monkeypatch.setattr(thing, name, noting(getattr(thing, name)))
    return found


@pytest.mark.parametrize(
    ("path", "status"), [("/api/v1/edges", 200), ("/api/v1/edges/nobody", 404), ("/api/v1/edges?limit=0", 422)]
)
def test_a_call_is_answered_in_one_thread_beside_the_loop(world, monkeypatch, path, status):
    found = threads_of(world, monkeypatch)
    assert world.call("GET", path, world.token("viola", ("read",))).status_code == status
    assert len(found) >= 2
    assert len({*found}) == 1
    assert found[0] != threading.get_ident()  # the test's own runs the loop


def messages(app, scope):
    sent = []

    async def run():
        async def receive():
            return {"type": "http.request", "body": b"there", "more_body": False}

        async def send(message):
            sent.append(message)

        await app(scope, receive, send)

    try:
        asyncio.run(run())
    except Exception as error:
        return sent, error
    return sent, None


HTTP = {"type": "http", "path": "/", "method": "GET"}


def test_what_was_sent_before_an_error_is_sent_and_the_error_comes_after_it():
    async def app(_scope, receive, send):
        await send({"type": "http.response.start", "body": (await receive())["body"]})
        assert (await receive())["type"] == "http.disconnect"
        raise ValueError("broken")

    sent, error = messages(OneThread(app, lambda _: False), HTTP)
    assert sent == [{"type": "http.response.start", "body": b"there"}]
    assert isinstance(error, ValueError)


def test_a_call_that_waits_in_its_thread_is_an_error_and_one_that_is_said_to_wait_is_none():
    async def app(_scope, _receive, send):
        await asyncio.sleep(0)
        await send({"type": "http.response.start"})

    sent, error = messages(OneThread(app, lambda _: False), HTTP)
    assert not sent
    assert "waits for something" in str(error)
    assert messages(OneThread(app, lambda scope: scope["path"] == "/"), HTTP) == ([{"type": "http.response.start"}], None)
