"""An edge out of its backup: its data, no key, its own pseudonyms or none, and no sequence that the hub has had before."""

from __future__ import annotations

import json
import shutil
import sqlite3

import pytest
from typer.testing import CliRunner

from wardround.cli.main import app
from wardround.clock import ManualClock
from wardround.collect.gateway import Gateway
from wardround.collect.inbox import Inbox
from wardround.collect.intake import Intake
from wardround.collect.lanes import Priority
from wardround.collect.local_store import LocalStore
from wardround.collect.quarantine import Quarantine
from wardround.collect.registry import DeviceRegistry
from wardround.collect.signals import load_signals
from wardround.collect.spool import DeviceMark, Spool
from wardround.collect.storage import FolderStorage
from wardround.edge import EdgeHome
from wardround.errors import KeyRefused, SettingsError, StudyError, TrustError
from wardround.learn.blobs import FolderBlobs
from wardround.learn.privacy.accounting import Exposure
from wardround.learn.privacy.edge_budget import budgets, spend
from wardround.learn.privacy.patient_budget import pay, trainings
from wardround.learn.study import DpSgdSettings
from wardround.records import Consent, Observation, decode_observation, encode_observation
from wardround.settings import SpoolSettings
from wardround.trust.certificates import Authority, new_key
from wardround.trust.consent import ConsentRegister
from wardround.trust.duties import known_of, known_to_wire
from wardround.trust.identity import IdentityFolder
from wardround.trust.pseudonym_key import export_key, import_key, key_check
from wardround.trust.pseudonyms import Pseudonyms

T_US = 1_772_150_395_000_000
WORDS = "correct horse battery staple"


def observation(subject, number):
    facts = {"device": "d", "edge": "icu-a", "code": "loinc:8867-4", "unit": "/min", "t0_device_us": T_US}
    return Observation(subject=subject, t0_us=T_US + number * 1_000_000, value=60.0 + number, device_seq=number, **facts)


def row(subject, number):
    return (Priority.VITAL, encode_observation(observation(subject, number)))


@pytest.fixture
def home(tmp_path):
    """An edge with devices, consents, a spool in which something waits, a local store, models and every kind of key."""
    folder = tmp_path / "icu-a"
    folder.mkdir()
    (folder / "edge.toml").write_text('name = "icu-a"\nhub_host = "127.0.0.1"\nhub_port = 1\n')
    authority, key = Authority.create(tmp_path / "ca", "hub"), new_key()
    (folder / "identity").mkdir()
    IdentityFolder(folder / "identity").replace(
        key,
        certificate=authority.issue_edge("icu-a", key.public_key(), 24.0),
        listener=authority.issue_listener("icu-a", key.public_key(), ["localhost"], 24.0),
        authority=authority.pem,
    )
    subject = Pseudonyms.open(folder / "pseudonym.key").of("P1")
    DeviceRegistry(folder / "devices.toml").add("d", "P1")
    consents = ConsentRegister(folder / "consent.sqlite")
    consents.set(subject, "*", Consent.RAW)
    spool = Spool(FolderStorage(folder / "spool"), SpoolSettings(disk_reserve_bytes=0, ballast_bytes=0))
    spool.commit([row(subject, n) for n in range(1, 4)], [DeviceMark("d", "b", 3)], now_us=1)
    local = LocalStore(FolderStorage(folder / "local"))
    local.keep([observation(subject, n) for n in range(1, 4)])
    FolderBlobs(folder / "learn").write("s.kept.safetensors", bytes(range(256)) * 50)
    FolderBlobs(folder / "learn" / "masks").write("round", b"a secret of a masked round" * 3)
    (folder / "mosquitto").mkdir()
    for name in ("mosquitto/collector.secret", "mqtt.secret"):
        (folder / name).write_text("a secret of " + name + " that is long")
        (folder / name).chmod(0o600)
    for part in (consents, spool, local):
        part.close()
    return folder


def wardround(*arguments, **more):
    result = CliRunner().invoke(app, [str(a) for a in arguments], **more)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.stdout


def spool_of(home):
    return Spool(FolderStorage(home / "spool"), SpoolSettings(disk_reserve_bytes=0, ballast_bytes=0))


