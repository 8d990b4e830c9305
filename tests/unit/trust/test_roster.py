"""The roster: who is in it, who signed it, and that no certificate gets anybody in."""

from __future__ import annotations

import base64
import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from wardround.errors import TrustError
from wardround.trust.certificates import Authority, new_key, write_private
from wardround.trust.roster import (
    LASTING_KEY,
    PIN,
    LastingKey,
    PinnedRoster,
    Roster,
    RosterRefused,
    admit_shown,
    check_successor,
    hub_roster,
    read_entry,
    read_roster,
    roster_key,
    sign_roster,
)


class Edge:
    """Its identity folder, and a certificate of today."""

    def __init__(self, folder, name, authority):
        self.folder, self.name, self.authority = folder / name, name, authority
        self.folder.mkdir(exist_ok=True)
        self.lasting, self.pinned = LastingKey(self.folder), PinnedRoster(self.folder)
        self.renew()

    def renew(self):
        self.certificate = self.authority.issue_edge(self.name, new_key().public_key(), 1.0)

    @property
    def member(self):
        return self.name, self.certificate, self.lasting.vouch(self.certificate)


@pytest.fixture
def authority():
    return Authority.in_memory("test")


@pytest.fixture
def three(tmp_path, authority):
    return [Edge(tmp_path, name, authority) for name in ("icu-a", "icu-b", "ward-1")]


@pytest.fixture
def secret():
    return new_key()


def signed(secret, edges, number=1):
    return sign_roster(Roster(number, dict(read_entry(e.lasting.entry(e.name)) for e in edges)), secret)


def test_a_roster_names_its_edges_and_the_key_that_signed_it(three, secret):
    roster, key = read_roster(signed(secret, three))
    assert set(roster.edges) == {"icu-a", "icu-b", "ward-1"}
    assert roster.edges["icu-a"] == three[0].lasting.fingerprint
    assert key == roster_key(secret)


def test_a_lasting_key_outlives_renewals_and_restarts_and_only_its_edge_reads_it(three, secret):
    pinned, data = three[1].pinned, signed(secret, three)
    pinned.pin(roster_key(secret))
    before = three[0].lasting.fingerprint
    for _ in range(3):
        three[0].renew()  # a new key and a new certificate, as every day
        three[0].lasting = LastingKey(three[0].folder)
        pinned.admit(data, [e.member for e in three])
    assert three[0].lasting.fingerprint == before
    assert (three[0].folder / LASTING_KEY).stat().st_mode & 0o777 == 0o600
    assert [p.name for p in three[0].folder.iterdir()] == [LASTING_KEY]


def test_whom_the_hub_certifies_is_not_in_by_that(three, secret, authority, tmp_path):
    """The hub's own authority signs all of these certificates."""
    victim, data = three[0], signed(secret, three)
    victim.pinned.pin(roster_key(secret))
    stranger = Edge(tmp_path, "sybil-1", authority)
    with pytest.raises(RosterRefused, match="sybil-1 is not in the roster") as caught:
        victim.pinned.admit(data, [victim.member, three[1].member, stranger.member])
    assert caught.value.lie
    minted = authority.issue_edge("icu-b", new_key().public_key(), 1.0)  # a true edge's name, a key of the hub's
    for voucher in (b"", b"\x00", three[1].lasting.vouch(three[1].certificate), stranger.lasting.vouch(minted)):
        with pytest.raises(RosterRefused, match="icu-b is not vouched for") as caught:
            victim.pinned.admit(data, [victim.member, ("icu-b", minted, voucher), three[2].member])
        assert caught.value.lie
    victim.pinned.admit(data, [e.member for e in three])


def test_a_voucher_is_for_one_certificate_and_not_for_its_key_again(three, secret, authority):
    """A key of yesterday that was stolen gets no new certificate in."""
    key = new_key()
    old, again = (authority.issue_edge("icu-a", key.public_key(), hours) for hours in (1.0, 24.0))
    voucher = three[0].lasting.vouch(old)
    three[1].pinned.pin(roster_key(secret))
    three[1].pinned.admit(signed(secret, three), [("icu-a", old, voucher)])
    with pytest.raises(RosterRefused, match="not vouched for"):
        three[1].pinned.admit(signed(secret, three), [("icu-a", again, voucher)])


