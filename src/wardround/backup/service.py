"""A hub's backups: those it makes by the clock, and those it is asked for from another process while it runs.

They are made between two jobs: nothing then changes the lake but what arrives, so that every file of it stays while it is copied.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import structlog

from wardround.backup.archive import Manifest
from wardround.backup.hub import gather_hub
from wardround.backup.making import archive_name, check_place, keep_newest, make
from wardround.backup.snapshots import stage
from wardround.clock import Clock
from wardround.errors import SettingsError, WardroundError
from wardround.process.lake import Lake
from wardround.settings import HubSettings
from wardround.store import Store

log = structlog.get_logger(__name__)
TOPIC = "backup"


class Backups:
    """One hub's. Call it while no job, no upkeep and no erasure runs."""

    def __init__(
        self,
        home: Path,
        settings: HubSettings,
        *,
        lake: Lake,
        store: Store,
        clock: Clock,
        still: AbstractContextManager[object] | None = None,
    ) -> None:
        """`still` keeps the inbox from moving into the lake, where something moves it."""
        self._still = still or nullcontext()
        self._home, self._settings, self._lake, self._store, self._clock = home, settings, lake, store, clock

    def make(self, out: Path) -> Manifest:
        """Write a backup.

        Raises:
            SettingsError: it may not lie there.
            StorageFull, TrustError: as archive.write_archive says.
        """
        check_place(self._home, out)
        with stage(out) as folder:
            gathered = gather_hub(
                self._home, self._lake, own_lake=not self._settings.processing.lake, stage=folder, still=self._still
            )
            edges = tuple(e.name for e in self._store.edges() if e.revoked_us is None)
            people = tuple(p.name for p in self._store.people())
            name = self._settings.name
            return make(out, gathered, role="hub", name=name, clock=self._clock, edges=edges, people=people)

    def by_the_clock(self) -> str:
        """The next of those that are kept in `backup.folder`; what was done, in words.

        Raises:
            WardroundError: it could not be made; earlier ones stay.
        """
        kept, name = self._settings.backup, self._settings.name
        folder = Path(kept.folder)
        if not folder.is_absolute():
            raise SettingsError(f"backup.folder {kept.folder!r} is not absolute", remedy="give the whole path, on another disk")
        out = folder / archive_name("hub", name, self._clock.now_us())
        manifest = self.make(out)
        log.info("backed up", files=len(manifest.items), bytes=out.stat().st_size)
        gone = keep_newest(folder, "hub", name, kept.keep)
        removed = f", {len(gone)} old removed" if gone else ""
        return f"{len(manifest.items)} files, {out.stat().st_size / 1e6:.1f} MB{removed}"

    def answer(self) -> None:
        """Make those that are asked for."""
        for request in self._store.requests(TOPIC):
            try:
                self.make(Path(str(request.body["out"])))
                answered = replace(request, state="done")
            except (WardroundError, OSError, KeyError) as error:
                answered = replace(request, state="refused", answer=str(error))
            self._store.put_request(answered)
