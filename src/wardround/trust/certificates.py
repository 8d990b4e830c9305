"""Certificates: P-256 everywhere, one authority a hub, one identity an edge.

An edge's certificate carries its name as CN and as URI SAN `spiffe://wardround/edge/NAME`; the same key has a second
certificate for the edge's own MQTT listener. Leaves are backdated by an hour, for boards without a clock battery.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ipaddress
import os
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wardround.clock import utc
from wardround.errors import CertificateRefused, TrustError

URI_PREFIX = "spiffe://wardround/"
RESERVED = ".wardround.internal"  # names that only the authority gives: no edge can ask for one
HUB_NAME = "hub" + RESERVED  # what edges verify their hub by, whatever its address
RADIUS_NAME = "radius" + RESERVED  # what edges verify the network by, before they show it their certificate
CRL_HOURS = 24.0
SECRET_FILES = ("*.key", "*.secret", "devices.toml", "pki/*.key", "identity/*.key", "mosquitto/*.secret", "mosquitto/passwords")
BACKDATE = dt.timedelta(hours=1)
CALLS, SERVES = (ExtendedKeyUsageOID.CLIENT_AUTH,), (ExtendedKeyUsageOID.SERVER_AUTH,)
BOTH = (*CALLS, *SERVES)


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What a certificate says: `role` is edge, hub, listener, radius or worker."""

    name: str
    role: str
    serial: str
    not_before_us: int
    not_after_us: int

    @property
    def issued_us(self) -> int:
        """When it was made: leaves are backdated."""
        return self.not_before_us + round(BACKDATE.total_seconds() * 1e6)

    @property
    def life_us(self) -> int:
        """How long it lives, from when it was made."""
        return max(self.not_after_us - self.issued_us, 1)


def listener_name(edge: str) -> str:
    """The reserved name in the certificate of an edge's own listener."""
    return f"{edge}.listener{RESERVED}"


