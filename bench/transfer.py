"""Rounds with models of any size, mutual TLS 1.3 on loopback, real disks: time, CPU and memory, and uploads beside a bare stream.

    python bench/transfer.py [--only small,middle,large,upload,memory] [--rounds 5] [--home DIR] [--json]

Each case runs in processes of its own: the hub's link, coordinator, journal and blobs in one, all edges' agents in another, each
agent with its own certificate, stream, shelf and kept update. Training costs nothing. `upload` is one edge with 100 MB beside the
limit: a gRPC stream of the same bytes over the same kind of TLS to a handler that throws them away. `memory` is 100 updates of
100 MB in one round, one upload after the other (it needs 12 GB of disk). Peak memory is counted above what the hub's process
used before it had a study.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing as mp
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from round_latency import CLASSES, FEATURES, make_identities
from wardround.clock import SystemClock
from wardround.collect.storage import FolderStorage
from wardround.learn.blobs import FolderBlobs
from wardround.learn.condition import ConditionReader
from wardround.learn.coordinator import Coordinator
from wardround.learn.grpc_edge import EdgeLink
from wardround.learn.grpc_hub import HubLink
from wardround.learn.grpc_relay import HubSource
from wardround.learn.grpc_wire import SERVICE, Beat
from wardround.learn.journal import Journal
from wardround.learn.manifests import Signed
from wardround.learn.messages import Done, Order, RoundEvent
from wardround.learn.models import encode_model
from wardround.learn.participant import Participant, Ready
from wardround.learn.shelf import Shelf
from wardround.learn.strategies import make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.records import EdgeId
from wardround.trust.channel import edge_channel, few_arenas, peer_certificate, peer_name, start_hub_listener
from wardround.trust.signatures import EdgeSigner
from wardround.watch.detectors.own_history import OwnHistory
from wardround.wire import wardround_pb2 as pb

DEADLINE_S = 500.0
BARE_CHUNK = 1 << 20
ROUNDS = "count = {rounds}\nedges_min = {edges}\nexamples_min = 1\ndeadline_s = 400.0\n"
STUDY = 'name = "transfer"\ntask = "activity"\n[rounds]\n' + ROUNDS


@dataclass(frozen=True, slots=True)
class Case:
    """So many edges, megabytes of model, and rounds; what has to be kept."""

    edges: int
    megabytes: float
    rounds: int
    round_s_max: float = 0.0  # of the median
    hub_cpu_s_max: float = 0.0  # of a round
    edge_cpu_s_max: float = 0.0  # of a task
    bare: bool = False
    in_turn: bool = False


CASES = {
    "small": Case(10, 0.1, 60, round_s_max=0.050, hub_cpu_s_max=0.030, edge_cpu_s_max=0.050),
    "middle": Case(10, 10, 5, round_s_max=0.5),
    "large": Case(4, 100, 4, round_s_max=2.5, hub_cpu_s_max=1.8),
    "upload": Case(1, 100, 8, bare=True),
    "memory": Case(100, 100, 1, in_turn=True),
}


class MeasuredLink(EdgeLink):
    """The product's agent with a watch on its uploads; `turn` lets one edge train and upload at a time."""

    uploads_s: list[float]
    turn: asyncio.Semaphore
    kept: Path | None = None

    async def _do(self, order: Order) -> None:
        async with self.turn:
            await super()._do(order)
            if self.kept is not None:
                await asyncio.to_thread(shutil.rmtree, self.kept)

    async def _push(self, ready: Ready, offset: int, attempt: int) -> pb.UpdateReceipt:
        began = time.perf_counter()
        receipt = await super()._push(ready, offset, attempt)
        if ready.upload.round_number:
            self.uploads_s.append(time.perf_counter() - began)
        return receipt


