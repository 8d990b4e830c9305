"""The hub's signature on what others pass on."""

from __future__ import annotations

import pytest

from wardround.clock import SystemClock
from wardround.errors import CertificateRefused
from wardround.trust.certificates import Authority, key_pem, new_key, write_private
from wardround.trust.signatures import HubSigner, check_signature

NOW_US = SystemClock().now_us()


def make(folder, *, role="hub", hours=1.0):
    authority = Authority.create(folder, "test")
    key = new_key()
    write_private(folder / "hub.key", key_pem(key))
    issued = authority.issue_hub("hub", key.public_key(), ["127.0.0.1"], hours)
    write_private(folder / "hub.pem", issued if role == "hub" else authority.issue_edge("edge-1", key.public_key(), hours))
    return authority, HubSigner(folder)


def test_what_the_hub_signed_holds(tmp_path):
    authority, signer = make(tmp_path)
    check_signature(b"data", signer.sign(b"data"), signer.certificate, authority.pem, now_us=NOW_US)


def test_nothing_else_does(tmp_path):
    authority, signer = make(tmp_path / "a")
    other, stranger = make(tmp_path / "b")
    edge_authority, edge = make(tmp_path / "c", role="edge")
    signature = signer.sign(b"data")
    for data, given, certificate, root in (
        (b"other data", signature, signer.certificate, authority.pem),
        (b"data", b"", signer.certificate, authority.pem),
        (b"data", stranger.sign(b"data"), stranger.certificate, authority.pem),
        (b"data", stranger.sign(b"data"), signer.certificate, authority.pem),
        (b"data", edge.sign(b"data"), edge.certificate, edge_authority.pem),
        (b"data", signature, b"no certificate", authority.pem),
        (b"data", signature, signer.certificate, other.pem),
    ):
        with pytest.raises(CertificateRefused):
            check_signature(data, given, certificate, root, now_us=NOW_US)
    with pytest.raises(CertificateRefused, match="expired"):
        check_signature(b"data", signature, signer.certificate, authority.pem, now_us=NOW_US + 10**12)
