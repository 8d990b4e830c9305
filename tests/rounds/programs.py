"""A hub and edges as real processes on loopback over mutual TLS, with the product's own parts and a training that costs nothing.

What is left out is what rounds do not need: devices, the lake, the console. Each process is started by fork from a clean server
that has its imports done, so a restart after a SIGKILL takes tens of milliseconds and a seed plays in a few seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import itertools
import json
import multiprocessing as mp
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from wardround.clock import SystemClock
from wardround.collect.storage import FolderStorage
from wardround.edge import _over
from wardround.learn.blobs import FolderBlobs
from wardround.learn.condition import ConditionReader
from wardround.learn.coordinator import Coordinator
from wardround.learn.grpc_edge import EdgeLink
from wardround.learn.grpc_hub import HubLink
from wardround.learn.grpc_relay import HubSource, RelayLink, RelaySource
from wardround.learn.grpc_wire import RELAY, SERVICE, Beat
from wardround.learn.journal import Journal
from wardround.learn.manifests import Signed
from wardround.learn.messages import Done, Order
from wardround.learn.models import Parameters
from wardround.learn.participant import Participant
from wardround.learn.privacy.agent import MaskAgent
from wardround.learn.privacy.blind import Masking
from wardround.learn.privacy.ledger import NAME as LEDGER
from wardround.learn.privacy.ledger import FileLedger
from wardround.learn.schedule import lacks
from wardround.learn.shelf import Shelf
from wardround.learn.strategies import make_strategy
from wardround.learn.study import Study, parse_study
from wardround.ports import free_port
from wardround.settings import ScheduleSettings, parse_settings
from wardround.simulation.toy import CLASSES, FEATURES, toy_model, toy_training
from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.channel import HubChannel, peer_certificate, peer_name, start_hub_listener, start_listener
from wardround.trust.identity import IdentityFolder
from wardround.trust.peers import Peers
from wardround.trust.signatures import EdgeSigner, HubSigner, check_signature
from wardround.watch.detectors.screens import Screens

TICK_S = 0.02


def make_identities(home: Path, edges: list[str]) -> None:
    """An authority, the hub's certificate, and for each edge its own and its listener's."""
    authority = Authority.create(home / "pki", "test")
    key = new_key()
    write_private(home / "pki" / "hub.key", key_pem(key))
    write_private(home / "pki" / "hub.pem", authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], 1.0), 0o644)
    for name in edges:
        folder = home / name
        folder.mkdir()
        key = new_key()
        write_private(folder / "edge.key", key_pem(key))
        write_private(folder / "edge.pem", authority.issue_edge(name, key.public_key(), 1.0), 0o644)
        write_private(folder / "listener.pem", authority.issue_listener(name, key.public_key(), ["127.0.0.1"], 1.0), 0o644)
        write_private(folder / "ca.pem", authority.pem, 0o644)


# -- what is trained


class Parts(Protocol):
    """What a study needs beside rounds; given to processes by its name, "module:attribute"."""

    shape: tuple[int, int]  # features, classes

    def settings(self, study: Study) -> bytes: ...

    def initial(self, study: Study) -> Parameters: ...

    def train(self, edge: str, order: Order, model: bytes, kept: bytes) -> Done: ...


class Toy:
    """A training that costs nothing."""

    shape = (FEATURES, CLASSES)

    def settings(self, study):
        return b""

    def initial(self, study):
        return toy_model(study.learner.seed)

    def train(self, edge, order, model, kept):
        return toy_training(edge, order, model, kept)


toy = Toy()
TOY = "tests.rounds.programs:toy"


def _parts(name: str) -> Parts:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


# -- the hub's process


def hub_main(home: Path, text: str, port: int, parts: str = TOY, edges: int = 0) -> None:
    asyncio.run(_hub(home, text, port, _parts(parts), edges))


async def _hub(home: Path, text: str, port: int, parts: Parts, edges: int) -> None:
    """With `edges` the first round waits until so many have attached."""
    study = parse_study(text, where="test")
    attached: set[str] = set()
    coordinators: dict[str, Coordinator] = {}
    signer = HubSigner(home / "pki")
    link = HubLink(
        studies=lambda: coordinators,
        peer_name=peer_name,
        peer_certificate=peer_certificate,
        on_attached=lambda edge, _version: attached.add(edge),
        on_beat=lambda _edge, _beat: None,
        on_lost=lambda _edge: None,
        sign=lambda manifest: Signed(manifest, signer.sign(manifest), signer.certificate),
    )
    folder = home / "study"
    coordinators[study.name] = coordinator = Coordinator(
        study,
        settings=parts.settings(study),
        initial=lambda: parts.initial(study),
        shape=parts.shape,
        strategy=make_strategy(study.strategy, study.learner),
        screen=Screens("test"),
        journal=Journal(FolderStorage(folder).connect),
        blobs=FolderBlobs(folder),
        clock=SystemClock(),
        send=lambda edge, message: link.send(edge, message, study.name),
        on_event=lambda _event: None,
        commit_later=True,
        ledger=FileLedger(folder / LEDGER) if study.privacy.has_budget else None,
        masking=Masking(
            Peers((home / "pki" / "ca.pem").read_bytes, SystemClock().now_us).check,
            lambda edge, step: link.send(edge, step, study.name),
        ),
    )
    server, _ = await start_hub_listener(  # kept: a server that nobody holds stops listening
        {SERVICE: link.handlers()}, host="127.0.0.1", port=port, pki=home / "pki", denied=lambda _name, _serial: False
    )
    while server is not None:
        coordinator.pause(paused=len(attached) < edges)
        await asyncio.to_thread(coordinator.tick)
        (home / "hub.json").write_text(json.dumps({"sent": link.sent_bytes, "rounds": len(coordinator.committed())}))
        if coordinator.finished:
            (home / "finished").touch()
        await asyncio.sleep(TICK_S)


# -- an edge's process


def edge_main(home: Path, name: str, port: int, relay_port: int, seed: int, train_s: float, parts: str = TOY) -> None:
    asyncio.run(_edge(home, name, port, relay_port, random.Random(f"{seed}/{name}"), train_s, _parts(parts)))


class ToldParticipant(Participant):
    """Writes down every receipt, durably: what an edge was told counts must count."""

    def __init__(self, blobs: FolderBlobs, path: Path) -> None:
        super().__init__(blobs)
        self._path = path

    def settle(self, study: str, *, counts: bool) -> None:
        kept = json.loads(self._read(f"{study}.json") or b"{}")
        super().settle(study, counts=counts)
        if counts and kept:
            with self._path.open("a") as out:
                out.write(f"{kept['round_number']}\n")
                out.flush()
                os.fsync(out.fileno())


async def _edge(home: Path, name: str, port: int, relay_port: int, chance: random.Random, train_s: float, parts: Parts) -> None:
    identity = home / name
    channel, signer = HubChannel(identity, "127.0.0.1", port), EdgeSigner(identity)
    authority = (identity / "ca.pem").read_bytes()

    def verify(signed: Signed) -> None:
        now_us = SystemClock().now_us()
        check_signature(signed.manifest, signed.signature, signed.certificate, authority, now_us=now_us)

    hub = HubSource(channel)
    shelf = Shelf(FolderBlobs(identity / "models"), verify=verify)
    sources: list = [hub]
    relay = RelayLink(shelf, peer_name=peer_name, sources=lambda: sources)
    address, server = "", None
    if relay_port:
        files = (identity / "edge.key", identity / "listener.pem", identity / "ca.pem")
        server, _ = await start_listener(
            {RELAY: relay.handlers()},
            host="127.0.0.1",
            port=relay_port,
            files=files,
            denied=lambda _name, _serial: False,
            setting="relay.port",
        )
        address = f"127.0.0.1:{relay_port}"

    async def fetch(order):
        relay.allow(order.children)
        above = [RelaySource(identity, order.relay, order.relay_address)] if order.relay_address else []
        sources[:] = [*above, hub]
        data = await shelf.get(order.base, list(sources))
        (identity / "fetched.json").write_text(json.dumps({"model": order.base, "relay": order.relay, "sent": relay.sent_bytes}))
        return data

    conditions = ConditionReader(identity / "root", metered=("wwan*",))  # files as Linux has them, written by the test
    own = identity / "schedule.toml"
    schedule = parse_settings(own.read_text() if own.exists() else "", ScheduleSettings, where=str(own))

    def condition(at_work):
        read = conditions.read(at_work=at_work)
        return replace(read, unwilling=lacks(schedule, read, SystemClock().now_us(), at_work=at_work))

    async def train(order, model, kept):
        await asyncio.sleep(chance.uniform(0, train_s))
        return await asyncio.to_thread(parts.train, name, order, model, kept)

    link = EdgeLink(
        channel=channel,
        participant=ToldParticipant(FolderBlobs(identity / "learn"), identity / "receipts"),
        train=train,
        beat=lambda: Beat(50, 0, 0, ""),
        heartbeat_s=0.5,
        version="test",
        fetch=fetch,
        condition=condition,
        sign=signer.sign,
        relay_address=address,
        masks=MaskAgent(
            name,
            FolderBlobs(identity / "masks"),
            sign=signer.sign_masks,
            verify=Peers((identity / "ca.pem").read_bytes, SystemClock().now_us).check,
        ),
    )
    rotate = identity / "rotate_s"
    if rotate.exists():
        renewed = asyncio.Event()
        changing = asyncio.create_task(_rotate(home, name, float(rotate.read_text()), (channel, signer), renewed))
        await _over(renewed, asyncio.Event().wait, link.run)
        changing.cancel()
    await link.run()
    del server


async def _rotate(home: Path, name: str, every_s: float, users: tuple[HubChannel, EdgeSigner], renewed: asyncio.Event) -> None:
    """A new key and new certificates again and again, taken into use as an edge takes a renewal."""
    authority, folder = Authority.load(home / "pki"), IdentityFolder(home / name)
    for number in itertools.count(1):
        await asyncio.sleep(every_s)
        key = new_key()
        folder.replace(
            key,
            certificate=authority.issue_edge(name, key.public_key(), 1.0),
            listener=authority.issue_listener(name, key.public_key(), ["127.0.0.1"], 1.0),
            authority=authority.pem,
        )
        for user in users:
            user.renew()
        renewed.set()
        (folder.path / "rotations").write_text(str(number))


# -- a hub that is there and not well


def sick_main(home: Path, port: int) -> None:
    asyncio.run(_sick(home, port))


async def _sick(home: Path, port: int) -> None:
    """The hub's address and certificate; every call fails, each time in another way."""
    import grpc

    codes = itertools.cycle(c for c in grpc.StatusCode if c is not grpc.StatusCode.OK)
    calls = 0

    async def fail(_request, context):
        nonlocal calls
        calls += 1
        (home / "sick").write_text(str(calls))
        await context.abort(next(codes), "not well")

    methods = {
        "Attach": grpc.stream_stream_rpc_method_handler(fail),
        "FetchModel": grpc.unary_stream_rpc_method_handler(fail),
        "UploadPosition": grpc.unary_unary_rpc_method_handler(fail),
        "UploadUpdate": grpc.stream_unary_rpc_method_handler(fail),
    }
    server, _ = await start_hub_listener(
        {SERVICE: methods}, host="127.0.0.1", port=port, pki=home / "pki", denied=lambda _name, _serial: False
    )
    await asyncio.Event().wait()  # until it is killed
    del server


