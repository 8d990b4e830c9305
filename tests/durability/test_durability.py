"""Nothing a device was told is safe is lost or doubled, whatever is killed, cut, filled or set wrong, and whenever.

WARDROUND_DURABILITY_RUNS=200 plays so many seeds; a failure names its own, and WARDROUND_SEED plays that one alone.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import time
from contextlib import closing

import pytest
from tests.durability.programs import EDGE, World

from wardround.collect.sealed_rows import look_into
from wardround.trust.at_rest import open_seal

RUNS = int(os.environ.get("WARDROUND_DURABILITY_RUNS", "3"))
FIRST = int(os.environ.get("WARDROUND_SEED", "0"))
CHAOS_S = (1.0, 3.0)
CALM_S = 60.0  # a run that is not through so long after the last fault is stuck
LISTEN_S = 30.0


def harm(world: World, chance: random.Random) -> list[str]:
    """Faults until the time is over; what was done, in order. Everything is well again when this returns."""
    done: list[str] = []
    until = time.monotonic() + chance.uniform(*CHAOS_S)
    while time.monotonic() < until:
        time.sleep(chance.uniform(0.02, 0.5))
        fault = chance.choice(("edge", "hub", "broker", "device", "cut", "fill", "skew"))
        pause_s = chance.uniform(0.02, 0.6)
        if fault in ("edge", "hub"):
            world.kill(fault)
            time.sleep(pause_s)
        elif fault == "device":
            world.kill(chance.choice(sorted(world.devices)))
        elif fault == "broker":
            if not world.kill_broker():
                continue
        elif fault == "cut":
            if not world.cut(off=True):
                continue
            time.sleep(pause_s)
            world.cut(off=False)
        elif fault == "fill":
            if not world.fill(full=True):
                continue
            time.sleep(pause_s)
            if chance.random() < 0.3:  # and the power goes while it is full
                world.kill("edge")
                fault = "fill and edge"
            world.fill(full=False)
        else:
            world.skew(chance.uniform(-1_200.0, 1_200.0))
        world.revive()
        done.append(fault)
    return done


def patients(store) -> int:
    """Of how many something is kept."""
    with closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as db:
        return db.execute("SELECT count(DISTINCT subject) FROM kept").fetchone()[0]


def wait_for_devices(home) -> None:
    """Until one of them was told that something is safe."""
    until = time.monotonic() + LISTEN_S
    while not list((home / "devices").glob("*.acknowledged")) and time.monotonic() < until:
        time.sleep(0.02)


@pytest.mark.timeout(360)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + (1 if "WARDROUND_SEED" in os.environ else RUNS)))
def test_what_was_acknowledged_is_in_the_lake_once(seed, tmp_path):
    chance = random.Random(f"durability/{seed}")
    brokers = ["embedded", "mosquitto"] if shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin") else ["embedded"]
    broker = brokers[seed % len(brokers)]
    encrypted = seed // len(brokers) % 2 == 1  # with each broker in turn
    with World(tmp_path, chance, broker=broker, number=seed, encrypted=encrypted) as world:
        wait_for_devices(tmp_path)
        done = harm(world, chance)
        stuck = world.settle(CALM_S)
        kind = f"{broker}, encrypted" if encrypted else broker
        said = f"WARDROUND_SEED={seed}, {kind}: {', '.join(done)}"
        assert not stuck, f"{said}: {stuck}; {world.ended}"
        counted = world.count()
        print(
            f"seed {seed} ({kind}: {', '.join(done)}): acknowledged {counted.acknowledged}, "
            f"lost {counted.lost}, duplicated {counted.duplicated}; {world.ended}"
        )
        assert counted.acknowledged > 0, said
        assert [e for e in world.ended if "ended with 3" not in e] == [], said  # 3: a device's watchdog
        assert (counted.lost, counted.duplicated, counted.altered, counted.aside) == (0, 0, 0, {}), said
        if encrypted:  # and it was, with nothing that does not open
            assert look_into(tmp_path / EDGE / "spool" / "spool.sqlite") == (True, 0), said
            assert look_into(tmp_path / EDGE / "local" / "local.sqlite") == (True, 0), said
            assert look_into(tmp_path / "hub" / "inbox" / "inbox.sqlite")[1] == 0, said
            keys = sum(open_seal(tmp_path / EDGE).keys.facts().by_version.values())
            # one a patient, whatever was killed: of a device that was never heard there is none,
            # and a kill between a key and its first row leaves the key
            assert patients(tmp_path / EDGE / "local" / "local.sqlite") <= keys <= len(world.devices), said


@pytest.mark.timeout(360)
@pytest.mark.parametrize("mutant", ["forgets", "repeats"])
def test_the_count_can_move(mutant, tmp_path):
    with World(tmp_path, random.Random(1), broker="embedded", number=999, mutant=mutant) as world:
        wait_for_devices(tmp_path)
        time.sleep(0.5)
        assert not world.settle(CALM_S)
        counted = world.count()
    assert (counted.lost > 0, counted.duplicated > 0) == (mutant == "forgets", mutant == "repeats")
