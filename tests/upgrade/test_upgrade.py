"""Homes of a hub and an edge that an earlier Wardround made (`make_home.py`) are taken up by this one, with all in them."""

from __future__ import annotations

import contextlib
import os
import re
import tarfile
import time
from pathlib import Path

import pytest

from wardround.clock import SystemClock
from wardround.collect.inbox import Inbox
from wardround.collect.local_store import LocalStore
from wardround.collect.storage import FolderStorage
from wardround.demo.programs import Program
from wardround.edge import EdgeHome
from wardround.hub.home import give_home_keys
from wardround.ports import free_port
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.records import Consent
from wardround.store import CertificateRecord, open_store
from wardround.store.opening import migrate, newest, open_engine, revision_of
from wardround.trust.audit_files import verify_log
from wardround.trust.certificates import Authority, describe, new_key
from wardround.trust.consent import ConsentRegister
from wardround.trust.identity import IdentityFolder

ARCHIVE = Path(__file__).parent / "home-0007.tar.xz"
SCHEMA = "0007"
EDGE, SENT, WAITING = "icu-a", 20, 10
DEADLINE_S = 300.0


@pytest.fixture
def homes(tmp_path):
    """The folder with both homes, as they were when that version was stopped."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path


def numbers(lake: Lake) -> list[int]:
    return sorted(lake.read(BRONZE, columns=["device_seq"]).column(0).to_pylist())


def kept(hub: Path) -> dict[str, object]:
    """What people would miss."""
    store = open_store(hub / "hub.sqlite")
    try:
        return {
            "people": [(p.name, p.role) for p in store.people()],
            "edges": [(e.name, e.serial, e.joined_us) for e in store.edges()],
            "studies": [(s.name, s.state, s.toml) for s in store.studies()],
            "alerts": [(a.alert_id, a.body["finding"]["kind"]) for a in store.alerts(limit=50)],
            "happened": [(h.t_us, h.title) for h in store.happenings(limit=50)],
        }
    finally:
        store.close()


def test_everything_that_an_earlier_version_left_is_there(homes):
    hub, edge = homes / "hub", homes / EDGE
    engine = open_engine(hub / "hub.sqlite")
    assert revision_of(engine) == SCHEMA != newest()
    engine.dispose()
    found = kept(hub)
    assert found["people"] == [("kim", "operator")]
    assert [name for name, *_ in found["edges"]] == [EDGE]
    assert [name for name, *_ in found["studies"]] == ["activity"]
    assert [kind for _, kind in found["alerts"]] == ["round-abandoned"]
    assert "Hub started" in [title for _, title in found["happened"]]
    lake = Lake(hub / "lake")
    assert numbers(lake) == list(range(1, SENT + 1))
    (subject,) = set(lake.read(BRONZE, columns=["subject"]).column(0).to_pylist())
    with contextlib.closing(ConsentRegister(hub / "consent.sqlite")) as consents:
        assert consents.choose(subject, "loinc:8867-4", edge=EDGE)[0] == Consent.RAW
    with contextlib.closing(Inbox(FolderStorage(hub / "inbox"))) as inbox:
        assert inbox.waiting() == 0
    assert verify_log(hub).wrong == ()
    home = EdgeHome.open(edge)
    assert home.waiting().observations == WAITING
    assert [d.device_id for d in home.registry().all()] == ["patch"]
    with contextlib.closing(LocalStore(FolderStorage(edge / "local"))) as local:
        assert local.count() == SENT + WAITING


def test_the_records_go_a_version_back_and_forward_again_and_nothing_is_lost(homes):
    hub = homes / "hub"
    found = kept(hub)  # takes them to the newest
    engine = open_engine(hub / "hub.sqlite")
    try:
        assert migrate(engine, SCHEMA) == newest()
        assert revision_of(engine) == SCHEMA, "the earlier version can open them"
        assert migrate(engine) == SCHEMA
    finally:
        engine.dispose()
    assert kept(hub) == found


@pytest.mark.skipif("WARDROUND_UPGRADE" not in os.environ, reason="make test-upgrade runs both programs")
@pytest.mark.timeout(900)
def test_hub_and_edge_go_on_where_the_earlier_version_stopped(homes):
    hub, edge = homes / "hub", homes / EDGE
    before = kept(hub)
    _ports(hub / "hub.toml")
    give_home_keys(hub, None, SystemClock())
    text = (edge / "edge.toml").read_text()
    port = re.search(r"\[grpc\]\nport = (\d+)", (hub / "hub.toml").read_text())[1]
    (edge / "edge.toml").write_text(re.sub(r"hub_port = \d+", f"hub_port = {port}", text))
    _ports(edge / "edge.toml")
    _certify(hub, edge)
    programs = [
        Program("hub", ["wardround.cli.main", "hub", "run", "--home", str(hub)], homes / "hub.log", hub / "ready.json"),
        Program(EDGE, ["wardround.cli.main", "edge", "run", "--home", str(edge)], homes / "edge.log", edge / "ready.json"),
    ]
    try:
        for program in programs:
            program.start()
            program.wait_ready(DEADLINE_S)
        lake, until = Lake(hub / "lake"), time.monotonic() + DEADLINE_S
        while lake.count(BRONZE) < SENT + WAITING:
            assert time.monotonic() < until, [program.tail() for program in programs]
            time.sleep(0.1)
    finally:
        for program in reversed(programs):
            program.stop(60.0)
    assert numbers(lake) == list(range(1, SENT + WAITING + 1)), "each once, and in no wrong place"
    after = kept(hub)
    assert set(before["happened"]) <= set(after["happened"])
    assert [after[what] for what in ("people", "studies")] == [before[what] for what in ("people", "studies")]
    assert verify_log(hub).wrong == ()


def _ports(settings: Path) -> None:
    """Ports that are free now, for those of the machine where the home was made."""
    text = settings.read_text()
    settings.write_text(re.sub(r"^port = \d+", lambda _: f"port = {free_port()}", text, flags=re.M))


def _certify(hub: Path, edge: Path) -> None:
    """What joining gives: the archive has no keys."""
    authority, key, now_us = Authority.load(hub / "pki"), new_key(), SystemClock().now_us()
    certificate = authority.issue_edge(EDGE, key.public_key(), 24.0)
    listener = authority.issue_listener(EDGE, key.public_key(), ["127.0.0.1", "localhost"], 24.0)
    IdentityFolder(edge / "identity").replace(key, certificate=certificate, listener=listener, authority=authority.pem)
    facts = describe(certificate)
    store = open_store(hub / "hub.sqlite")
    store.joined(CertificateRecord(facts.serial, EDGE, now_us, facts.not_after_us))
    store.close()
