"""Groups of a masked round (mode `blind-groups`): the circle falls into groups, and masks cancel within each of them.

The hub then learns the sum of each group, and can fold these as a robust rule folds updates: an edge that sends what it should
not spoils the sum of its group, and no other. Hub and edges each work out the groups from the circle's digest, which holds a
fresh random commitment of every edge: who is with whom is new in every session, and not the hub's to say.
"""

from __future__ import annotations

import hashlib

import msgspec

from wardround.learn.privacy.wire import Circle, MasksRefused, circle_digest, named

GROUP_EDGES_MIN = 10  # a smaller group hides nobody well, as an edge sees it too
GROUPS_MIN = 3  # with fewer sums no rule can say which is off


def groups_of(circle: Circle, group_edges: int) -> list[tuple[str, ...]]:
    """The names of each group, in order: as many groups as can have so many edges, the sizes within one of each other."""
    digest = circle_digest(circle)

    def place(edge: str) -> bytes:
        return hashlib.sha256(named(b"group", digest, edge)).digest()

    drawn = sorted((keys.edge for keys in circle.keys), key=place)
    count = max(1, len(drawn) // group_edges)
    return [tuple(sorted(drawn[i::count])) for i in range(count)]


def split(circle: Circle, group_edges: int) -> list[Circle]:
    """The circle of each group; the whole one where there are none (0)."""
    if not group_edges:
        return [circle]
    keys = {own.edge: own for own in circle.keys}
    return [msgspec.structs.replace(circle, keys=tuple(keys[edge] for edge in group)) for group in groups_of(circle, group_edges)]


def own_circle(circle: Circle, group_edges: int, edge: str) -> Circle:
    """The circle that an edge masks in."""
    return next(own for own in split(circle, group_edges) if any(keys.edge == edge for keys in own.keys))


def check_group_edges(group_edges: int) -> None:
    """Whether an edge takes part in groups of this size; 0: there are none.

    Raises:
        MasksRefused: "too-few".
    """
    if group_edges and group_edges < GROUP_EDGES_MIN:
        raise MasksRefused(
            "too-few", f"groups of {group_edges} edges hide nobody well: {GROUP_EDGES_MIN} are the least", lie=True
        )
