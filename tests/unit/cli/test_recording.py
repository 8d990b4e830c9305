"""What the audit log is told of a command, however its words are put: nothing that acts gets past it."""

from __future__ import annotations

import pytest

from wardround.cli.recording import record
from wardround.clock import SystemClock
from wardround.trust.audit_files import open_log


@pytest.fixture
def home(tmp_path):
    (tmp_path / "hub.toml").write_text("")
    return tmp_path


@pytest.mark.parametrize(
    "words",
    [
        ["study", "pause", "beats", "--reason", "works"],
        ["--debug", "study", "pause", "beats"],
        ["study", "pause", "beats", "--reason", "-h"],  # the value of an option, and no wish for help
        ["study", "pause", "beats", "--reason", "--help"],
    ],
)
def test_an_act_is_recorded(home, words):
    assert record([*words, "--home", str(home)]) is not None
    log = open_log(home, SystemClock())
    assert [entry.what for entry in log.entries()] == ["wardround study pause"]
    log.close()


@pytest.mark.parametrize("words", [["study", "pause", "--help"], ["study", "pause", "beats", "-h"], ["--debug"], [], ["study"]])
def test_a_question_for_help_is_no_act(home, words):
    assert record([*words, "--home", str(home)]) is None
