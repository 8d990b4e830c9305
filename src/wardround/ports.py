"""Ports of this machine that nobody listens on: for the demo, for ways to nodes, for the tests."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import socket
import tempfile
from pathlib import Path

from wardround.errors import WardroundError

LOOPBACK = "127.0.0.1"
PORTS = range(20_000, 30_000)  # below 32,768, from where a system gives ports to connections by itself
ATTEMPTS = 2_000

_given: set[int] = set()
_claims: dict[int, int] = {}  # the open file, by process: what is forked claims for itself


def free_port() -> int:
    """A port that nobody listens on, and that no process of this user has been given that still lives.

    Between this answer and the listener that will use it, and while a program that listens there is killed and started again,
    nothing holds the port; so it is never given twice (two of the 27 programs of a demo would share one in every thirtieth
    run; tests that run side by side, too), and it is not one that the system gives to a connection.

    Raises:
        WardroundError: there is none, or the temporary folder takes no file.
    """
    claims = _claims_file()
    for _ in range(ATTEMPTS):
        port = PORTS.start + secrets.randbelow(len(PORTS))
        if port in _given:
            continue
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            fcntl.lockf(claims, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)  # fails where another process has it
            _given.add(port)
            return port
    raise WardroundError(f"no port is free in {PORTS.start} to {PORTS.stop - 1}", remedy="stop programs that listen")


def _claims_file() -> int:
    """The file whose bytes stand for ports. A lock on a byte is its process's alone, and the system takes it back when that ends.

    It is never closed: a process that closes any of its views of a file loses its locks on it.
    """
    if (file := _claims.get(os.getpid())) is None:
        name = Path(tempfile.gettempdir()) / f"wardround-ports-{os.getuid()}"
        try:
            file = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise WardroundError(f"{name} cannot be opened: {exc.strerror}", remedy="let TMPDIR name a folder of yours") from exc
        _claims[os.getpid()] = file
    return file
