"""What the doctor finds in a home: sound, damaged, of a later version, without its hub, on a port that is taken."""

from __future__ import annotations

import socket
import sqlite3

import pytest

from wardround.cli import doctor_home
from wardround.cli.doctor import examine
from wardround.hub import create_home
from wardround.ports import free_port
from wardround.settings import HubSettings, parse_settings


@pytest.fixture
def hub(tmp_path):
    text = "".join(f"[{name}]\nport = {free_port()}\n" for name in ("grpc", "enrolment", "console"))
    create_home(tmp_path / "hub", text, parse_settings(text, HubSettings, where="test")).close()
    return tmp_path / "hub"


def found(checks):
    return {check.what: check for check in checks}


def test_a_sound_hub_has_nothing_wrong(hub):
    checks = found(examine(hub))
    assert [c for c in checks.values() if c.good is False] == []
    assert {"records", "database files", "port grpc", "open files", "memory", "clock kept", "Podman"} <= set(checks)
    assert checks["records"].found.endswith(sqlite_schema(hub))


def sqlite_schema(hub) -> str:
    with sqlite3.connect(hub / "hub.sqlite") as db:
        return db.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def test_a_file_that_is_no_database_is_named(hub):
    (hub / "consent.sqlite").write_bytes(b"not a database" * 100)
    check = found(doctor_home.databases(hub))["database files"]
    assert check.good is False
    assert check.found.startswith("consent.sqlite: ")
    assert "restore a backup" in check.remedy


def test_records_of_a_later_version_are_said_and_left_alone(hub):
    with sqlite3.connect(hub / "hub.sqlite") as db:
        db.execute("UPDATE alembic_version SET version_num = '9999'")
    check = doctor_home.records(hub)
    assert (check.good, "9999" in check.found) == (False, True)
    assert sqlite_schema(hub) == "9999"
    assert doctor_home._edges(hub) == 0


def test_records_that_are_not_there_are_not_made_by_a_look(hub):
    for path in hub.glob("hub.sqlite*"):
        path.unlink()
    assert found(examine(hub))["records"].good is False
    assert not (hub / "hub.sqlite").exists()


def test_records_of_an_earlier_version_are_not_migrated_by_a_look(hub):
    with sqlite3.connect(hub / "hub.sqlite") as db:
        db.execute("UPDATE alembic_version SET version_num = '0001'")
    check = found(examine(hub))["records"]
    assert (check.good, "becomes" in check.found) == (True, True)
    assert sqlite_schema(hub) == "0001"


def test_a_port_that_is_taken_is_wrong_unless_the_program_itself_runs():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        place = [("grpc", "127.0.0.1", taken.getsockname()[1])]
        (stopped,) = doctor_home.ports(place, running=False)
        (running,) = doctor_home.ports(place, running=True)
    assert (stopped.good, running.good) == (False, None)
    assert stopped.remedy == "end what listens there, or set `grpc.port`"


def test_an_edge_is_told_whether_its_hub_answers(tmp_path):
    def checked(port: int):
        (tmp_path / "edge.toml").write_text(
            f'name = "icu-a"\nhub_host = "127.0.0.1"\nhub_port = {port}\n[mqtt]\nport = {free_port()}\n'
        )
        return found(doctor_home.edge_checks(tmp_path))

    with socket.create_server(("127.0.0.1", 0)) as hub:
        assert checked(hub.getsockname()[1])["hub"].good is True
    away = checked(free_port())["hub"]
    assert (away.good, "what is measured waits here" in away.remedy) == (False, True)


def test_settings_that_do_not_hold_are_a_finding_and_not_the_end(hub):
    (hub / "hub.toml").write_text("nonsense = 1\n")
    checks = found(examine(hub))
    assert checks["hub.toml"].good is False
    assert checks["database files"].good is True


@pytest.mark.parametrize(("said", "good"), [("podman version 5.4.2", True), ("podman version 3.4.4", None), ("", None)])
def test_podman_is_wanted_from_its_fourth_version_on(tmp_path, monkeypatch, said, good):
    program = tmp_path / "podman"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert doctor_home.podman().good is good
