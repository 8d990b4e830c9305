"""The hub's signature on what others pass on for it: ECDSA P-256 with SHA-256, by the key of the hub's own certificate."""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from wardround.errors import CertificateRefused
from wardround.trust.certificates import check_certificate, load_key

CONTEXT = b"wardround model manifest v1\0"  # so that no other thing the key signs can be taken for this


class HubSigner:
    """Signs with the hub's key."""

    def __init__(self, pki: Path) -> None:
        """Raises TrustError: the key cannot be read."""
        self._key = load_key(pki / "hub.key")
        self.certificate = (pki / "hub.pem").read_bytes()

    def sign(self, data: bytes) -> bytes:
        """The signature, DER."""
        return self._key.sign(CONTEXT + data, ec.ECDSA(hashes.SHA256()))


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
    key = x509.load_pem_x509_certificate(certificate).public_key()
    refused = CertificateRefused("a model's manifest is not signed by the hub", remedy="it is fetched from the hub instead")
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise refused
    try:
        key.verify(signature, CONTEXT + data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as exc:
        raise refused from exc
