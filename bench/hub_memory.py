"""What a hub weighs: the product's own process, with 0, then 100, 1,000 or 5,000 edges attached.

    python bench/hub_memory.py [--edges 100] [--devices 2] [--hold 30] [--restart] [--json]

The hub runs as a person runs it. Each edge has its own certificate, its own connection over mutual TLS 1.3 on loopback, the two
streams that an edge holds open, a heartbeat as often as the hub wants one, and one observation of each of its devices that the
hub has taken to its lake. Then the hub is weighed for `hold` seconds: the most it had resident, and what that is for each edge
beside the same process before the first came. The edges are in processes of their own.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing as mp
import random
import re
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from wardround.clock import SystemClock
from wardround.collect.grpc_link import SERVICE as COLLECT
from wardround.demo.programs import Program
from wardround.hub import create_home
from wardround.learn.condition import Condition
from wardround.learn.grpc_edge import RETRY_S_MAX, RETRY_S_MIN
from wardround.learn.grpc_wire import SERVICE as LEARN
from wardround.learn.grpc_wire import condition_to_wire
from wardround.learn.heartbeats import HEARTBEAT_S, Reports
from wardround.ports import free_port
from wardround.records import Consent, Observation, encode_observation
from wardround.settings import HubSettings, parse_settings
from wardround.store import CertificateRecord, open_store
from wardround.trust.certificates import Authority, describe, key_pem, new_key
from wardround.trust.channel import edge_channel
from wardround.trust.erasures import ErasureBook
from wardround.wire import wardround_pb2 as pb

import grpc  # isort: skip  # after wardround, which sets what grpc reads

GOALS_MB = {1_000: 600, 5_000: 2_000}  # most edges, most memory
GROUP = 250  # edges of one process
READY_S = ATTACH_S = 600.0
GROUP_S = 1_200.0
BACK_S = 600.0  # for all edges to be back after a restart
AT_ONCE = 25  # edges of one process that connect at the same time


def join(hub: Path, home: Path, names: Sequence[str]) -> None:
    """Every edge's identity, and what a hub notes of one that has joined."""
    authority, now_us, day_us = Authority.load(hub / "pki"), SystemClock().now_us(), 24 * 3_600_000_000
    store, erasures = open_store(hub / "hub.sqlite"), ErasureBook(hub / "erasures.sqlite")
    for name in names:
        folder, key = home / name, new_key()
        folder.mkdir()
        certificate = authority.issue_edge(name, key.public_key(), 24.0)
        (folder / "edge.key").write_bytes(key_pem(key))
        (folder / "edge.pem").write_bytes(certificate)
        (folder / "ca.pem").write_bytes(authority.pem)
        erasures.joined(name, now_us)
        store.joined(CertificateRecord(describe(certificate).serial, name, now_us, now_us + day_us))
    erasures.close()
    store.close()


# -- the edges


class Fleet:
    """Edges in processes of their own, until the block ends."""

    def __init__(self, home: Path, port: int, devices: int) -> None:
        """`home` has their identities (`join`), `port` is the hub's."""
        self._home, self._port, self._devices = home, port, devices
        self._context = mp.get_context("spawn")
        self._running: list[tuple[Any, Connection]] = []

    def attach(self, names: Sequence[str]) -> None:
        """Have these attached too, GROUP in a process.

        Raises:
            RuntimeError: one is not, and why.
        """
        for start in range(0, len(names), GROUP):
            ours, theirs = self._context.Pipe()
            group = names[start : start + GROUP]
            arguments = (self._home, group, self._devices, self._port, theirs)
            one = self._context.Process(target=edges_main, args=arguments, daemon=True)
            one.start()
            theirs.close()
            self._running.append((one, ours))
            if problem := ours.recv() if ours.poll(GROUP_S) else f"{len(group)} edges were not attached in {GROUP_S:.0f} s":
                raise RuntimeError(problem)

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_: object) -> None:
        for _one, pipe in self._running:
            pipe.close()
        for one, _pipe in self._running:
            one.join(30)
            one.kill()


def edges_main(home: Path, names: Sequence[str], devices: int, port: int, pipe: Connection) -> None:
    """Attach, say so, and stay until the other end of the pipe is closed."""
    asyncio.run(_edges(home, names, devices, port, pipe))