def test_an_edge_comes_back_with_its_data_and_no_byte_of_a_key(home, tmp_path):
    out, new = tmp_path / "a.wrb", tmp_path / "new"
    facts = json.loads(wardround("backup", out, "--home", home, "--json"))
    assert {"identity/", "pseudonym.key", "mosquitto/", "mqtt.secret", "learn/masks/"} <= {x["name"] for x in facts["left_out"]}
    data = out.read_bytes()
    secrets = [p for p in home.rglob("*") if p.suffix in (".key", ".secret") or "masks" in p.parts]
    assert len([p for p in secrets if p.is_file()]) >= 5
    for path in (p for p in secrets if p.is_file()):
        whole = path.read_bytes().strip()
        pieces = [whole, whole.hex().encode(), *(line for line in whole.split(b"\n")[1:-1] if b"-----" not in line)]
        assert not [p for p in pieces if p in data], path
    said = json.loads(wardround("restore", out, "--home", new, "--json"))
    assert any("wardround edge key import" in line for line in said["needs"])
    assert any("wardround edge join" in line for line in said["needs"])
    assert (new / "identity" / "ca.pem").read_bytes() == (home / "identity" / "ca.pem").read_bytes()
    assert (new / "learn" / "s.kept.safetensors").read_bytes() == (home / "learn" / "s.kept.safetensors").read_bytes()
    assert DeviceRegistry(new / "devices.toml").get("d").patient == "P1"
    stores = [LocalStore(FolderStorage(h / "local")) for h in (home, new)]
    assert [s.count() for s in stores] == [3, 3]
    for store in stores:
        store.close()
    registers = [ConsentRegister(h / "consent.sqlite") for h in (home, new)]
    assert registers[0].records() == registers[1].records()
    for register in registers:
        register.close()


# -- sequences


def test_new_rows_of_a_restored_edge_take_no_sequence_that_the_hub_has_had(home, tmp_path):
    subject = str(Pseudonyms.open(home / "pseudonym.key").of("P1"))
    hub = Intake(
        inbox=Inbox(FolderStorage(tmp_path / "hub-inbox")),
        consent=lambda *_: Consent.RAW,
        clock=ManualClock(),
        on_refused=lambda *_: None,
        on_committed=lambda _rows: None,
    )

    def forward(spool):
        for lane in spool.lanes():
            if rows := spool.read_after(lane.boot, lane.acknowledged):
                answer = hub.receive("icu-a", lane.boot, rows[0].seq, [r.data for r in rows])
                spool.acknowledge(lane.boot, min(answer.committed_seq, lane.last))

    wardround("backup", tmp_path / "a.wrb", "--home", home)
    lost = spool_of(home)
    lost.commit([row(subject, n) for n in range(4, 9)], [DeviceMark("d", "b", 8)], now_us=1)
    forward(lost)
    lost.close()
    wardround("restore", tmp_path / "a.wrb", "--home", tmp_path / "new")
    spool = spool_of(tmp_path / "new")
    assert spool.mark("d", "b").contiguous == 3
    spool.commit([row(subject, n) for n in (101, 102)], [DeviceMark("d", "b", 5)], now_us=1)
    forward(spool)
    assert spool.facts().observations == 0
    spool.close()
    numbers = sorted(o.device_seq for b in hub._inbox.pending(1_000) for o, *_ in b.observations())
    assert numbers == [1, 2, 3, 4, 5, 6, 7, 8, 101, 102]
    hub._inbox.close()


def gateway_of(home, spool):
    local = LocalStore(FolderStorage(home / "local"))
    consents = ConsentRegister(home / "consent.sqlite")
    gateway = Gateway(
        edge="icu-a",
        registry=DeviceRegistry(home / "devices.toml"),
        signals=load_signals(),
        consent=consents.choose,
        pseudonym=Pseudonyms.open(home / "pseudonym.key").of,
        spool=spool,
        local_store=local,
        quarantine=Quarantine(FolderStorage(home / "spool")),
        clock=ManualClock(),
        simulated=False,
    )
    return gateway, local, consents


def send(gateway, seq, boot="b"):
    at_s = ManualClock().now_us() / 1e6
    gateway.receive("d", boot, seq, f'[{{"n":"heart-rate","u":"/min","v":{60 + seq},"t":{at_s + seq}}}]'.encode())
    return [r.seq for r in gateway.commit()]


