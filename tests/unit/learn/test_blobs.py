"""Where updates and models lie: one suite for the folder and for memory, and what only a folder has (open files)."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from wardround.errors import StorageFull
from wardround.learn.blobs import GROWING_MAX, WRITE_BACK, FolderBlobs, MemoryBlobs


@pytest.fixture(params=["folder", "memory"])
def blobs(request, tmp_path):
    return FolderBlobs(tmp_path) if request.param == "folder" else MemoryBlobs()


def test_a_file_grows_at_its_end_alone(blobs):
    assert blobs.append("partial/1/a", 0, b"one") == 3
    assert blobs.append("partial/1/a", 5, b"beyond") == 3
    assert blobs.append("partial/1/a", 0, b"again") == 3
    assert blobs.append("partial/1/a", 3, memoryview(b"two")) == 6
    assert blobs.size("partial/1/a") == 6
    assert blobs.read("partial/1/a") == b"onetwo"


def test_a_finished_file_has_its_name_and_the_unfinished_one_is_gone(blobs):
    blobs.append("partial/1/a", 0, b"whole")
    blobs.finish("partial/1/a", "updates/1/a")
    assert (blobs.read("updates/1/a"), blobs.size("partial/1/a")) == (b"whole", 0)
    assert blobs.append("partial/1/a", 0, b"new") == 3
    assert blobs.read("updates/1/a") == b"whole"


def test_a_deleted_file_starts_anew(blobs):
    blobs.append("partial/1/a", 0, b"older")
    blobs.append("partial/1/b", 0, b"other")
    blobs.delete("partial/1/a")
    assert blobs.append("partial/1/a", 0, b"new") == 3
    blobs.delete("partial/1")
    assert (blobs.size("partial/1/a"), blobs.size("partial/1/b")) == (0, 0)
    assert blobs.append("partial/1/b", 0, b"x") == 1


def test_more_files_than_are_held_open_grow_side_by_side(blobs):
    names = [f"partial/1/{i}" for i in range(2 * GROWING_MAX)]
    for offset, part in ((0, b"first"), (5, b"second")):
        for name in names:
            blobs.append(name, offset, part)
    assert {blobs.read(name) for name in names} == {b"firstsecond"}


def test_a_read_begins_where_it_is_asked_to_and_ends_with_the_file(blobs):
    blobs.write("models/a", b"0123456789")
    assert blobs.read("models/a", 4, 3) == b"456"
    assert blobs.read("models/a", 8, 100) == b"89"
    assert blobs.read("models/a", 20) == b""
    with pytest.raises(FileNotFoundError):
        blobs.read("models/b")


def test_parts_larger_than_what_is_written_at_once_come_out_whole(tmp_path):
    data = os.urandom(2 * WRITE_BACK + 17)
    blobs = FolderBlobs(tmp_path)
    blobs.write("models/a", [memoryview(b"head"), memoryview(data), memoryview(b"")])
    assert blobs.read("models/a") == b"head" + data
    for at in range(0, len(data), WRITE_BACK // 3):
        blobs.append("partial/a", at, data[at : at + WRITE_BACK // 3])
    blobs.finish("partial/a", "updates/a")
    assert blobs.read("updates/a") == data


def test_two_who_send_the_same_bytes_at_once_leave_them_there_once(tmp_path):
    blobs = FolderBlobs(tmp_path)
    parts = [bytes([i]) * 1000 for i in range(200)]

    def send():
        for i, part in enumerate(parts):
            blobs.append("partial/a", 1000 * i, part)

    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert blobs.read("partial/a") == b"".join(parts)


def open_files(folder) -> int:
    return sum(link.resolve().is_relative_to(folder) for link in Path("/proc/self/fd").iterdir())


def test_open_files_are_bounded_and_end_with_their_folder(tmp_path):
    blobs = FolderBlobs(tmp_path)
    for i in range(GROWING_MAX + 10):
        blobs.append(f"partial/{i}", 0, b"x")
    assert open_files(tmp_path) == GROWING_MAX
    del blobs
    assert open_files(tmp_path) == 0


def test_a_disk_that_refuses_is_named_with_the_file(tmp_path):
    (tmp_path / "partial").write_bytes(b"a file where a folder should be")
    with pytest.raises(StorageFull, match="a could not be written"):
        FolderBlobs(tmp_path).append("partial/a", 0, b"x")
