import contextlib
import os
import secrets
import socket
import subprocess
import sys

import pytest

from wardround.errors import WardroundError
from wardround.ports import LOOPBACK, PORTS, free_port


def test_no_port_is_given_twice():
    ports = [free_port() for _ in range(600)]  # of 10,000: drawn without memory, some would be the same
    assert len(set(ports)) == len(ports)
    assert all(port in PORTS for port in ports)


def test_a_port_that_somebody_listens_on_is_not_given(monkeypatch):
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr("wardround.ports.PORTS", range(port, port + 1))
        with pytest.raises(WardroundError, match="no port is free"):
            free_port()


CLAIM = """
import sys
from wardround import ports
ports.PORTS = range(int(sys.argv[1]), int(sys.argv[1]) + 1)
print(ports.free_port(), flush=True)
sys.stdin.read()
"""


def test_a_port_that_a_living_process_was_given_is_not_given_to_another(monkeypatch):
    port = free_port()
    monkeypatch.setattr("wardround.ports._given", set())
    monkeypatch.setattr("wardround.ports.PORTS", range(port, port + 1))
    claim = [sys.executable, "-c", CLAIM, str(port)]
    other = subprocess.run(claim, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=50, check=False)
    assert "no port is free" in other.stderr  # it is this process's, although nobody listens there


def never_given():
    """A port that nobody listens on, of those that nobody is given: beside this test, others run."""
    while True:
        port = 10_000 + secrets.randbelow(10_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind((LOOPBACK, port))
            return port


def test_a_port_is_free_again_when_the_process_that_was_given_it_is_killed(monkeypatch, tmp_path):
    monkeypatch.setattr("wardround.ports._claims", {})
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    port = never_given()
    claim = [sys.executable, "-c", CLAIM, str(port)]
    other = subprocess.Popen(
        claim, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    try:
        assert other.stdout.readline() == f"{port}\n"
        monkeypatch.setattr("wardround.ports.PORTS", range(port, port + 1))
        with pytest.raises(WardroundError, match="no port is free"):
            free_port()
    finally:
        other.kill()
        other.communicate()
    assert free_port() == port