def test_devices_of_a_restored_edge_go_on_after_receipts_of_the_edge_that_is_lost(home, tmp_path):
    wardround("backup", tmp_path / "a.wrb", "--home", home)
    new = tmp_path / "new"
    wardround("restore", tmp_path / "a.wrb", "--home", new)
    shutil.copy(home / "pseudonym.key", new)
    spool = spool_of(new)
    gateway, local, consents = gateway_of(new, spool)
    assert send(gateway, 1_000) == [1_000]  # 4 to 999 were receipted by the edge that is lost
    assert send(gateway, 1_002) == [1_000]  # a hole is a hole
    assert send(gateway, 1_001) == [1_002]
    assert send(gateway, 1_000) == [1_002]  # a repeat
    assert send(gateway, 998) == [1_002]  # over HTTPS, overtaken by a later one: it is new, once
    assert send(gateway, 998) == [1_002]
    assert send(gateway, 2) == [1_002]  # this one was here before the backup
    assert send(gateway, 57, boot="begun after the backup") == [57]
    assert local.count() == 3 + 5
    assert gateway.counts.duplicates == 3
    for part in (spool, local, consents):
        part.close()


@pytest.mark.parametrize("looked", [False, True])
def test_an_edge_that_had_spooled_nothing_comes_back_and_its_devices_go_on(home, tmp_path, looked):
    """`wardround edge status` of an edge that has never run leaves a spool without tables."""
    shutil.rmtree(home / "spool")
    shutil.rmtree(home / "local")
    if looked:
        assert "0.0 of" in wardround("edge", "status", "--home", home)
    wardround("backup", tmp_path / "a.wrb", "--home", home)
    new = tmp_path / "new"
    wardround("restore", tmp_path / "a.wrb", "--home", new)
    shutil.copy(home / "pseudonym.key", new)
    spool = spool_of(new)
    gateway, local, consents = gateway_of(new, spool)
    assert send(gateway, 1_000) == [1_000]
    for part in (spool, local, consents):
        part.close()


def test_devices_of_an_edge_that_was_never_restored_wait_for_what_is_missing(home):
    spool = spool_of(home)
    gateway, local, consents = gateway_of(home, spool)
    assert send(gateway, 5) == [3]
    assert send(gateway, 4) == [5]
    for part in (spool, local, consents):
        part.close()


# -- the key of pseudonyms


def test_what_a_lost_edge_spent_since_its_backup_is_not_spent_again(home, tmp_path):
    dp = DpSgdSettings(noise=5.0, epsilon_max=100.0)
    spend(home, "s", 1, dp, rate=0.1, steps=3)
    pay(home, "s", 1, {"p": (Exposure(5.0, 0.1, 2), 3)})
    archive = tmp_path / "a.wrb"
    wardround("backup", archive, "--home", home)
    closed, going_on = tmp_path / "closed", tmp_path / "going on"
    said = wardround("restore", archive, "--home", closed)
    assert "what this edge spent after the backup is not known" in said
    for look in (
        lambda: budgets(closed),
        lambda: trainings(closed),
        lambda: spend(closed, "s", 2, dp, rate=0.1, steps=3),
        lambda: pay(closed, "s", 2, {}),
    ):
        with pytest.raises(StudyError, match="cannot be read"):
            look()
    said = wardround("restore", archive, "--home", going_on, "--nothing-since")
    assert "after the backup" not in said
    assert len(budgets(going_on)["s"]) == len(trainings(going_on)) == 1


def test_a_restored_edge_makes_no_other_pseudonyms(home, tmp_path):
    subject = EdgeHome.open(home).pseudonyms().of("P1")
    words = tmp_path / "words"
    words.write_text(WORDS + "\n")
    wardround("edge", "key", "export", "--out", tmp_path / "key", "--passphrase-file", words, "--home", home)
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    wardround("backup", tmp_path / "a.wrb", "--home", home)
    new = tmp_path / "new"
    wardround("restore", tmp_path / "a.wrb", "--home", new)
    with pytest.raises(TrustError, match="key of its pseudonyms"):
        EdgeHome.open(new).pseudonyms()
    assert not (new / "pseudonym.key").exists()
    other = tmp_path / "other"
    other.mkdir()
    Pseudonyms.open(other / "pseudonym.key")
    with pytest.raises(TrustError, match="another edge's"):
        import_key(new, export_key(other, WORDS), WORDS)
    shutil.copy(other / "pseudonym.key", new)
    with pytest.raises(TrustError, match="another edge's"):
        EdgeHome.open(new).pseudonyms()
    (new / "pseudonym.key").unlink()
    wardround("edge", "key", "import", tmp_path / "key", "--passphrase-file", words, "--home", new)
    assert EdgeHome.open(new).pseudonyms().of("P1") == subject


