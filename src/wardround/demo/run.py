"""A demo in progress: its programs, where they are, and what was done to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from wardround.demo.nodes import RehearsalNode
from wardround.demo.plan import Plan
from wardround.demo.programs import Program
from wardround.store import Store, open_store


@dataclass
class Voice:
    """Where the demo says what happens: a phase with its progress, and single events."""

    phase: Callable[[str, float, str], None]  # name, share done, words
    event: Callable[[str], None]


@dataclass
class Run:
    """A run in progress."""

    plan: Plan
    folder: Path
    voice: Voice
    seed: int
    play_s: float
    hub: Program | None = None
    edges: dict[str, Program] = field(default_factory=dict)  # by edge
    devices: Program | None = None
    ports: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    held_back: set[str] = field(default_factory=set)
    harm_us: dict[str, int] = field(default_factory=dict)
    expected: list[tuple[str, str]] = field(default_factory=list)  # alert kind, edge
    kills: list[str] = field(default_factory=list)
    password: str = ""
    store: Store | None = None
    nodes: list[RehearsalNode] = field(default_factory=list)

    @property
    def records(self) -> Store:
        """The hub's store, opened once."""
        if self.store is None:
            self.store = open_store(self.hub_home / "hub.sqlite")
        return self.store

    @property
    def hub_home(self) -> Path:
        return self.folder / "hub"

    @property
    def console(self) -> str:
        return f"http://127.0.0.1:{self.ports['console']}"

    def edge_home(self, name: str) -> Path:
        return self.folder / "edges" / name

    def programs(self) -> list[Program]:
        unique = {id(p): p for p in (self.devices, *self.edges.values(), self.hub) if p is not None}
        return list(unique.values())
