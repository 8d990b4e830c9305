"""Draining over the API, by the client that the command line uses."""

from __future__ import annotations

from wardround.learn.grpc_wire import Beat

PATH = "/api/v1/edges/icu-a/drain"


def test_an_edge_is_drained_watched_and_used_again(world):
    world.edge("icu-a")
    world.attached.add("icu-a")
    token = world.token()
    assert world.call("GET", PATH, token).status_code == 404
    first = world.call("POST", PATH, token)
    assert "no more work" in first.json().get("words", ""), first.text
    again = world.call("POST", PATH, token)
    assert (again.status_code, again.json()["remedy"]) == (409, "`wardround edge drain icu-a --undo` gives it work again")
    world.drains.heard("icu-a", Beat(1, 0, 0, ""))
    world.drains.look()
    shown = world.call("GET", PATH, token).json()
    assert (shown["stage"], shown["by"]) == ("safe", "oskar")
    assert "used again" in world.call("DELETE", PATH, token).json()["words"]
    assert world.call("DELETE", PATH, token).status_code == 409
    assert [entry[1:3] for entry in world.recorded] == [("edge drained", "oskar"), ("edge used again", "oskar")]


def test_an_edge_that_is_not_there_is_not_drained(world):
    assert world.call("POST", "/api/v1/edges/nobody/drain", world.token()).status_code == 409
