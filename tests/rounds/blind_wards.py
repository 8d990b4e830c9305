"""What the tests of blind studies over real processes have in common: where a masked round stands, and kills at its steps."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Sequence

import msgspec
from tests.rounds.programs import World

from wardround.learn.blobs import FolderBlobs
from wardround.learn.journal import model_name
from wardround.learn.models import Parameters, decode_model
from wardround.learn.privacy.blind import KEYS, OPENING, SHARES, STATE, UPDATES, VOTES

STEPS = (KEYS, SHARES, UPDATES, VOTES, OPENING)
WAIT_S = 180.0


def edges(n: int) -> list[str]:
    return [f"edge-{i}" for i in range(1, n + 1)]


def models(world: World) -> list[Parameters]:
    blobs = FolderBlobs(world.home / "study")
    return [decode_model(blobs.read(model_name(c.model))) for c in world.journal().committed()]


def at(world: World) -> tuple[int, str]:
    """The round that is open and its step, as the hub has them on disk: a session that has not closed its circle is not there."""
    try:
        said = msgspec.msgpack.decode(FolderBlobs(world.home / "study").read(STATE))
    except FileNotFoundError:
        return world.rounds(), KEYS
    return said["hub"]["session"]["round_number"], said["step"]


def due_kills(chance: random.Random, victims: Collection[str], numbers: Sequence[int]) -> list[tuple[str, int, str]]:
    """At which round and step of these rounds the hub and each victim is killed, in order."""
    steps = [(number, step) for number in numbers for step in STEPS]
    drawn = sorted((chance.randrange(len(steps)), name) for name in ("hub", *victims))
    return [(name, *steps[index]) for index, name in drawn]


def play_kills(
    world: World, due: Sequence[tuple[str, int, str]], said: str, *, look: Callable[[], object] = lambda: None
) -> None:
    """Kill each when its step is reached, and wait for the study's end. Edges that are killed stay away, so what they dealt must
    be put right by the others; the hub comes back. `look` is called again and again.
    """

    def reached(number: int, step: str) -> bool:
        look()
        now, its_step = at(world)
        return world.finished() or (now, STEPS.index(its_step)) >= (number, STEPS.index(step))

    for name, number, step in due:
        assert world.wait(lambda number=number, step=step: reached(number, step), WAIT_S), f"{said}: stuck at {at(world)}"
        world.kill(name)
        look()
        if name == "hub":
            world.start(name)
    assert world.wait(lambda: (look(), world.finished())[1], WAIT_S), f"{said}: stuck at {at(world)}"