# -- the world around them


class World:
    """The processes of one run, by name; kill and start them as you like."""

    def __init__(
        self, home: Path, text: str, edges: list[str], *, seed: int = 0, train_s: float = 0.05, relays=(), parts: str = TOY
    ) -> None:
        self.home, self.text, self.edges = home, text, edges
        self.study: Study = parse_study(text, where="test")
        make_identities(home, edges)
        self.port = free_port()
        self.doors: dict[str, int] = {}  # by edge: the port it takes for the hub's, where something stands between
        self._relays = {edge: free_port() for edge in relays}
        self._seed, self._train_s, self._parts = seed, train_s, parts
        self._context = mp.get_context("forkserver")
        accounting = ["dp_accounting.pld", "dp_accounting.rdp"] if self.study.privacy.has_budget else []
        self._context.set_forkserver_preload(["tests.rounds.programs", parts.partition(":")[0], *accounting])
        self._processes: dict[str, mp.process.BaseProcess] = {}

    def __enter__(self) -> World:
        for name in ("hub", *self.edges):
            self.start(name)
        return self

    def __exit__(self, *_: object) -> None:
        for name in list(self._processes):
            self.kill(name)

    def start(self, name: str) -> None:
        if name == "sick":
            process = self._context.Process(target=sick_main, args=(self.home, self.port), daemon=True)
        elif name == "hub":
            together = 0 if self._parts == TOY else len(self.edges)
            arguments = (self.home, self.text, self.port, self._parts, together)
            process = self._context.Process(target=hub_main, args=arguments, daemon=True)
        else:
            port = self.doors.get(name, self.port)
            arguments = (self.home, name, port, self._relays.get(name, 0), self._seed, self._train_s, self._parts)
            process = self._context.Process(target=edge_main, args=arguments, daemon=True)
        process.start()
        self._processes[name] = process

    def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.join(10)

    def running(self) -> list[str]:
        return sorted(self._processes)

    def rounds(self) -> int:
        """Rounds that the hub says are over."""
        return int(self.said().get("rounds", 0))

    def said(self) -> dict:
        try:
            return json.loads((self.home / "hub.json").read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}

    def wait(self, holds, seconds: float) -> bool:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            if holds():
                return True
            time.sleep(0.01)
        return holds()

    def finished(self) -> bool:
        return (self.home / "finished").exists()

    def journal(self) -> Journal:
        return Journal(FolderStorage(self.home / "study").connect)

    def receipts(self) -> set[tuple[str, int]]:
        found = set()
        for edge in self.edges:
            with contextlib.suppress(FileNotFoundError):
                found |= {(edge, int(line)) for line in (self.home / edge / "receipts").read_text().split()}
        return found
