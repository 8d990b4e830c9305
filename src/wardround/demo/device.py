"""`python -m wardround.demo.device PLAN.json`: one process that plays many devices, each with its own MQTT connection.

A device numbers its messages, keeps each until the edge's receipt, and writes to the ledger what was receipted. With a speed-up
of s, s seconds of signal are sent in one second; the recording is placed so that its end falls on now, and none of it lies in
the future.
"""

from __future__ import annotations

import json
import pickle
import secrets
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.mqtt_link import DeviceLink
from wardround.collect.signals import load_signals
from wardround.demo.ledger import Ledger, Run, checksum
from wardround.demo.recording import Recording
from wardround.errors import DecodeError
from wardround.records import Consent

PUBLISH_TIMEOUT_S = 60.0


class PlayedDevice(msgspec.Struct, frozen=True):
    """One device: where it connects and what it plays."""

    device: str
    secret: str
    port: int
    authority: str
    consent: Consent
    recording: str  # a pickled Recording, made by the demo


class PlayPlan(msgspec.Struct, frozen=True):
    """What the process plays. `control` is a file the demo may write: {"dead": {device: signal}}."""

    devices: tuple[PlayedDevice, ...]
    speed: float
    message_s: float
    ledger: str
    progress: str
    control: str
    start_at_s: float  # wall time (time.time) of the first message
    deadline_s: float


@dataclass
class _Player:
    """One device while it plays."""

    spec: PlayedDevice
    plan: PlayPlan
    ledger: Ledger
    dead: dict[str, str]
    boot: str = field(default_factory=lambda: secrets.token_hex(6))
    sent: int = 0
    receipted: int = 0
    samples: int = 0
    done: bool = False
    _runs: dict[int, list[Run]] = field(default_factory=dict)

    def play(self) -> None:
        """Send the whole recording at its speed, then wait for the receipts."""
        with Path(self.spec.recording).open("rb") as file:
            recording: Recording = pickle.load(file)  # noqa: S301 - the demo wrote it a moment ago
        link = DeviceLink(
            self.spec.device,
            self.spec.secret,
            boot=self.boot,
            host="127.0.0.1",
            port=self.spec.port,
            authority=Path(self.spec.authority),
            on_receipted=self._receipted,
        )
        base_us = round((self.plan.start_at_s - recording.duration_s) * 1e6)
        until = time.monotonic() + self.plan.deadline_s
        try:
            for number, (end_s, readings) in enumerate(recording.messages(self.plan.message_s)):
                wait = self.plan.start_at_s + end_s / self.plan.speed - time.time()
                if wait > 0:
                    time.sleep(wait)
                if time.monotonic() > until:
                    break
                self._send(link, [self._placed(r, base_us) for r in readings], "json" if number % 2 else "cbor")
            link.drain(max(1.0, until - time.monotonic()))
        finally:
            link.close()
            self.done = True

    def _placed(self, reading: Reading, base_us: int) -> Reading:
        """In real time; as a flat line if this sensor has died."""
        if self.dead.get(self.spec.device) == reading.name and reading.values is not None:
            flat = np.frombuffer(reading.values, "<" + reading.values_type)
            reading = msgspec.structs.replace(reading, values=np.full_like(flat, 0).tobytes())
        return msgspec.structs.replace(reading, t_us=reading.t_us + base_us)

    def _send(self, link: DeviceLink, readings: Sequence[Reading], form: str) -> None:
        payload = encode_pack(readings, base_name=f"urn:dev:wr:{self.spec.device}:", form=form)  # type: ignore[arg-type]
        seq = self.sent + 1
        self._runs[seq] = self._runs_of(seq, readings)
        got = link.publish(payload, timeout_s=PUBLISH_TIMEOUT_S)
        if got != seq:
            raise AssertionError(f"sequence {got} is not {seq}")
        self.sent = seq

    def _runs_of(self, seq: int, readings: Sequence[Reading]) -> list[Run]:
        """What the message carries, signal by signal."""
        by_name: dict[str, list[Reading]] = {}
        for reading in readings:
            by_name.setdefault(reading.name, []).append(reading)
        return [self._run(seq, name, sorted(same, key=lambda r: r.t_us)) for name, same in by_name.items()]

    def _run(self, seq: int, name: str, readings: Sequence[Reading]) -> Run:
        try:
            signal = load_signals().resolve(name)
            conversion = load_signals().conversion(readings[0].unit, signal)
        except DecodeError:
            return Run(self.spec.device, self.boot, seq, name, sum(r.n for r in readings), 0, travels=0)
        values = np.concatenate([_values(r, conversion.factor, conversion.offset) for r in readings])
        sum_ = checksum(sent_us(readings[0]), values)
        travels = int(self.spec.consent is Consent.RAW)
        return Run(self.spec.device, self.boot, seq, signal.code, len(values), sum_, travels)

    def _receipted(self, seqs: Sequence[int]) -> None:
        runs = [run for seq in seqs for run in self._runs.pop(seq, [])]
        self.ledger.put(runs)
        self.receipted += len(seqs)
        self.samples += sum(r.n for r in runs)


def sent_us(reading: Reading) -> int:
    """The time as it comes out of SenML, which carries seconds as a double."""
    return round(reading.t_us / 1e6 * 1e6)


def _values(reading: Reading, factor: float, offset: float) -> NDArray[np.float64]:
    """In the unit it is stored in."""
    if reading.values is None:
        return np.array([reading.value], np.float64) * factor + offset
    counts = np.frombuffer(reading.values, "<" + reading.values_type)
    return reading.origin * factor + offset + counts * (reading.scale * factor)


def play(plan: PlayPlan) -> None:
    """Play every device in a thread of its own until all are done; progress goes to a file once in a while."""
    ledger = Ledger(Path(plan.ledger))
    dead: dict[str, str] = {}
    players = [_Player(spec, plan, ledger, dead) for spec in plan.devices]
    threads = [threading.Thread(target=p.play, name=p.spec.device, daemon=True) for p in players]
    for thread in threads:
        thread.start()
    control, progress = Path(plan.control), Path(plan.progress)
    while any(thread.is_alive() for thread in threads):
        if control.exists():
            dead.update(json.loads(control.read_text()).get("dead", {}))
        _say(progress, players, finished=False)
        time.sleep(0.25)
    _say(progress, players, finished=True)
    ledger.close()


def _say(path: Path, players: Sequence[_Player], *, finished: bool) -> None:
    facts = {
        "sent": sum(p.sent for p in players),
        "receipted": sum(p.receipted for p in players),
        "samples": sum(p.samples for p in players),
        "done": sum(p.done for p in players),
        "devices": len(players),
        "finished": finished,
    }
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(facts))
    partial.replace(path)


def read_plan(path: Path) -> PlayPlan:
    """The plan the demo wrote."""
    return msgspec.json.decode(path.read_bytes(), type=PlayPlan)


if __name__ == "__main__":
    play(read_plan(Path(sys.argv[1])))
