"""Read models of Processing: from the inbox to gold, nodes, jobs and where their rows come from, what could not be made."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StageView:
    """One table on the way; `changed_us` is its newest commit."""

    name: str
    words: str
    version: int
    rows: int
    changed_us: int


@dataclass(frozen=True, slots=True)
class NodeView:
    """A machine that runs workers, or this one."""

    name: str
    state: str
    workers: int
    wanted: int
    words: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class JobView:
    """One job and its newest run; `state` is empty where it never ran."""

    name: str
    title: str
    reads: str
    makes: str
    every_s: float  # 0: when asked
    state: str = ""
    done: int = 0
    parts: int = 0
    failed: int = 0
    rows: int = 0
    seconds: float = 0.0
    changed_us: int = 0
    source: str = ""  # from which version to which, by which code, where
    error: str = ""


@dataclass(frozen=True, slots=True)
class DeadView:
    """Parts that could not be made, by job and error: no subject is named."""

    job: str
    error: str
    count: int
    since_us: int


@dataclass(frozen=True, slots=True)
class AsideView:
    """What was refused or could not be read, by edge and reason."""

    edge: str
    what: str
    reason: str
    count: int
    newest_us: int


@dataclass(frozen=True, slots=True)
class ProcessingView:
    """The screen."""

    stages: tuple[StageView, ...]
    nodes: tuple[NodeView, ...]
    jobs: tuple[JobView, ...]
    dead: tuple[DeadView, ...] = ()
    aside: tuple[AsideView, ...] = ()
