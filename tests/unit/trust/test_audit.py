"""Whatever is done to an audit log afterwards is seen, and what was acknowledged survives SIGKILL."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.clock import ManualClock, SystemClock
from wardround.errors import CertificateRefused, StorageFull
from wardround.trust.audit import AuditBroken, AuditLog, Head, subject_ref, verify
from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.signatures import HubSigner, check_audit_signature


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pki")
    authority = Authority.create(folder, "hub")
    for name in ("hub", "other"):
        key = new_key()
        write_private(folder / f"{name}.key", key_pem(key))
        write_private(folder / f"{name}.pem", authority.issue_hub("hub", key.public_key(), ["localhost"], 24.0), 0o644)
    return folder


def opened(folder, pki, clock=None):
    signer = HubSigner(pki)
    return AuditLog(folder, clock or SystemClock(), signer.sign_audit, lambda: signer.certificate)


def checking(pki):
    authority = (pki / "ca.pem").read_bytes()
    return lambda data, signature, certificate, t_us: check_audit_signature(
        data, signature, certificate, authority, role="hub", now_us=t_us
    )


@pytest.fixture
def log(tmp_path, pki):
    log = opened(tmp_path / "audit", pki)
    for number in range(150):
        log.add("change", "consent changed", "dora", number=number)
    yield log
    log.close()


@pytest.fixture
def wrong(log, pki):
    """What is found wrong with bytes in place of the log's, against the head that an edge keeps."""
    kept = log.head()
    return lambda data, anchors=(kept,): verify(data, checking(pki), anchors).wrong


def test_a_log_that_nobody_touched_holds(log, wrong, pki):
    data = log.path.read_bytes()
    verdict = verify(data, checking(pki), [log.head()])
    assert not verdict.wrong
    assert verdict.entries == 152
    assert verdict.checkpoints == 2
    assert verdict.unsigned == 152 - 129
    assert [e.facts["number"] for e in log.entries() if e.kind == "change"] == list(range(150))
    assert oct(log.path.stat().st_mode & 0o777) == "0o600"


LINES = {
    "removed": lambda lines: lines[:70] + lines[71:],
    "removed at the start": lambda lines: lines[1:],
    "reordered": lambda lines: [*lines[:70], lines[71], lines[70], *lines[72:]],
    "changed": lambda lines: [*lines[:70], lines[70].replace(b"dora", b"dori"), *lines[71:]],
    "put in twice": lambda lines: [*lines[:70], lines[70], *lines[70:]],
    "a hash of its own": lambda lines: [*lines[:70], b"0" * 64 + lines[70][64:], *lines[71:]],
    "not whole": lambda lines: [*lines[:-1], lines[-1][:-1]],
}


@pytest.mark.parametrize("how", LINES)
def test_what_is_done_to_lines_is_seen_without_any_anchor(log, wrong, how):
    assert wrong(b"".join(LINES[how](log.path.read_bytes().splitlines(True))), ())


@pytest.mark.parametrize("entries", [0, 1, 100, 151])
def test_that_the_end_was_cut_off_is_seen_against_a_head_kept_elsewhere(log, wrong, entries):
    cut = b"".join(log.path.read_bytes().splitlines(True)[:entries])
    assert not wrong(cut, ())  # the control: without an anchor it cannot be seen
    assert "cut off" in wrong(cut)[0]


def test_of_two_heads_of_as_many_entries_each_is_looked_at(log, wrong):
    kept = log.head()
    other = Head(kept.entries, bytes(32))
    data = log.path.read_bytes()
    assert not wrong(data, (kept, kept))  # the control
    assert "not the one whose head was kept" in wrong(data, (other, kept))[0]
    assert "not the one whose head was kept" in wrong(data, (kept, other))[0]


