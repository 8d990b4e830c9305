"""The hub: settings in, running program out. Builds the parts, hands each what it needs of the others, and runs them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import structlog

from wardround import __version__
from wardround.automation import Automation
from wardround.backup.service import Backups
from wardround.clock import SystemClock
from wardround.collect.bundles import SOURCE
from wardround.collect.grpc_link import SERVICE as COLLECT
from wardround.collect.grpc_link import collect_handlers
from wardround.collect.inbox import Inbox
from wardround.collect.intake import Intake
from wardround.collect.sealed_rows import run_sealing
from wardround.collect.signals import find_signal, signal_title
from wardround.collect.storage import FolderStorage
from wardround.console.shared import Changes
from wardround.desks.console import Arrivals, HubDesk, Place
from wardround.desks.ward import Ward
from wardround.draining import Draining, rounds_of
from wardround.erasing.hub import HubErasing
from wardround.errors import CertificateRefused
from wardround.flower.door import FlowerDoor
from wardround.hours import HoursBoard
from wardround.hub.expected import Expected
from wardround.hub.faces import Parts, make_console, role_of
from wardround.hub.full_disk import in_words
from wardround.hub.home import open_processing, renew_certificate
from wardround.hub.lake_work import LakeCommits, LakeJobs
from wardround.hub.news import RoundNews
from wardround.hub.recorder import Recorder
from wardround.hub.stood_still import StoodStill
from wardround.hub.telling import Telling
from wardround.learn.grpc_hub import HubLink, Taking
from wardround.learn.grpc_wire import SERVICE as LEARN
from wardround.learn.grpc_wire import Beat
from wardround.learn.manifests import Signed
from wardround.learn.messages import Notice, RoundEvent
from wardround.learn.tree import STATE, Tree, study_tree
from wardround.live_drills.desk import LiveDrills
from wardround.log_lines import chosen_log
from wardround.memory import collect_little, run_giving_back
from wardround.minutes import Minutes
from wardround.naming import Naming
from wardround.process.tables import BRONZE
from wardround.ready import write_ready
from wardround.records import Consent, EdgeId, Observation, Purpose
from wardround.releasing import Fleet
from wardround.responding import Responding
from wardround.settings import HubSettings, load_settings
from wardround.standing_by import turn
from wardround.store import CertificateRecord, Quarantined, StudyRecord, open_store
from wardround.studies import RunningStudy, Studies
from wardround.threads import pairs
from wardround.tracing import open_tracing
from wardround.trust import renewal
from wardround.trust.at_rest import turn_on
from wardround.trust.certificates import (
    Authority,
    check_key_files,
    describe,
)
from wardround.trust.channel import few_arenas, peer_certificate, peer_name, start_hub_listener
from wardround.trust.consent import ConsentRecord, ConsentRegister
from wardround.trust.denied import DenyList
from wardround.trust.duties import DIGESTS_MAX, Duties
from wardround.trust.enrolment import EnrolmentListener
from wardround.trust.erasures import ErasureBook
from wardround.trust.exports import ExportBook
from wardround.trust.peers import Peers
from wardround.trust.renewal_link import SERVICE as TRUST
from wardround.trust.renewal_link import renewal_handlers
from wardround.trust.restored import restored
from wardround.trust.signatures import HubSigner
from wardround.watch.alerts import Alert
from wardround.watch.metrics import Metrics
from wardround.watch.watcher import Watch
from wardround.wire import wardround_pb2 as pb

log = structlog.get_logger(__name__)
TICK_S = 0.05
LOOK_S = 1.0
DENIAL_S = 60.0
CERTIFICATE_LOOK_S = 60.0
DENY_LOOK_S = 0.5  # a revocation by another process is seen within so long
APPENDS_MAX = 100_000
TOLD_AGAIN_US = 3_600_000_000


class Hub:
    """One hub's parts. `run` brings them up and stays until cancelled."""

    def __init__(self, home: Path) -> None:
        """Open everything in the hub's home.

        Raises:
            SettingsError: hub.toml is missing or does not hold.
        """
        self.home = home
        self.settings = load_settings(home / "hub.toml", HubSettings)
        self.clock = SystemClock()
        check_key_files(home)
        self._authority = Authority.load(home / "pki")
        renew_certificate(home, self.settings, self.clock.now_us())
        self.store = open_store(home / "hub.sqlite")
        self.recorder = Recorder(home, self.store, self.clock)
        self.consents = ConsentRegister(home / "consent.sqlite")
        self.erasures = ErasureBook(home / "erasures.sqlite")
        self.exports = ExportBook(home / "exports.sqlite")
        self.seal = turn_on(home, self.settings.at_rest.kek)
        self.inbox = Inbox(FolderStorage(home / "inbox"), self.seal)
        self.processing = open_processing(home, self.settings, self.store, self.clock, say=self.recorder.happened)
        self.lake = self.processing.lake
        self.changes = Changes()  # for the console
        self.watch = Watch(
            clock=self.clock,
            heartbeat_s=self.settings.heartbeat_s,
            signal_title=signal_title,
            on_change=self._alerts_changed,
            saved=self.store.load_state("alert-book") or b"",
        )
        self._stood_still, self._expected = StoodStill(self.clock), Expected(self.store, self.watch)
        self.telling = Telling(
            home,
            self.settings,
            store=self.store,
            clock=self.clock,
            watch=self.watch,
            recorder=self.recorder,
        )
        self.intake = Intake(
            inbox=self.inbox,
            consent=lambda edge, subject, code: self.consents.choose(subject, code, edge=edge)[0],
            clock=self.clock,
            on_refused=self._refused,
            on_committed=self._committed,
        )
        self.commits = LakeCommits(self.inbox, self.lake, self.consents, self.clock, self.settings.processing)
        self.erasing = HubErasing(
            home,
            book=self.erasures,
            exports=self.exports,
            consents=self.consents,
            inbox=self.inbox,
            lake=self.lake,
            store=self.store,
            clock=self.clock,
            forget=self._forget_subject,
            seal=self.seal,
        )
        self.tracing = open_tracing(self.settings.tracing, self.settings.name, __version__)
        self.duties = Duties(
            consents=self.consents,
            erasures=self.erasures,
            audit=self.recorder.audit,
            certificate=(home / "pki" / "hub.pem").read_bytes,
            clock=self.clock,
            on_erased=self.recorder.erased,
            on_head=self.recorder.head_kept,
        )
        self.naming = Naming(self.store, self.clock)
        self.studies = Studies(self.store, self.clock, self._make_study, self.recorder.happened)
        self.responding = Responding(
            store=self.store,
            watch=self.watch,
            studies=self.studies,
            clock=self.clock,
            record=self.recorder.record,
            tell=self._tell,
        )
        self.backups = Backups(
            home, self.settings, lake=self.lake, store=self.store, clock=self.clock, still=self.commits.committer.still
        )
        self.automation = Automation(
            home,
            self.settings,
            store=self.store,
            clock=self.clock,
            watch=self.watch,
            processing=self.processing,
            studies=self.studies,
            backups=self.backups,
            attached=self._attached,
        )
        self.jobs = LakeJobs(
            clock=self.clock,
            commits=self.commits,
            processing=self.processing,
            automation=self.automation,
            backups=self.backups,
            erasing=self.erasing,
            erasures=self.erasures,
            studies=self.studies,
            recorder=self.recorder,
        )
        self.beats: dict[str, Beat] = {}
        self.draining = Draining(
            self.store,
            self.clock,
            attached=self._attached,
            rounds=self._rounds_of,
            record=self.recorder.for_desk,
            happened=self.recorder.happened,
        )
        self.drills = LiveDrills(
            home,
            store=self.store,
            clock=self.clock,
            watch=self.watch,
            link=lambda: self.link,
            sign=lambda charter: (self._signer.sign_drill(charter), self._signer.certificate),
            held=self.draining.why_not,
            told=self.telling.drills,
            record=self.recorder.record,
            happened=self.recorder.happened,
        )
        self.arrivals = Arrivals(self.clock)
        self._subject_edge: dict[str, str] = {}
        self._place(zip(*self.lake.read(BRONZE, columns=["subject", "edge"]).to_pydict().values(), strict=True))
        self._signer = HubSigner(home / "pki")
        self._peers = Peers(lambda: self._authority.pem, self.clock.now_us)
        self._on_certificate: list[Callable[[], None]] = []
        self._denied = DenyList(*self.store.denied(self.clock.now_us()))
        self.link: HubLink | None = None
        self.flower: FlowerDoor | None = None
        self.hours = HoursBoard(
            self.lake, self.clock, signal_title, lambda s: self._subject_edge.get(s, ""), self.watch.incomplete
        )
        self.desk = HubDesk(
            Place(self.settings.name, __version__, self.settings.site, self.settings.simulated),
            clock=self.clock,
            store=self.store,
            watch=self.watch,
            outbox=self.telling.outbox,
            record=self.recorder.for_desk,
            responses=self.responding,
            routines=self.automation.rows,
            hours=self.hours.shown,
            arrivals=self.arrivals,
            beats=self.beats,
            attached=self._attached,
            studies=lambda: self.studies.running,
            subjects=lambda: len(self._subject_edge),
            waiting=self.inbox.waiting,
            behind_s=lambda: self.commits.behind_s() if self.studies.running else None,
            certificate_us=lambda: describe((home / "pki" / "hub.pem").read_bytes()).not_after_us,
        )
        self.ward = Ward(
            self.lake,
            self.consents,
            self.clock,
            edge_of=self._subject_edge,
            alerts=self.watch.alerts,
            signal=find_signal,
            role=partial(role_of, self.store),
            record=self.recorder.for_desk,
        )
        self.minutes = Minutes(self.store, self.clock, self.watch, self.desk.overview)
        self.metrics = Metrics(self.desk.facts)
        self._news = RoundNews(
            store=self.store,
            watch=self.watch,
            metrics=self.metrics,
            studies=self.studies,
            tell=self._tell,
            happened=self.recorder.happened,
        )

    # -- running

    async def run(self, on_ready: Callable[[dict[str, object]], None]) -> None:
        """Open every listener and run until cancelled; `on_ready` gets the ports.

        Raises:
            PortTaken: another process listens on one of them.
        """
        async with contextlib.AsyncExitStack() as opened:
            ports = await self._open(opened)
            collect_little()
            on_ready(ports)
            self.recorder.happened("Hub started", f"{len(self.store.edges())} edges known")
            log.info("hub runs", **ports)
            tasks = [asyncio.create_task(t) for t in self._work()]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    async def _open(self, opened: contextlib.AsyncExitStack) -> dict[str, object]:
        """Every listener, each closed with the stack; their ports."""
        settings = self.settings
        self.link = link = HubLink(
            studies=self._taking,
            peer_name=peer_name,
            peer_certificate=peer_certificate,
            on_attached=self._edge_attached,
            on_beat=self._edge_beat,
            on_lost=lambda edge: log.info("edge detached", edge_id=edge),
            sign=self._signed,
            on_other=self._answered,
            heartbeat_s=settings.heartbeat_s,
        )
        self.flower = FlowerDoor(
            self.home,
            clock=self.clock,
            attached=lambda: {edge for edge in link.attached if not self.draining.why_not(edge)},
            known=lambda: [EdgeId(e.name) for e in self.store.edges() if e.revoked_us is None],
            send=link.send,
            on_event=self._round_event,
        )
        door = await self.flower.open()
        opened.push_async_callback(self.flower.close)
        opened.callback(door.close)
        await self._look()
        services = {
            COLLECT: collect_handlers(self.intake, self._take_consents, peer_name, self.watch.edge_seen),
            LEARN: link.handlers(),
            TRUST: renewal_handlers(self._renew_edge),
        }
        server, port = await start_hub_listener(
            services,
            host=settings.grpc.host,
            port=settings.grpc.port,
            pki=self.home / "pki",
            denied=self._is_denied,
        )
        opened.push_async_callback(link.settled)
        opened.push_async_callback(server.stop, 0.2)
        enrolment = EnrolmentListener(
            host=settings.enrolment.host,
            port=settings.enrolment.port,
            pki=self.home / "pki",
            tokens=self.store,
            clock=self.clock,
            hours=settings.certificate_hours,
            facts=lambda: {
                "site": settings.site,
                "hub_host": settings.public_host,
                "hub_port": port,
                "simulated": settings.simulated,
            },
            on_joined=self._edge_joined,
            on_refused=lambda peer, reason: self.recorder.denial("join refused", peer, reason=reason),
        )
        opened.callback(enrolment.close)
        console = make_console(self._parts(), enrolment.port)
        opened.callback(console.close)
        console.start()
        self._on_certificate = [enrolment.renew, console.renew]
        self.telling.again()  # what a kill came before
        self.telling.outbox.start()
        if settings.metrics.port:
            opened.callback(self.metrics.close)
            self.metrics.serve(settings.metrics.host, settings.metrics.port)
        return {"grpc_port": port, "enrolment_port": enrolment.port, "console_port": console.port}

    def _parts(self) -> Parts:
        return Parts(
            self.home,
            self.settings,
            self.store,
            self.clock,
            consents=self.consents,
            erasures=self.erasures,
            exports=self.exports,
            processing=self.processing,
            watch=self.watch,
            studies=self.studies,
            desk=self.desk,
            ward=self.ward,
            beats=self.beats,
            edge_of=self._subject_edge,
            inbox=self.inbox,
            committed=self._committed,
            attached=self._attached,
            draining=self.draining,
            fingerprint=lambda: self._authority.fingerprint,
            record=self.recorder.for_desk,
            acknowledge_at_edge=self._acknowledge_at_edge,
        )

    def _acknowledge_at_edge(self, edge: str, alert: str, who: str) -> None:
        if self.link is not None:
            self.link.push(EdgeId(edge), pb.HubMessage(acknowledge=pb.AcknowledgeAlert(alert=alert, who=who)))

    def _rounds_of(self, edge: str) -> set[str]:
        opened = {name: running.coordinator.open_round for name, running in pairs(self.studies.running)}
        asked = {name: (known[0].number, known[0].participants) for name, known in opened.items() if known is not None}
        return rounds_of(edge, asked)

    def _attached(self) -> set[str]:
        return set(self.link.attached) if self.link is not None else set()

    def close(self) -> None:
        """Close files and workers."""
        self.drills.close()
        for running in self.studies.running.values():
            if running.watched is not None:
                running.watched.close()
        self.telling.outbox.close()
        self.processing.close()
        self.inbox.close()
        self.consents.close()
        self.erasures.close()
        self.exports.close()
        self.recorder.close()
        self.store.close()
        self.tracing.close()

    def _work(self) -> tuple[Coroutine[Any, Any, None], ...]:
        views = self._views, self._slow_views
        loops = self._ticks, self._looks, self._denials, self._certificate, self.commits.run, self._jobs, *views
        return (
            *(loop() for loop in loops),
            self._stood_still.run(),
            self.responding.run(),
            self.automation.run(),
            run_sealing((self.inbox,), self.seal),
            run_giving_back(),
        )

    async def _ticks(self) -> None:
        beat = 0
        while True:
            for coordinator in list(self._taking().values()):
                await asyncio.to_thread(coordinator.tick)
            await asyncio.to_thread(self._look_at_training)
            await asyncio.to_thread(self.drills.turn)
            beat += 1
            if beat % round(LOOK_S / TICK_S) == 0:
                await asyncio.to_thread(self.watch.tick, self.draining.off(), stood_s=self._stood_still.take())
                await asyncio.to_thread(self.drills.look)
            await asyncio.sleep(TICK_S)

    def _look_at_training(self) -> None:
        for name, running in pairs(self.studies.running):
            if running.watched is not None and running.watched.look():
                self.metrics.watched(name, running.watched.scores(), running.watched.calibration())
                self.metrics.said(name, running.watched.own_scores())

    async def _looks(self) -> None:
        while True:
            await self._look()
            await asyncio.sleep(LOOK_S)

    async def _denials(self) -> None:
        """Keep the deny-list: a loop of its own, so that nothing slow delays a revocation."""
        while True:
            self._denied = DenyList(*await asyncio.to_thread(self.store.denied, self.clock.now_us()))
            if self.link is not None:
                self.link.deny(self._denied)
            await asyncio.sleep(DENY_LOOK_S)

    async def _certificate(self) -> None:
        """Keep the hub's own certificate fresh while it runs."""
        while True:
            await asyncio.sleep(CERTIFICATE_LOOK_S)
            if await asyncio.to_thread(renew_certificate, self.home, self.settings, self.clock.now_us()):
                self._signer = HubSigner(self.home / "pki")
                for renew in self._on_certificate:
                    renew()
                log.info("the hub's certificate is renewed")
            self.watch.certificates(await asyncio.to_thread(self.store.certificate_ends))

    def _is_denied(self, name: str, serial: str) -> bool:
        denied = self._denied.holds(name, serial)
        if denied:
            self.recorder.denial("edge denied", name, serial=serial)
        return denied

    async def _look(self) -> None:
        """See what the store asks for: new studies, nodes, jobs."""
        edges = await asyncio.to_thread(self.store.edges)
        await asyncio.to_thread(self.telling.answer, self.desk, self.beats)
        await asyncio.to_thread(self._ask_edges)
        await asyncio.to_thread(self.draining.look)
        await asyncio.to_thread(self.processing.look)
        await self.studies.look(self.link.attached if self.link is not None else set())
        if self.link is not None:
            await asyncio.to_thread(self._save_tree, self.link, [e.name for e in edges if e.revoked_us is None])

    def _taking(self) -> dict[str, Taking]:
        """What edges work for: studies, runs of Flower apps, and a live drill."""
        return {**self.studies.coordinators, **(self.flower.runs if self.flower is not None else {}), **self.drills.taking}

    def _save_tree(self, link: HubLink, edges: Sequence[str]) -> None:
        """How models reach the edges, for `wardround edge tree`."""
        trees = (
            study_tree(
                running.study,
                running.newest.model if running.newest is not None else "",
                edges,
                attached=link.attached,
                relays=link.relays,
                beats=dict(self.beats),
                sent=dict(link.sent_bytes),
                why_not=running.coordinator.why_not,
            )
            for running in list(self.studies.running.values())
        )
        self.store.save_state(STATE, msgspec.json.encode(Tree(self.clock.now_us(), tuple(trees))))

    async def _jobs(self) -> None:
        while True:
            await asyncio.to_thread(self.jobs.look)
            for running in list(self.studies.running.values()):
                await asyncio.to_thread(running.score_pending)
                if running.releases is not None:
                    await asyncio.to_thread(running.releases.look)
            await asyncio.to_thread(self.hours.look)
            await asyncio.sleep(LOOK_S)

    async def _views(self) -> None:
        """The read model of the console: every second, and at once when something has happened."""
        while True:
            began_s = self.clock.monotonic_s()
            await asyncio.to_thread(self.desk.refresh)
            await self.changes.wait(LOOK_S, took_s=self.clock.monotonic_s() - began_s)

    async def _slow_views(self) -> None:
        while True:
            await asyncio.to_thread(self.minutes.look)
            await asyncio.to_thread(self.ward.look)
            await asyncio.sleep(LOOK_S)

    # -- what the parts say

    def _committed(self, observations: Sequence[Observation]) -> None:
        self.arrivals.add(observations)
        self.metrics.arrived(len(observations), sum(o.n for o in observations))
        self._place((o.subject, o.edge) for o in observations)
        self.watch.observe(observations)

    def _place(self, owners: Iterable[tuple[str, str]]) -> None:
        """Which edge a subject is at: where its observations come from, else the first that has its consent."""
        for subject, edge in dict(owners).items():
            if not self.consents.erased(subject):
                at = (
                    edge if edge != SOURCE else self._subject_edge.get(subject) or next(iter(self.consents.edges_of(subject)), "")
                )
                self._subject_edge[subject] = at

    def _ask_edges(self) -> None:
        """Say to attached edges what subjects have said at the hub, who is to be erased, and how the audit log stands."""
        self.recorder.look_at_heads()
        if self.link is not None:
            attached = self.link.attached
            self._expected.note(attached)
            for edge, message in (*self.duties.due(attached), *self.naming.due(attached)):
                self.link.push(EdgeId(edge), message)

    def _answered(self, edge: str, message: pb.EdgeMessage) -> None:
        """What an edge says beside rounds."""
        if message.WhichOneof("kind") == "names_given":
            self.naming.answered(edge, message.names_given)
        elif message.WhichOneof("kind") == "erased_here":
            if restored(self.home) is not None and (back := self.erasing.again(edge, message.erased_here.digests[:DIGESTS_MAX])):
                self.recorder.happened(
                    f"{back} erased patients were back", "the hub was restored from a backup: they are erased again"
                )
        else:
            self.duties.answered(edge, message)

    def _take_consents(self, records: Sequence[ConsentRecord], edge: str, wishes_taken: int) -> None:
        changed = self.consents.apply(records, edge, wishes_taken)
        if changed:
            self.recorder.record("change", "consents taken over", edge, changed=changed)

    def _forget_subject(self, subject: str) -> None:
        self._subject_edge.pop(subject, None)

    def _refused(self, edge: str, reason: str, detail: str) -> None:
        self.store.set_aside(Quarantined(self.clock.now_us(), edge, "observation", reason, detail))
        self.recorder.denial("observation refused", edge, reason=reason)

    def _edge_joined(self, name: str, certificate: bytes) -> None:
        facts = describe(certificate)
        self.recorder.record("change", "edge joined", name, serial=facts.serial)
        self.erasures.joined(name, self.clock.now_us())
        self.store.joined(CertificateRecord(facts.serial, name, self.clock.now_us(), facts.not_after_us))
        self.recorder.happened(f"{name} joined", "its certificate is issued")

    def _renew_edge(self, peer: bytes, csr: bytes, listener: bytes) -> renewal.Renewed:
        """An edge's next certificates; noted before they are given.

        Raises:
            TrustError: the request does not hold, or the edge was revoked meanwhile.
        """
        hours, now_us = self.settings.certificate_hours, self.clock.now_us()
        renewed = renewal.renew(self._authority, peer=peer, csr=csr, listener=listener, hours=hours, now_us=now_us)
        facts = describe(renewed.certificate)
        if not self.store.renewed(CertificateRecord(facts.serial, facts.name, now_us, facts.not_after_us)):
            raise CertificateRefused(f"{facts.name} gets no new certificate", remedy="it is revoked, or asks too often")
        log.info("certificate renewed", edge_id=facts.name, serial=facts.serial)
        return renewed

    def _edge_attached(self, edge: EdgeId, version: str) -> None:
        log.info("edge attached", edge_id=edge, version=version)
        self.duties.attached(edge)
        self.naming.attached(edge)
        for running in list(self.studies.running.values()):
            running.tell(edge)
            if (aside := running.coordinator.set_aside(edge)) is not None:  # it may not have been there when it was said
                number = running.newest.number if running.newest is not None else 0
                self._tell(edge, Notice(running.study.name, number, "aside", aside[1], f"until round {aside[0]}"))
        self.watch.edge_seen(edge)
        self.changes.tell()

    def _edge_beat(self, edge: EdgeId, beat: Beat) -> None:
        self.beats[edge] = beat
        self.draining.heard(edge, beat)
        self.watch.edge_seen(edge, beat.interval_s)

    def _tell(self, edge: EdgeId, notice: Notice) -> None:
        if self.link is not None:
            self.link.send(edge, notice, notice.study)

    def _round_event(self, event: RoundEvent) -> None:
        self._news(event)
        if event.kind == "committed":
            self.changes.tell()

    def _alerts_changed(self, alerts: Sequence[Alert]) -> None:
        self.changes.tell()
        self.telling.changed(alerts)
        self.responding.wake()

    def _make_study(self, record: StudyRecord) -> RunningStudy:
        assert self.link is not None  # noqa: S101 - studies are looked at once the link is there
        return RunningStudy(
            record,
            home=self.home,
            store=self.store,
            lake=self.lake,
            clock=self.clock,
            send=self.link.send,
            fleet=self._fleet(self.link, record.name),
            on_event=self._round_event,
            say=self.recorder.happened,
            spans=self.tracing.study(record.name),
            may_train=lambda subject, codes: self.consents.allows(subject, codes, Purpose.TRAINING, Consent.RAW),
            tell=self.watch.trained,
            is_well=self.watch.is_well,
            advise=self.watch.advised,
            verify=self._peers.check,
            abilities=self.link.abilities,
            held=self.draining.why_not,
        )

    def _fleet(self, link: HubLink, study: str) -> Fleet:
        def holds(edge: str) -> Sequence[str]:
            beat = self.beats.get(EdgeId(edge))
            return beat.models if beat is not None else ()

        return Fleet(
            edges=lambda: [e.name for e in self.store.edges() if e.revoked_us is None],
            holds=holds,
            tell=lambda edge, release: link.send(edge, release, study),
            sign=self._signed,
            edge_of=lambda subject: self._subject_edge.get(subject, ""),
        )

    def _signed(self, manifest: bytes) -> Signed:
        signer = self._signer
        return Signed(manifest, signer.sign(manifest), signer.certificate)


async def run_hub(home: Path, *, standby: bool = False) -> None:
    """Run a hub until SIGTERM or SIGINT; `ready.json` is in its home once it listens. A standby waits while another runs."""
    few_arenas()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with turn(home, stop, standby=standby) as ours:
        if ours:
            own_log = load_settings(home / "hub.toml", HubSettings).log  # a standby has none: a file has one writer
            with chosen_log(home, own_log), in_words():
                await _run_until(await asyncio.to_thread(Hub, home), home, stop)


async def _run_until(hub: Hub, home: Path, stop: asyncio.Event) -> None:
    running = asyncio.create_task(hub.run(lambda facts: write_ready(home, facts)))
    stopping = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait([running, stopping], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await asyncio.to_thread(hub.close)
