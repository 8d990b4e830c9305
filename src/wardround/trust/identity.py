"""An edge's identity on disk: key, certificates and authority, replaced together or not at all.

New files are written into `next` and synced; renaming that folder to `ready` is the moment from which they count. They are then
moved into place one by one; whoever opens the identity after a crash in between moves the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from wardround.trust.certificates import key_pem, load_key, new_key, write_private

KEY, CERTIFICATE, LISTENER, AUTHORITY = FILES = ("edge.key", "edge.pem", "listener.pem", "ca.pem")
JOINING = "joining.key"


class IdentityFolder:
    """The `identity` folder of an edge's home."""

    def __init__(self, path: Path) -> None:
        """Finishes a replacement that a crash interrupted."""
        self.path = path
        if (path / "ready").is_dir():
            with self._locked():
                self._settle()

    @property
    def key(self) -> Path:
        """The private key, PEM."""
        return self.path / KEY

    @property
    def certificate(self) -> Path:
        """The edge's own certificate, PEM."""
        return self.path / CERTIFICATE

    @property
    def listener(self) -> Path:
        """The certificate of the edge's listeners, of the same key, PEM."""
        return self.path / LISTENER

    @property
    def authority(self) -> Path:
        """What the edge trusts, PEM."""
        return self.path / AUTHORITY

    def joining_key(self) -> ec.EllipticCurvePrivateKey:
        """The key to join with, on disk before it is used, so that a lost answer can be asked for again."""
        path = self.path / JOINING
        if path.exists():
            return load_key(path)
        key = new_key()
        write_private(path, key_pem(key))
        return key

    def replace(self, key: ec.EllipticCurvePrivateKey, *, certificate: bytes, listener: bytes, authority: bytes) -> None:
        """Take these into use, all of them or, after a crash, none."""
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            self._settle()
            next_ = self.path / "next"
            write_private(next_ / KEY, key_pem(key))
            for name, data in ((CERTIFICATE, certificate), (LISTENER, listener), (AUTHORITY, authority)):
                write_private(next_ / name, data, 0o644)
            _sync(next_)
            next_.rename(self.path / "ready")
            _sync(self.path)
            self._settle()
            (self.path / JOINING).unlink(missing_ok=True)

    def _settle(self) -> None:
        ready = self.path / "ready"
        if not ready.is_dir():
            return
        for name in FILES:
            if (ready / name).exists():
                (ready / name).replace(self.path / name)
        _sync(self.path)
        ready.rmdir()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time: the running edge renews, and a person may join again."""
        with (self.path / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
