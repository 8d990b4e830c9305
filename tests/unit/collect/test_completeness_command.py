"""`wardround edge completeness`, beside an edge that has its spool open."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from wardround.cli.edge import app
from wardround.clock import SystemClock
from wardround.collect.spool import Also, Spool
from wardround.collect.storage import FolderStorage
from wardround.collect.streams import HOUR_US
from wardround.settings import SpoolSettings


def test_hours_of_a_running_edge_are_shown_with_those_in_which_nothing_came(tmp_path):
    (tmp_path / "edge.toml").write_text('name = "icu-a"\nhub_host = "h"\nhub_port = 1\n')
    now_us = SystemClock().now_us()
    hour_us = now_us // HOUR_US * HOUR_US
    spool = Spool(FolderStorage(tmp_path / "spool"), SpoolSettings(ballast_bytes=0))
    came = {
        ("S", "mdc:131330", hour_us - 3 * HOUR_US): (900_000, 3_600.0),
        ("S", "mdc:131330", hour_us - HOUR_US): (450_000, 1_800.0),
    }
    spool.commit([], [], Also({}, came, {}), now_us=now_us)

    def shown(*more):
        done = CliRunner().invoke(app, ["completeness", "--home", str(tmp_path), *more])
        assert done.exit_code == 0, done.output
        return done.output

    assert [row["complete"] for row in json.loads(shown("--json"))][:3] == [1.0, 0.0, 0.5]
    assert [row["samples"] for row in json.loads(shown("--json", "--below", "0.9"))][:2] == [0, 450_000]
    assert json.loads(shown("--json", "--subject", "another")) == []
    assert "ECG lead II" in shown()
