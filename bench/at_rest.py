"""What encryption at rest costs: the edge's gate to disk, reading back for training, and the hub's inbox, with it on beside off.

    python bench/at_rest.py [--seconds 4] [--json]

The same messages and rows as bench/collect.py, in this process, on this disk; plain and encrypted take turns, so that a busy
machine slows both. Beside the rates stand those of a CPU second, which another program's disk does not move. At the end, what
the KEK's rotation costs for 10,000 patients.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collect import READINGS, VITALS, WAVE_HZ, WAVE_S, vitals_message, wave_message
from wardround.clock import SystemClock
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.gateway import Gateway
from wardround.collect.inbox import Inbox
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import Device
from wardround.collect.signals import load_signals
from wardround.collect.spool import Spool
from wardround.collect.storage import FolderStorage
from wardround.records import Consent, Observation, SubjectId, encode_observation
from wardround.settings import SpoolSettings
from wardround.trust.at_rest import Seal, turn_on
from wardround.trust.data_keys import DataKeys
from wardround.trust.kek import KekSource

TURNS = 3
PATIENTS, BATCH, SUBJECTS = 10_000, 4_000, 20
Measured = dict[str, dict[str, float]]


def gate(folder: Path, seal: Seal) -> tuple[Gateway, Spool, LocalStore]:
    """A gateway with everything of its own on this disk."""
    spool = Spool(FolderStorage(folder / "spool"), SpoolSettings(), seal)
    local = LocalStore(FolderStorage(folder / "local"), seal)
    gateway = Gateway(
        edge="edge-0",
        registry={"d": Device("d", "P", "", "")},
        signals=load_signals(),
        consent=lambda _subject, _code: (Consent.RAW, 1),
        pseudonym=SubjectId,
        spool=spool,
        local_store=local,
        quarantine=Quarantine(FolderStorage(folder / "spool"), seal),
        clock=SystemClock(),
        simulated=True,
    )
    return gateway, spool, local


def per_s(work: Callable[[], int], seconds: float) -> tuple[float, float]:
    """What a piece of work does in a second, and in a CPU second."""
    started, cpu, done = time.monotonic(), time.process_time(), 0
    while time.monotonic() - started < seconds:
        done += work()
    return done / (time.monotonic() - started), done / (time.process_time() - cpu)


def edge(folder: Path, seal: Seal, messages: list[bytes], per_message: int, group: int, seconds: float) -> dict[str, float]:
    """The gate to disk, and the local store read as a training reads it."""
    gateway, spool, local = gate(folder, seal)
    seq = 0

    def take() -> int:
        nonlocal seq
        for _ in range(group):
            seq += 1
            gateway.receive("d", f"life-{folder.name}", seq, messages[seq % len(messages)])
        gateway.commit()
        return group * per_message

    rate, cpu_rate = per_s(take, seconds)
    codes = {s.code for s in load_signals().rows.values() if s.key in ("ecg-ii", *(v[0] for v in VITALS))}
    samples = [0]

    def read() -> int:
        samples[0] = sum(o.n for o in local.stream(codes))
        return samples[0]

    _, read_cpu = per_s(read, seconds / 4)
    bytes_row = spool.facts().bytes / max(1, spool.facts().observations)
    spool.close()
    local.close()
    return {"per_s": rate, "per_cpu_s": cpu_rate, "read_per_cpu_s": read_cpu, "spool_bytes_per_row": bytes_row}


def inbox(folder: Path, seal: Seal, rows: list[bytes], subjects: list[str], seconds: float) -> dict[str, float]:
    """Batches into the inbox and out of it again."""
    store = Inbox(FolderStorage(folder / "inbox"), seal)
    after = 0

    def through() -> int:
        nonlocal after
        store.put("edge-0", "boot", after + 1, rows, after=after, upto=after + len(rows), subjects=subjects)
        after += len(rows)
        store.retire(store.pending(10**6)[-1].number)
        return len(rows)

    rate, cpu_rate = per_s(through, seconds)
    store.close()
    return {"per_s": rate, "per_cpu_s": cpu_rate}


def scalars() -> tuple[list[bytes], list[str]]:
    """A batch of readings of several patients."""
    t_us = SystemClock().now_us()
    subjects = [f"subject-{k % SUBJECTS}" for k in range(BATCH)]
    about = {"device": "d", "edge": "edge-0", "code": "loinc:8867-4", "unit": "/min", "device_boot": "b"}
    rows = [
        encode_observation(
            Observation(subject=s, t0_us=t_us + k, t0_device_us=t_us, value=60.0 + k % 50, device_seq=k, **about)  # type: ignore[arg-type]
        )
        for k, s in enumerate(subjects)
    ]
    return rows, subjects


def single_message(number: int) -> bytes:
    """One reading, as a device sends what it measures now: a row each."""
    t_us = SystemClock().now_us() - 60_000_000 + number
    return encode_pack([Reading(name="heart-rate", unit="/min", t_us=t_us, value=60.0)], base_name="urn:dev:d:", form="cbor")


def rotation(home: Path) -> dict[str, float]:
    """A KEK of many patients, rotated; beside it, one transaction of so many rows of that size."""
    home.mkdir()
    keys = DataKeys(home / "keys" / "keys.sqlite", KekSource.parse(f"file:{home.parent}/many.kek", home))
    keys._db.execute("PRAGMA synchronous=OFF")  # to make them; it is the rotation that is measured
    for k in range(PATIENTS):
        keys.for_subject(f"q7k4-m2xd-aaaa-{k:09}")
    keys._db.execute("PRAGMA synchronous=FULL")
    started, cpu = time.monotonic(), time.process_time()
    keys.rotate()
    found = {"patients": float(PATIENTS), "seconds": time.monotonic() - started, "cpu_s": time.process_time() - cpu}
    keys.close()
    return found


def measure(home: Path, seconds: float) -> dict[str, Any]:
    vitals, waves = [vitals_message(k) for k in range(40)], [wave_message(k) for k in range(40)]
    singles = [single_message(k) for k in range(40)]
    rows, subjects = scalars()
    runs: dict[str, dict[str, list[dict[str, float]]]] = {}
    for turn in range(TURNS):
        for kind in ("plain", "encrypted"):
            folder = home / f"{kind}-{turn}"
            folder.mkdir()
            seal = turn_on(folder, f"file:{home}/{kind}-{turn}.kek" if kind == "encrypted" else "")
            part = seconds / TURNS
            for name, found in (
                ("edge_readings", edge(folder / "vitals", seal, vitals, READINGS, 5, part)),
                ("edge_single_readings", edge(folder / "singles", seal, singles, 1, 500, part)),
                ("edge_wave_samples", edge(folder / "waves", seal, waves, WAVE_HZ * WAVE_S, 200, part)),
                ("inbox_readings", inbox(folder, seal, rows, subjects, part)),
            ):
                runs.setdefault(name, {}).setdefault(kind, []).append(found)
    result: dict[str, Any] = {}
    for name, kinds in runs.items():
        result[name] = {
            key: {
                **(both := {kind: statistics.median(run[key] for run in own) for kind, own in kinds.items()}),
                "ratio": both["encrypted"] / both["plain"],
            }
            for key in kinds["plain"][0]
        }
    return result | {"rotation": rotation(home / "many")}


def main() -> None:
    parser = argparse.ArgumentParser(description="What encryption at rest costs, with it on beside off.")
    parser.add_argument("--seconds", type=float, default=4.0, help="of each part")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), arguments.seconds)
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for name in ("edge_readings", "edge_single_readings", "edge_wave_samples", "inbox_readings"):
        for key, facts in found[name].items():
            print(f"{name} {key}: encrypted {facts['encrypted']:,.0f}, plain {facts['plain']:,.0f}, ratio {facts['ratio']:.2f}")
    rotated = found["rotation"]
    seconds, cpu_s = rotated["seconds"], rotated["cpu_s"]
    print(f"rotation of the KEK over {rotated['patients']:,.0f} patients: {seconds:.2f} s ({cpu_s:.2f} of CPU)")


if __name__ == "__main__":
    main()
