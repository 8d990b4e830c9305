"""What people and programs see of a hub: the console with its screens, and the API and FHIR beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wardround.api.app import make_api
from wardround.clock import Clock
from wardround.collect.bundles import BundleIntake
from wardround.collect.inbox import Inbox
from wardround.collect.signals import load_signals, signal_title
from wardround.console import alerts, bedside, fleet, hand_over, study_new
from wardround.console import settings as settings_screen
from wardround.console import studies as studies_screen
from wardround.console.elsewhere import DONE
from wardround.console.governance_pages import GovernancePages
from wardround.console.looking import Screen
from wardround.console.processing_pages import ProcessingPages
from wardround.console.record_exports import RecordExportPages
from wardround.console.server import Console, Listening
from wardround.console.study_files import study_files
from wardround.console.ward_pages import WardPages
from wardround.desks.alerts import HubAlertsDesk
from wardround.desks.api import ApiDesk
from wardround.desks.bedside import HubBedsideDesk
from wardround.desks.console import HubDesk
from wardround.desks.fleet import HubFleetDesk
from wardround.desks.governance import Governance
from wardround.desks.hand_over import HubHandOverDesk
from wardround.desks.patients import PatientRecords
from wardround.desks.people import People
from wardround.desks.processing import ProcessingDesk
from wardround.desks.record_exports import HubRecordExports
from wardround.desks.settings import HubSettingsDesk
from wardround.desks.studies import HubStudiesDesk
from wardround.desks.ward import Ward
from wardround.draining import Draining
from wardround.learn.grpc_wire import Beat
from wardround.model_exports import ModelExports
from wardround.processing import Processing, new_id
from wardround.records import Consent, Observation, Purpose
from wardround.settings import HubSettings
from wardround.store import Store
from wardround.studies import Studies
from wardround.study_starting import StudyStarting
from wardround.trust.audit import subject_ref
from wardround.trust.consent import ConsentRegister
from wardround.trust.erasures import ErasureBook
from wardround.trust.exports import ExportBook
from wardround.trust.oidc import open_provider
from wardround.watch.watcher import Watch

HERE_ALONE = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class Parts:
    """What the faces ask of a hub. `edge_of` says which edge a subject's data came from last."""

    home: Path
    settings: HubSettings
    store: Store
    clock: Clock
    consents: ConsentRegister
    erasures: ErasureBook
    exports: ExportBook
    processing: Processing
    watch: Watch
    studies: Studies
    desk: HubDesk
    ward: Ward
    beats: Mapping[str, Beat]
    edge_of: Mapping[str, str]
    inbox: Inbox
    committed: Callable[[Sequence[Observation]], None]
    attached: Callable[[], set[str]]
    draining: Draining
    fingerprint: Callable[[], bytes]
    record: Callable[..., None]
    acknowledge_at_edge: Callable[[str, str, str], None]  # edge, alert, who


def role_of(store: Store, who: str) -> str:
    """The role of a person; empty where nobody is called so."""
    person = store.person(who)
    return person.role if person is not None else ""


def make_console(parts: Parts, enrolment_port: int) -> Console:
    """The console, not started yet, with every screen and the programs' faces beside it. Invitations name `enrolment_port`."""
    settings, desk = parts.settings, parts.desk
    api_desk = ApiDesk(
        desk,
        store=parts.store,
        clock=parts.clock,
        record=parts.record,
        silences=parts.watch.silences,
        request_id=new_id,
        invites=lambda: (settings.public_host, enrolment_port, parts.fingerprint()),
    )
    patients = PatientRecords(
        parts.processing.lake, parts.consents, parts.clock, subjects=parts.edge_of.keys, record=parts.record
    )
    people = People(
        parts.store,
        parts.clock,
        record=parts.record,
        site=settings.site,
        required=settings.console.second_factor == "required",
    )
    bundles, drains = _bundles(parts), parts.draining
    api = make_api(api_desk, parts.store, api_desk, parts.clock, patients=patients, bundles=bundles, drains=drains)
    ward = WardPages(parts.ward, desk.overview)
    governance = GovernancePages(_governance(parts), desk.overview)
    taken = HubRecordExports(patients, parts.exports, parts.clock, edge_of=parts.edge_of, check=desk.check, record=parts.record)
    records = RecordExportPages(taken)
    models = ModelExports(parts.home, parts.store, check=desk.check, record=parts.record)
    screens = [
        *ward.screens(),
        *ProcessingPages(_processing(parts), desk.overview).screens(),
        *governance.screens(),
        *records.screens(),
        *_alerts(parts),
        *_bedside(parts),
        *_studies(parts),
        *_fleet(parts, api_desk),
        *settings_screen.screens(HubSettingsDesk(parts.home, settings, parts.clock, check=desk.check)),
    ]
    return Console(
        desk,
        people,
        _listening(parts),
        parts.clock,
        screens=screens,
        files=[ward.add_files, governance.add_files, records.add_files, study_files(models)],
        beside={"/api": api, "/fhir": api},
    )