def test_a_log_that_was_written_anew_with_good_hashes_is_seen(log, wrong, tmp_path, pki):
    """Whoever can write the file but not sign: the checkpoints are those of other lines, or of another's key."""
    for name in ("hub.key", "hub.pem"):
        (tmp_path / name).write_bytes((pki / name.replace("hub", "other")).read_bytes())
    signer = HubSigner(tmp_path)
    certificate = HubSigner(pki).certificate  # another's signature under the hub's certificate
    forged = AuditLog(tmp_path / "forged", SystemClock(), signer.sign_audit, lambda: certificate)
    for number in range(150):
        forged.add("change", "consent changed", "mallory", number=number)
    data = forged.path.read_bytes()
    assert "checkpoint at entry 64" in wrong(data, ())[0]
    assert "not the one whose head was kept" in wrong(data)[-1]
    forged.close()


@settings(max_examples=60, deadline=None)
@given(at=st.integers(0, 10**9), bit=st.integers(0, 7))
def test_any_bit_is_seen(at, bit, tmp_path_factory, pki):
    folder = tmp_path_factory.mktemp("bits")
    log = opened(folder, pki, ManualClock())
    for number in range(3):
        log.add("view", "overview opened", "otto", number=number)
    data, head = bytearray(log.path.read_bytes()), log.head()
    log.close()
    data[at % len(data)] ^= 1 << bit
    assert verify(bytes(data), lambda *_: None, [head]).wrong


def test_two_processes_write_one_chain(tmp_path, pki):
    hub, command = opened(tmp_path, pki), opened(tmp_path, pki)
    for number in range(40):
        (hub, command)[number % 2].add("change", "something", "x", number=number)
    assert not verify(hub.path.read_bytes(), checking(pki), [command.head(), hub.head()]).wrong
    hub.close()
    command.close()


def test_a_running_program_sees_that_its_log_was_cut(log):
    os.truncate(log.path, log.path.stat().st_size // 2)
    with pytest.raises(AuditBroken, match="bytes"):
        log.add("change", "something", "x")


def test_half_a_line_after_a_kill_is_cut_off_and_said(tmp_path, pki):
    log = opened(tmp_path, pki)
    log.add("change", "first", "x")
    log.close()
    with log.path.open("ab") as file:
        file.write(b"0" * 30)
    again = opened(tmp_path, pki)
    again.add("change", "second", "x")
    assert [e.what for e in again.entries()] == ["first", "log recovered", "second"]
    assert not verify(again.path.read_bytes(), checking(pki)).wrong
    again.close()


def test_on_a_full_disk_nothing_is_acknowledged_and_the_log_still_holds(log, monkeypatch, pki):
    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, at: real(fd, data[: len(data) // 2], at))
    with pytest.raises(StorageFull):
        log.add("delete", "erasure asked for", "dora")
    monkeypatch.undo()
    assert log.add("delete", "erasure asked for", "dora") == 152
    assert not verify(log.path.read_bytes(), checking(pki)).wrong


WRITER = """
import sys
from pathlib import Path
from wardround.clock import SystemClock
from wardround.trust.audit import AuditLog
log = AuditLog(Path(sys.argv[1]), SystemClock(), lambda data: b"s", lambda: b"c")
while True:
    print(log.add("change", "something", "x"), flush=True)
"""


def test_what_was_acknowledged_survives_sigkill(tmp_path):
    for _ in range(3):
        program = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        said = int(program.stdout.readline())
        until = time.monotonic() + 0.15
        while time.monotonic() < until:
            said = int(program.stdout.readline())
        program.send_signal(signal.SIGKILL)
        said = max([said, *(int(line) for line in program.communicate()[0].split() if line)])
        data = (tmp_path / "audit.log").read_bytes()
        verdict = verify(data[: data.rfind(b"\n") + 1], lambda *_: None)
        assert not verdict.wrong
        assert verdict.entries > said


def test_a_signature_for_something_else_is_no_head(pki):
    signer = HubSigner(pki)
    head = Head(1, b"h" * 32)
    with pytest.raises(CertificateRefused):
        checking(pki)(head.signed_part, signer.sign(head.signed_part), signer.certificate, SystemClock().now_us())


def test_a_subject_stands_as_a_digest():
    assert subject_ref("q7k4-m2xd") == subject_ref("q7k4-m2xd")
    assert "q7k4" not in subject_ref("q7k4-m2xd")
