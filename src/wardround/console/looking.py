"""Who looks at a screen, at what, and what a press of a button may answer. Screens are functions of these and of a read model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from wardround.console.model import Overview
from wardround.trust.roles import MAY, Act, Role

PARAMS_MAX, PARAM_CHARS = 10, 100
KEYS_MAX = 20_000  # rows whose order one open page keeps


class Held:
    """The order of the rows that one open page shows: it changes when a person asks, never under the pointer."""

    def __init__(self) -> None:
        self._orders: dict[str, tuple[str, ...]] = {}

    def rows(self, table: str, wanted: Sequence[str]) -> tuple[list[str], int, bool]:
        """Keys to show, how many there are beside them, and whether those shown would stand in another order now."""
        before = self._orders.get(table)
        if not before:
            self._orders[table] = before = tuple(wanted[:KEYS_MAX])
        known, now = set(before), set(wanted)
        kept = [key for key in before if key in now]
        return kept, len(now - known), [key for key in wanted if key in known] != kept

    def forget(self, table: str) -> None:
        """Show the rows as they stand now."""
        self._orders.pop(table, None)


@dataclass(frozen=True, slots=True)
class Looking:
    """One person before one screen. `item` is what the address names, `params` what follows its question mark."""

    name: str
    role: str
    since_us: int | None = None
    address: str = "/"
    item: str = ""
    part: str = ""  # what the address names within the item, such as a round's number
    params: Mapping[str, str] = field(default_factory=dict)
    held: Held = field(default_factory=Held)

    def may(self, act: Act) -> bool:
        """Whether their role covers it. The desk asks again at the act itself."""
        return self.role in set(Role) and act in MAY[Role(self.role)]

    def link(self, changes: Mapping[str, str | int]) -> str:
        """This address with some parameters changed; one that is empty or 0 is left out."""
        params = {**self.params, **{key: str(value) for key, value in changes.items()}}
        kept = {key: value for key, value in params.items() if value not in ("", "0")}
        return quote(self.address) + (f"?{urlencode(kept)}" if kept else "")

    def number(self, name: str) -> int:
        """A parameter as a number from 0; 0 where it is none."""
        text = self.params.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def params_of(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Parameters of an address, few and short."""
    return {key[:PARAM_CHARS]: value[:PARAM_CHARS] for key, value in list(pairs)[:PARAMS_MAX]}


def who_may(act: Act) -> str:
    """The roles that cover it, in words: "operator or admin"."""
    return " or ".join(role for role in Role if act in MAY[role])


Facts = Mapping[str, str]  # what a pressed button and the fields of its dialog say


@dataclass(frozen=True, slots=True)
class Reply:
    """What the page does after an act: a toast, perhaps with an act that undoes it; a dialog; another address."""

    toast: str = ""
    undo: Facts | None = None
    dialog: str = ""
    go: str = ""


OnAct = Callable[[Facts, Looking], Reply]  # raises NotAllowed and every other WardroundError


@dataclass(frozen=True, slots=True)
class Screen:
    """One screen: its addresses, its frame, its live parts by the ids of their elements, and the acts that it offers.

    `path` may hold {item} and {part}. `frame` and `sections` run in a thread, like the acts.
    """

    path: str
    title: str
    frame: Callable[[Overview, Looking], str]
    sections: Callable[[Looking], dict[str, str]]
    acts: Mapping[str, OnAct] = field(default_factory=dict)
