"""Addresses that are refused before anything is called, and relays that pass every byte and end with their ends."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from wardround.errors import ProcessError, SettingsError
from wardround.process.nodes.links import LocalLink, parse_address
from wardround.process.relays import Relays


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("tcp://10.0.0.5:2375", "neither encryption nor a password"),
        ("ssh://-oProxyCommand=x@host", "not a user"),
        ("ssh://", "not a node's address"),
        ("http://host", "not a node's address"),
        ("unix://relative", "not a node's address"),
        ("tcp://127.0.0.1:99999", "Port out of range"),
    ],
)
def test_an_address_that_cannot_be_used_says_why(url, words):
    with pytest.raises(SettingsError, match=words) as caught:
        parse_address(url)
    assert caught.value.remedy


def test_the_three_kinds_are_read():
    assert parse_address("unix:///run/podman/podman.sock").path == "/run/podman/podman.sock"
    address = parse_address("ssh://ward@node-1:2222/run/user/1000/podman/podman.sock")
    assert (address.user, address.host, address.port) == ("ward", "node-1", 2222)
    assert parse_address("ssh://node-1").port == 22
    assert parse_address("tcp://127.0.0.1:2375").port == 2375


def test_a_podman_that_is_not_there_is_said_with_what_to_do(tmp_path):
    relays = Relays()
    link = LocalLink(f"unix://{tmp_path}/none.sock", name="t", relays=relays)
    with pytest.raises(ProcessError, match="no Podman service") as caught:
        link.open()
    assert "podman.socket" in caught.value.remedy
    relays.close_all()


def echo_server(listener):
    def serve():
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    connection.sendall(data)

    threading.Thread(target=serve, daemon=True).start()


@pytest.fixture
def both_ends(tmp_path):
    """A scheduler and a worker that echo, with relays between."""
    scheduler = socket.create_server(("127.0.0.1", 0))
    worker = socket.socket(socket.AF_UNIX)
    worker.bind(str(tmp_path / "worker.sock"))
    worker.listen()
    echo_server(scheduler)
    echo_server(worker)
    relays = Relays()
    port = relays.open("w", tmp_path, scheduler.getsockname()[1])
    yield tmp_path / "scheduler.sock", port, relays
    relays.close_all()
    scheduler.close()
    worker.close()


def talk(connection, data):
    """Send from another thread what this one receives."""
    threading.Thread(target=connection.sendall, args=(data,), daemon=True).start()
    got = b""
    while len(got) < len(data):
        piece = connection.recv(65536)
        assert piece, "it ended before everything was back"
        got += piece
    return got


def test_every_byte_passes_both_ways(both_ends):
    path, port, _ = both_ends
    data = os.urandom(5_000_000)
    with socket.socket(socket.AF_UNIX) as to_scheduler, socket.create_connection(("127.0.0.1", port), timeout=10) as to_worker:
        to_scheduler.connect(str(path))
        to_scheduler.settimeout(10)
        assert talk(to_scheduler, data) == data
        assert talk(to_worker, data) == data


def test_an_end_that_closes_ends_the_other(both_ends):
    path, _, relays = both_ends
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        connection.settimeout(10)
        assert talk(connection, b"x") == b"x"
        relays.close_all()
        assert connection.recv(1) == b""
