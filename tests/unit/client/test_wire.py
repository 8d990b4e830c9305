"""Breaks: what is sent again and what is not, and a stream of events that goes on where it was."""

from __future__ import annotations

import json
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wardround.client import HubClient, HubUnreachable, Wire, events
from wardround.client import refusals as no
from wardround.client.events import Parser

DONE = (200, {"Content-Type": "application/json"}, b'{"words": "done"}')
ASKED = {"id": "r-1", "kind": "pause", "state": "asked", "answer": "", "asked": "2026-03-01T08:00:00Z"}
HAPPENING = '{"at": "2026-03-01T08:00:00Z", "title": "%s", "detail": ""}'


def client(hub, waits=None):
    return HubClient(Wire(hub.address, "wra.a.b", sleep=(waits if waits is not None else []).append))


def test_a_call_with_a_key_is_sent_again_with_the_same_key(scripted):
    hub = scripted(None, None, (202, {}, json.dumps(ASKED).encode()))
    assert client(hub).ask("beats", "pause", "works").id == "r-1"
    keys = [headers["Idempotency-Key"] for _, _, headers, _ in hub.asked]
    assert len(keys) == 3
    assert len(set(keys)) == 1


def test_an_act_without_a_key_is_sent_once_and_its_error_says_so(scripted):
    hub = scripted(None, DONE)
    with pytest.raises(HubUnreachable, match="whether it was done is not known"):
        client(hub).acknowledge("A-0001")
    assert len(hub.asked) == 1


def test_a_hub_that_says_when_is_asked_again_then_and_not_for_ever(scripted):
    later = (429, {"Retry-After": "3"}, b'{"detail": "wait 3 s", "remedy": "ask less often"}')
    waits = []
    hub = scripted(later, (503, {"Retry-After": "5"}, b""), (200, {}, b"[]"), later, later, later, later, (429, {}, b""))
    assert client(hub, waits).silences() == []
    assert waits == [3.0, 5.0]
    with pytest.raises(no.Throttled, match="wait 3 s"):
        client(hub).silences()
    with pytest.raises(no.Throttled):
        client(hub).silences()  # it does not say when
    assert len(hub.asked) == 8


def test_what_is_no_hub_is_said_to_be_none(scripted):
    with pytest.raises(HubUnreachable, match="not what this client knows"):
        client(scripted((200, {}, b"<html>"))).hub()
    with pytest.raises(no.ApiRefused, match="status 302"):
        client(scripted((302, {"Location": "https://evil.example"}, b""))).hub()  # and the token goes nowhere else


def stream(*titles, start=1):
    lines = [f"id: {n}\nevent: happening\ndata: {HAPPENING % title}\n\n" for n, title in enumerate(titles, start)]
    return (200, {"Content-Type": "text/event-stream"}, "".join(lines).encode())


def test_a_stream_that_breaks_goes_on_after_the_last_line_seen(scripted):
    waits = []
    hub = scripted(
        stream("a", "b"), None, (503, {"Retry-After": "2"}, b""), stream("c", start=3), (401, {}, b'{"detail": "revoked"}')
    )
    heard = events.events(Wire(hub.address, "wra.a.b"), sleep=waits.append)
    assert [(event.id, event.data.title) for event in islice(heard, 3)] == [("1", "a"), ("2", "b"), ("3", "c")]
    with pytest.raises(no.NotSignedIn, match="revoked"):
        next(heard)
    assert [headers.get("Last-Event-ID") for _, _, headers, _ in hub.asked] == [None, "2", "2", "2", "3"]
    assert all(0.0 < wait_s <= events.WAIT_S_MAX for wait_s in waits)


def test_a_stream_ends_in_an_error_when_the_hub_stays_away(scripted):
    hub, waits = scripted(), []
    with pytest.raises(HubUnreachable):
        next(events.events(Wire(hub.address, "wra.a.b"), sleep=waits.append))
    assert len(waits) == events.TRIES
    assert waits == sorted(waits)


EVENTS = st.lists(
    st.tuples(st.integers(0, 999).map(str), st.sampled_from(["hub", "alert"]), st.text("abäö {}:", max_size=9)), max_size=5
)


@given(EVENTS, st.integers(1, 9), st.sampled_from(["\n", "\r\n"]))
def test_events_are_the_same_however_their_bytes_are_cut(wanted, size, end):
    lines = (f": hello{end}id: {i}{end}event: {kind}{end}data: {data}{end}{end}" for i, kind, data in wanted)
    text, parser = "".join(lines).encode(), Parser()
    found = [event for at in range(0, len(text), size) for event in parser.feed(text[at : at + size])]
    assert found == [(i, kind, data) for i, kind, data in wanted]


def test_a_line_without_end_is_no_event():
    with pytest.raises(ValueError, match="a line of more than"):
        Parser().feed(b"x" * (events.LINE_MAX + 1))