async def edges_main(home: Path, case: Case, port: int, bare_port: int, pipe: Connection) -> None:
    """The edges' process: agents until the pipe says stop."""
    rng = np.random.default_rng(1)
    size = int(case.megabytes * 250_000)
    update = {"w": rng.normal(size=(FEATURES, CLASSES)), "b": np.zeros(CLASSES), "big": rng.normal(size=size) * 1e-3}
    data = encode_model({n: t.astype(np.float32) for n, t in update.items()})
    ones = np.ones(FEATURES)
    sums = {"count": 50 * ones, "sum": 0 * ones, "sum_squares": 50 * ones, "classes": np.full(CLASSES, 25.0)}
    counted, uploads_s, began = encode_model(sums), list[float](), list[float]()
    turn = asyncio.Semaphore(1 if case.in_turn else case.edges)

    async def train(order: Order, _model: bytes, _kept: bytes) -> Done:
        if order.task == "statistics":
            return Done(counted, 50)
        began.append(time.process_time())
        return Done(data, 50)

    conditions = ConditionReader()

    def agent(i: int) -> MeasuredLink:
        identity, kept = home / f"edge-{i}", home / f"edge-{i}" / "learn"
        channel = edge_channel(identity, "127.0.0.1", port)
        shelf = Shelf(FolderBlobs(identity / "models"), verify=lambda _signed: None, keep=1)

        async def fetch(order: Order) -> bytes:
            return await shelf.get(order.base, [HubSource(channel)])

        async def no_model(_order: Order) -> bytes:
            return b""

        link = MeasuredLink(
            channel=channel,
            participant=Participant(FolderBlobs(kept)),
            train=train,
            beat=lambda: Beat(50, 0, 0, ""),
            heartbeat_s=2.0,
            version="bench",
            fetch=no_model if case.in_turn else fetch,
            condition=lambda _at_work: conditions.read(),
            sign=EdgeSigner(identity).sign,
        )
        link.uploads_s, link.turn, link.kept = uploads_s, turn, kept if case.in_turn else None
        return link

    agents = [agent(i) for i in range(case.edges)]
    before = time.process_time()
    running = [asyncio.create_task(a.run()) for a in agents]
    await asyncio.to_thread(pipe.recv)
    spent = time.process_time() - before
    bare_s = [await bare_upload(home / "edge-0", bare_port, data) for _ in range(case.rounds)] if case.bare else []
    pipe.send((len(data), uploads_s, bare_s, spent / (case.edges * (case.rounds + 1))))
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)


async def bare_upload(identity: Path, port: int, data: bytes) -> float:
    """Seconds of one stream of the bytes, over a warm channel."""
    channel: Any = edge_channel(identity, "127.0.0.1", port)
    await channel.stream_unary("/bare/up")(iter([b"warm"]))
    began = time.perf_counter()
    await channel.stream_unary("/bare/up")(data[at : at + BARE_CHUNK] for at in range(0, len(data), BARE_CHUNK))
    seconds = time.perf_counter() - began
    await channel.close(None)
    return seconds


async def bare_listener(home: Path) -> tuple[Any, int]:
    """A handler that reads a stream and keeps nothing, with no check but TLS."""

    import grpc  # wardround must be first, and the formatter would put it last

    async def up(chunks: AsyncIterator[bytes], _context: Any) -> bytes:
        async for _ in chunks:
            pass
        return b"done"

    server = grpc.aio.server(options=[("grpc.max_receive_message_length", 8 << 20)])
    handler = grpc.method_handlers_generic_handler("bare", {"up": grpc.stream_unary_rpc_method_handler(up)})
    server.add_generic_rpc_handlers((handler,))
    pki = home / "pki"
    pair = [((pki / "hub.key").read_bytes(), (pki / "hub.pem").read_bytes())]
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials(pair, (pki / "ca.pem").read_bytes(), True))
    await server.start()
    return server, port


def edges_process(home: Path, case: Case, port: int, bare_port: int, pipe: Connection) -> None:
    """Runs in the edges' process."""
    asyncio.run(edges_main(home, case, port, bare_port, pipe))


