"""The authority of a restored hub: its own key put back, or a new one that every edge joins anew."""

from __future__ import annotations

from pathlib import Path

from wardround.errors import TrustError
from wardround.trust.audit_files import remember_authority
from wardround.trust.certificates import Authority, load_key, write_private


def give_authority(home: Path, name: str, key: Path | None) -> Authority:
    """Give a hub's home, which has the certificates of its authority and no keys, an authority again.

    Args:
        key: the authority's own key, ca.key; without it a new authority is made, and the old one's certificate is kept for the
            audit log that it signed.

    Raises:
        TrustError: the key is not that of the certificate.
    """
    pki = home / "pki"
    if key is not None:
        write_private(pki / "ca.key", key.read_bytes())
        authority = Authority.load(pki)
        if load_key(pki / "ca.key").public_key() != authority.certificate.public_key():
            raise TrustError(
                f"{key} is not the key of this hub's authority", remedy="give the ca.key that was kept with the backup"
            )
        return authority
    if (pki / "ca.pem").exists():
        remember_authority(home, (pki / "ca.pem").read_bytes())
    for old in ("ca.pem", "issuing.pem", "earlier.pem"):
        (pki / old).unlink(missing_ok=True)
    pki.mkdir(exist_ok=True, mode=0o700)
    return Authority.create(pki, name)
