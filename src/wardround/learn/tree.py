"""How a study's model reaches its edges, as the hub sees it now: what `wardround edge tree` draws."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

import msgspec

from wardround.learn.grpc_wire import Beat
from wardround.learn.study import Study
from wardround.records import EdgeId

STATE = "relay-tree"  # its key in the hub's store
NO_BEAT = Beat(0, 0, 0, "")


class TreeEdge(msgspec.Struct, frozen=True):
    """One edge. Bytes are those of models, of all studies, since the hub or the relay started."""

    name: str
    above: str  # the edge it fetches from first; empty: the hub
    attached: bool
    relays: bool  # it listens for edges below
    model: str  # digest of the newest model it trained from
    from_hub_bytes: int
    from_above_bytes: int
    why_not: str  # why it is not asked now, as a constant


class StudyTree(msgspec.Struct, frozen=True):
    """The tree of one study; every edge is after the one above it."""

    study: str
    model: str  # the newest one
    edges: tuple[TreeEdge, ...]


class Tree(msgspec.Struct, frozen=True):
    """Every running study's tree."""

    t_us: int
    studies: tuple[StudyTree, ...] = ()


def study_tree(
    study: Study,
    model: str,
    edges: Collection[str],
    *,
    attached: Collection[str],
    relays: Collection[str],
    beats: Mapping[str, Beat],
    sent: Mapping[EdgeId, int],
    why_not: Callable[[EdgeId], str],
) -> StudyTree:
    """The tree of a study over the edges that have joined; `sent` is what the hub gave to each."""

    def edge(name: str) -> TreeEdge:
        above = study.relay.parent(name)
        passed = beats.get(above, NO_BEAT).passed_on.get(name, 0)
        here = name in attached
        return TreeEdge(
            name=name,
            above=above,
            attached=here,
            relays=name in relays,
            model=beats.get(name, NO_BEAT).model,
            from_hub_bytes=sent.get(EdgeId(name), 0),
            from_above_bytes=passed,
            why_not=why_not(EdgeId(name)) if here else "",
        )

    found: list[TreeEdge] = []
    waiting = {e: study.relay.parent(e) for e in sorted({*edges, *study.relay.children})}
    placed = {""}
    while waiting:
        level = [e for e, above in waiting.items() if above in placed]
        if not level:  # cannot be in a study that was checked
            raise ValueError(f"{sorted(waiting)} hang below nobody")
        found += map(edge, level)
        placed.update(level)
        waiting = {e: above for e, above in waiting.items() if e not in placed}
    return StudyTree(study.name, model, tuple(found))