def memory_mib(what: str) -> float:
    """VmRSS or VmHWM of this process."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 1024


async def measure(home: Path, case: Case) -> dict[str, Any]:
    """One case, with the hub in this process."""
    finished, loop = asyncio.Event(), asyncio.get_running_loop()
    seconds: list[float] = []
    marks: list[float] = []  # CPU as round 1 opens
    calls: dict[str, int] = {}
    coordinators: dict[str, Coordinator] = {}

    def on_event(event: RoundEvent) -> None:
        if event.kind == "opened" and event.round_number == 1:
            marks.append(time.process_time())
        if event.kind in ("refused", "failed", "abandoned"):
            print(f"round {event.round_number}: {event.kind} {event.edge} {event.reason} {event.detail}", file=sys.stderr)
        if event.kind == "committed" and event.round_number > 0:
            seconds.append(event.seconds)
        elif event.kind == "finished":
            loop.call_soon_threadsafe(finished.set)

    link = HubLink(
        studies=lambda: coordinators,
        peer_name=peer_name,
        peer_certificate=peer_certificate,
        on_attached=lambda _edge, _version: None,
        on_beat=lambda _edge, _beat: None,
        on_lost=lambda _edge: None,
        sign=lambda manifest: Signed(manifest, b"", b""),
    )
    handlers = link.handlers()
    for name in ("UploadPosition", "UploadUpdate"):
        handlers[name] = _counted(handlers[name], name, calls)
    server, port = await start_hub_listener(
        {SERVICE: handlers}, host="127.0.0.1", port=0, pki=home / "pki", denied=lambda _name, _serial: False
    )
    bare, bare_port = await bare_listener(home)
    ours, theirs = mp.get_context("spawn").Pipe()
    process = mp.get_context("spawn").Process(target=edges_process, args=(home, case, port, bare_port, theirs), daemon=True)
    process.start()
    size = int(case.megabytes * 250_000)
    resting = memory_mib("VmRSS")
    coordinators["transfer"] = Coordinator(
        parse_study(STUDY.format(rounds=case.rounds, edges=case.edges), where="bench"),
        settings=b"",
        initial=lambda: {
            "w": np.zeros((FEATURES, CLASSES), np.float32),
            "b": np.zeros(CLASSES, np.float32),
            "big": np.random.default_rng(0).standard_normal(size, np.float32),
        },
        shape=(FEATURES, CLASSES),
        strategy=make_strategy(StrategySettings(), LearnerSettings()),
        screen=OwnHistory("bench"),
        journal=Journal(FolderStorage(home / "study").connect),
        blobs=FolderBlobs(home / "study"),
        clock=SystemClock(),
        send=lambda edge, message: link.send(EdgeId(edge), message, "transfer"),
        on_event=on_event,
        commit_later=True,
    )
    until = time.monotonic() + DEADLINE_S
    while not finished.is_set():
        if time.monotonic() > until:
            raise TimeoutError(f"{len(seconds)} of {case.rounds} rounds after {DEADLINE_S:.0f} s")
        await asyncio.to_thread(coordinators["transfer"].tick)
        await asyncio.sleep(0.02)
    cpu_s, peak = time.process_time() - marks[0], memory_mib("VmHWM") - resting
    ours.send("stop")
    length, uploads_s, bare_s, edge_cpu_s = await asyncio.to_thread(ours.recv)
    await asyncio.to_thread(process.join, 20)
    await server.stop(0.1)
    await bare.stop(0.1)
    return _facts(case, seconds, cpu_s, peak, length, uploads_s, bare_s, edge_cpu_s, calls)


def _counted(handler: Any, name: str, calls: dict[str, int]) -> Any:
    """The handler, counting its calls."""
    import grpc

    kind = "stream_unary" if handler.request_streaming else "unary_unary"
    inner = getattr(handler, kind)

    async def counted(request: Any, context: Any) -> Any:
        calls[name] = calls.get(name, 0) + 1
        return await inner(request, context)

    return getattr(grpc, f"{kind}_rpc_method_handler")(counted, handler.request_deserializer, handler.response_serializer)


def _facts(
    case: Case,
    seconds: list[float],
    cpu_s: float,
    peak_mib: float,
    length: int,
    uploads_s: list[float],
    bare_s: list[float],
    edge_cpu_s: float,
    calls: dict[str, int],
) -> dict[str, Any]:
    upload = length / 1e6 / statistics.median(uploads_s)
    allowed = 3 * length / 2**20 + case.edges
    facts: dict[str, Any] = {
        "edges": case.edges,
        "megabytes": case.megabytes,
        "rounds": len(seconds),
        "round_s": statistics.median(seconds),
        "round_s_best": min(seconds),
        "hub_cpu_s_a_round": cpu_s / len(seconds),
        "edge_cpu_s_a_task": edge_cpu_s,
        "hub_peak_mib": peak_mib,
        "hub_peak_models": peak_mib * 2**20 / length,
        "hub_peak_mib_allowed": allowed,
        "calls_an_update": sum(calls.values()) / (case.edges * (len(seconds) + 1)),
        "upload_mb_s": upload,
    }
    kept = {
        "round": (facts["round_s"], case.round_s_max),
        "hub CPU": (facts["hub_cpu_s_a_round"], case.hub_cpu_s_max),
        "edge CPU": (edge_cpu_s, case.edge_cpu_s_max),
        "hub memory": (peak_mib, allowed if case.megabytes >= 100 else 0.0),  # below, the parts themselves are larger
        "calls": (facts["calls_an_update"], 3.0),
    }
    if bare_s:
        facts["bare_mb_s"] = length / 1e6 / statistics.median(bare_s)
        facts["upload_ratio_to_bare"] = upload / facts["bare_mb_s"]
        kept["bare stream over ours"] = (1 / facts["upload_ratio_to_bare"], 1 / 0.7)
    facts["missed"] = [f"{name} {value:.3g} > {limit:.3g}" for name, (value, limit) in kept.items() if limit and value > limit]
    return facts


def case_process(name: str, rounds: int, home: str | None, pipe: Connection) -> None:
    """Runs in the hub's process."""
    few_arenas()  # as the hub does
    case = CASES[name]
    if rounds:
        case = replace(case, rounds=rounds)
    with tempfile.TemporaryDirectory(dir=home) as folder:
        make_identities(Path(folder), case.edges)
        pipe.send(asyncio.run(measure(Path(folder), case)))


