"""An S3-compatible server in a process of its own, for a lake in an object store."""

from __future__ import annotations

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wardround.ports import free_port

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@contextlib.contextmanager
def a_bucket(host: str = "127.0.0.1") -> Iterator[tuple[str, dict[str, str]]]:
    """The URI and options of a bucket on a server of our own; its keys are in the environment meanwhile."""
    program = Path(sys.prefix) / "s3" / "bin" / "moto_server"
    if not program.exists():
        pytest.skip("the S3 server is not installed: make .venv/s3/.ready")
    port = free_port()
    server = subprocess.Popen([program, "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in KEYS.items():
            patch.setenv(name, value)
        try:
            _make(port, "/ward-lake")
            options = {"AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_REGION": "us-east-1", "AWS_ALLOW_HTTP": "true"}
            yield "s3://ward-lake/wardround", options
        finally:
            server.terminate()
            server.wait(10)


def _make(port: int, bucket: str) -> None:
    until = time.monotonic() + 30
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("PUT", bucket)
            assert connection.getresponse().status == 200
        except OSError:
            assert time.monotonic() < until
            time.sleep(0.2)
        else:
            return
        finally:
            connection.close()