async def _edges(home: Path, names: Sequence[str], devices: int, port: int, pipe: Connection) -> None:
    turn = asyncio.Semaphore(AT_ONCE)
    tasks = []
    for name in names:
        there = asyncio.Event()
        tasks.append((asyncio.create_task(_edge(home / name, name, devices, port, turn, there)), there))
    for task, there in tasks:
        waiting = asyncio.create_task(there.wait())
        await asyncio.wait([task, waiting], return_when=asyncio.FIRST_COMPLETED, timeout=ATTACH_S)
        if not there.is_set():
            pipe.send(f"an edge is not attached: {task.exception() if task.done() else 'it took too long'}")
            return
    pipe.send("")
    with contextlib.suppress(EOFError):
        await asyncio.to_thread(pipe.recv)
    for task, _ in tasks:
        task.cancel()
    await asyncio.gather(*(task for task, _ in tasks), return_exceptions=True)


async def _edge(identity: Path, name: str, devices: int, port: int, turn: asyncio.Semaphore, there: asyncio.Event) -> None:
    """Attached until cancelled; what ends is begun again as an edge does it."""
    wait_s = RETRY_S_MIN
    while True:
        channel: Any = edge_channel(identity, "127.0.0.1", port)
        try:
            async with turn:
                attach, reports, forward = await _opened(channel)
                if not there.is_set():
                    await forward.write(_batch(name, devices))
                    receipt = await forward.read()
                    if receipt.committed_seq < devices or receipt.refusals:
                        raise RuntimeError(f"the hub took no batch: {receipt}")
            there.set()
            wait_s = RETRY_S_MIN
            async for message in attach:
                if message.WhichOneof("kind") == "heartbeat_interval":
                    reports.told(message.heartbeat_interval.seconds)
        except grpc.aio.AioRpcError:
            pass
        finally:
            await channel.close(None)
        await asyncio.sleep(random.uniform(wait_s / 2, wait_s))
        wait_s = min(wait_s * 2, RETRY_S_MAX)


async def _opened(channel: Any) -> tuple[Any, Reports, Any]:
    """The two streams that an edge holds open, once the hub has answered on the first."""
    reports = Reports(HEARTBEAT_S)
    attach = channel.stream_stream(
        f"/{LEARN}/Attach",
        request_serializer=pb.EdgeMessage.SerializeToString,
        response_deserializer=pb.HubMessage.FromString,
    )(_beats(reports))
    forward = channel.stream_stream(
        f"/{COLLECT}/Forward",
        request_serializer=pb.ForwardRequest.SerializeToString,
        response_deserializer=pb.ForwardReceipt.FromString,
    )()
    await anext(aiter(attach))
    return attach, reports, forward


async def _beats(reports: Reports) -> AsyncIterator[pb.EdgeMessage]:
    condition = condition_to_wire(Condition(True, None, "wired", None, False, 0.0))
    yield pb.EdgeMessage(hello=pb.Hello(software_version="bench", condition=condition))
    while True:
        await asyncio.sleep(reports.look_s)
        if reports.due(time.monotonic(), None):
            yield pb.EdgeMessage(heartbeat=pb.Heartbeat(examples=50, condition=condition, interval_s=reports.interval_s))


def _batch(edge: str, devices: int) -> pb.ForwardRequest:
    now_us = SystemClock().now_us()
    rows = [
        Observation(
            subject=f"P-{edge}-{k}", device=f"{edge}-d{k}", edge=edge, code="loinc:8867-4", unit="/min", t0_us=now_us,
            t0_device_us=now_us, t_edge_us=now_us, value=60.0 + k, device_boot="b", device_seq=1,
        )
        for k in range(devices)
    ]  # fmt: skip
    consents = [pb.ConsentRecord(subject=o.subject, code="*", choice=Consent.RAW.value, version=1, purpose="*") for o in rows]
    return pb.ForwardRequest(boot="b", first_seq=1, observations=[encode_observation(o) for o in rows], consents=consents)


# -- the hub


