"""Ports of this machine that nobody listens on: for the demo, for ways to nodes, for the tests."""

from __future__ import annotations

import contextlib
import secrets
import socket

from wardround.errors import WardroundError

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 30_000)  # below 32,768, from where a system gives ports to connections by itself
ATTEMPTS = 2_000

_given: set[int] = set()


def free_port() -> int:
    """A port that nobody listens on, and that this process was not given before.

    Between this answer and the listener that will use it, nothing holds the port; so it is never given twice (two of the
    27 programs of a demo would share one in every thirtieth run), and it is not one that the system gives to a connection.

    Raises:
        WardroundError: there is none.
    """
    for _ in range(ATTEMPTS):
        port = PORTS.start + secrets.randbelow(len(PORTS))
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            _given.add(port)
            return port
    raise WardroundError(f"no port is free in {PORTS.start} to {PORTS.stop - 1}", remedy="stop programs that listen")
