"""The ledger is on the disk before it says so, never shrinks, and shows what was changed in it."""

from __future__ import annotations

import os

import pytest

from wardround.errors import StorageFull, StudyError
from wardround.learn.privacy.accounting import Release
from wardround.learn.privacy.ledger import Entry, FileLedger, read_ledger, spent


def entry(number: int) -> Entry:
    return Entry(number, 1, 1_000 + number, Release(4.0, "fixed", 1.0, 5, 50), 1.0, 0.9, 10)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "study" / "privacy.ledger"
    ledger = FileLedger(path)
    for number in range(1, 4):
        ledger.append(entry(number))
    ledger.close()
    return path


def test_what_was_written_is_there_after_a_restart(path):
    ledger = FileLedger(path)
    ledger.append(entry(4))
    ledger.close()
    assert [e.round for e in read_ledger(path)] == [1, 2, 3, 4]
    assert spent(read_ledger(path)) == {Release(4.0, "fixed", 1.0, 5, 50): 4}


def test_a_line_that_a_kill_cut_off_was_never_acknowledged(path):
    whole = path.read_bytes()
    for cut in range(1, 40):
        path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:cut])
        ledger = FileLedger(path)
        assert len(ledger.entries) == 3
        ledger.append(entry(4))
        ledger.close()
        assert [e.round for e in read_ledger(path)] == [1, 2, 3, 4]


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_line_that_was_changed_shows(path, at):
    lines = path.read_bytes().splitlines(keepends=True)
    lines[at] = lines[at].replace(b"4.0", b"9.0")
    path.write_bytes(b"".join(lines))
    if at == 2:  # the last line has none after it: the next one shows it
        ledger = FileLedger(path)
        assert ledger.entries[-1].release.noise == 9.0
        ledger.close()
        return
    with pytest.raises(StudyError, match=f"line {at + 2}: it does not follow"):
        FileLedger(path)


def test_a_line_taken_out_shows(path):
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(StudyError, match="line 2"):
        FileLedger(path)


def test_a_file_that_is_no_ledger_is_no_empty_ledger(path):
    path.write_bytes(b"\xff\x00nonsense\n")
    with pytest.raises(StudyError, match="line 1: it cannot be read"):
        FileLedger(path)
    with pytest.raises(StudyError):
        read_ledger(path)


def test_a_disk_that_takes_half_a_line_took_none(path, monkeypatch):
    ledger = FileLedger(path)
    before = path.read_bytes()
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, data[: len(data) // 2]))
    with pytest.raises(StorageFull):
        ledger.append(entry(4))
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert len(ledger.entries) == 3
    ledger.append(entry(4))
    ledger.close()
    assert [e.round for e in read_ledger(path)] == [1, 2, 3, 4]


def test_a_disk_that_does_not_sync_took_none(path, monkeypatch):
    ledger = FileLedger(path)

    def refuse(_file):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StorageFull, match="No space left"):
        ledger.append(entry(4))
    assert len(ledger.entries) == 3
    ledger.close()


def test_no_file_is_nothing_spent(tmp_path):
    assert read_ledger(tmp_path / "none") == []