def weigh(home: Path, counts: Sequence[int], devices: int, hold_s: float, *, restart: bool) -> list[dict[str, Any]]:
    """The hub's memory with each number of edges, one number after the other in one hub; with `restart` it is killed at last."""
    ports = {name: free_port() for name in ("grpc", "enrolment", "console")}
    hub = home / "hub"
    text = 'site = "Bench"\nsimulated = true\n' + "".join(f"[{name}]\nport = {port}\n" for name, port in ports.items())
    create_home(hub, text, parse_settings(text, HubSettings, where="bench")).close()
    names = [f"edge-{k:04d}" for k in range(max(counts))]
    (home / "edges").mkdir()
    join(hub, home / "edges", names)
    program = Program("hub", ["wardround.cli.main", "hub", "run", "--home", str(hub)], home / "hub.log", hub / "ready.json")
    program.start()
    try:
        program.wait_ready(READY_S)
        process = psutil.Process(program.process.pid if program.process else 0)
        rows = [{"edges": 0, "devices": 0, **_held(process, hold_s, 0)}]
        attached = 0
        with Fleet(home / "edges", ports["grpc"], devices) as fleet:
            for count in sorted(counts):
                began = time.monotonic()
                fleet.attach(names[attached:count])
                attached = count
                row = {"edges": count, "devices": count * devices, "attached_s": time.monotonic() - began}
                rows.append({**row, **_held(process, hold_s, _connections(process, ports["grpc"]))})
                _check_connected(rows[-1], count)
            if restart:
                program.kill()
                lines, began = len(program.log.read_bytes()), time.monotonic()
                program.start()
                program.wait_ready(READY_S)
                row = {"edges": attached, "devices": attached * devices, "ready_s": time.monotonic() - began}
                row["back_s"] = _back(program.log, lines, attached, began)
                process = psutil.Process(program.process.pid if program.process else 0)
                rows.append({**row, **_held(process, hold_s, _connections(process, ports["grpc"]))})
                _check_connected(rows[-1], attached)
    except RuntimeError as error:
        error.add_note(program.tail())
        raise
    finally:
        program.stop(30.0)
    return rows


def _back(log: Path, start: int, edges: int, began: float) -> float:
    """Seconds until this many edges have attached since, as the hub's log says from byte `start` on."""
    names = set[bytes]()
    while time.monotonic() - began < BACK_S:
        with log.open("rb") as lines:
            lines.seek(start)
            names.update(re.findall(rb"edge attached +edge_id=(\S+)", lines.read()))
        if len(names) >= edges:
            return time.monotonic() - began
        time.sleep(0.5)
    raise RuntimeError(f"{len(names)} of {edges} edges are back after {BACK_S:.0f} s")


def _check_connected(row: dict[str, Any], count: int) -> None:
    if row["connections"] < count:
        raise RuntimeError(f"{row['connections']} of {count} edges are connected")


def _connections(process: psutil.Process, port: int) -> int:
    return sum(c.status == psutil.CONN_ESTABLISHED and c.laddr.port == port for c in process.net_connections("tcp"))


def _held(process: psutil.Process, hold_s: float, connections: int) -> dict[str, Any]:
    until, used = time.monotonic() + hold_s, process.cpu_times()
    most = last = 0
    while time.monotonic() < until:
        last = process.memory_info().rss
        most = max(most, last)
        time.sleep(0.2)
    now = process.cpu_times()
    cpu = (now.user + now.system - used.user - used.system) / hold_s
    return {
        "most_mb": most / 1e6,
        "last_mb": last / 1e6,
        "cpu": cpu,
        "threads": process.num_threads(),
        "connections": connections,
    }


def main() -> int:
    """Print what a hub weighs; 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description="What a hub weighs with edges attached.")
    parser.add_argument("--edges", type=int, nargs="+", default=[100], help="how many, one number after the other")
    parser.add_argument("--devices", type=int, default=2, help="of each edge, each with a patient of its own")
    parser.add_argument("--hold", type=float, default=30.0, help="seconds of weighing with each number")
    parser.add_argument("--restart", action="store_true", help="kill the hub at last, and see when all edges are back")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wardround-hub-memory-", ignore_cleanup_errors=True) as home:
        rows = weigh(Path(home), arguments.edges, arguments.devices, arguments.hold, restart=arguments.restart)
    if arguments.json:
        print(json.dumps(rows, indent=1))
    missed = False
    for row in rows:
        edges, most = row["edges"], row["most_mb"]
        each = f", {(most - rows[0]['most_mb']) / edges * 1_000:.0f} kB for each" if edges else ""
        goal = next((mb for n, mb in sorted(GOALS_MB.items()) if edges <= n), None) if edges else None
        missed |= goal is not None and most > goal
        beside = f" (goal {goal:,})" if goal is not None else ""
        if not arguments.json:
            back = f"; all back {row['back_s']:.0f} s after a kill, ready after {row['ready_s']:.0f}" if "back_s" in row else ""
            print(
                f"{edges:5,} edges, {row['devices']:6,} devices: {most:5.0f} MB at most{beside}{each}; "
                f"{row['cpu']:.0%} of a core, {row['threads']} threads{back}"
            )
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
