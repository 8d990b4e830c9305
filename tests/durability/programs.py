"""Devices, a broker, an edge and a hub as real processes, over real links and files, made to be killed at any point.

The edge is the product's own composition root; its training worker alone is not started. The hub is the listener, the intake,
the inbox, the committer and a Delta lake, in a network namespace of its own when this runs as root. Each process is started by
fork from a clean server that has its imports done, so a restart after a SIGKILL takes tens of milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import multiprocessing as mp
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

import wardround.edge
from wardround.clock import SystemClock
from wardround.collect import grpc_link, mqtt_link
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.grpc_link import SERVICE, collect_handlers
from wardround.collect.inbox import Inbox
from wardround.collect.intake import Committer, Intake
from wardround.collect.mqtt_link import DeviceLink, _tls
from wardround.collect.quarantine import Quarantine
from wardround.collect.spool import Spool, read_facts
from wardround.collect.storage import FolderStorage
from wardround.edge import Edge, EdgeHome
from wardround.learn.limits import Limits
from wardround.learn.trainer import Trainer
from wardround.ports import free_port
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Consent
from wardround.trust.at_rest import turn_on
from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.channel import peer_name, start_hub_listener
from wardround.trust.consent import ConsentRegister
from wardround.trust.kek import Kek, write_kek

EDGE = "icu-a"
NUMBERED, PLAIN = "numbered", "plain"
CODES = {"heart-rate": "loinc:8867-4", "ecg-ii": "mdc:131330", "device-alarm": "wr:device-alarm"}
CLONE_NEWNET = 0x40000000
PR_SET_PDEATHSIG = 1
START_US = 1_700_000_000_000_000
STEP_US = 1_000_000


# -- the hub's process


def hub_main(home: Path, host: str, port: int, namespace: str) -> None:
    if namespace:
        descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY)
        if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        os.close(descriptor)
    asyncio.run(_hub(home, host, port))


async def _hub(home: Path, host: str, port: int) -> None:
    register = ConsentRegister(home / "hub" / "consent.sqlite")
    inbox, lake = open_inbox(home), Lake(home / "hub" / "lake")

    def refused(*facts: str) -> None:
        with (home / "hub" / "refused").open("a") as out:
            out.write(json.dumps(facts) + "\n")

    intake = Intake(
        inbox=inbox,
        consent=lambda edge, subject, code: register.choose(subject, code, edge=edge)[0],
        clock=SystemClock(),
        on_refused=refused,
        on_committed=lambda _observations: None,
    )

    def append(batches, app, version):
        rows = observation_rows(row for batch in batches for row in batch.observations())
        lake.append(BRONZE, rows, app=app, version=version)

    committer = Committer(
        inbox=inbox, lake_version=lambda app: lake.transaction_version(BRONZE, app), lake_append=append, rows_max=500
    )
    server, _ = await start_hub_listener(
        {SERVICE: collect_handlers(intake, register.apply, peer_name, lambda _edge: None)},
        host=host,
        port=port,
        pki=home / "pki",
        denied=lambda _name, _serial: False,
    )
    while server is not None:
        moved = await asyncio.to_thread(committer.run_once)
        (home / "hub" / "waiting").write_text(str(inbox.waiting()))
        await asyncio.sleep(0.02 if moved else 0.1)


def open_inbox(home: Path) -> Inbox:
    """The hub's, encrypted where the world says so."""
    kek = home / "hub.kek"
    return Inbox(FolderStorage(home / "hub" / "inbox"), turn_on(home / "hub", f"file:{kek}" if kek.exists() else ""))


# -- the edge's process


class SkewedClock(SystemClock):
    """The machine's clock, off by what stands in a file: it is set while the edge runs."""

    path: Path

    def now_us(self) -> int:
        try:
            off_s = float(self.path.read_text() or 0)
        except (OSError, ValueError):
            off_s = 0.0
        return super().now_us() + round(off_s * 1e6)


def edge_main(home: Path, mutant: str) -> None:
    grpc_link.RETRY_S_MAX = 0.5  # a run is over sooner
    if mutant:
        real = Spool.commit
        repeat = {"forgets": lambda rows: rows[:-1], "repeats": lambda rows: [*rows, *rows[-1:]]}[mutant]
        Spool.commit = lambda self, rows, *given, **facts: real(self, repeat(rows), *given, **facts)
    SkewedClock.path = home / "skew"
    wardround.edge.SystemClock = SkewedClock
    edge = Edge(EdgeHome.open(home / EDGE), Trainer(limits=Limits(0, 1.0), deadline_s=1.0))
    asyncio.run(edge.run(lambda _facts: (home / EDGE / "listens").touch()))


# -- a device's process