def write_private(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write whole, with its mode from the first byte on, then rename into place and sync."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.unlink(missing_ok=True)
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(fd, "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
    partial.replace(path)


def loose_keys(home: Path) -> list[tuple[Path, int]]:
    """Files of a hub's or an edge's home that hold secrets, and may be read by others; with their modes."""
    secret = (p for pattern in SECRET_FILES for p in home.glob(pattern))
    return [(p, mode) for p in sorted(set(secret)) if (mode := p.stat().st_mode & 0o777) & 0o077]


def check_key_files(home: Path) -> None:
    """Before a program starts: nobody else may read its keys.

    Raises:
        TrustError: somebody may.
    """
    for path, mode in loose_keys(home):
        raise TrustError(f"{path} may be read by others (mode {mode:o})", remedy=f"chmod 600 {path}; then consider a new key")


def new_key() -> ec.EllipticCurvePrivateKey:
    """A fresh P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """PKCS #8, PEM, unencrypted: the file's mode guards it."""
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())


def load_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Read a P-256 key.

    Raises:
        TrustError: the file is not such a key.
    """
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as exc:
        raise TrustError(f"{path} is not a readable private key", remedy="restore it, or join again with a new token") from exc
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.curve.name != "secp256r1":
        raise TrustError(f"{path} is not a P-256 key", remedy="join again with a new token")
    return key


def signing_request(key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
    """A CSR, PEM. The hub takes only its public key: names come from the token."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def requested_key(csr_pem: bytes) -> ec.EllipticCurvePublicKey:
    """The public key of a CSR whose signature holds.

    Raises:
        TrustError: not a CSR, a bad signature, or not P-256.
    """
    try:
        csr = x509.load_pem_x509_csr(csr_pem)
    except ValueError as exc:
        raise TrustError("the signing request cannot be read", remedy="send a PEM PKCS #10 request") from exc
    key = csr.public_key()
    if not csr.is_signature_valid:
        raise TrustError("the signing request is not signed by its key", remedy="make it again")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp256r1":
        raise TrustError("the signing request's key is not P-256", remedy="make a P-256 key")
    return key


class Authority:
    """The hub's certificate authority, kept in its `pki` folder: its own root, or one that an offline root has signed.

    `certificate` signs; `root` is what everybody trusts. Leaves under an offline root carry `certificate` with them.
    """

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, root: x509.Certificate | None = None
    ) -> None:
        self.certificate, self._key, self.root = certificate, key, root or certificate
        self._chain = certificate.public_bytes(serialization.Encoding.PEM) if root is not None else b""

    @classmethod
    def create(cls, folder: Path, name: str) -> Authority:
        """Make a new authority and write ca.pem and ca.key (0600).

        Raises:
            TrustError: there is one already; it is never overwritten, as every edge trusts it.
        """
        if (folder / "ca.key").exists():
            raise TrustError(f"{folder} already holds an authority", remedy="choose an empty home")
        authority = cls.in_memory(name)
        write_private(folder / "ca.key", key_pem(authority._key))
        write_private(folder / "ca.pem", authority.pem, 0o644)
        return authority

    @classmethod
    def in_memory(cls, name: str) -> Authority:
        """A new authority that is written nowhere."""
        key = new_key()
        subject = authority_name(name)
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject)
            .public_key(key.public_key())
            .serial_number(_serial())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + dt.timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(certificate, key)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """Open the authority of a hub's home.

        Raises:
            TrustError: the files are missing or unreadable.
        """
        key = load_key(folder / "ca.key")
        if not (folder / "ca.pem").exists() and (folder / "authority.csr").exists():
            raise TrustError(
                f"the authority waits for its certificate: {folder / 'authority.csr'} is not signed yet",
                remedy="have the root sign it, then `wardround hub authority FILE`: docs/security.md has the commands",
            )
        try:
            root = x509.load_pem_x509_certificate((folder / "ca.pem").read_bytes())
            if (folder / "issuing.pem").exists():
                return cls(x509.load_pem_x509_certificate((folder / "issuing.pem").read_bytes()), key, root)
            return cls(root, key)
        except (OSError, ValueError) as exc:
            raise TrustError(f"{folder / 'ca.pem'} cannot be read", remedy="restore it from a backup") from exc

    @property
    def pem(self) -> bytes:
        """What everybody trusts: the root's certificate."""
        return self.root.public_bytes(serialization.Encoding.PEM)

    @property
    def bundle(self) -> bytes:
        """The root, and under an offline one the authority itself: to check leaves that come without it."""
        return self.pem + self._chain

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the root's DER form: what a join token pins."""
        return self.root.fingerprint(hashes.SHA256())

    def issue_edge(self, name: str, key: ec.EllipticCurvePublicKey, hours: float) -> bytes:
        """An edge's identity (clientAuth), PEM."""
        return self._issue(name, key, hours, "edge", [f"{name}.edge.wardround.internal"], CALLS)

    def issue_listener(self, name: str, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], hours: float) -> bytes:
        """A certificate for an edge's own listener (serverAuth), PEM.

        Raises:
            TrustError: a host is one of the reserved names, such as the hub's.
        """
        taken = [host for host in hosts if host.lower().rstrip(".").endswith(RESERVED)]
        if taken:
            raise TrustError(f"{taken[0][:80]!r} is a reserved name", remedy="name the hosts under which devices reach the edge")
        return self._issue(name, key, hours, "listener", [*hosts, listener_name(name)], SERVES)

    def issue_hub(self, name: str, key: ec.EllipticCurvePublicKey, hosts: Sequence[str], hours: float) -> bytes:
        """The hub's certificate (serverAuth), PEM."""
        return self._issue(name, key, hours, "hub", [*hosts, HUB_NAME], SERVES)

    def issue_radius(self, key: ec.EllipticCurvePublicKey, hours: float) -> bytes:
        """The certificate of whoever admits edges to the Wi-Fi (serverAuth), PEM."""
        return self._issue("radius", key, hours, "radius", [RADIUS_NAME], SERVES)

    def revocation_list(self, revoked: Iterable[tuple[str, int]], *, now_us: int, hours: float = CRL_HOURS) -> bytes:
        """A CRL, PEM. `revoked` gives serials in hexadecimal and when each was revoked, microseconds since 1970.

        For programs that know nothing of the hub's deny-list, such as an access point: it holds for `hours`.
        """
        now = utc(now_us).replace(microsecond=0)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now - BACKDATE)
            .next_update(now + dt.timedelta(hours=hours))
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .add_extension(x509.CRLNumber(now_us), critical=False)
        )
        for serial, revoked_us in sorted(revoked):
            entry = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(utc(revoked_us))
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def issue_worker(self, name: str, key: ec.EllipticCurvePublicKey, hours: float) -> bytes:
        """A certificate for one end of processing, scheduler or worker: each calls the other, so it holds both purposes, PEM."""
        return self._issue(name, key, hours, "worker", [f"{name}.worker.wardround.internal"], BOTH)

    def _issue(
        self,
        name: str,
        key: ec.EllipticCurvePublicKey,
        hours: float,
        role: str,
        hosts: Sequence[str],
        purposes: Sequence[x509.ObjectIdentifier],
    ) -> bytes:
        now = dt.datetime.now(dt.UTC).replace(microsecond=0)
        alternatives: list[x509.GeneralName] = [x509.UniformResourceIdentifier(f"{URI_PREFIX}{role}/{name}")]
        for host in hosts:
            with contextlib.suppress(ValueError):
                alternatives.append(x509.IPAddress(ipaddress.ip_address(host)))
                continue
            alternatives.append(x509.DNSName(host))
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(self.certificate.subject)
            .public_key(key)
            .serial_number(_serial())
            .not_valid_before(now - BACKDATE)
            .not_valid_after(now + dt.timedelta(hours=hours))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
            .public_bytes(serialization.Encoding.PEM)
            + self._chain
        )


