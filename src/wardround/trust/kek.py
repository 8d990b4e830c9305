"""Where the key-encryption key (KEK) comes from: a file of mode 0600, a systemd credential, or what a command prints.

It never stands in a settings file, an argument, the environment or a log: settings name its place alone. Its text has a line for
each version, `wardround-kek VERSION BASE64`, so that data keys can be wrapped anew while the older version still opens them; a
file also says whose it is, so that two homes cannot share one and take a version from each other.
"""

from __future__ import annotations

import base64
import binascii
import os
import secrets
import shlex
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wardround.errors import KeyRefused
from wardround.trust.certificates import write_private

KEY_BYTES = 32
TEXT_MAX = 65_536
COMMAND_S = 20.0
WORD, OWNER = "wardround-kek", "wardround-kek-of"
REMEDY = "put the right text back; `wardround keys new FILE` makes a new key where nothing is encrypted yet"
KINDS = ("file", "credential", "command")
CREDENTIALS = "CREDENTIALS_DIRECTORY"  # where systemd puts what LoadCredential= names


@dataclass(frozen=True, slots=True)
class Kek:
    """A key-encryption key: its versions, 32 bytes each. `owner` names the one home's keys that it is for, once it has one."""

    versions: Mapping[int, bytes]
    owner: str = ""

    @property
    def newest(self) -> int:
        """The version that is to wrap."""
        return max(self.versions, default=0)

    def with_new_version(self) -> Kek:
        """This, and a new random key under the next version."""
        return Kek({**self.versions, self.newest + 1: secrets.token_bytes(KEY_BYTES)}, self.owner)


@dataclass(frozen=True, slots=True)
class KekSource:
    """One place of a KEK, as settings name it: `file:/etc/wardround/kek`, `credential:wardround-kek`, `command:PROGRAM ...`."""

    kind: str
    what: str

    @classmethod
    def parse(cls, text: str, home: Path) -> KekSource:
        """Read `at_rest.kek`.

        Raises:
            KeyRefused: it names no place, or one inside the home, where whoever copies the data would copy the key.
        """
        kind, _, what = text.partition(":")
        if kind not in KINDS or not what.strip():
            raise KeyRefused(
                f"at_rest.kek = {text[:60]!r} names no place of a key",
                remedy=f"begin it with one of: {', '.join(KINDS)} and a colon",
            )
        if kind == "credential" and Path(what).name != what:
            raise KeyRefused(f"at_rest.kek: {what!r} is no name of a credential", remedy="give the name of LoadCredential= alone")
        if kind == "file":
            path = Path(what)
            if not path.is_absolute():
                raise KeyRefused(f"at_rest.kek: {what} is no absolute path", remedy="give the whole path, outside this home")
            if path.resolve().is_relative_to(home.resolve()):
                raise KeyRefused(
                    f"at_rest.kek: {what} is inside {home}: a copy of the home would hold its own key",
                    remedy="put it elsewhere, best on another disk or into a systemd credential",
                )
        return cls(kind, what)

    @property
    def text(self) -> str:
        """As settings name it."""
        return f"{self.kind}:{self.what}"

    def exists(self) -> bool:
        """Whether a file is there; whatever else a source is, it must be."""
        return self.kind != "file" or Path(self.what).exists()

    def load(self) -> Kek:
        """Every version.

        Raises:
            KeyRefused: it cannot be had, others may read it, or it is none.
        """
        return parse_kek(self._read(), self.text)

    def store(self, kek: Kek) -> None:
        """Write a file anew, whole or not at all.

        Raises:
            KeyRefused: it is no file, and whoever runs this machine changes it; or it cannot be written.
        """
        if self.kind != "file":
            raise KeyRefused(
                f"{self.text} cannot be changed from here",
                remedy="add a version to a copy (`wardround keys new FILE`), put that where the key comes from, run this again",
            )
        write_kek(Path(self.what), kek)

    def _read(self) -> str:
        if self.kind == "command":
            return _printed(self.what, self.text)
        if self.kind == "file":
            path = Path(self.what)
        else:
            folder = os.environ.get(CREDENTIALS, "")
            if not folder:
                raise KeyRefused(
                    f"{self.text}: this program was given no credentials",
                    remedy=f"start it as a systemd unit with LoadCredential={self.what}:... ({CREDENTIALS} is not set)",
                )
            path = Path(folder) / self.what
        try:
            mode = path.stat().st_mode & 0o777
            with path.open(encoding="utf-8") as file:
                text = file.read(TEXT_MAX)
        except (OSError, UnicodeDecodeError) as exc:
            why = exc.strerror if isinstance(exc, OSError) else "it is not text"
            raise KeyRefused(
                f"the key-encryption key {path} cannot be read: {why}",
                remedy="put it back, or make its disk available; nothing was changed, and without it nothing can be read",
            ) from exc
        if self.kind == "file" and mode & 0o077:
            raise KeyRefused(
                f"{path} may be read by others (mode {mode:o})", remedy=f"chmod 600 {path}; then wardround keys rotate"
            )
        return text


def _printed(command: str, where: str) -> str:
    try:
        done = subprocess.run(  # noqa: S603 - the operator's own command, without a shell
            shlex.split(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_S, check=False
        )
        if done.returncode == 0:
            return done.stdout[:TEXT_MAX].decode()
        why = f"it ended with {done.returncode}"  # what it said may hold the key, and is not repeated
    except (OSError, ValueError, subprocess.TimeoutExpired) as exc:
        why = type(exc).__name__
    raise KeyRefused(f"{where}: the command gave no key: {why}", remedy="run it by hand as the user of this program")


def parse_kek(text: str, where: str) -> Kek:
    """What a KEK's text holds.

    Raises:
        KeyRefused: a line does not hold; its words are never repeated.
    """
    found: dict[int, bytes] = {}
    owner = ""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == OWNER and len(words) == 2:
            owner = words[1]
            continue
        try:
            word, version, encoded = words
            key = base64.b64decode(encoded, validate=True)
            fits = word == WORD and 0 < int(version) < 2**31 and len(key) == KEY_BYTES and int(version) not in found
        except (ValueError, binascii.Error):
            fits = False
        if not fits:
            raise KeyRefused(f"{where}: line {number} is no key-encryption key", remedy=REMEDY)
        found[int(version)] = key
    if not found:
        raise KeyRefused(f"{where} holds no key-encryption key", remedy=REMEDY)
    return Kek(found, owner)


def write_kek(path: Path, kek: Kek) -> None:
    """A KEK's file, 0600, whole or not at all.

    Raises:
        KeyRefused: it cannot be written.
    """
    lines = [f"{WORD} {version} {base64.b64encode(kek.versions[version]).decode()}\n" for version in sorted(kek.versions)]
    if kek.owner:
        lines.append(f"{OWNER} {kek.owner}\n")
    try:
        write_private(path, "".join(lines).encode())
    except OSError as exc:
        raise KeyRefused(f"{path} cannot be written: {exc.strerror}", remedy="make its folder writable for this program") from exc
