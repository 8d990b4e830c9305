"""Which edge has signed something that came by way of the hub: for edges that must not take the hub's word for each other.

An edge knows its peers by their certificates, of the authority it joined under. Where that authority is the hub's own, a hub
could make peers up: an edge that has pinned a roster asks that as well (roster.py).
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from wardround.errors import CertificateRefused
from wardround.trust.certificates import CertificateFacts, check_certificate

MASKS_CONTEXT = b"wardround masks signature v1\0"
KNOWN_MAX = 4_096


class Peers:
    """Checks edges' signatures. A certificate that was found to hold is not parsed again while it lives."""

    def __init__(self, authority: Callable[[], bytes], now_us: Callable[[], int]) -> None:
        """`authority()` gives whom to trust, PEM."""
        self._authority, self._now_us = authority, now_us
        self._known: dict[tuple[bytes, bytes], tuple[CertificateFacts, ec.EllipticCurvePublicKey]] = {}

    def check(self, edge: str, data: bytes, signature: bytes, certificate: bytes) -> None:
        """Whether this edge signed these bytes with the key of this certificate (PEM).

        Raises:
            CertificateRefused: it did not, or the certificate does not hold now.
        """
        facts, key = self._key(edge, certificate)
        if (facts.role, facts.name) != ("edge", edge) or not facts.not_before_us <= self._now_us() <= facts.not_after_us:
            raise CertificateRefused(f"the certificate is that of {facts.role} {facts.name}, or out of its time", remedy="")
        try:
            key.verify(signature, MASKS_CONTEXT + data, ec.ECDSA(hashes.SHA256()))
        except InvalidSignature as error:
            raise CertificateRefused(f"{edge} has not signed this", remedy="look at the hub") from error

    def _key(self, edge: str, certificate: bytes) -> tuple[CertificateFacts, ec.EllipticCurvePublicKey]:
        authority = self._authority()
        found = self._known.get((authority, certificate))
        if found is None:
            facts = check_certificate(certificate, authority, now_us=self._now_us(), where=f"the keys of {edge[:60]}")
            key = x509.load_pem_x509_certificate(certificate).public_key()
            if not isinstance(key, ec.EllipticCurvePublicKey):
                raise CertificateRefused(f"the certificate of {facts.name} holds no P-256 key", remedy="join again")
            while len(self._known) >= KNOWN_MAX:
                del self._known[next(iter(self._known))]
            found = self._known[authority, certificate] = facts, key
        return found


def sign_masks(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """What an edge puts under its keys of a round, and under a list of survivors, DER."""
    return key.sign(MASKS_CONTEXT + data, ec.ECDSA(hashes.SHA256()))
