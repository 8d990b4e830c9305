"""What an edge's devices call signals that the code table calls otherwise: `names.toml` in its home.

A device that says "hr" is mapped once, by a person who knows it; what it sent until then waits in quarantine and is replayed.
"""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

from wardround.collect.signals import Signals, load_signals
from wardround.errors import DecodeError, SettingsError
from wardround.trust.certificates import write_private

NAME_MAX = 200


class SignalNames:
    """The code table with this edge's own names, read again when they change."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._changed = -1

    def names(self) -> dict[str, str]:
        """Name to key of the code table.

        Raises:
            SettingsError: the file cannot be read.
        """
        try:
            found = tomllib.loads(self._path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
            raise SettingsError(f"{self._path} cannot be read: {exc}", remedy="map names with `wardround edge map`") from exc
        return {str(name): str(key) for name, key in found.items()}

    def add(self, name: str, signal: str) -> None:
        """Map a name to a signal, by key or code.

        Raises:
            SettingsError: there is no such signal, or the table knows the name already.
        """
        table = load_signals()
        if name in table.names() or not 0 < len(name) <= NAME_MAX:
            raise SettingsError(f"{name[:60]!r} cannot be mapped", remedy="map a name that the code table does not have")
        try:
            key = table.resolve(signal).key
        except DecodeError as exc:
            raise SettingsError(str(exc), remedy="`wardround edge signals` lists what there is") from exc
        names = self.names() | {name: key}
        lines = [f"{json.dumps(n)} = {json.dumps(k)}" for n, k in sorted(names.items())]
        write_private(self._path, ("\n".join(lines) + "\n").encode(), 0o644)

    def table(self) -> Signals:
        """The code table with these names.

        Raises:
            SettingsError: a name stands for a signal that is not in the table.
        """
        try:
            return load_signals().with_names(self.names())
        except DecodeError as exc:
            raise SettingsError(f"{self._path}: {exc}", remedy="map it to a key that `wardround edge signals` lists") from exc

    def changed(self) -> bool:
        """Whether the file is another one than when this was last asked."""
        try:
            now = self._path.stat().st_mtime_ns
        except FileNotFoundError:
            now = 0
        before, self._changed = self._changed, now
        return now != before
