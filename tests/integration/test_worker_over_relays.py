"""A worker as its container runs it, but for the container: its sockets, the relays, TLS both ways, results fetched from it."""

from __future__ import annotations

import functools
import operator
import subprocess
import sys
import time

import pytest

from wardround.ports import LOOPBACK, free_port
from wardround.process.nodes.containers import LAKE
from wardround.process.nodes.fleet import Fleet
from wardround.process.nodes.runner import NodesRunner
from wardround.process.relays import Relays
from wardround.trust.certificates import Authority, key_pem, new_key

NAME = "wardround-t-bare-1"
LINES = """
import sys
from wardround.process import worker
worker.SCHEDULER_PORT, worker.WORKER_PORT = int(sys.argv.pop(1)), int(sys.argv.pop(1))  # a container has a loopback of its own
worker.main()
"""


@pytest.fixture
def runner(tmp_path):
    authority = Authority.create(tmp_path / "pki", "processing")
    fleet = Fleet(hub_id="t", keys=tmp_path, authority=authority, lake=str(tmp_path / "lake"))
    made, relays = NodesRunner(fleet, tmp_path / "tls", authority), Relays()
    made.start()
    scheduler_port = int(made._cluster.scheduler_address.rsplit(":", 1)[1])
    link, certificates = tmp_path / "link", tmp_path / "certs"
    link.mkdir()
    certificates.mkdir()
    key = new_key()
    leaf = authority.issue_worker(NAME, key.public_key(), 1.0)
    for file, data in (("ca.pem", authority.pem), ("worker.pem", leaf), ("worker.key", key_pem(key))):
        (certificates / file).write_bytes(data)
    contact = f"tls://{LOOPBACK}:{relays.open(NAME, link, scheduler_port)}"
    arguments = {"--name": NAME, "--contact": contact, "--memory": "1000000000", "--link": link, "--certificates": certificates}
    ports = (free_port(), free_port())
    words = [sys.executable, "-c", LINES, *map(str, ports), *(str(w) for pair in arguments.items() for w in pair)]
    process = subprocess.Popen(words, cwd=tmp_path)
    try:
        until = time.monotonic() + 100
        while not made.registered():
            assert process.poll() is None, "the worker ended"
            assert time.monotonic() < until, "the worker did not join"
            time.sleep(0.05)
        yield made, contact
    finally:
        process.kill()
        process.wait(10)
        made.close()
        relays.close_all()


@pytest.mark.timeout(360)
def test_results_come_from_the_worker_itself_over_its_own_relay(runner):
    made, contact = runner
    client = made._client
    assert list(client.cluster.scheduler.workers) == [contact]
    gathered = []
    handlers = client.cluster.scheduler.handlers
    handlers["gather"] = _noted(gathered, handlers["gather"])
    parts = [str(k) * 200_000 for k in range(12)]
    outcomes = list(made.map(operator.add, parts, "its own folder"))
    assert {o.part: (o.result, o.error) for o in outcomes} == {p: (p + LAKE, "") for p in parts}
    assert gathered == []


def _noted(calls, function):
    @functools.wraps(function)
    def noted(*arguments, **more):
        calls.append(more.get("keys"))
        return function(*arguments, **more)

    return noted
