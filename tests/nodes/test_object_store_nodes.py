"""A lake in an object store, read by containers that have no network but one relayed way to it."""

from __future__ import annotations

import getpass
import json
import socket

import pytest

from nodes_under_test import JOB, Home, again, differences, ecg, rows
from s3_server import KEYS, a_bucket
from wardround.clock import SystemClock
from wardround.hub import known
from wardround.process.dask_runner import HereRunner
from wardround.process.jobs import Jobs
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows

pytestmark = pytest.mark.timeout(300)


def fill(lake):
    for i in range(6):
        lake.append(BRONZE, observation_rows([(ecg(f"s{i}", i, seconds=600), "b", i, 0)]), app="inbox", version=i + 1)
    return lake


def endpoint_name():
    """A name of this machine that is not the loopback's own, so that a container has to be told of it; else the loopback."""
    name = socket.gethostname()
    try:
        return name if socket.gethostbyname(name) == "127.0.0.1" else "127.0.0.1"
    except OSError:
        return "127.0.0.1"


@pytest.fixture
def store_home(three_nodes, ssh_server, tmp_path, command):
    """A hub whose lake is in an object store, with one node beside it and one over SSH."""
    home = tmp_path / "hub"
    with a_bucket(endpoint_name()) as (uri, options):
        assert command("hub", "init", "--home", str(home)).returncode == 0
        settings = home / "hub.toml"
        given = ", ".join(f"{k} = {json.dumps(v)}" for k, v in options.items())
        text = settings.read_text().replace("[processing]", "")
        settings.write_text(f"{text}\n[processing]\nlake = {json.dumps(uri)}\nlake_options = {{ {given} }}\n")
        before = (ssh_server.folder / "authorized").read_text()
        key = command("node", "key", "--home", str(home)).stdout.strip()
        ssh_server.let_in(f"{before.strip()}\n{key}")
        over_ssh = f"ssh://{getpass.getuser()}@127.0.0.1:{ssh_server.port}{three_nodes['three'].socket}"
        for name, url, more in (
            ("one", three_nodes["one"].url, []),
            ("three", over_ssh, ["--host-key", ssh_server.fingerprint()]),
        ):
            done = command("node", "add", name, url, "--home", str(home), *more, timeout=120)
            assert done.returncode == 0, done.stdout + done.stderr
        yield home, uri, options
        ssh_server.let_in(before.strip())


def test_containers_read_a_lake_in_an_object_store(store_home, three_nodes, tmp_path):
    home, uri, options = store_home
    fill(Lake(uri, options))
    here = fill(Lake(tmp_path / "lake"))
    Jobs(here, HereRunner(), SystemClock(), tmp_path / "staging", known()).run(JOB)
    opened = Home(home)
    try:
        opened.ready(workers=2)
        report = again(opened)
        assert report.failed == ()
        assert report.place == "2 nodes, 2 workers", opened.said
        assert differences(rows(opened.processing.lake), rows(here)) == []
        assert len(rows(here)) > 6 * 500
        for node in (three_nodes["one"], three_nodes["three"]):
            told = inspected(node)
            assert told
            assert KEYS["AWS_SECRET_ACCESS_KEY"] not in {w.strip('",') for w in told.split()}
            assert '"NetworkMode": "none"' in told
    finally:
        opened.close()


def inspected(node):
    """What `podman inspect` says of the node's containers."""
    names = node.containers()
    return node._ask("inspect", *names).stdout.decode() if names else ""


def test_a_store_that_containers_cannot_be_led_to_is_named(store_home, command):
    home, _uri, _options = store_home
    settings = home / "hub.toml"
    settings.write_text(settings.read_text().replace("s3://", "gs://"))
    found = command("node", "doctor", "one", "--home", str(home), "--json", timeout=120)
    checks = {c["what"]: c for c in json.loads(found.stdout)}
    assert checks["lake"]["good"] is False
    assert "S3 alone" in checks["lake"]["found"]
