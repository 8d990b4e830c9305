"""From a device's message to the lake: what an edge makes durable, what the hub takes to Delta, and how soon it is seen.

    python bench/collect.py [--seconds 8] [--json]

The edge's gate is the product's own (decode, code, check, pseudonym, consent, local store, spool) on this disk with
`synchronous=FULL`; messages are SenML of 200 readings, or of 10 s of a 250 Hz lead. Beside it the limit of the same disk: SQLite
alone with the same bytes in the same groups. The hub is its listener, intake, inbox, committer and lake in a process of its
own; the edge's forwarder sends to it over gRPC with mutual TLS 1.3 from a spool that is full; beside it Delta alone with rows
that are ready. Then one reading every 20 ms is followed to the alert path and into the lake. At the end, an edge that runs and
does nothing is weighed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import multiprocessing as mp
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from wardround.clock import SystemClock
from wardround.collect.commit_pace import CommitPace
from wardround.collect.devices.reading import Reading
from wardround.collect.devices.senml import encode_pack
from wardround.collect.forwarder import Forwarder, may_leave
from wardround.collect.gateway import Gateway
from wardround.collect.grpc_link import SERVICE, collect_handlers, run_forwarding
from wardround.collect.inbox import Inbox, InboxBatch
from wardround.collect.intake import Committer, Intake
from wardround.collect.lanes import Priority
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import Device
from wardround.collect.signals import load_signals
from wardround.collect.spool import Spool
from wardround.collect.storage import FolderStorage
from wardround.desks.console import Arrivals
from wardround.ports import free_port
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Consent, Observation, SubjectId, decode_observation, encode_observation
from wardround.settings import ProcessingSettings, SpoolSettings
from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.channel import edge_channel, peer_name, start_hub_listener
from wardround.trust.consent import ConsentRegister
from wardround.watch.watcher import Watch

EDGE = "edge-0"
READINGS, WAVE_HZ, WAVE_S = 200, 250, 10  # in one message
VITALS = (
    ("heart-rate", "/min", 60.0),
    ("spo2", "%", 97.0),
    ("respiratory-rate", "/min", 14.0),
    ("skin-temperature", "Cel", 33.0),
)
GROUP = SpoolSettings().commit_observations_max
SMALL, LARGE_ROWS = 1_000, 4_000  # bytes of an observation; rows of a commit of larger ones
ALERTS_LOOKED_AT = 100  # of a batch: to look at all of them would be most of what the hub does
TRICKLE_S = 0.02
DRAIN_S = 90.0


def make_identities(home: Path) -> None:
    """An authority, the hub's certificate, the edge's."""
    authority, key = Authority.create(home / "pki", "bench"), new_key()
    write_private(home / "pki" / "hub.key", key_pem(key))
    write_private(home / "pki" / "hub.pem", authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0), 0o644)
    folder, key = home / EDGE, new_key()
    folder.mkdir()
    write_private(folder / "edge.key", key_pem(key))
    write_private(folder / "edge.pem", authority.issue_edge(EDGE, key.public_key(), 1.0), 0o644)
    write_private(folder / "ca.pem", authority.pem, 0o644)


# -- the edge's gate


def gate(folder: Path, spool: Spool) -> Gateway:
    """A gateway with everything of its own on this disk."""
    return Gateway(
        edge=EDGE,
        registry={"d": Device("d", "P", "", "")},
        signals=load_signals(),
        consent=lambda _subject, _code: (Consent.RAW, 1),
        pseudonym=SubjectId,
        spool=spool,
        local_store=LocalStore(FolderStorage(folder / "local")),
        quarantine=Quarantine(FolderStorage(folder / "spool")),
        clock=SystemClock(),
        simulated=True,
    )


def vitals_message(number: int) -> bytes:
    """200 readings, one a second of each of four signals."""
    now_us = SystemClock().now_us() - 60_000_000
    return encode_pack(
        [
            Reading(name=name, unit=unit, t_us=now_us + k * 1_000_000 + number, value=value + (number + k) % 7)
            for k in range(READINGS // len(VITALS))
            for name, unit, value in VITALS
        ],
        base_name="urn:dev:d:",
        form="cbor",
    )


def wave_message(number: int) -> bytes:
    """10 s of one lead, on its own integer grid."""
    n = WAVE_HZ * WAVE_S
    values = (np.cumsum(np.random.default_rng(number).integers(-9, 10, n)) % 4_000).astype("<i2")
    t_us = SystemClock().now_us() - 20_000_000
    wave = Reading(name="ecg-ii", unit="mV", t_us=t_us, n=n, period_us=1e6 / WAVE_HZ, values=values.tobytes(), scale=0.005)
    return encode_pack([wave], base_name="urn:dev:d:", form="cbor")


def edge_rate(folder: Path, messages: list[bytes], per_message: int, seconds: float, group: int) -> dict[str, float]:
    """What the gate makes durable, a second; and SQLite alone with the same bytes in the same groups."""
    spool = Spool(FolderStorage(folder / "spool"), SpoolSettings())
    gateway = gate(folder, spool)
    started, cpu, seq = time.monotonic(), time.process_time(), 0
    while time.monotonic() - started < seconds:
        for _ in range(group):
            seq += 1
            gateway.receive("d", "life", seq, messages[seq % len(messages)])
        gateway.commit()
    spent, spent_cpu = time.monotonic() - started, time.process_time() - cpu
    facts = spool.facts()
    row = bytes(facts.bytes // max(1, facts.observations))
    db = FolderStorage(folder / "limit").connect("limit")
    db.execute("CREATE TABLE rows (seq INTEGER PRIMARY KEY, data BLOB)")
    rows = group * facts.observations // seq
    limit_started, n = time.monotonic(), 0
    while time.monotonic() - limit_started < seconds / 4:
        db.execute("BEGIN IMMEDIATE")
        db.executemany("INSERT INTO rows VALUES (?, ?)", [(n + i, row) for i in range(rows)])
        db.execute("COMMIT")
        n += rows
    limit = n / facts.observations * seq * per_message / (time.monotonic() - limit_started)
    return {"per_s": seq * per_message / spent, "per_cpu_s": seq * per_message / spent_cpu, "sqlite_alone_per_s": limit}


# -- the hub


def hub_main(home: Path, port: int, pipe: Connection) -> None:
    """The hub's process, until told to stop."""
    asyncio.run(_hub(home, port, pipe))


