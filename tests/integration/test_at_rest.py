"""A real edge whose home is encrypted while it holds data: rotated while it runs, killed, started without its key, trained on."""

from __future__ import annotations

import json
import time

import pytest
from tests.programs_under_test import wardround

from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.records import Observation
from wardround.trust.at_rest import open_seal

ROWS, WORDS = 3_000, "a rhythm that no disk may show"
CODE = "wr:device-alarm"
DEADLINE_S = 120.0


def observation(seq):
    facts = {"code": CODE, "unit": "", "t0_us": time.time_ns() // 1_000, "t0_device_us": 0, "value_text": f"{WORDS} {seq}"}
    return Observation(subject=f"subject-{seq % 5}", device="d", edge="icu-a", device_boot="b", device_seq=seq, **facts)


def shows(home):
    return sorted(p.name for p in home.rglob("*") if p.is_file() and WORDS.encode() in p.read_bytes())


def encrypted(home):
    """Wait until the running edge has sealed what was there before."""
    until = time.monotonic() + DEADLINE_S
    while time.monotonic() < until:
        done = wardround("keys", "status", "--home", str(home), "--json")
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
        if all(file == {"encrypted": True, "unreadable": 0} for file in facts["files"].values()):
            return facts
    raise AssertionError(facts)


@pytest.mark.timeout(400)
def test_an_edge_with_data_is_encrypted_rotated_and_killed_and_keeps_all_of_it(site):
    program = site.lone_edge("icu-a")
    home, kek = site.folder / "icu-a", site.folder / "icu-a.kek"
    rows = [observation(seq) for seq in range(ROWS)]
    site.keep("icu-a", rows)
    assert "local.sqlite" in shows(home)  # the control
    settings = (home / "edge.toml").read_text()
    (home / "edge.toml").write_text(f'at_rest.kek = "file:{kek}"\n{settings}')
    program.start()
    program.wait_ready(DEADLINE_S)
    assert encrypted(home)["version"] == 1
    assert shows(home) == []
    rotated = wardround("keys", "rotate", "--home", str(home), "--json")
    assert json.loads(rotated.stdout) == {"before": 1, "version": 2, "wrapped": 5, "loaded": [2]}, rotated.stderr
    program.kill()

    kek.rename(site.folder / "elsewhere")
    refused = wardround("edge", "run", "--home", str(home))
    assert refused.returncode == 1
    assert f"the key-encryption key {kek} cannot be read" in refused.stderr.replace("\n", " ")
    assert "Traceback" not in refused.stderr
    (site.folder / "elsewhere").rename(kek)
    (home / "edge.toml").write_text(settings)
    assert "its settings have no at_rest.kek" in wardround("edge", "run", "--home", str(home)).stderr

    store = LocalStore(FolderStorage(home / "local"), open_seal(home))
    assert store.read([CODE]) == rows
    store.close()