def _bundles(parts: Parts) -> BundleIntake:
    return BundleIntake(
        inbox=parts.inbox,
        signals=load_signals(),
        consent=parts.consents.choose,
        clock=parts.clock,
        record=lambda who, subject, count: parts.record(
            "change", "observations brought in over FHIR", who, subject=subject_ref(subject), count=count
        ),
        on_committed=parts.committed,
        simulated=parts.settings.simulated,
    )


def _alerts(parts: Parts) -> tuple[Screen, ...]:
    desk = parts.desk
    own = HubAlertsDesk(parts.watch, parts.clock, overview=desk.overview, check=desk.check, record=parts.record)
    return alerts.screens(own)


def _bedside(parts: Parts) -> tuple[Screen, ...]:
    """What edges watch themselves, and the hand-over of a shift, which has that in it."""
    desk, consents = parts.desk, parts.consents
    own = HubBedsideDesk(
        parts.clock,
        beats=parts.beats,
        attached=parts.attached,
        overview=desk.overview,
        edge_of=parts.edge_of,
        may_show=lambda subject, codes: consents.allows(subject, codes, Purpose.CARE, Consent.RAW),
        check=desk.check,
        record=parts.record,
        tell=parts.acknowledge_at_edge,
    )
    handing = HubHandOverDesk(
        parts.store,
        parts.clock,
        overview=desk.overview,
        routines=desk.routines,
        watch=parts.watch,
        bedside=own,
        rising=parts.ward.rising,
        check=desk.check,
        record=parts.record,
    )
    return (*bedside.screens(own), *hand_over.screens(handing))


def _studies(parts: Parts) -> tuple[Screen, ...]:
    own = HubStudiesDesk(
        parts.home,
        parts.store,
        parts.clock,
        studies=parts.studies,
        check=parts.desk.check,
        record=parts.record,
        request_id=new_id,
    )
    starting = StudyStarting(parts.store, parts.clock, check=parts.desk.check, record=parts.record)
    return (*studies_screen.screens(own), *study_new.screens(starting))


def _fleet(parts: Parts, acts: ApiDesk) -> tuple[Screen, ...]:
    """The Fleet screen; it invites and revokes as the API does."""
    own = HubFleetDesk(
        parts.store,
        parts.watch,
        parts.clock,
        beats=parts.beats,
        attached=parts.attached,
        overview=parts.desk.overview,
        check=parts.desk.check,
        acts=acts,
        draining=parts.draining,
    )
    return fleet.screens(own)


def _processing(parts: Parts) -> ProcessingDesk:
    processing = parts.processing
    return ProcessingDesk(
        processing.lake,
        parts.store,
        parts.clock,
        every_s=processing.every_s,
        off=parts.settings.processing.jobs_off,
        place=lambda: processing.runner.place,
        role=partial(role_of, parts.store),
        record=parts.record,
    )


def _governance(parts: Parts) -> Governance:
    return Governance(
        parts.home,
        consents=parts.consents,
        erasures=parts.erasures,
        exports=parts.exports,
        store=parts.store,
        clock=parts.clock,
        title=signal_title,
        role=partial(role_of, parts.store),
        record=parts.record,
    )


def _listening(parts: Parts) -> Listening:
    """On this machine alone in the clear; on any other address with the hub's certificate."""
    console, pki = parts.settings.console, parts.home / "pki"
    pair: tuple[Path | None, Path | None] = (None, None) if console.host in HERE_ALONE else (pki / "hub.pem", pki / "hub.key")
    ours = parts.settings.public_url.rstrip("/") + DONE
    return Listening(
        console.host,
        console.port,
        *pair,
        console.session_hours * 3600.0,
        console.idle_minutes * 60.0,
        provider=open_provider(console, parts.home, parts.clock, back=ours),
        local_sign_in=console.local_sign_in,
    )