async def _hub(home: Path, port: int, pipe: Connection) -> None:
    register = ConsentRegister(":memory:")
    register.set("P", "*", Consent.RAW)
    inbox, lake = Inbox(FolderStorage(home / "inbox")), Lake(home / "lake")
    alert_us: list[int] = []
    lake_us: list[Any] = []

    arrivals = Arrivals(SystemClock())
    watch = Watch(clock=SystemClock(), heartbeat_s=1.0, signal_title=str, on_change=lambda _alert: None)

    def alert(observations: Sequence[Observation]) -> None:
        arrivals.add(observations)
        watch.observe(observations)
        now_us = SystemClock().now_us()
        alert_us.extend(now_us - o.t_edge_us for o in observations[-ALERTS_LOOKED_AT:])

    def append(batches: Sequence[InboxBatch], app: str, version: int) -> None:
        rows = observation_rows(row for batch in batches for row in batch.observations())
        lake.append(BRONZE, rows, app=app, version=version)
        lake_us.append(SystemClock().now_us() - rows.column("t_edge_us").to_numpy())

    def consent(_edge: str, subject: str, code: str) -> Consent:
        return register.choose(subject, code)[0]

    intake = Intake(inbox=inbox, consent=consent, clock=SystemClock(), on_refused=lambda *_: None, on_committed=alert)
    settings = ProcessingSettings()
    pace = CommitPace(SystemClock(), settings.lake_commit_interval_s, settings.lake_commits_an_hour)
    committer = Committer(
        inbox=inbox,
        lake_version=lambda app: lake.transaction_version(BRONZE, app),
        lake_append=append,
        rows_max=settings.lake_commit_rows_max,
    )
    handlers = collect_handlers(intake, lambda *_: None, peer_name, lambda _edge: None)
    server, _ = await start_hub_listener(
        {SERVICE: handlers}, host="127.0.0.1", port=port, pki=home / "pki", denied=lambda _name, _serial: False
    )
    gc.freeze()  # as the hub does
    pipe.send("ready")
    while server is not None:
        moved = await asyncio.to_thread(committer.run_once)
        while pipe.poll():
            if pipe.recv() == "stop":
                return
            rows = sum(map(len, lake_us))
            pipe.send({"alert_us": alert_us[:], "lake_us": lake_us[:], "rows": rows, "cpu_s": time.process_time()})
            alert_us.clear()
            lake_us.clear()
        await asyncio.sleep(pace.wait_s(moved, large=committer.large))


