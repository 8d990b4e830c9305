"""What the world does to a program: a port that is taken, a disk that is full, a certificate that has ended."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from wardround.collect.lanes import Priority
from wardround.collect.spool import Spool
from wardround.collect.storage import FolderStorage
from wardround.errors import StorageFull
from wardround.settings import SpoolSettings
from wardround.trust.certificates import Authority, load_key, write_private


@pytest.mark.parametrize("which", ["grpc", "enrolment", "console"])
@pytest.mark.timeout(360)
def test_a_port_that_is_taken_is_named_with_its_setting(site, command, which):
    with socket.socket() as other:
        other.bind(("127.0.0.1", site.ports[which]))
        other.listen()
        ended = command("hub", "run", "--home", str(site.home), timeout=60)
    assert ended.returncode != 0
    assert f"port {site.ports[which]} on 127.0.0.1 is already taken" in ended.stderr
    assert f"{which}.port" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.timeout(360)
def test_an_edge_whose_port_is_taken_says_so(site, command):
    site.start_hub()
    site.edge("icu-a")
    port = int((site.folder / "icu-a" / "edge.toml").read_text().rpartition("port = ")[2])
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        ended = command("edge", "run", "--home", str(site.folder / "icu-a"), timeout=60)
    assert ended.returncode != 0
    assert f"port {port} on 127.0.0.1 is already taken" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.timeout(360)
def test_an_expired_certificate_stops_the_edge_with_what_to_do(site, command):
    site.start_hub()
    site.edge("icu-a")
    identity = site.folder / "icu-a" / "identity"
    authority = Authority.load(site.home / "pki")
    key = load_key(identity / "edge.key")
    write_private(identity / "edge.pem", authority.issue_edge("icu-a", key.public_key(), 0.0001), 0o644)
    time.sleep(1.5)
    ended = command("edge", "run", "--home", str(site.folder / "icu-a"), timeout=60)
    assert ended.returncode != 0
    assert "certificate of icu-a expired at" in ended.stderr
    assert "hub invite" in ended.stderr


@pytest.mark.timeout(360)
def test_a_token_serves_one_edge_once(site, command):
    site.start_hub()
    token = site.token("icu-a")
    first = command("edge", "join", "-", "--home", str(site.folder / "one"), stdin=f"{token}\n")
    assert first.returncode == 0, first.stderr
    assert "Warning" not in first.stderr
    assert "This edge is icu-a" in first.stdout
    second = command("edge", "join", token, "--home", str(site.folder / "two"))
    assert second.returncode != 0
    assert "Warning: others on this machine can read" in second.stderr  # as it stands in the command line
    assert "already used" in second.stderr
    assert "hub invite" in second.stderr
    assert not (site.folder / "two" / "edge.toml").exists()


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 32 megabytes."""
    if os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root alone")
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", str(folder)], capture_output=True, text=True, check=False
    )
    if made.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {made.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(spool: Spool) -> None:
    """Until the disk refuses."""
    for _ in range(10_000):
        spool.commit([(Priority.WAVEFORM, os.urandom(4_000))] * 50, [])


def test_a_full_disk_under_the_spool_refuses_and_forgets_nothing(small_disk: Path):
    settings = SpoolSettings(disk_reserve_bytes=0)
    spool = Spool(FolderStorage(small_disk), settings)
    with pytest.raises(StorageFull, match="spool") as full:
        fill(spool)
    assert "nothing is lost" in full.value.remedy
    kept = spool.facts().observations
    assert kept > 20
    with contextlib.suppress(OSError), (small_disk / "another-program").open("wb") as other:  # takes the last byte
        while other.write(os.urandom(1_000)):
            other.flush()
    with pytest.raises(StorageFull):
        spool.commit([(Priority.WAVEFORM, os.urandom(4_000))] * 500, [])
    boot = next(lane.boot for lane in spool.lanes() if lane.rows)
    rows = spool.read_after(boot, 0, rows_max=100_000, bytes_max=10**9)
    assert [r.seq for r in rows] == list(range(1, kept + 1))
    assert all(r.data is not None for r in rows)
    spool.acknowledge(boot, kept)  # the hub has them: room again, though the disk is full
    spool.commit([(Priority.WAVEFORM, b"x" * 4_000)], [])
    spool.close()
    again = Spool(FolderStorage(small_disk), settings)
    assert [r.seq for r in again.read_after(boot, 0)] == [kept + 1]
    again.close()


def test_a_folder_that_is_no_home_says_how_to_make_one(command, tmp_path):
    ended = command("hub", "run", "--home", str(tmp_path))
    assert ended.returncode != 0
    assert "hub.toml does not exist" in ended.stderr
    assert "init" in ended.stderr