def main() -> int:
    """Measure, print, and end with 1 when something is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="small,middle,large,upload")
    parser.add_argument("--rounds", type=int, default=0)
    parser.add_argument("--home", help="where the files lie; a disk, not memory")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    found: dict[str, Any] = {}
    for name in given.only.split(","):
        ours, theirs = mp.get_context("spawn").Pipe()
        process = mp.get_context("spawn").Process(target=case_process, args=(name, given.rounds, given.home, theirs))
        process.start()
        theirs.close()
        try:
            facts = found[name] = ours.recv()
        except EOFError:
            facts = found[name] = {"missed": ["the case failed"]}
        process.join()
        if not given.json:
            _print(name, facts)
    if given.json:
        print(json.dumps(found))
    return 1 if any(f["missed"] for f in found.values()) else 0


def _print(name: str, f: dict[str, Any]) -> None:
    if "edges" in f:
        print(f"{name}: {f['edges']} x {f['megabytes']:g} MB, {f['rounds']} rounds")
        print(f"  round {f['round_s']:.3f} s (best {f['round_s_best']:.3f}), hub CPU {f['hub_cpu_s_a_round']:.3f} s a round")
        print(f"  edge CPU {f['edge_cpu_s_a_task']:.3f} s a task, {f['calls_an_update']:.2f} calls an update")
        print(f"  hub memory {f['hub_peak_mib']:.0f} MiB at its peak: {f['hub_peak_models']:.2f} models")
        print(f"  upload {f['upload_mb_s']:.0f} MB/s", end="")
        print(f"; bare stream {f['bare_mb_s']:.0f}: ratio {f['upload_ratio_to_bare']:.2f}" if "bare_mb_s" in f else "")
    for missed in f["missed"]:
        print(f"  {name} missed: {missed}")


if __name__ == "__main__":
    sys.exit(main())
