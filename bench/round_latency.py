"""From dispatch to commit: how long a round takes with a trivial model, 10 edges, mutual TLS 1.3 on loopback, and real disks.

    python bench/round_latency.py [--blind] [--edges 10] [--rounds 60] [--json]

The hub's link, coordinator, journal and blobs in this process; the edges' agents in another, each with its own certificate
and its own stream. Training costs nothing, so what is left is the product's own time: order, upload, triage, screen, fold,
fsync, commit. With --blind the updates are masked: two more exchanges with each edge before an update and two after it, all on
disk before they are said. Beside it the limit of the same run: one exchange of the same channels that does nothing, for all edges
at once.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing as mp
import statistics
import sys
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path

import numpy as np

from wardround.clock import SystemClock
from wardround.collect.storage import FolderStorage
from wardround.learn.blobs import FolderBlobs
from wardround.learn.condition import ConditionReader
from wardround.learn.coordinator import Coordinator
from wardround.learn.grpc_edge import EdgeLink
from wardround.learn.grpc_hub import HubLink
from wardround.learn.grpc_wire import SERVICE, Beat
from wardround.learn.journal import Journal
from wardround.learn.manifests import Signed
from wardround.learn.messages import Done, Order, RoundEvent
from wardround.learn.models import decode_model, encode_model
from wardround.learn.participant import Participant
from wardround.learn.privacy.agent import MaskAgent
from wardround.learn.privacy.blind import Masking
from wardround.learn.strategies import make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.records import EdgeId
from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.channel import edge_channel, peer_certificate, peer_name, start_hub_listener
from wardround.trust.peers import Peers
from wardround.trust.signatures import EdgeSigner
from wardround.watch.detectors.own_history import OwnHistory
from wardround.wire import wardround_pb2 as pb

FEATURES, CLASSES = 8, 2
LIMIT_S, BLIND_LIMIT_S = 0.3, 0.25
DEADLINE_S = 120.0
STUDY = 'name = "latency"\ntask = "activity"\n[rounds]\ncount = {rounds}\nedges_min = {edges}\nexamples_min = 1\n'
BLIND = '[privacy]\nmode = "blind"\n'


def make_identities(home: Path, edges: int) -> None:
    """An authority, the hub's certificate, one for each edge."""
    authority = Authority.create(home / "pki", "bench")
    key = new_key()
    write_private(home / "pki" / "hub.key", key_pem(key))
    write_private(home / "pki" / "hub.pem", authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0), 0o644)
    for i in range(edges):
        folder = home / f"edge-{i}"
        folder.mkdir()
        key = new_key()
        write_private(folder / "edge.key", key_pem(key))
        write_private(folder / "edge.pem", authority.issue_edge(f"edge-{i}", key.public_key(), 1.0), 0o644)
        write_private(folder / "ca.pem", authority.pem, 0o644)


async def train(order: Order, model: bytes, _kept: bytes) -> Done:
    """An update of ones; sums of ones in the statistics round."""
    if order.task == "statistics":
        ones = np.ones(FEATURES)
        sums = {"count": 50 * ones, "sum": 0 * ones, "sum_squares": 50 * ones, "classes": np.full(CLASSES, 25.0)}
        return Done(encode_model(sums), 50)
    base = decode_model(model)
    return Done(encode_model({n: np.full_like(base[n], 1e-3) for n in ("w", "b")}), 50)


async def inline(order: Order) -> bytes:
    """Every model of this bench travels inside its order."""
    raise AssertionError(order.base)


def mask_agent(identity: Path) -> MaskAgent:
    """What hides an edge's updates in a blind study."""
    peers = Peers((identity / "ca.pem").read_bytes, SystemClock().now_us)
    signer = EdgeSigner(identity)
    return MaskAgent(identity.name, FolderBlobs(identity / "masks"), sign=signer.sign_masks, verify=peers.check)


async def edges_main(home: Path, edges: int, port: int, pipe: Connection) -> None:
    """The edges' process: agents until the pipe says stop, then the empty exchange as often as the rounds were."""
    channels = [edge_channel(home / f"edge-{i}", "127.0.0.1", port) for i in range(edges)]
    conditions = ConditionReader()
    agents = [
        EdgeLink(
            channel=channel,
            participant=Participant(FolderBlobs(home / f"edge-{i}" / "learn")),
            train=train,
            beat=lambda: Beat(50, 0, 0, ""),
            heartbeat_s=2.0,
            version="bench",
            fetch=inline,
            condition=lambda _at_work: conditions.read(),
            sign=EdgeSigner(home / f"edge-{i}").sign,
            masks=mask_agent(home / f"edge-{i}"),
        )
        for i, channel in enumerate(channels)
    ]
    running = [asyncio.create_task(agent.run()) for agent in agents]
    repeats = await asyncio.to_thread(pipe.recv)
    calls = [
        channel.unary_unary(
            f"/{SERVICE}/UploadPosition",
            request_serializer=pb.UploadQuery.SerializeToString,
            response_deserializer=pb.UploadOffset.FromString,
        )
        for channel in channels
    ]
    floor = []
    for _ in range(repeats):
        began = time.perf_counter()
        await asyncio.gather(*(call(pb.UploadQuery(study="latency", round=10**6, sha256="0" * 64)) for call in calls))
        floor.append(time.perf_counter() - began)
    pipe.send(floor)
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    await asyncio.gather(*(channel.close(None) for channel in channels))


