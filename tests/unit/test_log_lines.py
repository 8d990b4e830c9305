"""What programs log: on stderr or in a bounded file, which outlasts a full disk, a rotation by others, and several threads."""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import pytest

from wardround import log_lines
from wardround.errors import SettingsError, WardroundError
from wardround.log_lines import LogFile
from wardround.settings import HubSettings, LogSettings, parse_settings

# A process of its own: how it logs is set up once in each.
PROGRAM = """
import logging, pathlib, sys, structlog
from wardround.log_lines import chosen_log, write_log_lines
from wardround.settings import LogSettings
early = structlog.get_logger("early")
write_log_lines()
early.info("before")
chosen = LogSettings(file=sys.argv[2], json=sys.argv[3] == "json", bytes_max=10_000, files_kept=2)
with chosen_log(pathlib.Path(sys.argv[1]), chosen):
    for number in range(int(sys.argv[4])):
        early.info("heartbeat", number=number)
    logging.getLogger("asyncio").error("a task failed", exc_info=ValueError("why"))
    secret = "a clinical value"
    raise KeyError("gone")
"""


def program(home: Path, file: str, form: str, lines: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(home), file, form, str(lines)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def files(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir())


def test_a_program_that_writes_past_the_bound_keeps_its_newest_lines_and_no_more(tmp_path):
    done = program(tmp_path, "log/hub.log", "text", 2_000)
    folder = tmp_path / "log"
    assert files(folder) == ["hub.log", "hub.log.1", "hub.log.2"]
    assert all(f.stat().st_size <= 10_000 for f in folder.iterdir())
    assert all(f.stat().st_mode & 0o777 == 0o600 for f in folder.iterdir())
    text = "".join((folder / name).read_text() for name in ("hub.log.2", "hub.log.1", "hub.log"))
    numbers = [int(line.rpartition("number=")[2]) for line in text.splitlines() if "number=" in line]
    assert numbers == list(range(numbers[0], 2_000)), "in order, and none is missing"
    assert len(numbers) > 150
    assert "\x1b" not in text
    assert "a task failed" in text  # what libraries say
    assert "KeyError" in text.partition("ended")[2]  # why it ended
    assert "a clinical value" not in text + done.stderr
    assert "before" in done.stderr
    assert "heartbeat" not in done.stderr
    assert "KeyError" in done.stderr


def test_as_json_every_line_is_an_object(tmp_path):
    program(tmp_path, "hub.log", "json", 3)
    lines = [json.loads(line) for line in (tmp_path / "hub.log").read_text().splitlines()]
    assert [line["event"] for line in lines] == ["heartbeat"] * 3 + ["a task failed", "ended"]
    assert lines[0] == {"event": "heartbeat", "number": 0, "level": "info", "timestamp": lines[0]["timestamp"]}
    assert lines[0]["timestamp"].endswith("Z")
    assert (lines[3]["logger"], "ValueError: why" in lines[3]["exception"]) == ("asyncio", True)


def test_without_a_file_json_goes_to_standard_error(tmp_path):
    done = program(tmp_path, "", "json", 1)
    first, second, *_ = done.stderr.splitlines()
    assert "before" in first
    assert json.loads(second)["number"] == 0
    assert files(tmp_path) == []


def test_another_program_may_move_the_file_away(tmp_path):
    log = LogFile(tmp_path / "a.log", bytes_max=10_000, files_kept=2)
    assert log.write("one")
    (tmp_path / "a.log").rename(tmp_path / "taken")
    assert log.write("two")
    (tmp_path / "a.log").write_text("")  # logrotate's copytruncate
    assert log.write("three")
    assert (tmp_path / "taken").read_text() == "one\n"
    assert (tmp_path / "a.log").read_text() == "three\n"
    log.close()
    assert log.write("four"), "a line after the end opens it once more"
    log.close()


@pytest.mark.parametrize("kept", [0, 1, 3])
def test_as_many_older_files_as_are_asked_for(tmp_path, kept):
    log = LogFile(tmp_path / "a.log", bytes_max=100, files_kept=kept)
    for number in range(60):
        assert log.write(f"{number:029d}")  # three to a file
    log.close()
    assert files(tmp_path) == ["a.log", *(f"a.log.{n}" for n in range(1, kept + 1))]
    newest = [int(n) for n in (tmp_path / "a.log").read_text().split()]
    assert newest == [57, 58, 59]


def test_lines_of_many_threads_stay_whole(tmp_path):
    log = LogFile(tmp_path / "a.log", bytes_max=2_000, files_kept=1_000)

    def write(name: str) -> None:
        for number in range(200):
            log.write(f"{name} {number} {'x' * 20}")

    threads = [threading.Thread(target=write, args=(f"t{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    log.close()
    lines = [line for f in tmp_path.iterdir() for line in f.read_text().splitlines()]
    assert sorted(lines) == sorted(f"t{k} {n} {'x' * 20}" for k in range(4) for n in range(200))


def test_a_full_disk_costs_lines_and_no_more_and_the_file_says_how_many(tmp_path, monkeypatch):
    log = LogFile(tmp_path / "a.log", bytes_max=10_000, files_kept=2)
    assert log.write("one")
    write, room = os.write, [2]

    def full(file: int, data: bytes) -> int:
        if room[0]:
            done, room[0] = write(file, data[: room[0]]), 0
            return done
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(log_lines.os, "write", full)
    assert not log.write("two")
    assert not log.write("three")
    monkeypatch.setattr(log_lines.os, "write", write)
    assert log.write("four")
    log.close()
    assert (tmp_path / "a.log").read_text() == f"one\ntw\n{log_lines.MISSED}: 2\nfour\n"


def test_a_rotation_that_cannot_be_done_does_not_take_the_bound_away(tmp_path, monkeypatch):
    log = LogFile(tmp_path / "a.log", bytes_max=100, files_kept=1)
    assert log.write("x" * 90)

    def refused(_self: Path, _target: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(log_lines.Path, "replace", refused)
    assert not log.write("y" * 90)
    assert (tmp_path / "a.log").stat().st_size == 91
    monkeypatch.undo()
    assert log.write("z" * 20)
    log.close()
    assert (tmp_path / "a.log").read_text() == f"{log_lines.MISSED}: 1\n{'z' * 20}\n"


def test_a_line_longer_than_the_file_is_cut(tmp_path):
    log = LogFile(tmp_path / "a.log", bytes_max=100, files_kept=1)
    assert log.write("x" * 1_000)
    assert (tmp_path / "a.log").stat().st_size == 100
    log.close()


def test_a_file_that_cannot_be_written_is_said_before_the_program_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(log_lines, "_lines", [log_lines._Lines(sys.stderr)])
    (tmp_path / "no-folder").write_text("")
    with (
        pytest.raises(SettingsError, match=r"log\.file: .*no-folder/hub\.log cannot be written") as caught,
        log_lines.chosen_log(tmp_path, LogSettings(file="no-folder/hub.log")),
    ):
        pass
    assert "standard error" in caught.value.remedy


def test_the_error_that_ends_a_program_stands_in_its_file_with_what_to_do(tmp_path, monkeypatch):
    lines = log_lines._Lines(sys.stderr)
    monkeypatch.setattr(log_lines, "_lines", [lines])
    said: list[tuple[str, dict[str, str]]] = []

    class Log:
        def error(self, event: str, **facts: str) -> None:
            said.append((event, facts))

    monkeypatch.setattr(log_lines.structlog, "get_logger", Log)
    handlers = list(logging.getLogger().handlers)
    with pytest.raises(WardroundError), log_lines.chosen_log(tmp_path, LogSettings(file="hub.log")):
        raise WardroundError("the port is taken", remedy="choose another")
    assert said == [("ended", {"error": "the port is taken", "remedy": "choose another"})]
    assert logging.getLogger().handlers == handlers


def test_a_process_that_was_never_set_up_to_log_is_left_as_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(log_lines, "_lines", [])
    with log_lines.chosen_log(tmp_path, LogSettings(file="hub.log")):
        asyncio.run(asyncio.sleep(0))
    assert files(tmp_path) == []


@pytest.mark.parametrize("text", ["bytes_max = 10", "files_kept = -1", "files_kept = 100000"])
def test_a_bound_that_is_none_is_refused(text):
    with pytest.raises(SettingsError, match=r"log\.bytes_max"):
        parse_settings(f"[log]\n{text}\n", HubSettings, where="hub.toml")
    assert msgspec.to_builtins(LogSettings())["file"] == ""