def test_a_key_opens_with_its_passphrase_alone(home):
    sealed = export_key(home, WORDS)
    key = (home / "pseudonym.key").read_bytes()
    assert export_key(home, WORDS) != sealed
    assert key.hex() not in sealed
    for text, words in ((sealed, WORDS + "."), (sealed[:-2] + ("AA" if sealed[-2:] != "AA" else "BB"), WORDS)):
        with pytest.raises(TrustError, match="does not fit"):
            import_key(home, text, words)
    for text in ("", "wrk1.", "wrk1.AAAA", "wrk2" + sealed[4:], "no key at all", "wrk1.\N{SNOWMAN}"):
        with pytest.raises(TrustError, match="no exported key"):
            import_key(home, text, WORDS)
    with pytest.raises(TrustError, match="shorter"):
        export_key(home, "short")
    import_key(home, sealed, WORDS)  # the same again
    (home / "pseudonym.key").write_bytes(bytes(32))
    with pytest.raises(TrustError, match="another key already"):
        import_key(home, sealed, WORDS)
    assert key_check(key) != key_check(bytes(32))


def test_an_edge_that_was_never_restored_makes_its_key(tmp_path):
    (tmp_path / "edge.toml").write_text('name = "icu-a"\nhub_host = "127.0.0.1"\nhub_port = 1\n')
    assert EdgeHome.open(tmp_path).pseudonyms().of("P1")


# -- consents


def test_a_withdrawal_since_the_backup_comes_back_from_the_hub_and_an_older_one_does_not(tmp_path):
    hub, edge = ConsentRegister(tmp_path / "hub.sqlite"), ConsentRegister(tmp_path / "edge.sqlite")
    for subject in ("s", "t"):
        edge.set(subject, "*", Consent.RAW)
    backed_up = edge.records()
    edge.set("s", "*", Consent.NONE)
    hub.apply(edge.records(), "icu-a")
    new = ConsentRegister(tmp_path / "new.sqlite")
    new.apply(backed_up)
    new.set("t", "*", Consent.LOCAL)  # said after the restore
    for message in known_to_wire(hub.records_of("icu-a")):
        new.apply(known_of(message.known_consents))
    assert new.choose("s", "x")[0] is Consent.NONE
    assert new.choose("t", "x")[0] is Consent.LOCAL
    assert hub.records_of("icu-b") == []
    for register in (hub, edge, new):
        register.close()


# -- sealed at rest


def test_sealed_values_come_back_with_their_keys_which_lie_elsewhere(home, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    text = f'at_rest.kek = "file:{tmp_path}/elsewhere/kek"\n' + (home / "edge.toml").read_text()
    (home / "edge.toml").write_text(text)
    opened = EdgeHome.open(home)
    subject = opened.pseudonyms().of("P1")
    spool = Spool(FolderStorage(home / "spool"), SpoolSettings(disk_reserve_bytes=0, ballast_bytes=0), opened.seal())
    spool.commit([row(subject, 7)], [DeviceMark("d", "b", 4)], now_us=1)
    spool.close()
    wrapped = tmp_path / "elsewhere" / "keys"
    said = wardround("backup", tmp_path / "a.wrb", "--home", home, "--wrapped-keys", wrapped)
    assert "keys/ (wrapped keys" in said
    with sqlite3.connect(home / "keys" / "keys.sqlite") as db:
        tables = [t for (t,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        cells = {c for t in tables for r in db.execute(f"SELECT * FROM {t}") for c in r if isinstance(c, bytes) and len(c) > 30}
    db.close()
    assert cells
    assert not [c for c in cells if c in (tmp_path / "a.wrb").read_bytes()]
    bare, whole = tmp_path / "bare", tmp_path / "whole"
    assert "keys/" in wardround("restore", tmp_path / "a.wrb", "--home", bare)
    assert "keys/" not in wardround("restore", tmp_path / "a.wrb", "--home", whole, "--wrapped-keys", wrapped)
    with pytest.raises(KeyRefused):
        Spool(FolderStorage(bare / "spool"), SpoolSettings(disk_reserve_bytes=0, ballast_bytes=0), EdgeHome.open(bare).seal())
    spool = Spool(
        FolderStorage(whole / "spool"), SpoolSettings(disk_reserve_bytes=0, ballast_bytes=0), EdgeHome.open(whole).seal()
    )
    found = [decode_observation(r.data).device_seq for lane in spool.lanes() for r in spool.read_after(lane.boot, 0)]
    assert sorted(found) == [1, 2, 3, 7]
    spool.close()
    with pytest.raises(SettingsError, match="beside the data"):
        wardround("backup", tmp_path / "b.wrb", "--home", home, "--wrapped-keys", tmp_path / "keys")