def device_main(home: Path, name: str, kind: str, port: int, secret: str, skew_s: float, rate_hz: float) -> None:
    mqtt_link.RESEND_S = 1.0  # a run is over sooner
    (_numbered if kind == NUMBERED else _plain)(Memory(home / "devices", name, skew_s), home, port, secret, rate_hz)


@dataclass
class Memory:
    """What a device remembers when its power goes: how far it has counted, and what it was told is safe."""

    folder: Path
    name: str
    skew_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.sent = self.folder / f"{self.name}.sent"
        self.acknowledged = self.folder / f"{self.name}.acknowledged"

    def note(self, path: Path, numbers) -> None:
        with self.lock, path.open("a") as out:
            out.write("".join(f"{n}\n" for n in numbers))

    def numbers(self, path: Path) -> list[int]:
        with contextlib.suppress(FileNotFoundError):
            return [int(line) for line in path.read_text().split("\n")[:-1]]
        return []

    def payload(self, number: int) -> bytes:
        """The message of a number: always the same bytes. Its time names it: one second a message."""
        t_us = START_US + number * STEP_US + round(self.skew_s * 1e6)
        wave = (np.arange(20) + number).astype("<i2")
        readings = [
            Reading(name="heart-rate", unit="/min", t_us=t_us, value=60.0 + number % 100),
            Reading(name="ecg-ii", unit="mV", t_us=t_us, n=20, period_us=4000.0, values=wave.tobytes(), scale=0.005),
        ]
        if number % 7 == 0:
            readings.append(Reading(name="device-alarm", unit="", t_us=t_us, text=f"high: {number}"))
        return encode_pack(readings, base_name=f"urn:dev:{self.name}:", form="json")

    def holds(self, row: dict, number: int) -> bool:
        """Whether a row of the lake has what the message had."""
        if row["code"] == CODES["heart-rate"]:
            return row["value"] == 60.0 + number % 100
        if row["code"] == CODES["device-alarm"]:
            return row["value_text"] == f"high: {number}"
        return bool(np.array_equal(np.frombuffer(row["values"], "<i2"), np.arange(20) + number))


def _numbered(memory: Memory, home: Path, port: int, secret: str, rate_hz: float) -> None:
    """Numbers its messages and waits for receipts; what was not receipted is lost with its power."""
    first = max(memory.numbers(memory.sent), default=0) + 1
    link = DeviceLink(
        memory.name,
        secret,
        boot=f"life-{first}",
        host="127.0.0.1",
        port=port,
        authority=home / EDGE / "identity" / "ca.pem",
        on_receipted=lambda seqs: memory.note(memory.acknowledged, [first + s - 1 for s in seqs]),
        window=40,
    )
    number = first
    while True:
        if (home / "calm").exists():
            if link.drain(0.5):
                (memory.folder / f"{memory.name}.done").touch()
            continue
        memory.note(memory.sent, [number])
        with contextlib.suppress(TimeoutError):
            link.publish(memory.payload(number), timeout_s=600)
        number += 1
        time.sleep(1 / rate_hz)


def _plain(memory: Memory, home: Path, port: int, secret: str, rate_hz: float) -> None:
    """Any MQTT device: QoS 1, and it believes the PUBACK. It writes down what it sends, and sends that again after a reset."""
    client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=memory.name, clean_session=False)
    client.username_pw_set(memory.name, secret)
    client.tls_set_context(_tls(home / EDGE / "identity" / "ca.pem"))
    client.max_inflight_messages_set(10)
    by_mid: dict[int, int] = {}
    told: deque[int] = deque()
    client.on_publish = lambda _client, _data, mid, _reason, _properties: told.append(mid)

    def believe() -> None:
        while told:
            memory.note(memory.acknowledged, [by_mid.pop(told.popleft())])

    client.reconnect_delay_set(min_delay=1, max_delay=1)
    client.connect_async("127.0.0.1", port, keepalive=20)
    client.loop_start()

    def send(number: int) -> None:
        by_mid[client.publish(f"wr/dev/{memory.name}/up", memory.payload(number), qos=1).mid] = number

    sent, safe = memory.numbers(memory.sent), set(memory.numbers(memory.acknowledged))
    for number in sent:
        if number not in safe:
            send(number)
    number, unsent = max(sent, default=0) + 1, 0
    while True:
        believe()
        if (home / "calm").exists():
            if not by_mid:
                (memory.folder / f"{memory.name}.done").touch()
            states = Counter(m.state.name for m in list(client._out_messages.values()))
            (memory.folder / f"{memory.name}.state").write_text(f"connected {client.is_connected()}, {dict(states)}")
            if by_mid and not states["MQTT_MS_WAIT_FOR_PUBACK"]:
                unsent += 1  # paho may miss a message that is published while it connects: it was never on the wire
                if unsent > 100:
                    os._exit(3)  # its watchdog
            time.sleep(0.05)
            continue
        if len(by_mid) < 40:
            memory.note(memory.sent, [number])
            send(number)
            number += 1
        time.sleep(1 / rate_hz)


