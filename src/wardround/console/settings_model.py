"""The read model of the Settings screen: what the hub runs with, where that comes from, and what its file says by now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class SettingRow:
    """One key. Values are as a file would say them; what may hold a secret is shown in part. `file` is what the file says
    by now where that is something else: it counts from the next start on."""

    key: str
    value: str
    default: str
    meaning: str
    file: str | None = None

    @property
    def changed(self) -> bool:
        """Whether the hub runs with something else than what it is made with."""
        return self.value != self.default


@dataclass(frozen=True, slots=True)
class SettingsView:
    """All keys of hub.toml, in its order. `wrong`: why the file as it is now would not be taken, and `remedy`."""

    path: str
    started_us: int
    rows: tuple[SettingRow, ...] = ()
    wrong: str = ""
    remedy: str = ""

    @property
    def pending(self) -> tuple[SettingRow, ...]:
        """What changes with the next start."""
        return tuple(row for row in self.rows if row.file is not None)


class SettingsDesk(Protocol):
    """What the screen asks of the hub."""

    def view(self, who: str) -> SettingsView:
        """The newest read model. Raises NotAllowed."""