def edges_process(home: Path, edges: int, port: int, pipe: Connection) -> None:
    """Runs in the other process."""
    asyncio.run(edges_main(home, edges, port, pipe))


async def measure(home: Path, edges: int, rounds: int, blind: bool = False) -> tuple[list[float], list[float]]:
    """Seconds of each round, and of each empty exchange with all edges."""
    finished = asyncio.Event()
    loop = asyncio.get_running_loop()
    seconds: list[float] = []
    coordinators: dict[str, Coordinator] = {}

    def on_event(event: RoundEvent) -> None:
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
    server, port = await start_hub_listener(
        {SERVICE: link.handlers()}, host="127.0.0.1", port=0, pki=home / "pki", denied=lambda _name, _serial: False
    )
    ours, theirs = mp.get_context("spawn").Pipe()
    process = mp.get_context("spawn").Process(target=edges_process, args=(home, edges, port, theirs), daemon=True)
    process.start()
    rng = np.random.default_rng(0)
    coordinators["latency"] = Coordinator(
        parse_study(STUDY.format(rounds=rounds, edges=edges) + (BLIND if blind else ""), where="bench"),
        settings=b"",
        initial=lambda: {"w": rng.normal(size=(FEATURES, CLASSES)).astype(np.float32), "b": np.zeros(CLASSES, np.float32)},
        shape=(FEATURES, CLASSES),
        strategy=make_strategy(StrategySettings(), LearnerSettings()),
        screen=OwnHistory("bench"),
        journal=Journal(FolderStorage(home / "study").connect),
        blobs=FolderBlobs(home / "study"),
        clock=SystemClock(),
        send=lambda edge, message: link.send(EdgeId(edge), message, "latency"),
        on_event=on_event,
        commit_later=True,
        masking=Masking(
            Peers((home / "pki" / "ca.pem").read_bytes, SystemClock().now_us).check,
            lambda edge, step: link.send(edge, step, "latency"),
        ),
    )
    until = time.monotonic() + DEADLINE_S
    while not finished.is_set():
        if time.monotonic() > until:
            raise TimeoutError(f"{len(seconds)} of {rounds} rounds after {DEADLINE_S:.0f} s")
        await asyncio.to_thread(coordinators["latency"].tick)
        await asyncio.sleep(0.02)
    ours.send(rounds)
    floor: list[float] = await asyncio.to_thread(ours.recv)
    await asyncio.to_thread(process.join, 10)
    await server.stop(0.1)
    return seconds, floor


def main() -> int:
    """Measure, print, and end with 1 when the limit is not kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--blind", action="store_true", help="mask the updates")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    limit_s = BLIND_LIMIT_S if given.blind else LIMIT_S
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        make_identities(home, given.edges)
        seconds, floor = asyncio.run(measure(home, given.edges, given.rounds, given.blind))
    facts = {
        "edges": given.edges,
        "rounds": len(seconds),
        "dispatch_to_commit_s": {"median": statistics.median(seconds), "p95": sorted(seconds)[int(0.95 * len(seconds))]},
        "empty_exchange_s": {"median": statistics.median(floor)},
        "ratio_to_empty_exchange": statistics.median(seconds) / statistics.median(floor),
        "blind": given.blind,
        "limit_s": limit_s,
    }
    if given.json:
        print(json.dumps(facts))
    else:
        late = facts["dispatch_to_commit_s"]["p95"]
        print(f"{given.edges} edges, {len(seconds)} rounds{', masked' if given.blind else ''}, mutual TLS 1.3 on loopback")
        print(f"  dispatch to commit   median {statistics.median(seconds) * 1e3:6.1f} ms, 95 % {late * 1e3:6.1f} ms")
        print(f"  empty exchange       median {statistics.median(floor) * 1e3:6.1f} ms   (the limit: the same channels, no work)")
        print(f"  ratio                {facts['ratio_to_empty_exchange']:6.1f}")
        print(f"  to keep              {limit_s * 1e3:6.1f} ms")
    return 0 if statistics.median(seconds) < limit_s else 1


if __name__ == "__main__":
    sys.exit(main())
