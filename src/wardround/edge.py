"""The edge: settings in, running program out. Builds the parts and runs them; computes nothing itself.

One process may run several edges (a rehearsal, a small site): they share the asyncio loop and one training worker, and
nothing else.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import gc
import math
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from wardround import __version__
from wardround.bedside.live import HeldOnLive
from wardround.bedside.opening import forget_at_bedside, open_bedside
from wardround.clock import SystemClock
from wardround.collect.asked import Asked
from wardround.collect.broker import EmbeddedBroker
from wardround.collect.collector import Collector, Message
from wardround.collect.forwarder import Forwarder, may_leave
from wardround.collect.gateway import Gateway
from wardround.collect.grpc_link import run_forwarding
from wardround.collect.https_link import HttpsListener, Refused
from wardround.collect.imports import Imports, take_waiting
from wardround.collect.intake import Refusal
from wardround.collect.local_store import LocalStore
from wardround.collect.mosquitto import Mosquitto
from wardround.collect.mqtt_link import COLLECTOR, CollectorLink, secret_at_broker
from wardround.collect.names import SignalNames
from wardround.collect.pace import Pace
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import DeviceRegistry
from wardround.collect.sealed_rows import run_sealing
from wardround.collect.spool import AHEAD_MAX, Spool, SpoolFacts, read_facts
from wardround.collect.storage import FolderStorage
from wardround.erasing.edge import EdgeErasing
from wardround.errors import HomeTaken, StorageFull, TrustError, WardroundError
from wardround.learn.blobs import FolderBlobs
from wardround.learn.condition import Condition, ConditionReader
from wardround.learn.drills import TASK as DRILL
from wardround.learn.drills import DrillPart, SignedCharter
from wardround.learn.grpc_edge import EdgeLink
from wardround.learn.grpc_relay import HubSource, RelayLink, RelaySource
from wardround.learn.grpc_wire import NAME_MAX, RELAY, WORD_MAX, Beat
from wardround.learn.heartbeats import HEARTBEAT_S
from wardround.learn.held import HeldModels
from wardround.learn.limits import Limits
from wardround.learn.manifests import Signed
from wardround.learn.messages import Done, Order
from wardround.learn.participant import Participant
from wardround.learn.privacy.agent import MaskAgent
from wardround.learn.privacy.edge_masks import Rostered
from wardround.learn.privacy.patient_budget import Bound
from wardround.learn.privacy.willing import why_not
from wardround.learn.privacy.wire import MasksRefused
from wardround.learn.receipts import HubAnswer
from wardround.learn.schedule import check_schedule, lacks
from wardround.learn.shelf import ModelSource, Shelf
from wardround.learn.trainer import Source, Trainer, Work
from wardround.log_lines import chosen_log
from wardround.own_watch import OwnWatches, wanted
from wardround.ready import write_ready
from wardround.records import Consent, Observation, is_sandbox
from wardround.settings import EdgeSettings, load_settings
from wardround.trust.at_rest import Seal, turn_on
from wardround.trust.audit import Head
from wardround.trust.audit_files import KeptHeads, open_log
from wardround.trust.certificates import check_certificate, check_key_files
from wardround.trust.channel import HubChannel, peer_name, start_listener
from wardround.trust.consent import ConsentRecord, ConsentRegister
from wardround.trust.denied import DenyList
from wardround.trust.duties import erased_here, erased_to_wire, head_of, head_to_wire, known_of, wishes_of
from wardround.trust.erasures import ErasureBook
from wardround.trust.identity import IdentityFolder
from wardround.trust.peers import Peers
from wardround.trust.pseudonym_key import pseudonyms_of
from wardround.trust.pseudonyms import Pseudonyms
from wardround.trust.renewal import Renewer
from wardround.trust.renewal_link import ask_renewal
from wardround.trust.roster import LastingKey, PinnedRoster
from wardround.trust.signatures import EdgeSigner, check_audit_signature, check_drill_signature, check_signature
from wardround.trust.study_names import give_names
from wardround.wire import wardround_pb2 as pb

log = structlog.get_logger(__name__)
LOOK_S = 2.0
WATCH_S = 1.0
LIVE_S = 60.0
IMPORT_S = 10.0
HOLD_S = 5.0  # an import that works the gate lets go sooner
PRUNE_S = 3600.0
# Named, not imported: the transforms and SciPy under them belong to the worker, and weigh as much as the rest of an edge.
EXAMPLES, VALUES = "wardround.training_data:examples_of", "wardround.training_data:values_of"
SOURCES = {"survey": VALUES, "flower": "wardround.flower.answer:answer"}  # by task; EXAMPLES otherwise
Alter = Callable[[Order, Done], Done]


@dataclass(frozen=True, slots=True)
class EdgeHome:
    """The places in an edge's home, and what stands in its settings."""

    path: Path
    settings: EdgeSettings

    @classmethod
    def open(cls, path: Path) -> EdgeHome:
        """Read edge.toml.

        Raises:
            SettingsError: it is missing or does not hold.
        """
        return cls(path, load_settings(path / "edge.toml", EdgeSettings))

    def registry(self) -> DeviceRegistry:
        """The devices of this edge."""
        return DeviceRegistry(self.path / "devices.toml")

    def consents(self) -> ConsentRegister:
        """The consents of its patients."""
        return ConsentRegister(self.path / "consent.sqlite")

    def erasures(self) -> ErasureBook:
        """Who was erased here."""
        return ErasureBook(self.path / "erasures.sqlite")

    def names(self) -> SignalNames:
        """What its devices call signals."""
        return SignalNames(self.path / "names.toml")

    def seal(self) -> Seal:
        """What keeps its patients' values unreadable on its disk, where the settings say so.

        Raises:
            KeyRefused: the key-encryption key cannot be had, or a key is damaged.
        """
        return turn_on(self.path, self.settings.at_rest.kek)

    def quarantine(self, seal: Seal | None = None) -> Quarantine:
        """What it could not take."""
        return Quarantine(FolderStorage(self.path / "spool"), seal or self.seal(), self._owner())

    def waiting(self) -> SpoolFacts:
        """What waits for the hub; a running edge is not disturbed."""
        return read_facts(FolderStorage(self.path / "spool"))

    def receipts(self) -> list[HubAnswer]:
        """What the hub answered to its updates, the newest first."""
        return Participant(FolderBlobs(self.path / "learn")).receipts.newest()

    def pseudonyms(self) -> Pseudonyms:
        """Patients to subjects.

        Raises:
            TrustError: this home was restored from a backup, and its key is not back.
        """
        return pseudonyms_of(self.path)

    def imports(self, seal: Seal | None = None) -> Imports:
        """What the command line hands over from files."""
        return Imports(FolderStorage(self.path / "spool"), seal or self.seal(), self._owner())

    def _owner(self) -> Callable[[str], str]:
        """The subject of a device; empty for one that is not registered."""
        registry, pseudonyms = self.registry(), self.pseudonyms()

        def owner(device: str) -> str:
            known = registry.get(device)
            return pseudonyms.of(known.patient) if known is not None else ""

        return owner

    @contextmanager
    def held(self, wait_s: float = 0.0) -> Iterator[None]:
        """Be the one process that works this home's gate; a process that ends, however it ends, lets go.

        Raises:
            HomeTaken: another process held it for so long.
        """
        until = time.monotonic() + wait_s
        with (self.path / "gate.lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as exc:
                    if time.monotonic() >= until:
                        raise HomeTaken(self.path) from exc
                    time.sleep(0.05)
            yield

    @contextmanager
    def gate(self, consents: ConsentRegister) -> Iterator[Gateway]:
        """The gate of an edge that does not run, for one that holds the home."""
        seal = self.seal()
        spool, quarantine = Spool(FolderStorage(self.path / "spool"), self.settings.spool, seal), self.quarantine(seal)
        local = LocalStore(FolderStorage(self.path / "local"), seal)
        try:
            yield Gateway(
                edge=self.settings.name,
                registry=self.registry(),
                signals=self.names().table(),
                consent=consents.choose,
                pseudonym=self.pseudonyms().of,
                spool=spool,
                local_store=local,
                quarantine=quarantine,
                clock=SystemClock(),
                simulated=self.settings.simulated,
                keeps=consents.keeps,
            )
        finally:
            for part in (spool, quarantine, local):
                part.close()


@dataclass(frozen=True, slots=True)
class _Devices:
    """The way devices come in: where they connect, what runs for it, how it stops, how it takes a renewed certificate."""

    port: int
    works: list[Coroutine[Any, Any, None]]
    stop: Callable[[], Awaitable[None]]
    renew: Callable[[], None] = lambda: None


class Edge:
    """One edge's parts. `run` brings them up and stays until cancelled."""

    def __init__(self, home: EdgeHome, trainer: Trainer, alter: Alter | None = None) -> None:
        """`alter` is for rehearsals of faults alone: it may change an update before it is kept and sent.

        Raises:
            CertificateRefused: the identity is missing, expired or of another authority.
            StudyError: its schedule cannot be kept.
        """
        self._home, self._trainer, self._alter = home, trainer, alter
        settings, identity = home.settings, home.path / "identity"
        self.name = settings.name
        clock = SystemClock()
        check_key_files(home.path)
        _check_identity(identity, clock.now_us())
        check_schedule(settings.schedule)
        self._conditions = ConditionReader(metered=settings.metered_interfaces)
        self._registry, self._consents = home.registry(), home.consents()
        storage = FolderStorage(home.path / "spool")
        self._seal = home.seal()
        self._spool = Spool(storage, settings.spool, self._seal)
        self._local = LocalStore(FolderStorage(home.path / "local"), self._seal)
        self._quarantine = home.quarantine(self._seal)
        self._names = home.names()
        self._imports = home.imports(self._seal)
        self._gateway = Gateway(
            edge=settings.name,
            registry=self._registry,
            signals=self._names.table(),
            consent=self._consents.choose,
            pseudonym=home.pseudonyms().of,
            spool=self._spool,
            local_store=self._local,
            quarantine=self._quarantine,
            clock=clock,
            simulated=settings.simulated,
            keeps=self._consents.keeps,
            on_kept=self._kept,
        )
        self._erasures, self._audit = home.erasures(), open_log(home.path, clock)
        self._bedside = open_bedside(
            home.path, settings, local=self._local, consents=self._consents, audit=self._audit, clock=clock
        )
        self._heads = KeptHeads(home.path / "audit" / "hub-heads.json")
        self._erasing = EdgeErasing(
            settings.name,
            home.path,
            book=self._erasures,
            consents=self._consents,
            registry=self._registry,
            pseudonym=home.pseudonyms().of,
            spool=self._spool,
            local_store=self._local,
            quarantine=self._quarantine,
            imports=self._imports,
            clock=clock,
            forget=self._forget_at_bedside,
            seal=self._seal,
        )
        self._clock = clock
        self._peers = Peers((identity / "ca.pem").read_bytes, clock.now_us)
        self._participant = Participant(FolderBlobs(home.path / "learn"))
        self._identity, self._denied = identity, DenyList()
        self._shelf = Shelf(
            FolderBlobs(home.path / "learn" / "models"), verify=self._check_manifest, keep=settings.relay.models_max
        )
        self._held = HeldModels(FolderBlobs(home.path / "learn" / "held"))
        self._drills = DrillPart(
            settings.name,
            allowed=settings.learning.drills,
            check=self._check_charter,
            now_us=clock.now_us,
            note=lambda what, **facts: self._audit.add("system", what, "hub", **facts),
        )
        self._examples = 0
        self._model = ""
        self._sources: list[ModelSource] = []  # as the newest order says: edges below may ask before the next one is here
        self._relay: RelayLink | None = None
        self._mosquitto: Mosquitto | None = None

    async def run(self, on_ready: Callable[[dict[str, object]], None]) -> None:
        """Open the listener for devices and the streams to the hub; `on_ready` gets the facts.

        Raises:
            PortTaken: another process listens where devices should connect.
        """
        settings, identity = self._home.settings, self._home.path / "identity"
        collector = Collector(
            self._gateway,
            queue_max=settings.mqtt.queue_messages_max,
            commit_interval_s=settings.spool.commit_interval_s,
            commit_observations_max=settings.spool.commit_observations_max,
        )
        devices = await self._open_broker(collector)
        https = self._https(collector)
        https_port = await https.start() if https is not None else 0
        channel, signer = HubChannel(identity, settings.hub_host, settings.hub_port), EdgeSigner(identity)
        hub = HubSource(channel)
        self._sources = [hub]
        relay = self._relay = RelayLink(self._shelf, peer_name=peer_name, sources=lambda: self._sources)
        address, stop_relay = await self._listen_for_edges(relay)
        link = EdgeLink(
            channel=channel,
            participant=self._participant,
            train=self._train,
            beat=self._beat,
            heartbeat_s=HEARTBEAT_S,
            version=__version__,
            fetch=lambda order: self._fetch(order, relay, hub),
            condition=self._condition,
            sign=signer.sign,
            relay_address=address,
            hold=lambda release: self._held.hold(release, self._shelf, [hub]),
            on_denied=self._deny,
            on_other=self._asked,
            greet=self._greet,
            masks=self._mask_agent(signer),
            on_lie=self._hub_lied,
            declines=self._declines,
            drills=self._drills,
            watch=OwnWatches(self.name, FolderBlobs(self._home.path / "learn" / "watch"), signer.sign_own_report).look,
        )
        log.info("edge runs", edge_id=self.name, mqtt_port=devices.port, hub=f"{settings.hub_host}:{settings.hub_port}")
        forwarder = Forwarder(
            self._spool,
            self._consent_records,
            self._may_leave,
            wishes_taken=lambda: self._consents.taken,
            pace=Pace(settings.link),
            clock=self._clock,
        )
        renewed = asyncio.Event()

        async def renew() -> None:
            channel.renew()
            signer.renew()  # at once with the channel: the hub checks an update by the caller's certificate
            devices.renew()
            if https is not None:
                https.renew()
            renewed.set()

        renewer = Renewer(
            IdentityFolder(identity),
            clock=self._clock,
            ask=lambda csr, listener: ask_renewal(channel, csr, listener),
            on_renewed=renew,
        )
        tasks = [
            *(asyncio.create_task(work) for work in devices.works),
            asyncio.create_task(_over(renewed, lambda: run_forwarding(channel, forwarder, self._refused), link.run)),
            asyncio.create_task(renewer.run()),
            asyncio.create_task(self._keep_house()),
            asyncio.create_task(run_sealing((self._spool, self._local, self._quarantine, self._imports), self._seal)),
            asyncio.create_task(self._look(collector)),
            asyncio.create_task(self._import(collector)),
            asyncio.create_task(self._watch()),
            asyncio.create_task(self._watch_by_models()),
        ]
        gc.freeze()  # what is there now stays: the collector of garbage need not walk over it
        on_ready({"name": self.name, "mqtt_port": devices.port, "https_port": https_port, "relay_address": address})
        try:
            await _first_failure(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await stop_relay()
            await channel.close()
            if https is not None:
                await https.stop()
            await devices.stop()

    def _https(self, collector: Collector) -> HttpsListener | None:
        """The listener for devices that speak no MQTT; None where the settings have none."""
        settings = self._home.settings.https
        if not settings.host:
            return None

        async def submit(device: str, boot: str, seq: int, payload: bytes) -> None:
            if not self._spool.restored and seq > self._spool.mark(device, boot).contiguous + AHEAD_MAX:
                raise Refused(409, f"it is more than {AHEAD_MAX} messages ahead: send the earlier ones first")
            kept = asyncio.Event()
            await collector.offer(Message(device, boot, seq, payload, acknowledge=kept.set))
            await kept.wait()

        return HttpsListener(submit, devices=self._registry, identity=self._identity, settings=settings)

    async def _open_broker(self, collector: Collector) -> _Devices:
        """The way devices come in.

        Raises:
            PortTaken: another process listens there.
            SettingsError: the broker in the settings is not installed.
        """
        settings, home = self._home.settings.mqtt, self._home.path
        if settings.broker == "embedded":
            embedded = EmbeddedBroker(
                collector, host=settings.host, port=settings.port, identity=self._identity, registry=self._registry
            )
            port = await embedded.start()
            return _Devices(port, [embedded.run()], embedded.stop, embedded.renew)

        async def nothing() -> None:
            return

        def link(secret: str, on_subscribed: Callable[[], None] = lambda: None) -> CollectorLink:
            return CollectorLink(
                collector,
                host=settings.host,
                port=settings.port,
                authority=self._identity / "ca.pem",
                name=COLLECTOR,
                secret=secret,
                on_subscribed=on_subscribed,
            )

        if settings.broker == "external":
            return _Devices(settings.port, [link(secret_at_broker(home)).run()], nothing)
        mosquitto = self._mosquitto = Mosquitto(home=home, host=settings.host, port=settings.port, collector=COLLECTOR)
        await mosquitto.start()
        collecting = link(mosquitto.collector_secret, lambda: mosquitto.admit(self._registry.all()))
        works = [collecting.run(), mosquitto.watch()]
        return _Devices(settings.port, works, mosquitto.stop, mosquitto.renew)

    def close(self) -> None:
        """Close the files."""
        if self._bedside is not None:
            self._bedside.close()
        for part in (self._spool, self._quarantine, self._consents, self._imports, self._erasures, self._audit):
            part.close()

    def _declines(self, order: Order) -> str:
        """Why this edge wants no part in an order; empty: it does. What a drill makes up is no patient's."""
        return self._drills.why_not(order) or ("" if is_sandbox(order.study) else why_not(self._home.settings.privacy, order))

    async def _train(self, order: Order, model: bytes, kept: bytes) -> Done:
        if is_sandbox(order.study):
            return await self._drills.train(order, model, home=str(self._home.path), run=self._work)
        source = Source(SOURCES.get(order.task, EXAMPLES), str(self._home.path), self.name)
        privacy = self._home.settings.privacy
        bound = Bound(privacy.patient_epsilon_max, privacy.patient_delta)
        own = (order.round_number, kept, order.study, bound)
        done = await self._work(Work(source, order.task, order.settings, model, *own, tried=bool(wanted(order))))
        self._model = order.base or self._model
        if not order.masks:  # how many examples a blind study counts here is not for the hub to know
            self._examples = done.examples
        return self._alter(order, done) if self._alter is not None else done

    async def _work(self, work: Work) -> Done:
        """In the training worker, as long as it is wanted."""
        unwanted = threading.Event()
        # A drill is over in a moment: a study's order waits for one that has begun, rather than for another worker.
        grace_s = math.inf if work.task == DRILL else None
        try:
            return await asyncio.to_thread(self._trainer.run, work, unwanted, grace_s=grace_s)
        except asyncio.CancelledError:
            unwanted.set()  # the thread goes on to the end of the worker, not of the training
            raise

    async def _listen_for_edges(self, relay: RelayLink) -> tuple[str, Callable[[], Awaitable[None]]]:
        """Where this edge passes models on (empty: nowhere), and how to stop.

        Raises:
            PortTaken: another process listens there.
        """
        settings = self._home.settings.relay

        async def nothing() -> None:
            return

        if not settings.host:
            return "", nothing
        files = (self._identity / "edge.key", self._identity / "listener.pem", self._identity / "ca.pem")
        server, port = await start_listener(
            {RELAY: relay.handlers()},
            host=settings.host,
            port=settings.port,
            files=files,
            denied=self._is_denied,
            setting="relay.port",
        )
        return f"{settings.host}:{port}", lambda: server.stop(0.2)

    def _deny(self, denied: DenyList) -> None:
        """Whom the hub has shut out: the list it sent replaces the one before."""
        self._denied = denied

    def _is_denied(self, name: str, serial: str) -> bool:
        return self._denied.holds(name, serial)

    async def _fetch(self, order: Order, relay: RelayLink, hub: HubSource) -> bytes:
        """The base model of an order: from the edge it names, or from the hub.

        Raises:
            SourceFailed: neither gave it.
        """
        relay.allow(order.children)
        sources: list[ModelSource] = [hub]
        if order.relay_address:
            sources.insert(0, RelaySource(self._identity, order.relay, order.relay_address))
        self._sources = sources
        return await self._shelf.get(order.base, sources)

    def _mask_agent(self, signer: EdgeSigner) -> MaskAgent:
        """What hides updates in blind studies. Its secrets lie where this edge alone reads them."""
        folder = self._home.path / "learn" / "masks"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        rostered = Rostered(LastingKey(self._identity).vouch, PinnedRoster(self._identity).admit)
        blobs = FolderBlobs(folder)
        return MaskAgent(self.name, blobs, sign=signer.sign_masks, verify=self._peers.check, rostered=rostered)

    def _hub_lied(self, study: str, round_number: int, error: MasksRefused) -> None:
        """What only a hub that lies can have said, for whoever looks at this edge."""
        facts = {"study": study, "round_number": round_number, "reason": error.reason, "found": str(error)}
        self._audit.add("system", "the hub broke the rules of a masked round", "hub", **facts)

    def _check_manifest(self, signed: Signed) -> None:
        authority = (self._identity / "ca.pem").read_bytes()
        check_signature(signed.manifest, signed.signature, signed.certificate, authority, now_us=self._clock.now_us())

    def _check_charter(self, signed: SignedCharter) -> None:
        authority, now_us = (self._identity / "ca.pem").read_bytes(), self._clock.now_us()
        check_drill_signature(signed.charter, signed.signature, signed.certificate, authority, now_us=now_us)

    def _beat(self) -> Beat:
        facts = self._spool.facts()
        passed_on = {str(edge): size for edge, size in self._relay.sent_bytes.items()} if self._relay is not None else {}
        return Beat(
            self._examples,
            facts.observations,
            facts.bytes,
            "",
            model=self._model,
            passed_on=passed_on,
            models=self._held.digests(),
            alerts=self._bedside.facts if self._bedside is not None else (),
            load=self._bedside.load if self._bedside is not None else (),
            acknowledges=self._home.settings.bedside.acknowledge_from_hub and self._bedside is not None,
        )

    def _condition(self, at_work: bool) -> Condition:
        """The machine's condition, and what this edge's own schedule says of it."""
        condition = self._conditions.read(at_work=at_work)
        unwilling = lacks(self._home.settings.schedule, condition, self._clock.now_us(), at_work=at_work)
        return replace(condition, unwilling=unwilling)

    def _asked(self, message: pb.HubMessage) -> pb.EdgeMessage | None:
        """What the hub asks beside rounds."""
        kind = message.WhichOneof("kind")
        if kind == "wishes":
            wishes = wishes_of(message.wishes)
            self._audit.add("change", "wishes taken over", "hub", numbers=[w.number for w in wishes[:100]])
            if self._consents.take(wishes):
                self._follow_consents()
        elif kind == "erasure":
            receipt = self._erasing.erase(message.erasure.digest)
            if receipt.known:
                self._audit.add("delete", "erasure carried out", "hub", number=message.erasure.number, clean=receipt.clean)
                log.info("subject erased", edge_id=self.name, clean=receipt.clean, duration_s=receipt.seconds)
            return erased_to_wire(message.erasure.number, receipt)
        elif kind == "audit_head":
            self._keep_head(message.audit_head)
        elif kind == "known_consents":
            if changed := self._consents.apply(known_of(message.known_consents)):
                self._audit.add("change", "newer consents taken over", "hub", changed=changed)
                self._follow_consents()
        elif kind == "acknowledge" and self._bedside is not None and self._home.settings.bedside.acknowledge_from_hub:
            alert, who = message.acknowledge.alert[:WORD_MAX], f"{message.acknowledge.who[:NAME_MAX]} at the hub"
            self._audit.add("change", "acknowledged from the hub", who, alert=alert)
            self._bedside.ask(alert, who)
        elif kind == "names_asked":
            names = self._home.pseudonyms()
            return give_names(message.names_asked, edge=self.name, pseudonyms=names, consents=self._consents, audit=self._audit)
        return None

    def _greet(self) -> list[pb.EdgeMessage]:
        """What a hub must not have lost: the newest head of its audit log that is kept here, and whom it has erased."""
        kept = self._heads.all()
        heads = [head_to_wire(Head(kept[-1].entries, bytes.fromhex(kept[-1].hash)))] if kept else []
        return [*(pb.EdgeMessage(kept_head=head) for head in heads), *erased_here([e.digest for e in self._erasures.all()])]

    def _keep_head(self, message: pb.AuditHead) -> None:
        head, now_us = head_of(message), self._clock.now_us()
        authority = (self._identity / "ca.pem").read_bytes()
        try:
            check_audit_signature(head.signed_part, head.signature, message.certificate, authority, role="hub", now_us=now_us)
        except TrustError as error:
            log.warning("a head of the hub's audit log is not kept", edge_id=self.name, reason=str(error))
            return
        wrong = self._heads.keep(head, now_us)
        if wrong:
            log.critical("the hub's audit log does not hold", edge_id=self.name, found=wrong)
            self._audit.add("system", "the hub's audit log does not hold", "hub", found=wrong)

    def _consent_records(self) -> tuple[int, Sequence[ConsentRecord]]:
        self._consents.refresh()
        return self._consents.generation, self._consents.records()

    def _may_leave(self, observation: bytes) -> bool:
        return may_leave(observation, self._consents.choose)

    def _follow_consents(self) -> bool:
        """What is no longer allowed goes: from the spool what may not leave, from the local store what may not be kept.

        False: the disk is too full even for that, and it is to be done again; until then it is neither sent nor trained on."""
        try:
            unwanted = self._spool.drop(lambda data: not self._may_leave(data))
            forgotten = self._local.keep_only(lambda subject, code: self._consents.choose(subject, code)[0] is not Consent.NONE)
        except StorageFull as error:
            log.warning("consent withdrawn, and no room to remove what it covered", edge_id=self.name, reason=str(error))
            return False
        if unwanted or forgotten:
            log.info("consent withdrawn", edge_id=self.name, not_sent=unwanted, forgotten=forgotten)
        return True

    def _refused(self, refusal: Refusal) -> None:
        log.warning("hub refused an observation", edge_id=self.name, seq=refusal.seq, reason=refusal.reason)

    async def _look(self, collector: Collector) -> None:
        """See what other processes ask for: consents, names of signals, replays of what was set aside."""
        asked = Asked(self._names, self._quarantine, self._gateway, collector.ask, edge=self.name)
        followed = -1
        while True:
            await asyncio.to_thread(self._consents.refresh)
            generation = self._consents.generation
            if generation != followed and await asyncio.to_thread(self._follow_consents):
                followed = generation
            if self._mosquitto is not None:
                self._mosquitto.know(self._registry.all())
            await asked.look()
            await asyncio.sleep(LOOK_S)

    async def _import(self, collector: Collector) -> None:
        """Take what the command line hands over from files, a few batches between two groups of messages."""
        loop = asyncio.get_running_loop()
        while True:
            if not await asyncio.to_thread(self._imports.count):
                await asyncio.sleep(LOOK_S / 4)
                continue
            done = asyncio.Event()
            await collector.ask(partial(self._take_imports, partial(_set, loop, done)))
            with contextlib.suppress(TimeoutError):  # no room: they wait where they are
                await asyncio.wait_for(done.wait(), IMPORT_S)

    def _take_imports(self, after: Callable[[], None]) -> None:
        if not take_waiting(self._gateway, self._imports, after=after):
            after()

    def _kept(self, observations: Sequence[Observation]) -> None:
        if self._bedside is not None:
            self._bedside.kept(observations)

    def _forget_at_bedside(self, subject: str) -> int:
        return self._bedside.forget(subject) if self._bedside is not None else forget_at_bedside(self._home.path, subject)

    async def _watch(self) -> None:
        """Watch the patients of this edge, and its devices."""
        if self._bedside is None:
            await asyncio.Event().wait()
            return
        await asyncio.to_thread(self._bedside.start)
        while True:
            await asyncio.to_thread(self._bedside.turn)
            await asyncio.sleep(WATCH_S)

    async def _watch_by_models(self) -> None:
        """Ask the models that are held about the last minutes, while the worker has nothing else to do."""
        bedside, path = self._bedside, str(self._home.path)
        if bedside is None or not self._home.settings.bedside.models:
            await asyncio.Event().wait()
            return
        live = HeldOnLive(self.name, path, held=self._held, local=self._local, run=self._trainer.run_if_free)
        while True:
            await asyncio.sleep(LIVE_S)
            await asyncio.to_thread(lambda: bedside.hear(live.look(self._clock.now_us())))

    async def _keep_house(self) -> None:
        while True:
            before = self._clock.now_us() - round(self._home.settings.retention_days * 86_400e6)
            try:
                if removed := await asyncio.to_thread(self._local.prune, before):
                    log.info("retention", edge_id=self.name, removed=removed)
            except StorageFull as error:
                log.warning("retention waits for room", edge_id=self.name, reason=str(error))
            await asyncio.sleep(PRUNE_S)


async def run_edges(homes: Sequence[Path], alter: dict[str, Alter] | None = None) -> None:
    """Run edges in this process until SIGTERM or SIGINT; each writes `ready.json` into its home once it listens.

    Raises:
        WardroundError: one of them cannot run.
    """
    opened = [EdgeHome.open(path) for path in homes]
    with contextlib.ExitStack() as held:
        for home in opened:
            held.enter_context(home.held(HOLD_S))
        held.enter_context(chosen_log(opened[0].path, opened[0].settings.log))
        await _run_edges(opened, alter or {})


async def _run_edges(opened: Sequence[EdgeHome], alter: dict[str, Alter]) -> None:
    limits = opened[0].settings
    trainer = Trainer(
        limits=Limits(limits.training_memory_bytes_max, limits.training_cpu_share), deadline_s=limits.training_deadline_s
    )
    edges = [Edge(home, trainer, alter.get(home.settings.name)) for home in opened]
    await asyncio.to_thread(trainer.start)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)

    def ready(home: EdgeHome) -> Callable[[dict[str, object]], None]:
        return lambda facts: write_ready(home.path, facts)

    tasks = [asyncio.create_task(edge.run(ready(home))) for edge, home in zip(edges, opened, strict=True)]
    stopping = asyncio.create_task(stop.wait())
    try:
        await _first_failure([*tasks, stopping])
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        trainer.close()
        for edge in edges:
            edge.close()


async def _over(renewed: asyncio.Event, forward: Callable[[], Awaitable[None]], attend: Callable[[], Awaitable[None]]) -> None:
    """Keep the two streams to the hub open, and open both anew on the new connection when the identity is renewed.

    Observations go again from the last receipt. The stream of orders is opened before the older one ends (the hub ends that), so
    that a round in progress does not see the edge go.
    """
    attending: set[asyncio.Future[None]] = set()
    try:
        while True:
            renewed.clear()
            attending.add(asyncio.ensure_future(attend()))
            forwarding = asyncio.ensure_future(forward())
            waiting = asyncio.ensure_future(renewed.wait())
            try:
                while not waiting.done():
                    open_: set[asyncio.Future[Any]] = {*attending, forwarding, waiting}
                    await asyncio.wait(open_, return_when=asyncio.FIRST_COMPLETED)
                    for task in [task for task in (*attending, forwarding) if task.done()]:
                        task.result()  # an attendance that was replaced returns; whatever fails ends the edge
                        attending.discard(task)
            finally:
                await _ended(forwarding, waiting)
    finally:
        await _ended(*attending)


async def _ended(*tasks: asyncio.Future[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def _set(loop: asyncio.AbstractEventLoop, event: asyncio.Event) -> None:
    loop.call_soon_threadsafe(event.set)


async def _first_failure(tasks: Sequence[asyncio.Task[object]]) -> None:
    """Wait until the first task ends, and raise what it raised."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in done:
        task.result()


def _check_identity(identity: Path, now_us: int) -> None:
    try:
        check_certificate(
            (identity / "edge.pem").read_bytes(), (identity / "ca.pem").read_bytes(), now_us=now_us, where=str(identity)
        )
    except FileNotFoundError as exc:
        raise WardroundError(f"{identity} holds no identity", remedy="run `wardround edge join -` first") from exc
