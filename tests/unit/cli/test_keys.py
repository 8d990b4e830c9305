"""`wardround keys`: what it shows, that it rotates, and what it says where nothing is encrypted."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from wardround.cli.doctor import examine
from wardround.cli.main import app
from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.errors import KeyRefused, SettingsError
from wardround.trust.at_rest import turn_on


@pytest.fixture
def home(tmp_path):
    home = tmp_path / "edge"
    home.mkdir()
    (home / "edge.toml").write_text(
        f'name = "a"\nhub_host = "h"\nhub_port = 1\nat_rest.kek = "file:{tmp_path}/kek"\n[mqtt]\nport = 1\n'
    )
    return home


def keys(*arguments):
    done = CliRunner().invoke(app, ["keys", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_status_and_rotate_say_how_things_stand(home, tmp_path):
    seal = turn_on(home, f"file:{tmp_path}/kek")
    blob = seal.seal("anna", ("t", 1), b"72")
    store = LocalStore(FolderStorage(home / "local"), seal)
    facts = json.loads(keys("status", "--home", home, "--json"))
    assert (facts["version"], facts["data_keys"], facts["rotating"]) == (1, {"1": 1}, False)
    assert facts["files"] == {"local/local.sqlite": {"encrypted": False, "unreadable": 0}}
    store.note_sealed()
    assert "local/local.sqlite: encrypted" in keys("status", "--home", home)
    assert json.loads(keys("rotate", "--home", home, "--json")) == {"before": 1, "version": 2, "wrapped": 1, "loaded": [2]}
    assert turn_on(home, f"file:{tmp_path}/kek").unseal(("t", 1), blob) == b"72"
    assert "older copy" not in keys("status", "--home", home)
    seal.shred("anna")
    assert "older copy of keys/" in keys("status", "--home", home)
    assert "wraps all 0 data keys" in keys("rotate", "--home", home)
    assert "older copy" not in keys("status", "--home", home)
    store.close()


def test_doctor_says_whether_a_home_is_encrypted_and_its_keys_open(home, tmp_path):
    def found():
        return next(check for check in examine(home) if check.what == "encryption at rest")

    assert (found().good, found().found) == (None, "off")
    turn_on(home, f"file:{tmp_path}/kek").seal("anna", ("t", 1), b"72")
    assert found().good
    assert found().found.startswith("1 data keys, wrapped by version 1")
    (tmp_path / "kek").unlink()
    assert found().good is False
    assert "cannot be read" in found().found


def test_new_adds_a_version_that_a_command_can_give(home, tmp_path):
    made = tmp_path / "made"
    assert "version 1" in keys("new", made)
    assert "version 2" in keys("new", made)
    assert made.stat().st_mode & 0o777 == 0o600
    assert turn_on(home, f"command:cat {made}").keys.facts().version == 2


@pytest.mark.parametrize("command", ["status", "rotate"])
def test_a_home_that_is_not_encrypted_or_never_ran_is_named(home, command):
    with pytest.raises(KeyRefused, match="no keys yet"):
        CliRunner().invoke(app, ["keys", command, "--home", str(home)], catch_exceptions=False)
    (home / "edge.toml").write_text('name = "a"\nhub_host = "h"\nhub_port = 1\n')
    with pytest.raises(SettingsError, match="not encrypted"):
        CliRunner().invoke(app, ["keys", command, "--home", str(home)], catch_exceptions=False)
