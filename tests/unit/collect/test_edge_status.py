"""`wardround edge status`, beside an edge that has its spool open."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from wardround.cli.edge import app
from wardround.clock import SystemClock
from wardround.collect.lanes import Priority
from wardround.collect.spool import PARK_ROWS, Spool
from wardround.collect.storage import FolderStorage
from wardround.settings import SpoolSettings


@pytest.fixture
def home(tmp_path):
    (tmp_path / "edge.toml").write_text('name = "icu-a"\nhub_host = "h"\nhub_port = 1\n[spool]\nbytes_max = 5000000\n')
    return tmp_path


def status(home, *more):
    done = CliRunner().invoke(app, ["status", "--home", str(home), *more])
    assert done.exit_code == 0, done.output
    return done.output


def test_rows_bytes_age_and_what_was_dropped_are_shown_while_the_edge_runs(home):
    running = Spool(FolderStorage(home / "spool"), SpoolSettings(bytes_max=100_000, when_full="shed", ballast_bytes=0))
    now_us = SystemClock().now_us()
    running.commit([(Priority.WAVEFORM, bytes(200))] * PARK_ROWS, [], now_us=now_us - 7_200_000_000)
    running.park()
    running.commit([(Priority.ALARM, bytes(100)), (Priority.VITAL, bytes(50))], [], now_us=now_us)
    facts = json.loads(status(home, "--json"))
    assert facts["observations"] == running.facts().observations
    assert facts["bytes"] == running.facts().bytes
    assert 7_200 <= facts["age_s"] < 7_300
    assert facts["dropped"] == running.facts().dropped > 0
    assert [(lane["priority"], lane["live"]) for lane in facts["lanes"]] == [
        ("alarm", True),
        ("vital", True),
        ("waveform", True),
        ("waveform", False),
    ]
    text = status(home)
    assert "2.0 h" in text
    assert "Given up" in text


def test_an_edge_that_never_ran_has_nothing_waiting(home):
    assert json.loads(status(home, "--json"))["observations"] == 0
