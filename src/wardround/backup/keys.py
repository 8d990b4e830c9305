"""What no backup may hold: keys and secrets, recognised where they lie, and looked for in everything that goes into an archive.

A backup carries what is on a list of its own (home.py), so a key is left out because nothing takes it in. This is the second
lock: should a list ever be wrong, or a key be copied to where data lie, the backup fails and says where.
"""

from __future__ import annotations

import base64
import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from wardround.errors import TrustError

SECRET_BYTES_MAX = 64 * 1024  # larger files are data
SECRET_BYTES_MIN = 16  # what is shorter is found in other bytes by chance
PRIVATE = b"PRIVATE KEY-----"
SUFFIXES = (".key", ".secret")


class Needles:
    """Bytes that must not go out."""

    def __init__(self, needles: Iterable[bytes]) -> None:
        wanted = sorted({n for n in needles if len(n) >= SECRET_BYTES_MIN})
        self.count = len(wanted)
        self.longest = max(map(len, wanted), default=0)
        self._pattern = re.compile(b"|".join(map(re.escape, [PRIVATE, *wanted])))

    def check(self, data: bytes, name: str) -> None:
        """Raises TrustError when a key is in it."""
        if self._pattern.search(data):
            raise TrustError(
                f"{name} holds a key or a secret, and is not backed up", remedy="move it out of there; nothing was written"
            )


def needles_of(files: Iterable[Path]) -> Needles:
    """The needles of files that hold secrets."""
    return Needles(n for file in files for n in _needles(file))


def is_secret(file: Path) -> bool:
    """Whether a file that is left out is one: by its name, or as nobody but its owner may read it."""
    try:
        facts = file.stat()
        if facts.st_size > SECRET_BYTES_MAX or file.suffix in (".sqlite", ".log"):
            return False
        return file.suffix in SUFFIXES or PRIVATE in file.read_bytes() or (facts.st_mode & 0o077) == 0
    except OSError:
        return False


def _needles(file: Path) -> Iterable[bytes]:
    try:
        data = file.read_bytes()
    except OSError:
        return
    whole = data.strip()
    if PRIVATE in data:  # the ends of a PEM key are as others have them, or are of its public half
        lines = [line for line in whole.splitlines() if b"-----" not in line]
        yield from lines[1:-1] if len(lines) > 2 else lines
        with contextlib.suppress(ValueError):
            yield base64.b64decode(b"".join(lines))
        return
    for form in (whole, data):
        yield from (form, form.hex().encode(), base64.b64encode(form).rstrip(b"="), base64.urlsafe_b64encode(form).rstrip(b"="))