# -- the world around them


def begin(target, *arguments) -> None:
    """A process of the world, which does not outlive the test."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    target(*arguments)


def can_have_namespaces() -> bool:
    """Whether a network can be cut here."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


class World:
    """One run's processes, files and network."""

    def __init__(
        self,
        home: Path,
        chance: random.Random,
        *,
        broker: str,
        number: int = 0,
        mutant: str = "",
        encrypted: bool = False,
    ) -> None:
        """`mutant` is an edge whose spool `forgets` or `repeats` a row of each commit: the count must see it.

        `encrypted`: edge and hub seal what lies on their disks."""
        self.mutant, self.encrypted = mutant, encrypted
        self.home, self._chance, self.broker = home, chance, broker
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.durability.programs"])
        self._processes: dict[str, mp.process.BaseProcess] = {}
        self.ended: list[str] = []  # by themselves
        self._space = f"wr{os.getpid() % 10_000}-{number % 1000}" if can_have_namespaces() else ""
        self._mounted = False
        self.ports = {"hub": free_port(), "mqtt": free_port()}
        self.host = "127.0.0.1"

    def __enter__(self) -> World:
        if self._space:
            self._open_network()
        self.make()
        for name in ("hub", "edge", *self.devices):
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in sorted(self._processes, key="hub".__eq__):
            self.kill(name)
        self.kill_broker()
        if self._space:
            _ip("netns", "del", self._space, check=False)
            _ip("link", "del", f"{self._space}a", check=False)
        if self._mounted:
            subprocess.run(["umount", "-l", str(self.home / EDGE)], check=False)

    # -- making

    def _open_network(self) -> None:
        taken = subprocess.run(["ip", "-br", "addr"], capture_output=True, text=True, check=True).stdout
        nets = (f"10.{random.randint(64, 127)}.{random.randint(1, 254)}" for _ in range(1_000))
        net = next(net for net in nets if f" {net}." not in taken)  # another run may have its own at the same time
        self.host = f"{net}.2"
        _ip("netns", "del", self._space, check=False)
        _ip("netns", "add", self._space)
        _ip("link", "add", f"{self._space}a", "type", "veth", "peer", "name", "hub0", "netns", self._space)
        _ip("addr", "add", f"{net}.1/30", "dev", f"{self._space}a")
        _ip("link", "set", f"{self._space}a", "up")
        _ip("-n", self._space, "addr", "add", f"{net}.2/30", "dev", "hub0")
        _ip("-n", self._space, "link", "set", "hub0", "up")

    def make(self) -> None:
        """Homes, identities, devices."""
        edge = self.home / EDGE
        edge.mkdir()
        if os.geteuid() == 0:
            done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(edge)], check=False)
            self._mounted = done.returncode == 0
        authority, key = Authority.create(self.home / "pki", "test"), new_key()
        write_private(self.home / "pki" / "hub.key", key_pem(key))
        certificate = authority.issue_hub("hub", key.public_key(), [self.host, "127.0.0.1"], 1.0)
        write_private(self.home / "pki" / "hub.pem", certificate, 0o644)
        (self.home / "hub").mkdir()
        identity, key = edge / "identity", new_key()
        identity.mkdir()
        write_private(identity / "edge.key", key_pem(key))
        write_private(identity / "edge.pem", authority.issue_edge(EDGE, key.public_key(), 1.0), 0o644)
        write_private(identity / "listener.pem", authority.issue_listener(EDGE, key.public_key(), ["127.0.0.1"], 1.0), 0o644)
        write_private(identity / "ca.pem", authority.pem, 0o644)
        at_rest = f'at_rest.kek = "file:{self.home}/edge.kek"\n' if self.encrypted else ""
        if self.encrypted:
            write_kek(self.home / "hub.kek", Kek({}).with_new_version())
        (edge / "edge.toml").write_text(
            f'{at_rest}name = "{EDGE}"\nretention_days = 100000.0\nhub_host = "{self.host}"\nhub_port = {self.ports["hub"]}\n'
            f'[mqtt]\nport = {self.ports["mqtt"]}\nbroker = "{self.broker}"\n'
            "[spool]\ncommit_interval_s = 0.03\ndisk_reserve_bytes = 4000000\nballast_bytes = 8000000\n"
        )
        opened = EdgeHome.open(edge)
        consents = opened.consents()
        kinds = [NUMBERED, NUMBERED] if self.broker == "mosquitto" else [NUMBERED, PLAIN]
        self.devices: dict[str, tuple[str, str, float]] = {}
        for index, kind in enumerate(kinds):
            name = f"{kind}-{index}"
            secret = opened.registry().add(name, f"patient-{index}")
            consents.set(opened.pseudonyms().of(f"patient-{index}"), "*", Consent.RAW)
            self.devices[name] = (kind, secret, self._chance.choice((0.0, -900.0, 1_500.0)))
        consents.close()

    # -- living

    def start(self, name: str) -> None:
        if name == "hub":
            target, arguments = hub_main, (self.home, self.host, self.ports["hub"], self._space)
        elif name == "edge":
            target, arguments = edge_main, (self.home, self.mutant)
        else:
            kind, secret, skew_s = self.devices[name]
            target, arguments = device_main, (self.home, name, kind, self.ports["mqtt"], secret, skew_s, 60.0)
        process = self._context.Process(target=begin, args=(target, *arguments), daemon=True, name=name)
        process.start()
        self._processes[name] = process

    def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.join(10)

    def kill_broker(self) -> bool:
        """SIGKILL of Mosquitto; False when it does not run."""
        try:
            number = int((self.home / EDGE / "mosquitto" / "pid").read_text())
            if b"mosquitto" not in Path(f"/proc/{number}/cmdline").read_bytes():
                return False
            os.kill(number, signal.SIGKILL)
        except (OSError, ValueError):
            return False
        return True

    def revive(self) -> None:
        """Start what is not running, as a service manager does."""
        for name in ("hub", "edge", *self.devices):
            process = self._processes.get(name)
            if process is not None and not process.is_alive():
                self.ended.append(f"{name} ended with {process.exitcode}")
                process.join()
            if process is None or not process.is_alive():
                self.start(name)

    def cut(self, *, off: bool) -> bool:
        """The network between edge and hub."""
        if not self._space:
            return False
        _ip("link", "set", f"{self._space}a", "down" if off else "up")
        return True

    def fill(self, *, full: bool) -> bool:
        """The disk under the edge, to its last byte."""
        if not self._mounted:
            return False
        path = self.home / EDGE / "another-program"
        if full:
            with contextlib.suppress(OSError), path.open("ab", buffering=0) as out:
                while True:
                    out.write(bytes(4096))
        else:
            path.unlink(missing_ok=True)
        return True

    def skew(self, seconds: float) -> None:
        """The edge's clock."""
        (self.home / "skew").write_text(str(seconds))

    # -- judging

    def settle(self, seconds: float) -> str:
        """Wait until devices have their receipts, spool and inbox are empty; what is not done yet, or nothing."""
        (self.home / "calm").touch()
        until = time.monotonic() + seconds
        while time.monotonic() < until and (left := self._left()):
            self.revive()
            time.sleep(0.05)
        return self._left() if left else ""

    def _left(self) -> str:
        for name in self.devices:
            if not (self.home / "devices" / f"{name}.done").exists():
                state = self.home / "devices" / f"{name}.state"
                return f"{name} still waits for acknowledgements: {state.read_text() if state.exists() else ''}"
        if waiting := read_facts(FolderStorage(self.home / EDGE / "spool")).observations:
            return f"{waiting} observations wait in the spool"
        inbox = open_inbox(self.home)
        waiting = inbox.waiting()
        inbox.close()
        return f"{waiting} observations wait in the inbox" if waiting else ""

    def count(self) -> Count:
        """What devices were told is safe, against the lake."""
        columns = ["device", "code", "t0_device_us", "value", "values", "value_text"]
        lake = Lake(self.home / "hub" / "lake")
        rows = lake.read(BRONZE, columns=columns).to_pylist() if lake.version(BRONZE) >= 0 else []
        seen = Counter((r["device"], r["code"], r["t0_device_us"]) for r in rows)
        counted = Count(stored=len(rows), duplicated=sum(n - 1 for n in seen.values()))
        for name, (_kind, _secret, skew_s) in self.devices.items():
            memory = Memory(self.home / "devices", name, skew_s)
            for number in set(memory.numbers(memory.acknowledged)):
                t_us = START_US + number * STEP_US + round(skew_s * 1e6)
                codes = [c for c in CODES.values() if c != CODES["device-alarm"] or number % 7 == 0]
                counted.acknowledged += len(codes)
                counted.lost += sum(not seen[name, code, t_us] for code in codes)
            for row in rows:
                if row["device"] == name:
                    number = (row["t0_device_us"] - round(skew_s * 1e6) - START_US) // STEP_US
                    counted.altered += not memory.holds(row, number)
        quarantine = Quarantine(FolderStorage(self.home / EDGE / "spool"))
        counted.aside = quarantine.counts()
        quarantine.close()
        return counted


@dataclass
class Count:
    """A run's sum, in observations."""

    stored: int
    duplicated: int
    acknowledged: int = 0
    lost: int = 0
    altered: int = 0
    aside: dict[str, int] = field(default_factory=dict)


def _ip(*words: str, check: bool = True) -> None:
    subprocess.run(["ip", *words], check=check, capture_output=True)