def fill(spool: Spool, rows: list[tuple[Priority, bytes]], count: int) -> None:
    """A spool as an outage leaves it."""
    now_us = SystemClock().now_us()
    for _ in range(count // len(rows)):
        spool.commit(rows, [], now_us=now_us)


def forwarder(spool: Spool) -> Forwarder:
    """As an edge has it: consent is asked for every row."""
    register = ConsentRegister(":memory:")
    register.set("P", "*", Consent.RAW)
    return Forwarder(spool, lambda: (0, []), lambda row: may_leave(row, register.choose))


async def drain(home: Path, port: int, spool: Spool) -> float:
    """Until the hub has it all; the seconds."""
    channel = edge_channel(home / EDGE, "127.0.0.1", port)
    sending = asyncio.create_task(run_forwarding(channel, forwarder(spool), lambda _refusal: None))
    started = time.monotonic()
    while spool.facts().observations and time.monotonic() - started < DRAIN_S:  # noqa: ASYNC110 - a file tells
        await asyncio.sleep(0.01)
    spent = time.monotonic() - started
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await channel.close(None)
    return spent


async def trickle(home: Path, port: int, folder: Path, seconds: float) -> None:
    """One reading at a time through the gate, as they come."""
    spool = Spool(FolderStorage(folder / "spool"), SpoolSettings())
    gateway = gate(folder, spool)
    channel = edge_channel(home / EDGE, "127.0.0.1", port)
    sending = asyncio.create_task(run_forwarding(channel, forwarder(spool), lambda _refusal: None))
    for seq in range(1, round(seconds / TRICKLE_S)):
        now_us = SystemClock().now_us()
        reading = Reading(name="heart-rate", unit="/min", t_us=now_us, value=60.0)
        gateway.receive("d", "life", seq, encode_pack([reading], base_name="urn:", form="json"))
        await asyncio.to_thread(gateway.commit)
        await asyncio.sleep(TRICKLE_S)
    await asyncio.sleep(1.5)
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    await channel.close(None)
    spool.close()


def hub_rates(home: Path, seconds: float) -> dict[str, Any]:
    """Intake from gRPC to Delta, and the two latencies."""
    context, port = mp.get_context("spawn"), free_port()
    mine, theirs = context.Pipe()
    hub = context.Process(target=hub_main, args=(home, port, theirs), daemon=True)
    hub.start()
    assert mine.recv() == "ready"

    def ask() -> dict[str, Any]:
        mine.send("facts")
        facts: dict[str, Any] = mine.recv()
        return facts

    def scalar(number: int) -> bytes:
        t_us = SystemClock().now_us()
        return encode_observation(
            Observation(subject="P", device="d", edge=EDGE, code="loinc:8867-4", unit="/min", t0_us=t_us, t0_device_us=t_us,
                        t_edge_us=t_us, value=60.0 + number % 50, device_boot="b", device_seq=number)
        )  # fmt: skip

    def wave(number: int) -> bytes:
        n, t_us = WAVE_HZ * WAVE_S, SystemClock().now_us()
        values = (np.cumsum(np.random.default_rng(number).integers(-9, 10, n)) % 4_000).astype("<i2").tobytes()
        return encode_observation(
            Observation(subject="P", device="d", edge=EDGE, code="mdc:131330", unit="mV", t0_us=t_us, t0_device_us=t_us,
                        t_edge_us=t_us, n=n, period_us=4_000.0, values=values, scale=0.005, device_boot="b", device_seq=number)
        )  # fmt: skip

    found: dict[str, Any] = {}
    for name, made, priority, count, samples in (
        ("readings", scalar, Priority.VITAL, round(100_000 * seconds), 1),
        ("wave_samples", wave, Priority.WAVEFORM, round(4_000 * seconds), WAVE_HZ * WAVE_S),
    ):
        spool = Spool(FolderStorage(home / f"spool-{name}"), SpoolSettings())
        fill(spool, [(priority, made(k)) for k in range(500)], count)
        waiting, before = spool.facts().observations, ask()["cpu_s"]
        started = time.monotonic()
        receipted_s = asyncio.run(drain(home, port, spool))
        rows, facts = 0, {}
        while rows < waiting and time.monotonic() - started < DRAIN_S:
            facts = ask()
            rows += facts["rows"]
            time.sleep(0.02)
        spent = time.monotonic() - started
        found[name] = {
            "to_the_inbox_per_s": waiting * samples / receipted_s,
            "to_the_lake_per_s": rows * samples / spent,
            "hub_per_cpu_s": rows * samples / (facts["cpu_s"] - before),
        }
        spool.close()
        found[name]["delta_alone_per_s"] = (
            delta_alone(home / f"limit-{name}", [made(k) for k in range(500)], seconds / 4) * samples
        )
    ask()
    asyncio.run(trickle(home, port, home / "trickle", seconds))
    facts = ask()
    for name in ("alert_us", "lake_us"):
        found[f"{name[:-3]}_p95_ms"] = float(np.percentile(np.hstack(facts[name]), 95)) / 1e3
    mine.send("stop")
    hub.join(10)
    return found


def delta_alone(folder: Path, encoded: list[bytes], seconds: float) -> float:
    """Rows of the same kind, made before, written to a Delta table by nobody but this process: rows a second."""
    lake, size = Lake(folder), ProcessingSettings().lake_commit_rows_max if len(encoded[0]) < SMALL else LARGE_ROWS
    observations = [decode_observation(encoded[k % len(encoded)]) for k in range(size)]
    rows = observation_rows((o, "b", k, 0) for k, o in enumerate(observations))
    lake.append(BRONZE, rows, app="limit", version=0)
    started, n = time.monotonic(), 0
    while time.monotonic() - started < seconds:
        n += 1
        lake.append(BRONZE, rows, app="limit", version=n)
    return n * size / (time.monotonic() - started)


def at_rest_mb(home: Path) -> dict[str, float]:
    """An edge of the command line with no device and no study: its own process, and its training worker."""
    rest = home / "rest"
    (rest / "identity").mkdir(parents=True)
    authority, key = Authority.load(home / "pki"), new_key()
    write_private(rest / "identity" / "edge.key", key_pem(key))
    write_private(rest / "identity" / "edge.pem", authority.issue_edge(EDGE, key.public_key(), 1.0), 0o644)
    listener = authority.issue_listener(EDGE, key.public_key(), ["127.0.0.1"], 1.0)
    write_private(rest / "identity" / "listener.pem", listener, 0o644)
    write_private(rest / "identity" / "ca.pem", authority.pem, 0o644)
    (rest / "edge.toml").write_text(
        f'name = "{EDGE}"\nhub_host = "127.0.0.1"\nhub_port = {free_port()}\n[mqtt]\nport = {free_port()}\n'
    )
    command = [sys.executable, "-m", "wardround.cli.main", "edge", "run", "--home", str(rest)]
    edge = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (rest / "ready.json").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(2.0)
    process = psutil.Process(edge.pid)
    found = {"edge_mb": process.memory_info().rss / 1e6}
    with contextlib.suppress(psutil.NoSuchProcess):
        found["training_worker_mb"] = sum(c.memory_info().rss for c in process.children(recursive=True)) / 1e6
    edge.terminate()
    edge.wait(20)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="What an edge makes durable, what the hub takes to Delta, how soon it is seen.")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each part")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        make_identities(home)
        vitals, waves = [vitals_message(k) for k in range(40)], [wave_message(k) for k in range(40)]
        found: dict[str, Any] = {
            "edge_readings": edge_rate(home / "vitals", vitals, READINGS, arguments.seconds, 5),
            "edge_wave_samples": edge_rate(home / "waves", waves, WAVE_HZ * WAVE_S, arguments.seconds, 200),
            "hub": hub_rates(home, arguments.seconds),
            "at_rest": at_rest_mb(home),
        }
    if arguments.json:
        print(json.dumps(found, indent=1))
        return
    for what, goal in (("edge_readings", 20_000), ("edge_wave_samples", 5_000_000)):
        facts = found[what]
        print(
            f"{what}: {facts['per_s']:,.0f}/s durable (goal {goal:,}), {facts['per_cpu_s']:,.0f} a CPU second; "
            f"SQLite alone {facts['sqlite_alone_per_s']:,.0f}/s, ratio {facts['per_s'] / facts['sqlite_alone_per_s']:.2f}"
        )
    for what, goal in (("readings", 150_000), ("wave_samples", 10_000_000)):
        facts = found["hub"][what]
        alone = facts["delta_alone_per_s"]
        print(
            f"hub {what}: {facts['to_the_lake_per_s']:,.0f}/s from gRPC to Delta (goal {goal:,}), "
            f"{facts['to_the_inbox_per_s']:,.0f}/s to the inbox, {facts['hub_per_cpu_s']:,.0f} a CPU second of the hub; "
            f"Delta alone {alone:,.0f}/s, ratio {facts['to_the_lake_per_s'] / alone:.2f}"
        )
    print(
        f"a reading on the alert path p95 {found['hub']['alert_p95_ms']:.0f} ms (goal 300), "
        f"in the lake p95 {found['hub']['lake_p95_ms']:.0f} ms (goal 2000)"
    )
    rest = found["at_rest"]
    print(f"an edge at rest: {rest['edge_mb']:.0f} MB (goal 150) beside {rest.get('training_worker_mb', 0):.0f} MB of its worker")


if __name__ == "__main__":
    main()
