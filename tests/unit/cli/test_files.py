"""`wardround edge import`, on a home of its own with no edge running."""

from __future__ import annotations

import json
import struct
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from wardround.cli.edge import app
from wardround.collect.files.fit import EPOCH_S, crc16
from wardround.collect.spool import Spool
from wardround.collect.storage import FolderStorage
from wardround.edge import EdgeHome
from wardround.errors import CollectError, HomeTaken, SettingsError
from wardround.records import Consent, decode_observation

STAMP = int(datetime(2011, 9, 25, 13, tzinfo=UTC).timestamp()) - EPOCH_S


@pytest.fixture
def home(tmp_path):
    (tmp_path / "edge").mkdir()
    (tmp_path / "edge" / "edge.toml").write_text('name = "icu-a"\nhub_host = "127.0.0.1"\nhub_port = 1\n')
    return tmp_path / "edge"


@pytest.fixture
def watch(tmp_path):
    """A FIT file of three heart rates."""
    layout = bytes([0x40, 0, 0]) + struct.pack("<H", 20) + bytes([2, 253, 4, 0x86, 3, 1, 0x02])
    body = layout + b"".join(bytes([0]) + struct.pack("<IB", STAMP + i, 61 + i) for i in range(3))
    head = struct.pack("<BBHI4s", 12, 0x20, 2100, len(body), b".FIT")
    path = tmp_path / "run.fit"
    path.write_bytes(head + body + struct.pack("<H", crc16(head + body)))
    return path


def run(*args):
    result = CliRunner().invoke(app, ["import", *map(str, args)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def allow(home, choice, patient="P1"):
    opened = EdgeHome.open(home)
    register = opened.consents()
    register.set(opened.pseudonyms().of(patient), "*", choice)
    register.close()


def spooled(home):
    spool = Spool(FolderStorage(home / "spool"), EdgeHome.open(home).settings.spool)
    rows = [decode_observation(r.data) for lane in spool.lanes() for r in spool.read_after(lane.boot, 0)]
    spool.close()
    return rows


def outcome(result):
    return json.loads(result.stdout)["taken"]


def test_a_dry_run_needs_no_edge_and_prints_an_observation_a_line(watch, tmp_path):
    result = run(watch, "--dry-run", "--json", "--home", tmp_path / "nowhere")
    [line] = map(json.loads, result.stdout.splitlines())
    assert (line["signal"], line["unit"], line["samples"]) == ("heart-rate", "/min", [61.0, 62.0, 63.0])
    assert line["time"] == "2011-09-25T13:00:00+00:00"
    assert not (tmp_path / "nowhere").exists()


def test_the_same_file_twice_adds_nothing(home, watch):
    allow(home, Consent.RAW)
    args = (watch, "--patient", "P1", "--device", "watch-1", "--home", home, "--json")
    assert outcome(run(*args)) == {"kept": 1, "repeated": 0, "not_kept": 0, "set_aside": 0}
    renamed = watch.rename(watch.with_name("other.bin"))
    assert outcome(run(renamed, *args[1:])) == {"kept": 0, "repeated": 1, "not_kept": 0, "set_aside": 0}
    [observation] = spooled(home)
    assert observation.samples().tolist() == [61.0, 62.0, 63.0]
    assert "P1" not in repr(observation)


def test_without_consent_nothing_is_kept_and_it_says_so(home, watch):
    result = run(watch, "--patient", "P1", "--device", "watch-1", "--home", home)
    assert "1 not kept, no consent" in result.stdout
    assert spooled(home) == []


def test_a_device_of_somebody_else_is_refused(home, watch):
    run(watch, "--patient", "P1", "--device", "watch-1", "--home", home)
    with pytest.raises(SettingsError, match="another patient"):
        run(watch, "--patient", "P2", "--device", "watch-1", "--home", home)


def test_a_damaged_file_is_refused_and_the_others_are_read(home, watch):
    allow(home, Consent.LOCAL)
    broken = watch.with_name("broken.fit")
    broken.write_bytes(watch.read_bytes()[:-1] + b"\0")
    result = run(broken, watch, "--patient", "P1", "--device", "watch-1", "--home", home, "--json")
    first, second = map(json.loads, result.stdout.splitlines())
    assert (first["refused"], first["taken"]["kept"]) == ({"checksum": 1}, 0)
    assert second["taken"]["kept"] == 1
    assert result.exit_code == 1


def test_what_another_process_left_in_the_queue_is_worked(home, watch):
    allow(home, Consent.RAW)
    left = EdgeHome.open(home)
    left.registry().add("watch-1", "P1")
    imports = left.imports()
    from wardround.collect.devices.reading import Reading

    imports.put("killed", "watch-1", [Reading(name="heart-rate", unit="/min", t_us=10**15, value=50.0)])
    imports.close()
    run(watch, "--patient", "P1", "--device", "watch-1", "--home", home)
    assert len(spooled(home)) == 2


def test_a_home_is_held_by_one(home):
    opened = EdgeHome.open(home)
    with opened.held(), pytest.raises(HomeTaken), opened.held():
        pass
    with opened.held():
        pass


def test_a_running_edge_that_takes_nothing_is_named(home, watch, monkeypatch):
    monkeypatch.setattr("wardround.cli.handing.STUCK_S", 0.2)
    with EdgeHome.open(home).held(), pytest.raises(CollectError, match="taken nothing"):
        run(watch, "--patient", "P1", "--device", "watch-1", "--home", home)


def test_a_recording_without_a_date_says_what_to_do(home, tmp_path):
    (tmp_path / "r.hea").write_text("r 1 100 4\nr.dat 16 1/mV 16 0 1 10 0 II\n")
    (tmp_path / "r.dat").write_bytes(struct.pack("<4h", 1, 2, 3, 4))
    args = (tmp_path / "r.hea", "--patient", "P1", "--device", "holter", "--home", home)
    allow(home, Consent.RAW)
    assert "--start" in run(*args).stdout
    run(*args, "--start", "2026-03-01T08:30:00+01:00")
    [observation] = spooled(home)
    assert observation.t0_us == int(datetime(2026, 3, 1, 7, 30, tzinfo=UTC).timestamp()) * 1_000_000
    line = json.loads(run(*args[:1], "--dry-run", "--json").stdout)
    assert (line["from_start_us"], line["samples"]) == (0, [1.0, 2.0, 3.0, 4.0])


def test_a_file_that_is_larger_than_the_queue_is_worked_in_turns(home, tmp_path, monkeypatch):
    monkeypatch.setattr("wardround.cli.handing.BATCH_READINGS", 1)
    monkeypatch.setattr("wardround.collect.imports.BATCHES_MAX", 4)
    allow(home, Consent.RAW)
    pack = [{"n": "heart-rate", "u": "/min", "v": 60 + i % 50, "t": 1_700_000_000 + 3_600 * i} for i in range(30)]
    path = tmp_path / "pack.json"
    path.write_text(json.dumps(pack))
    args = (path, "--patient", "P1", "--device", "watch-1", "--home", home, "--json")
    assert outcome(run(*args))["kept"] == 30
    assert len(spooled(home)) == 30
