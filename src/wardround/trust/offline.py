"""An authority under an offline root: the hub signs edges, and a root that is kept away from every network signs the hub.

The hub makes its key and a request; whoever holds the root signs that, and the hub takes the answer. Edges trust the root, so
that a hub's authority is renewed without a single edge joining again: what an earlier one has issued counts until it ends.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wardround.clock import utc
from wardround.errors import TrustError
from wardround.trust.certificates import authority_name, key_pem, load_key, new_key, write_private

REQUEST, ISSUING, EARLIER = "authority.csr", "issuing.pem", "earlier.pem"


def request_authority(folder: Path, name: str) -> Path:
    """Make the authority's key, which stays here, and a request for the root; the request's file.

    Raises:
        TrustError: there is an authority already.
    """
    if (folder / "ca.key").exists():
        raise TrustError(f"{folder} already holds an authority", remedy="choose an empty home")
    key = new_key()
    write_private(folder / "ca.key", key_pem(key))
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(authority_name(name))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    write_private(folder / REQUEST, request.public_bytes(serialization.Encoding.PEM), 0o644)
    return folder / REQUEST


def install_authority(folder: Path, pem: bytes, *, now_us: int) -> None:
    """Take the signed authority and its root (PEM, in either order) into use; later again, with a new one under the same root.

    Raises:
        TrustError: they are not an authority of this key under a root, or the root is not the one that edges trust.
    """
    key = load_key(folder / "ca.key")
    issuing, root = _told_apart(pem, key.public_key())
    for certificate, what in ((issuing, "the signed authority"), (root, "the root")):
        _check_is_authority(certificate, what, now_us)
    try:
        root.verify_directly_issued_by(root)
        issuing.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as exc:
        raise TrustError(
            "the authority is not signed by the root beside it", remedy="put the root that signed it into the file"
        ) from exc
    anchor = root.public_bytes(serialization.Encoding.PEM)
    trusted = folder / "ca.pem"
    if trusted.exists() and x509.load_pem_x509_certificate(trusted.read_bytes()) != root:
        raise TrustError("edges of this hub trust another root", remedy="sign the authority with that one")
    if (folder / ISSUING).exists():
        before = (folder / EARLIER).read_bytes() if (folder / EARLIER).exists() else b""
        write_private(folder / EARLIER, before + (folder / ISSUING).read_bytes(), 0o644)
    write_private(folder / ISSUING, issuing.public_bytes(serialization.Encoding.PEM), 0o644)
    write_private(trusted, anchor, 0o644)


def _told_apart(pem: bytes, own: ec.EllipticCurvePublicKey) -> tuple[x509.Certificate, x509.Certificate]:
    try:
        given = x509.load_pem_x509_certificates(pem)
    except ValueError as exc:
        raise TrustError("the file holds no certificates", remedy="give the signed authority and its root, in PEM") from exc
    issuing = [c for c in given if c.public_key() == own]
    roots = [c for c in given if c.public_key() != own]
    if len(issuing) != 1 or len(roots) != 1:
        raise TrustError(
            f"the file holds {len(issuing)} certificates of this hub's key and {len(roots)} others",
            remedy=f"give one file with the certificate that the root made of {REQUEST}, and the root's own",
        )
    return issuing[0], roots[0]


def _check_is_authority(certificate: x509.Certificate, what: str, now_us: int) -> None:
    try:
        may = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        may = may and usage.key_cert_sign and usage.crl_sign
    except x509.ExtensionNotFound:
        may = False
    if not may:
        raise TrustError(
            f"{what} may not sign certificates and revocation lists",
            remedy="sign it with basicConstraints CA:TRUE and keyUsage keyCertSign, cRLSign: docs/security.md has the command",
        )
    if not certificate.not_valid_before_utc <= utc(now_us) <= certificate.not_valid_after_utc:
        raise TrustError(f"{what} is out of its time", remedy="sign it anew, or set the clock")
