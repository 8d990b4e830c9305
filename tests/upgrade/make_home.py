"""Homes of a hub and an edge as an earlier Wardround made them, run with that version's code.

    git archive COMMIT | tar -x -C OLD && cd OLD && PYTHONPATH=src:tests python .../make_home.py FOLDER ARCHIVE

home-0007 is of 26 November 2026, the last commit with that schema of the records.
Keys and certificates are left out: they would end one day, and a home without them is what a backup is.
"""

from __future__ import annotations

import sys
import tarfile
import time
from pathlib import Path

from programs_under_test import Site, wardround
from wardround.clock import SystemClock
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.gateway import Gateway
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import Device
from wardround.collect.signals import load_signals
from wardround.collect.spool import Spool
from wardround.collect.storage import FolderStorage
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.records import Consent
from wardround.settings import SpoolSettings

EDGE, DEVICE, SENT, WAITING = "icu-a", "patch", 20, 10
KEYS = ("pki", "identity", "ready.json", ".key", "-shm", "ballast", "lock")
AUTHORITY = "hub/pki/ca.pem"  # its audit log is signed by it
STUDY = 'name = "activity"\ntask = "activity"\n[rounds]\ncount = 5\nedges_min = 1\n'
KEPT = "[processing.retention]\nraw_days = 0\nclean_days = 0\nfeatures_days = 0\n"  # however old the archive is
DEADLINE_S = 180.0


def measure(home: Path, subject: str, numbers: range) -> None:
    """A device's readings, durable in the edge's spool and its local store."""
    spool = Spool(FolderStorage(home / "spool"), SpoolSettings(ballast_bytes=0))
    gateway = Gateway(
        edge=EDGE,
        registry={DEVICE: Device(DEVICE, "patient", "", "")},
        signals=load_signals(),
        consent=lambda _subject, _code: (Consent.RAW, 1),
        pseudonym=lambda _patient: subject,
        spool=spool,
        local_store=LocalStore(FolderStorage(home / "local")),
        quarantine=Quarantine(FolderStorage(home / "spool")),
        clock=SystemClock(),
        simulated=True,
    )
    start_us = SystemClock().now_us() - 3_600_000_000
    for number in numbers:
        reading = Reading(name="heart-rate", unit="/min", t_us=start_us + number * 1_000_000, value=60.0 + number)
        gateway.receive(DEVICE, "boot", number, encode_pack([reading], base_name=f"urn:dev:{DEVICE}:", form="cbor"))
    assert gateway.commit()
    spool.close()


def until(true) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.2)


def main(folder: Path, archive: Path) -> None:
    """Make them."""
    folder.mkdir()
    site = Site(folder)
    with (site.home / "hub.toml").open("a") as out:
        out.write(KEPT)
    home = ("--home", str(site.home))
    try:
        site.start_hub()
        edge = site.edge(EDGE)
        _, subject = site.device(EDGE, DEVICE, Consent.RAW)
        measure(folder / EDGE, subject, range(1, SENT + 1))
        edge.start()
        edge.wait_ready(DEADLINE_S)
        lake = Lake(site.home / "lake")
        until(lambda: lake.count(BRONZE) == SENT)
        (folder / "study.toml").write_text(STUDY)
        for words in (("study", "start", str(folder / "study.toml")), ("user", "add", "kim", "--role", "operator")):
            done = wardround(*words, *home)
            assert done.returncode == 0, done.stderr
        until((site.home / "studies" / "activity" / "journal.sqlite").exists)
        edge.stop()
        store = site.store()
        until(lambda: store.alerts(limit=5))
        store.close()
        site.hub.stop(30.0)
        measure(folder / EDGE, subject, range(SENT + 1, SENT + WAITING + 1))
    finally:
        site.stop()
    with tarfile.open(archive, "w:xz") as out:
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder).as_posix()
            if (
                path.is_file()
                and name.partition("/")[0] in ("hub", EDGE)
                and (name == AUTHORITY or not any(key in name for key in KEYS))
            ):
                out.add(path, name)
    print(subject, archive.stat().st_size)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
