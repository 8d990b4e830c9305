"""Renewal of an edge's identity: when, with which key, under which names, and what a crash in between leaves."""

from __future__ import annotations

import asyncio
import shutil
import stat

import pytest

from wardround.clock import SystemClock
from wardround.errors import CertificateRefused, TrustError
from wardround.trust.certificates import (
    Authority,
    describe,
    hosts_of,
    key_pem,
    load_key,
    names_host,
    new_key,
    public_key_of,
    signing_request,
    write_private,
)
from wardround.trust.identity import FILES, IdentityFolder
from wardround.trust.renewal import Renewed, Renewer, due_us, renew, retry_s


class HandClock(SystemClock):
    """The machine's clock and what the test adds to it."""

    added_s = 0.0

    def now_us(self):
        return super().now_us() + round(self.added_s * 1e6)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority.create(tmp_path_factory.mktemp("pki"), "hub")


@pytest.fixture
def edge(authority, tmp_path):
    """An edge's identity with certificates of one hour."""
    key = new_key()
    folder = IdentityFolder(tmp_path / "identity")
    folder.replace(
        key,
        certificate=authority.issue_edge("icu-a", key.public_key(), 1.0),
        listener=authority.issue_listener("icu-a", key.public_key(), ["ward.example", "10.0.0.7"], 1.0),
        authority=authority.pem,
    )
    return folder


def renewed(authority, edge, key, csr=None, listener=None, hours=1.0):
    return renew(
        authority,
        peer=edge.certificate.read_bytes(),
        csr=csr or signing_request(key, "admin"),
        listener=listener or edge.listener.read_bytes(),
        hours=hours,
        now_us=SystemClock().now_us(),
    )


def test_a_renewal_keeps_the_name_and_the_listeners_names_whatever_the_request_says(authority, edge):
    key = new_key()
    given = renewed(authority, edge, key)
    assert (describe(given.certificate).role, describe(given.certificate).name) == ("edge", "icu-a")
    assert describe(given.certificate).serial != describe(edge.certificate.read_bytes()).serial
    assert public_key_of(given.certificate) == public_key_of(given.listener) == key.public_key()
    assert sorted(hosts_of(given.listener)) == ["10.0.0.7", "ward.example"]
    assert not names_host(given.listener, "hub.wardround.internal")


def test_a_renewal_needs_a_new_key_and_the_edges_own_listener(authority, edge, tmp_path):
    with pytest.raises(TrustError, match="new key"):
        renewed(authority, edge, load_key(edge.key))
    other = authority.issue_listener("icu-b", new_key().public_key(), ["other.example"], 1.0)
    with pytest.raises(TrustError, match="icu-b's listener"):
        renewed(authority, edge, new_key(), listener=other)
    stranger = Authority.create(tmp_path / "other", "other")
    forged = stranger.issue_listener("icu-a", new_key().public_key(), ["hub.example"], 1.0)
    with pytest.raises(CertificateRefused, match="not issued by this hub"):
        renewed(authority, edge, new_key(), listener=forged)
    with pytest.raises(TrustError, match="cannot be read"):
        renewed(authority, edge, new_key(), csr=b"rubbish")


def test_the_reserved_names_are_the_authoritys_alone(authority):
    key = new_key().public_key()
    for host in ("hub.wardround.internal", "HUB.Wardround.Internal.", "icu-b.listener.wardround.internal"):
        with pytest.raises(TrustError, match="reserved"):
            authority.issue_listener("icu-a", key, [host], 1.0)
    assert names_host(authority.issue_hub("hub", key, ["127.0.0.1"], 1.0), "hub.wardround.internal")


def test_it_is_due_at_two_thirds_spread_over_a_twelfth(edge):
    facts = describe(edge.certificate.read_bytes())
    third_us = facts.life_us / 3
    assert facts.life_us == pytest.approx(3_600_000_000, rel=1e-6)
    assert due_us(facts, 0.0) - facts.issued_us == pytest.approx(2 * third_us, abs=2)
    assert due_us(facts, 1.0) - facts.issued_us == pytest.approx(1.75 * third_us, abs=2)
    waits = [retry_s(attempt, 86_400.0) for attempt in range(12)]
    assert waits == sorted(waits)
    assert waits[-1] == 300.0
    assert sum(retry_s(n, 6.0) for n in range(10)) < 2.0  # of a life of seconds, many tries fit into the last third


