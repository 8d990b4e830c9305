"""Whoever maps a name and then asks for a replay has it read by the new name, at whatever moment the running edge looks."""

from __future__ import annotations

import asyncio

import pytest

from wardround.collect.asked import Asked
from wardround.collect.names import SignalNames
from wardround.collect.quarantine import Quarantine


class Person:
    """Types both commands, one after the other."""

    def __init__(self, names: SignalNames, quarantine: Quarantine) -> None:
        self.names, self.quarantine = names, quarantine

    def act(self) -> None:
        self.names.add("hr", "heart-rate")
        self.quarantine.ask(reason="unknown-code")


def looked_at(gate, path, moment):
    """What has become of a message after two looks, a person having acted at this moment of the first."""
    gate.send([gate.record(name="hr", value=61.0)])
    assert gate.reasons() == {"unknown-code": 1}
    names = SignalNames(path)
    person = Person(SignalNames(path), gate.quarantine)

    async def ask(work):
        work()

    def and_then(name, owner):
        """The person acts right after this step, the first time."""
        step = getattr(owner, name)

        def stepped():
            found = step()
            setattr(owner, name, step)
            person.act()
            return found

        setattr(owner, name, stepped)

    asked = Asked(names, gate.quarantine, gate.gateway, ask, edge="icu-a")
    asyncio.run(asked.look())
    if moment == "before the look":
        person.act()
    else:
        and_then(*{"after the replays": ("asked", gate.quarantine), "after the names": ("changed", names)}[moment])
    for _ in range(2):
        asyncio.run(asked.look())
        gate.gateway.commit()
    return [(o.code, o.value) for o in gate.waiting()]


@pytest.mark.parametrize("moment", ["before the look", "after the replays", "after the names"])
def test_a_replay_that_follows_a_name_is_read_by_it(gate, tmp_path, moment):
    assert looked_at(gate, tmp_path / "names.toml", moment) == [("loinc:8867-4", 61.0)]
    assert gate.reasons() == {}


def test_the_first_look_takes_a_name_that_was_mapped_while_the_edge_started(gate, tmp_path):
    gate.send([gate.record(name="hr", value=61.0)])  # the gate has the table from before
    person = Person(SignalNames(tmp_path / "names.toml"), gate.quarantine)
    person.act()

    async def ask(work):
        work()

    asyncio.run(Asked(SignalNames(tmp_path / "names.toml"), gate.quarantine, gate.gateway, ask, edge="icu-a").look())
    gate.gateway.commit()
    assert [o.value for o in gate.waiting()] == [61.0]
