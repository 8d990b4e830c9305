"""Signatures: the hub's on what others pass on for it, an edge's on the updates it announces.

ECDSA P-256 with SHA-256, by the key of the signer's own certificate.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from wardround.errors import CertificateRefused
from wardround.trust.certificates import check_certificate, describe, load_key
from wardround.trust.peers import sign_masks

# What is signed begins with what it is, so that no other thing the same key signs can be taken for it.
CONTEXT = b"wardround model manifest v1\0"
AUDIT_CONTEXT = b"wardround audit log v1\0"
DRILL_CONTEXT = b"wardround drill v1\0"
EDGE_CONTEXT = b"wardround update announcement v1\0"
OWN_REPORT_CONTEXT = b"wardround own report v1\0"


class HubSigner:
    """Signs with the hub's key."""

    def __init__(self, pki: Path) -> None:
        """Raises TrustError: the key cannot be read."""
        self._key = load_key(pki / "hub.key")
        self.certificate = (pki / "hub.pem").read_bytes()

    def sign(self, data: bytes) -> bytes:
        """The signature, DER."""
        return self._key.sign(CONTEXT + data, ec.ECDSA(hashes.SHA256()))

    def sign_drill(self, charter: bytes) -> bytes:
        """The signature under what a live drill may do, DER."""
        return self._key.sign(DRILL_CONTEXT + charter, ec.ECDSA(hashes.SHA256()))

    def sign_audit(self, head: bytes) -> bytes:
        """The signature under a head of the audit log, DER."""
        return self._key.sign(AUDIT_CONTEXT + head, ec.ECDSA(hashes.SHA256()))


def check_drill_signature(charter: bytes, signature: bytes, certificate: bytes, authority: bytes, *, now_us: int) -> None:
    """Whether the hub of this authority, by a certificate that holds now, signed what a live drill may do.

    Raises:
        CertificateRefused: it did not.
    """
    facts = check_certificate(certificate, authority, now_us=now_us, where="a drill's charter")
    if facts.role != "hub" or not _signed(DRILL_CONTEXT + charter, signature, certificate):
        raise CertificateRefused("a drill's charter is not signed by the hub", remedy="nothing of it is done here")


def check_audit_signature(head: bytes, signature: bytes, certificate: bytes, authority: bytes, *, role: str, now_us: int) -> None:
    """Whether a hub or edge of this authority, by a certificate that held at `now_us`, signed a head of its audit log.

    Raises:
        CertificateRefused: it did not.
    """
    remedy = "the log, or this checkpoint, is not what was written"
    facts = check_certificate(certificate, authority, now_us=now_us, where="a head of the audit log")
    if facts.role != role or not _signed(AUDIT_CONTEXT + head, signature, certificate):
        raise CertificateRefused(f"a head of the audit log is not signed by the {role}", remedy=remedy)


def check_signature(data: bytes, signature: bytes, certificate: bytes, authority: bytes, *, now_us: int) -> None:
    """Whether the hub of this authority signed these bytes.

    Args:
        certificate, authority: PEM.

    Raises:
        CertificateRefused: the certificate is not a hub's, not of this authority, or out of its time; or it did not sign this.
    """
    facts = check_certificate(certificate, authority, now_us=now_us, where="a model's manifest")
    if facts.role != "hub":
        raise CertificateRefused(f"a model's manifest is signed by a {facts.role}", remedy="it is fetched from the hub instead")
    if not _signed(CONTEXT + data, signature, certificate):
        raise CertificateRefused("a model's manifest is not signed by the hub", remedy="it is fetched from the hub instead")


class EdgeSigner:
    """Signs with an edge's own key, which never leaves it."""

    def __init__(self, identity: Path) -> None:
        """Raises TrustError: the key cannot be read."""
        self._path = identity / "edge.key"
        self.renew()

    def renew(self) -> None:
        """Take the key, as it is on disk, into use."""
        self._key = load_key(self._path)
        self._certificate = self._path.with_name("edge.pem").read_bytes()

    def sign_masks(self, data: bytes) -> tuple[bytes, bytes]:
        """The signature under what other edges are to believe (DER), and the certificate of the key (PEM)."""
        return sign_masks(self._key, data), self._certificate

    def sign(self, announcement: bytes) -> bytes:
        """The signature, DER."""
        return edge_signature(self._key, announcement)

    def sign_own_report(self, report: bytes) -> bytes:
        """The signature under what the edge says of itself, DER."""
        return edge_signature(self._key, report, context=OWN_REPORT_CONTEXT)

    def sign_audit(self, head: bytes) -> bytes:
        """The signature under a head of the edge's own audit log, DER."""
        return self._key.sign(AUDIT_CONTEXT + head, ec.ECDSA(hashes.SHA256()))


def edge_signature(key: ec.EllipticCurvePrivateKey, announcement: bytes, *, context: bytes = EDGE_CONTEXT) -> bytes:
    """What this key's edge puts under an announcement, or under what else it says, DER."""
    return key.sign(context + announcement, ec.ECDSA(hashes.SHA256()))


def check_edge_signature(
    announcement: bytes, signature: bytes, certificate: bytes, edge: str, *, context: bytes = EDGE_CONTEXT
) -> None:
    """Whether this edge signed an announcement with the key of this certificate (PEM), whose issuer the caller has checked.

    Raises:
        CertificateRefused: the certificate is another's, or its key did not sign this.
    """
    facts = describe(certificate)
    if (facts.role, facts.name) != ("edge", edge):
        raise CertificateRefused(
            f"the certificate is that of {facts.role} {facts.name}, not of edge {edge}", remedy="join again with a new token"
        )
    if not signature:
        raise CertificateRefused("the update is not signed", remedy="bring the edge to the hub's version")
    if not _signed(context + announcement, signature, certificate):
        raise CertificateRefused(
            f"the signature is not that of {edge} over what is announced",
            remedy="run the edge with the key that its certificate was issued for, or join again with a new token",
        )


@lru_cache(maxsize=256)  # an upload is looked at when it begins and when it is whole
def _signed(data: bytes, signature: bytes, certificate: bytes) -> bool:
    key = x509.load_pem_x509_certificate(certificate).public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        return False
    try:
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True