@lru_cache(maxsize=4096)  # asked for every message of a stream, of the same few certificates
def describe(pem: bytes) -> CertificateFacts:
    """What the first certificate of a PEM file says.

    Raises:
        CertificateRefused: it is not a certificate, or not one of Wardround's.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound) as exc:
        raise CertificateRefused("the certificate cannot be read", remedy="join again with a new token") from exc
    uri = next((u for u in names.get_values_for_type(x509.UniformResourceIdentifier) if u.startswith(URI_PREFIX)), None)
    if uri is None or uri.count("/") != URI_PREFIX.count("/") + 1:
        raise CertificateRefused("the certificate names no Wardround identity", remedy="use the one `edge join` wrote")
    role, _, name = uri.removeprefix(URI_PREFIX).partition("/")
    return CertificateFacts(
        name=name,
        role=role,
        serial=f"{certificate.serial_number:x}",
        not_before_us=round(certificate.not_valid_before_utc.timestamp() * 1e6),
        not_after_us=round(certificate.not_valid_after_utc.timestamp() * 1e6),
    )


def check_certificate(pem: bytes, authority_pem: bytes, *, now_us: int, where: str) -> CertificateFacts:
    """Check a leaf's time and issuer; the facts when both hold.

    Args:
        pem: the leaf, with the authority that an offline root has signed after it if there is one.
        authority_pem: whom to trust; any of these may have signed the leaf.

    Raises:
        CertificateRefused: expired, not valid yet, or of another authority: each said apart.
    """
    facts = describe(pem)
    if now_us > facts.not_after_us:
        raise CertificateRefused(
            f"{where}: the certificate of {facts.name} expired at {utc(facts.not_after_us):%Y-%m-%d %H:%M} UTC",
            remedy="ask the hub for a new token with `wardround hub invite`, and run `wardround edge join` again",
        )
    if now_us < facts.not_before_us:
        raise CertificateRefused(
            f"{where}: the certificate of {facts.name} is not valid before {utc(facts.not_before_us):%Y-%m-%d %H:%M} UTC",
            remedy="set this machine's clock",
        )
    if not _is_issued_by(pem, authority_pem, now_us):
        raise CertificateRefused(
            f"{where}: the certificate of {facts.name} is not issued by this hub's authority",
            remedy="join again with a token of this hub",
        )
    return facts


def _is_issued_by(pem: bytes, authority_pem: bytes, now_us: int) -> bool:
    """Directly, or by an authority that comes with the leaf and is itself issued by one of those trusted."""
    try:
        leaf, *between = x509.load_pem_x509_certificates(pem)
        trusted = x509.load_pem_x509_certificates(authority_pem)
    except ValueError:
        return False
    for issuing in between[:1]:
        constraints = issuing.extensions.get_extension_for_class(x509.BasicConstraints).value
        in_time = issuing.not_valid_before_utc <= utc(now_us) <= issuing.not_valid_after_utc
        if constraints.ca and in_time and any(signed_by(issuing, root) for root in trusted):
            trusted = [*trusted, issuing]
    return any(signed_by(leaf, authority) for authority in trusted)


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether this issuer signed it, and both say so."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def authority_name(hub: str) -> x509.Name:
    """What an authority is called."""
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Wardround"),
            x509.NameAttribute(NameOID.COMMON_NAME, f"{hub} authority"),
        ]
    )


def hosts_of(pem: bytes) -> list[str]:
    """The names and addresses of a listener's certificate, without the reserved ones.

    Raises:
        CertificateRefused: as describe.
    """
    describe(pem)
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return [n for n in names.get_values_for_type(x509.DNSName) if not n.endswith(RESERVED)] + addresses


def names_host(pem: bytes, host: str) -> bool:
    """Whether a certificate is for this host name."""
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return host in names.get_values_for_type(x509.DNSName)


def public_key_of(pem: bytes) -> object:
    """The public key in a certificate, to be compared."""
    return x509.load_pem_x509_certificate(pem).public_key()


def _serial() -> int:
    return secrets.randbits(127) | 1  # positive, 127 bits at most (RFC 5280)


def _usage(*, sign_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
