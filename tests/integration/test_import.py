"""A recording imported into a running edge, with the edge and the command killed on the way, is in the lake once."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from programs_under_test import wardround
from wardround.edge import EdgeHome
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.records import Consent

FRAMES, HZ = 720_000, 250  # 48 minutes, two leads
PIECES = 2 * FRAMES // (10 * HZ)


def recording(folder):
    """A WFDB record of two leads."""
    counts = np.random.default_rng(7).integers(-2000, 2000, (FRAMES, 2)).astype("<i2")
    sums = [int(np.int64(counts[:, i].astype(np.int64).sum()) & 0xFFFF) for i in (0, 1)]
    lines = [f"r.dat 16 200/mV 12 0 0 {s} 0 {lead}" for s, lead in zip(sums, ("I", "II"), strict=True)]
    (folder / "r.hea").write_text(f"r 2 {HZ} {FRAMES} 08:00:00 01/03/2026\n" + "\n".join(lines) + "\n")
    (folder / "r.dat").write_bytes(counts.tobytes())
    return folder / "r.hea", counts


def wait_until(true, seconds=60):
    until = time.monotonic() + seconds
    while not true() and time.monotonic() < until:
        time.sleep(0.02)


def import_command(path, home):
    options = ["--patient", "patient-of-holter", "--device", "holter", "--time-zone", "Europe/Vienna", "--json"]
    return ["edge", "import", str(path), *options, "--home", str(home)]


@pytest.mark.timeout(360)
def test_sigkill_of_command_and_edge_loses_and_doubles_nothing(site, tmp_path):
    path, counts = recording(tmp_path)
    site.start_hub()
    edge = site.edge("icu-a")
    site.device("icu-a", "holter", Consent.RAW)
    edge.start()
    edge.wait_ready(150)
    home = site.folder / "icu-a"
    command = subprocess.Popen([sys.executable, "-m", "wardround.cli.main", *import_command(path, home)], stdout=subprocess.PIPE)
    lake = Lake(site.home / "lake")
    queue = EdgeHome.open(home).imports()
    wait_until(lambda: queue.count() or lake.count(BRONZE))
    command.kill()
    command.communicate()
    wait_until(lambda: lake.count(BRONZE))
    edge.kill()
    queue.close()
    edge.start()
    edge.wait_ready(150)
    again = wardround(*import_command(path, home), timeout=120)
    assert again.returncode == 0, again.stderr
    taken = json.loads(again.stdout)["taken"]
    assert taken["kept"] + taken["repeated"] == PIECES
    assert taken["repeated"] > 0
    third = json.loads(wardround(*import_command(path, home), timeout=120).stdout)["taken"]
    assert (third["kept"], third["repeated"]) == (0, PIECES)

    wait_until(lambda: lake.count(BRONZE) >= PIECES)
    time.sleep(1.0)  # for what should not come
    rows = lake.read(BRONZE, columns=["code", "t0_us", "values", "device_boot"]).to_pylist()
    assert len(rows) == len({r["device_boot"] for r in rows}) == PIECES
    for lead, code in enumerate(("mdc:131329", "mdc:131330")):
        found = sorted((r for r in rows if r["code"] == code), key=lambda r: r["t0_us"])
        np.testing.assert_array_equal(np.concatenate([np.frombuffer(r["values"], "<i2") for r in found]), counts[:, lead])
