"""The API's reads under a steady load: latency and CPU of a running hub, beside a bare FastAPI route in the same run.

    python bench/api.py [--per-s 200] [--seconds 20] [--edges 200] [--json]

A real hub, as a process of its own on one core, with everything else that it does beside the API: edges, studies with rounds and
models, jobs, and patients in the lake, read by one token. Calls come at a steady rate, whether or not the ones before are
answered; a latency is counted from when its call was due. The bare route answers a constant, on the same core, in the same
server, before and after it. FHIR, which reads the lake, is called at a tenth of the rate.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing as mp
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import msgspec
import psutil

from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows
from wardround.records import Consent, Observation
from wardround.store import EdgeRecord, ModelRecord, Person, RoundRecord, StudyRecord, open_store
from wardround.trust.api_tokens import mint_api_token
from wardround.trust.consent import ConsentRecord, ConsentRegister

LIMIT_MS, IDLE_SHARE = 50.0, 0.25
CONNECTIONS, DEADLINE_S = 32, 120.0
SUBJECT = "aaaa-aaaa"
WARDROUND = Path(sys.executable).with_name("wardround")
PORTS = "".join(f"\n[{table}]\nport = 0\n" for table in ("console", "grpc", "enrolment", "metrics"))
READS = (
    "/api/v1/hub",
    "/api/v1/happenings",
    "/api/v1/edges",
    "/api/v1/edges/edge-7",
    "/api/v1/alerts?state=all",
    "/api/v1/studies",
    "/api/v1/studies/study-3",
    "/api/v1/studies/study-3/rounds",
    "/api/v1/studies/study-3/models",
    "/api/v1/jobs",
)
FHIR = ("/fhir/Patient", f"/fhir/Observation?patient={SUBJECT}&code=8867-4&_count=50", f"/fhir/Device?patient={SUBJECT}")


@dataclass(frozen=True, slots=True)
class Load:
    """What calls at a steady rate cost. Milliseconds; `cpu_ms` is of the whole process, a call."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    most_ms: float
    cpu_ms: float
    calls: int


def fill(home: Path, edges: int) -> str:
    """Records as of a hub that has run for months, and a token that reads them."""
    now_us = time.time_ns() // 1000
    store = open_store(home / "hub.sqlite")
    for number in range(edges):
        store.put_edge(EdgeRecord(f"edge-{number}", now_us, f"{number:x}", now_us + 10**12, None))
    for study in range(10):
        store.put_study(StudyRecord(f"study-{study}", "", "finished", "", now_us + study, now_us + study))
        for number in range(1, 201):
            facts = {"folded": {f"edge-{k}": 1.0 for k in range(20)}, "aside": {}}
            store.put_round(RoundRecord(f"study-{study}", number, now_us + number, 0.5, f"{number:064x}", facts))
        store.put_models(
            [ModelRecord(f"study-{study}", n, f"{n:064x}", "", "retired", n, now_us, now_us, {}) for n in range(1, 201)]
        )
    store.put_person(Person("ada", "admin", "", None))
    text, kept = mint_api_token("ada", "bench", ("read", "patients"), days=1, now_us=now_us)
    store.put_api_token(kept)
    store.close()
    consents = ConsentRegister(home / "consent.sqlite")
    consents.apply([ConsentRecord(SUBJECT, "*", Consent.RAW, 1)], "edge-0")
    consents.close()
    common: dict[str, Any] = {"subject": SUBJECT, "device": "patch", "edge": "edge-0", "code": "loinc:8867-4", "unit": "/min"}
    rows = [
        Observation(t0_us=now_us - (5_000 - k) * 60_000_000, t0_device_us=0, value=60.0 + k % 30, **common) for k in range(5_000)
    ]
    Lake(home / "lake").append(
        BRONZE, observation_rows([(o, "b", k, now_us) for k, o in enumerate(rows)]), app="bench", version=1
    )
    return text


async def drive(port: int, paths: Sequence[str], token: str, per_s: float, seconds: float) -> list[float]:
    """Latencies in ms of calls at a steady rate, in turn; every answer is a 200."""
    heads = [f"GET {path} HTTP/1.1\r\nHost: hub\r\nAuthorization: Bearer {token}\r\n\r\n".encode() for path in paths]
    due: asyncio.Queue[tuple[float, bytes] | None] = asyncio.Queue()
    found: list[float] = []

    async def caller() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (one := await due.get()) is not None:
            writer.write(one[1])
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            if not head.startswith(b"http/1.1 200"):
                raise RuntimeError(f"{one[1][:80]!r} got {head[:80]!r}")
            await reader.readexactly(int(head.split(b"content-length:")[1].split(b"\r\n")[0]))
            found.append((time.perf_counter() - one[0]) * 1e3)
        writer.close()

    async with asyncio.timeout(seconds + DEADLINE_S), asyncio.TaskGroup() as group:
        for _ in range(CONNECTIONS):
            group.create_task(caller())
        began = time.perf_counter()
        for number in range(round(per_s * seconds)):
            at = began + number / per_s
            await asyncio.sleep(max(0.0, at - time.perf_counter()))
            due.put_nowait((at, heads[number % len(heads)]))
        for _ in range(CONNECTIONS):
            due.put_nowait(None)
    return found