def test_a_roster_of_another_key_changed_older_or_missing_admits_nobody(three, secret):
    pinned, members = three[0].pinned, [e.member for e in three]
    pinned.pin(roster_key(secret))
    changed = json.loads(signed(secret, three[:2]))
    changed["roster"]["edges"]["ward-1"] = three[2].lasting.fingerprint
    other = new_key()
    swapped = json.loads(signed(other, three)) | {"key": changed["key"]}  # their words, our name
    for data, words, lie in (
        (b"", "shows no roster", False),
        (signed(other, three), "another key", True),
        (json.dumps(changed).encode(), "changed after it was signed", True),
        (json.dumps(swapped).encode(), "changed after it was signed", True),
        (b"{}", "no roster", True),
        (b"\xff", "no roster", True),
    ):
        with pytest.raises(RosterRefused, match=words) as caught:
            pinned.admit(data, members)
        assert caught.value.lie is lie
    pinned.admit(signed(secret, three, number=7), members)
    for number, seen in ((7, True), (6, False), (8, True), (7, False)):
        again = PinnedRoster(three[0].folder)  # a restart does not make it forget
        if seen:
            again.admit(signed(secret, three, number=number), members)
        else:
            with pytest.raises(RosterRefused, match=f"shows roster {number}"):
                again.admit(signed(secret, three, number=number), members)


def test_without_a_pin_everybody_is_admitted_and_a_broken_pin_admits_nobody(three, secret):
    edge = three[0]
    edge.pinned.admit(b"", [e.member for e in three])
    for wrong in ("", "ab", "g" * 64, roster_key(secret).upper()):
        with pytest.raises(TrustError, match="fingerprint"):
            edge.pinned.pin(wrong)
    assert edge.pinned.key == ""
    write_private(edge.folder / PIN, b"{", 0o644)
    with pytest.raises(TrustError, match="cannot be read"):
        edge.pinned.admit(b"", [])


def test_pinning_the_same_key_again_keeps_the_number_that_was_seen(three, secret):
    pinned = three[0].pinned
    pinned.pin(roster_key(secret))
    pinned.admit(signed(secret, three, number=5), [])
    pinned.pin(roster_key(secret))
    with pytest.raises(RosterRefused, match="has seen 5"):
        pinned.admit(signed(secret, three, number=4), [])


def test_an_entry_is_of_the_edge_that_holds_its_key(three):
    line = three[0].lasting.entry("icu-a")
    assert read_entry(f"  {line}\n") == ("icu-a", three[0].lasting.fingerprint)
    first, _, key, signature = line.split(".")
    theirs = three[1].lasting.entry("icu-b").split(".")
    rsa = base64.urlsafe_b64encode(b"\x30\x00").decode()
    for wrong in (
        f"{first}.icu-b.{key}.{signature}",
        f"{first}.icu-a.{theirs[2]}.{signature}",
        f"{first}.icu-a.{key}.{theirs[3]}",
        f"{first}.icu-a.{rsa}.{signature}",
        f"wr1.icu-a.{key}.{signature}",
        line[:-1] + "!",
        "",
    ):
        with pytest.raises(TrustError, match="no entry of an edge"):
            read_entry(wrong)
    with pytest.raises(TrustError, match="not allowed"):
        three[0].lasting.entry("Icu A")


def test_the_hub_passes_on_the_newest_roster_alone_and_asks_as_edges_do(three, secret, tmp_path):
    assert hub_roster(tmp_path) == b""
    admit_shown(b"", [("anybody", b"", b"")])
    first, second = (signed(secret, three[:n], number=number) for number, n in ((1, 2), (2, 3)))
    assert check_successor(second, first).number == 2
    assert check_successor(first, first).number == 1
    with pytest.raises(RosterRefused, match="roster 2 is there"):
        check_successor(first, second)
    assert check_successor(signed(new_key(), three), second).number == 1  # another keeper's
    admit_shown(second, [e.member for e in three])
    with pytest.raises(RosterRefused, match="ward-1"):
        admit_shown(first, [three[2].member])


def test_programs_that_make_the_lasting_key_at_once_have_one(tmp_path):
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: LastingKey(tmp_path).fingerprint, range(16)))
    assert set(made) == {LastingKey(tmp_path).fingerprint}
    assert [p.name for p in tmp_path.iterdir()] == [LASTING_KEY]
