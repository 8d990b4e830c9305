import socket

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
