"""What the bedside watch costs an edge: CPU an observation beside the gate's own, and memory.

    python bench/bedside_edge.py [--patients 20] [--minutes 30] [--json]

Devices send five vital signs a minute and an ECG at 250 Hz in runs of a second. The gate takes them to disk, as in an edge; the
watch sees each as it is kept, reads vital signs back from the local store, and judges every patient every minute of data.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np

from wardround.bedside.watching import BedsideWatch
from wardround.clock import ManualClock
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.gateway import Gateway
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import Device
from wardround.collect.signals import load_signals
from wardround.collect.spool import Spool
from wardround.collect.storage import FolderStorage
from wardround.records import Consent, Observation, SubjectId
from wardround.settings import SpoolSettings

VITALS = {
    "heart-rate": ("/min", 80.0),
    "spo2": ("%", 96.0),
    "respiratory-rate": ("/min", 16.0),
    "systolic": ("mm[Hg]", 120.0),
    "body-temperature": ("Cel", 36.9),
}


class Devices:
    """One device a patient."""

    def get(self, device_id: str, /) -> Device | None:
        """A device by its name."""
        return Device(device_id, f"patient of {device_id}", "", "senml")


def memory_mb() -> float:
    """The most this process has held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def packs(patients: int, now_us: int, second: int) -> list[tuple[str, int, bytes]]:
    """Each device's message of a second."""
    found = []
    wave = (np.arange(250) * 7 % 400).astype("<i2").tobytes()
    for patient in range(patients):
        readings = [Reading(name="ecg-ii", unit="mV", t_us=now_us, n=250, period_us=4000.0, values=wave, scale=0.005)]
        if second % 60 == 0:
            readings += [Reading(name=n, unit=u, t_us=now_us, value=v + second % 3) for n, (u, v) in VITALS.items()]
        found.append((f"d{patient}", second + 1, encode_pack(readings, base_name=f"urn:dev:d{patient}:", form="cbor")))
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patients", type=int, default=20)
    parser.add_argument("--minutes", type=int, default=30)
    parser.add_argument("--json", action="store_true")
    own = parser.parse_args()
    clock = ManualClock()
    kept: list[Observation] = []
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        local, storage = LocalStore(FolderStorage(home / "local")), FolderStorage(home / "spool")
        spool, quarantine = Spool(storage, SpoolSettings()), Quarantine(storage)
        gateway = Gateway(
            edge="icu-a",
            registry=Devices(),
            signals=load_signals(),
            consent=lambda _subject, _code: (Consent.RAW, 1),
            pseudonym=SubjectId,
            spool=spool,
            local_store=local,
            quarantine=quarantine,
            clock=clock,
            simulated=False,
            on_kept=kept.extend,
        )
        before_mb = memory_mb()
        watch = BedsideWatch(
            "icu-a",
            home,
            local=local,
            routes=(),
            watches=lambda _subject, _code: True,
            certificates=dict,
            signal_title=str,
            record=lambda *_words, **_facts: None,
            clock=clock,
        )
        gate_s = watch_s = 0.0
        observations = 0
        for second in range(60 * own.minutes):
            clock.advance(1.0)
            messages = packs(own.patients, clock.now_us() - 1_000_000, second)
            began = time.process_time()
            for device, seq, payload in messages:
                gateway.receive(device, "boot", seq, payload)
            gateway.commit()
            between = time.process_time()
            watch.kept(kept)
            watch.turn()
            ended = time.process_time()
            gate_s, watch_s, observations = gate_s + between - began, watch_s + ended - between, observations + len(kept)
            kept.clear()
        alerts = len(watch.alerts())
        grown_mb = memory_mb() - before_mb
        watch.close()
        for part in (local, spool, quarantine):
            part.close()
    facts = {
        "observations": observations,
        "gate_us": 1e6 * gate_s / observations,
        "watch_us": 1e6 * watch_s / observations,
        "share": watch_s / gate_s,
        "cpu_of_a_core": watch_s / (60.0 * own.minutes),
        "grown_mb": grown_mb,
        "alerts": alerts,
    }
    if own.json:
        print(json.dumps(facts, indent=2))
        return
    print(f"{own.patients} patients, {own.minutes} minutes, {observations:,} observations, {alerts} alerts")
    print(f"gate  {facts['gate_us']:7.1f} us an observation (CPU)")
    print(f"watch {facts['watch_us']:7.1f} us an observation (CPU): {facts['share']:.0%} of the gate")
    print(f"watch {facts['cpu_of_a_core']:.2%} of a core while they live in real time; the process grew by {grown_mb:.1f} MB")


if __name__ == "__main__":
    main()
