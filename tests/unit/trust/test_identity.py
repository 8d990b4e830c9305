"""Certificates, join tokens, passwords, pseudonyms and consent: who is who, and who may what."""

from __future__ import annotations

import stat

import pytest

from wardround.clock import ManualClock, SystemClock
from wardround.errors import CertificateRefused, JoinRefused, LoginRefused, TrustError
from wardround.records import TokenRecord
from wardround.trust import join
from wardround.trust.certificates import Authority, check_certificate, describe, new_key
from wardround.trust.passwords import SignIn, hash_password, new_password
from wardround.trust.pseudonyms import Pseudonyms

HOUR_US = 3_600_000_000


class Tokens:
    def __init__(self):
        self.rows = {}

    def add(self, record):
        self.rows[record.token_id] = record

    def get(self, token_id):
        return self.rows.get(token_id)

    def burn(self, token_id, used_by):
        row = self.rows[token_id]
        if row.used_by not in (None, used_by):
            return False
        self.rows[token_id] = TokenRecord(row.token_id, row.name, row.secret_sha256, row.expires_us, used_by)
        return True


@pytest.fixture
def minted():
    clock, tokens = ManualClock(), Tokens()
    text = join.mint(tokens, clock, name="icu-a", host="hub.local", port=7444, pin=b"\1" * 32)
    return clock, tokens, text


def redeem(minted, key=b"key"):
    clock, tokens, text = minted
    token = join.parse(text)
    return join.redeem(tokens, clock, token_id=token.token_id, secret=token.secret, public_key_der=key)


def test_a_token_gives_its_name_once(minted):
    assert redeem(minted) == "icu-a"
    assert redeem(minted) == "icu-a"  # the same key again: a lost answer is no lost token
    with pytest.raises(JoinRefused, match="already used") as refused:
        redeem(minted, b"another key")
    assert "hub invite" in refused.value.remedy


def test_a_token_ends_after_its_time(minted):
    minted[0].advance(join.TOKEN_LIFE_S + 1)
    with pytest.raises(JoinRefused):
        redeem(minted)


def test_the_store_never_sees_the_secret(minted):
    token = join.parse(minted[2])
    assert token.secret not in repr(minted[1].rows).encode()
    assert minted[2] not in repr(token)


@pytest.mark.parametrize("text", ["", "wr1", "wr1.a.b.c.d", "wr2.x.y.z.w", "x" * 2_000, "wr1....", "wr1.ÄÖ.b.c.d"])
def test_what_is_no_token_is_refused_before_anything_is_sent(text):
    with pytest.raises(JoinRefused, match="not a join token"):
        join.parse(text)


@pytest.fixture
def authority(tmp_path):
    return Authority.create(tmp_path / "pki", "hub")


def test_an_expired_certificate_says_when_and_what_to_do(authority):
    pem = authority.issue_edge("icu-a", new_key().public_key(), 1.0)
    now = SystemClock().now_us()
    assert check_certificate(pem, authority.pem, now_us=now, where="x").name == "icu-a"
    with pytest.raises(CertificateRefused, match="certificate of icu-a expired at 2") as refused:
        check_certificate(pem, authority.pem, now_us=now + 2 * HOUR_US, where="identity")
    assert "hub invite" in refused.value.remedy
    with pytest.raises(CertificateRefused, match="not valid before"):
        check_certificate(pem, authority.pem, now_us=now - 48 * HOUR_US, where="identity")


def test_a_certificate_of_another_authority_is_refused(authority, tmp_path):
    other = Authority.create(tmp_path / "other", "hub")
    pem = other.issue_edge("icu-a", new_key().public_key(), 1.0)
    with pytest.raises(CertificateRefused, match="not issued by this hub"):
        check_certificate(pem, authority.pem, now_us=SystemClock().now_us(), where="x")
    with pytest.raises(CertificateRefused, match="cannot be read"):
        describe(b"rubbish")


def test_keys_are_for_their_owner_alone(authority, tmp_path):
    keys = list((tmp_path / "pki").glob("*.key"))
    assert keys
    assert all(stat.S_IMODE(key.stat().st_mode) == 0o600 for key in keys)
    with pytest.raises(TrustError):
        Authority.create(tmp_path / "pki", "hub")  # never over an old one


def test_guessing_a_password_is_slowed_down_and_names_are_not_told():
    clock = ManualClock()
    sign_in, stored = SignIn(clock), hash_password("right")
    sign_in.check("oncall", "right", stored)
    said = set()
    for name, hash_ in (("oncall", stored), ("nobody", None)):
        with pytest.raises(LoginRefused) as refused:
            sign_in.check(name, "wrong", hash_)
        said.add(str(refused.value))
    assert len(said) == 1
    for _ in range(2):
        with pytest.raises(LoginRefused):
            sign_in.check("oncall", "wrong", stored)
    with pytest.raises(LoginRefused, match="too many attempts"):
        sign_in.check("oncall", "right", stored)
    clock.advance(SignIn.WAIT_S_MAX)
    sign_in.check("oncall", "right", stored)


def test_new_passwords_differ_and_can_be_typed():
    made = {new_password() for _ in range(50)}
    assert len(made) == 50
    assert all(set(p) <= set("abcdefghjkmnpqrstuvwxyz23456789-") for p in made)


def test_a_pseudonym_is_stable_at_its_edge_and_says_nothing(tmp_path):
    first = Pseudonyms.open(tmp_path / "a.key")
    assert first.of("P-1001") == Pseudonyms.open(tmp_path / "a.key").of("P-1001")
    assert first.of("P-1001") != first.of("P-1002")
    assert first.of("P-1001") != Pseudonyms.open(tmp_path / "b.key").of("P-1001")
    assert "1001" not in first.of("P-1001")