def cpu_s(pid: int) -> float:
    """CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(pid: int, port: int, paths: Sequence[str], token: str, per_s: float, seconds: float) -> Load:
    """One load, after a short one that warms up."""
    asyncio.run(drive(port, paths, token, min(per_s, 50.0), 2.0))
    before = cpu_s(pid)
    found = sorted(asyncio.run(drive(port, paths, token, per_s, seconds)))
    cpu_ms = (cpu_s(pid) - before) * 1e3 / len(found)
    cuts = statistics.quantiles(found, n=100)
    return Load(cuts[49], cuts[94], cuts[98], found[-1], cpu_ms, len(found))


def bare(told: Connection, core: int) -> None:
    """The rival: FastAPI and uvicorn, with a route that gives a constant."""
    os.sched_setaffinity(0, {core})
    import socket

    import uvicorn
    from fastapi import FastAPI

    app = FastAPI()

    @app.get("/")
    def constant() -> dict[str, Any]:
        return {"items": list(range(50)), "next": ""}

    listening = socket.create_server(("127.0.0.1", 0))
    told.send(listening.getsockname()[1])
    uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False)).run(sockets=[listening])


def start_hub(home: Path, core: int) -> tuple[subprocess.Popen[bytes], int]:
    """A hub on one core, and its console's port."""
    program = [str(WARDROUND), "hub", "run", "--home", str(home)]
    log = (home / "log").open("wb")
    running = subprocess.Popen(program, stdout=log, stderr=log, preexec_fn=lambda: os.sched_setaffinity(0, {core}))  # noqa: PLW1509
    until_s = time.monotonic() + DEADLINE_S
    while not (home / "ready.json").exists():
        if running.poll() is not None or time.monotonic() > until_s:
            sys.exit(f"the hub did not start: see {home / 'log'}")
        time.sleep(0.1)
    return running, int(json.loads((home / "ready.json").read_text())["console_port"])


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--per-s", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--edges", type=int, default=200)
    parser.add_argument("--each", action="store_true", help="every path alone, too")
    parser.add_argument("--json", action="store_true")
    own = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[1:]) or set(cores))
    rivals = [run_bare(cores[0], own.per_s, own.seconds)]
    with tempfile.TemporaryDirectory() as folder:
        found = run_hub(Path(folder) / "hub", cores[0], own)
    rivals.append(run_bare(cores[0], own.per_s, own.seconds))
    found["bare"] = plain = min(rivals, key=lambda load: load.p95_ms)
    reads = found["reads"]
    if own.json:
        print(json.dumps({name: msgspec.to_builtins(load) for name, load in found.items()}))
    else:
        for name, load in found.items():
            print(
                f"{name:28} p50 {load.p50_ms:6.1f} ms, p95 {load.p95_ms:6.1f}, p99 {load.p99_ms:6.1f}, most {load.most_ms:6.1f};"
                f" {load.cpu_ms:5.2f} ms of CPU a call, {load.calls} calls"
            )
        print(f"{own.per_s:.0f} reads/s on one core: {reads.p95_ms / plain.p95_ms:.1f} times the bare route's p95,", end=" ")
        print(f"{reads.cpu_ms / plain.cpu_ms:.1f} times its CPU")
    if reads.p95_ms > LIMIT_MS:
        sys.exit(f"p95 of {reads.p95_ms:.0f} ms is over {LIMIT_MS:.0f} ms (the bare route: {plain.p95_ms:.0f} ms)")


def settle(pid: int) -> None:
    """Wait until a hub that has just started has worked through what was there: it and its workers share the core."""
    until_s = time.monotonic() + DEADLINE_S
    quiet = 0
    while quiet < 3 and time.monotonic() < until_s:
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        before = sum(map(cpu_s, family))
        time.sleep(1.0)
        quiet = quiet + 1 if sum(map(cpu_s, family)) - before < IDLE_SHARE else 0


def run_hub(home: Path, core: int, own: argparse.Namespace) -> dict[str, Load]:
    """The loads of a hub."""
    subprocess.run([str(WARDROUND), "hub", "init", "--home", str(home)], check=True, capture_output=True)
    settings = home / "hub.toml"
    settings.write_text(settings.read_text() + PORTS)
    token = fill(home, own.edges)
    hub, port = start_hub(home, core)
    try:
        settle(hub.pid)
        found = {"reads": measure(hub.pid, port, READS, token, own.per_s, own.seconds)}
        found["fhir"] = measure(hub.pid, port, FHIR, token, own.per_s / 10, own.seconds)
        if own.each:
            found |= {path[:28]: measure(hub.pid, port, [path], token, own.per_s / 4, 4.0) for path in (*READS, *FHIR)}
    finally:
        hub.send_signal(signal.SIGTERM)
        hub.wait(DEADLINE_S)
    return found


def run_bare(core: int, per_s: float, seconds: float) -> Load:
    """The load of the rival."""
    told, telling = mp.Pipe()
    rival = mp.get_context("spawn").Process(target=bare, args=(telling, core), daemon=True)
    rival.start()
    assert rival.pid is not None
    try:
        if not told.poll(DEADLINE_S):
            sys.exit(f"the bare route has not told its port in {DEADLINE_S:.0f} s")
        return measure(rival.pid, told.recv(), ["/"], "", per_s, seconds)
    finally:
        rival.terminate()


if __name__ == "__main__":
    main()