def run_renewer(edge, clock, ask, looks=1):
    adopted = []

    async def taken():
        adopted.append(describe(edge.certificate.read_bytes()).serial)

    async def play():
        renewer = Renewer(edge, clock=clock, ask=ask, on_renewed=taken, spread=lambda: 0.0)
        for step in looks if isinstance(looks, list) else [None] * looks:
            if step is not None:
                step()
            await renewer.look()

    asyncio.run(play())
    return adopted


def test_the_edge_renews_when_it_is_due_and_not_before(authority, edge):
    clock, asked = HandClock(), []
    first = describe(edge.certificate.read_bytes()).serial

    async def ask(csr, listener):
        asked.append(csr)
        return renewed(authority, edge, None, csr=csr, listener=listener)

    def later():
        clock.added_s = 2_500.0

    adopted = run_renewer(edge, clock, ask, [lambda: None, later])
    assert len(asked) == 1
    assert adopted == [describe(edge.certificate.read_bytes()).serial]
    assert adopted != [first]
    assert public_key_of(edge.certificate.read_bytes()) == load_key(edge.key).public_key()
    assert stat.S_IMODE(edge.key.stat().st_mode) == 0o600
    assert b"PRIVATE" not in asked[0]


def test_a_hub_that_is_away_is_asked_again_and_the_old_identity_stays(authority, edge):
    clock, asked = HandClock(), []
    before = {name: (edge.path / name).read_bytes() for name in FILES}

    async def away(csr, _listener):
        asked.append(csr)
        raise CertificateRefused("the hub cannot be reached")

    def at(seconds):
        return lambda: setattr(clock, "added_s", seconds)

    assert run_renewer(edge, clock, away, [at(2_500.0), at(2_501.0), at(2_560.0), at(2_700.0)]) == []
    assert len(asked) == 3  # not at every look
    assert {name: (edge.path / name).read_bytes() for name in FILES} == before


@pytest.mark.parametrize("spoil", ["another-name", "another-key", "another-authority"])
def test_an_answer_that_is_not_this_edges_is_not_taken(authority, edge, spoil, tmp_path):
    clock = HandClock()
    clock.added_s = 2_500.0
    stranger = Authority.create(tmp_path / "other", "other") if spoil == "another-authority" else authority

    async def ask(csr, _listener):
        from wardround.trust.certificates import requested_key

        key = new_key().public_key() if spoil == "another-key" else requested_key(csr)
        name = "icu-b" if spoil == "another-name" else "icu-a"
        return Renewed(stranger.issue_edge(name, key, 1.0), stranger.issue_listener(name, key, [], 1.0))

    before = edge.certificate.read_bytes()
    assert run_renewer(edge, clock, ask) == []
    assert edge.certificate.read_bytes() == before


def test_an_identity_that_a_person_joined_anew_is_taken_into_use(authority, edge):
    async def nobody(_csr, _listener):
        raise AssertionError("nothing is due")

    def joined():
        key = new_key()
        edge.replace(
            key,
            certificate=authority.issue_edge("icu-a", key.public_key(), 1.0),
            listener=authority.issue_listener("icu-a", key.public_key(), [], 1.0),
            authority=authority.pem,
        )

    adopted = run_renewer(edge, HandClock(), nobody, [lambda: None, joined, lambda: None])
    assert adopted == [describe(edge.certificate.read_bytes()).serial]


@pytest.mark.parametrize("moved", range(len(FILES) + 1))
def test_a_crash_while_files_are_moved_is_finished_by_whoever_opens_the_identity(edge, authority, moved, tmp_path):
    """The folder `ready` is the moment: before it the old identity counts, from it on the new one, whole."""
    key = new_key()
    ready = edge.path / "ready"
    write_private(ready / "edge.key", key_pem(key))
    write_private(ready / "edge.pem", authority.issue_edge("icu-a", key.public_key(), 1.0), 0o644)
    write_private(ready / "listener.pem", authority.issue_listener("icu-a", key.public_key(), [], 1.0), 0o644)
    write_private(ready / "ca.pem", authority.pem, 0o644)
    for name in FILES[:moved]:
        (ready / name).replace(edge.path / name)
    opened = IdentityFolder(edge.path)
    assert load_key(opened.key).public_key() == key.public_key()
    assert public_key_of(opened.certificate.read_bytes()) == public_key_of(opened.listener.read_bytes()) == key.public_key()
    assert not ready.exists()


def test_files_that_were_not_complete_do_not_count(edge):
    before = edge.key.read_bytes()
    write_private(edge.path / "next" / "edge.key", key_pem(new_key()))
    assert IdentityFolder(edge.path).key.read_bytes() == before
    shutil.rmtree(edge.path / "next")
