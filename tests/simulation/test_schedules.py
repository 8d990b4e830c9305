"""Seeded schedules of crashes, partitions, duplicates, slow edges and spoilt updates. A failure names its seed.

WARDROUND_SEED=1234 plays that one alone; WARDROUND_SCHEDULES=100000 plays so many.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import pytest

from wardround.collect.forwarder import Forwarder
from wardround.collect.inbox import Inbox
from wardround.collect.spool import Spool
from wardround.learn import coordinator, making, reception
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.journal import Journal
from wardround.learn.participant import Participant
from wardround.records import Consent
from wardround.simulation.runs import Faults, Outcome, Simulation, _Lake
from wardround.trust.consent import ConsentRegister

SCHEDULES = int(os.environ.get("WARDROUND_SCHEDULES", "1000"))
GROUPS = 20


def play(seed: int) -> Outcome:
    """The schedule of a seed: its size and its faults follow from it too."""
    chance = random.Random(f"schedule/{seed}")
    edges = chance.randint(2, 5)
    faults = Faults(
        kill=chance.choice((0.0, 0.002, 0.005, 0.01, 0.03)),
        lose=chance.choice((0.0, 0.02, 0.1)),
        lose_answer=chance.choice((0.0, 0.02, 0.1)),
        twice=chance.choice((0.0, 0.05, 0.2)),
        partition=chance.choice((0.0, 0.1, 0.3)),
        slow=chance.choice((0.0, 0.3, 1.0)),
        bad_update=chance.choice((0.0, 0.1, 0.4)),
        roll_back=chance.choice((0.0, 0.0, 0.1, 0.4)),
        until_s=chance.uniform(2.0, 10.0),
        unplugged=chance.choice((0.0, 0.0, 0.2, 0.5)),
        doubt=random.Random(f"doubt/{seed}").choice((0.0, 0.4, 0.9)),
    )
    wanted = chance.choice((0, 0, max(1, edges // 2), edges - 1))
    rounds = chance.randint(1, 3)
    buffer = chance.choice((0, 0, max(1, edges // 2), 1))
    if buffer:
        wanted, rounds = 0, 2 * rounds
    return Simulation(seed, edges=edges, rounds=rounds, wanted=wanted, buffer=buffer, messages=5, faults=faults).run()


def seeds(group: int) -> list[int]:
    if "WARDROUND_SEED" in os.environ:
        return [int(os.environ["WARDROUND_SEED"])] if group == 0 else []
    return list(range(group, SCHEDULES, GROUPS))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("group", range(GROUPS))
def test_nothing_is_lost_doubled_leaked_or_late_whatever_happens(group):
    for seed in seeds(group):
        outcome = play(seed)
        assert not outcome.violations, f"WARDROUND_SEED={seed} plays it again: " + "; ".join(outcome.violations[:5])


def test_the_schedules_are_worth_playing():
    outcomes = [play(seed) for seed in range(100)]
    assert sum(o.kills for o in outcomes) > 30
    assert sum(o.declined for o in outcomes) > 5
    assert {"not-finite", "shape", "dtype", "names", "examples"} <= {r for o in outcomes for r in o.refused}
    assert sum(len(c.replayed) for o in outcomes for c in o.committed) > 10
    assert sum(not c.folded for o in outcomes for c in o.committed) > 20  # rollbacks
    assert sum(o.receipted for o in outcomes) > 100 * 2 * 2 * 5 - 1


def test_the_same_seed_gives_the_same_run():
    for seed in (3, 17, 42):
        first, second = play(seed), play(seed)
        assert first == second
        assert len(first.model) == 64
    assert len({play(seed).model for seed in (3, 17, 42)}) == 3


# -- what the schedules must be able to see: each mutant breaks one promise, and some seed says so


def broken_spool_commit(real):
    def commit(self, rows, *given, **facts):
        real(self, rows[:-1] if sum(lane.last for lane in self.lanes()) % 3 == 2 else rows, *given, **facts)

    return commit


def receipt_beyond(real):
    def receipted(self, receipt):
        real(self, type(receipt)(receipt.boot, receipt.committed_seq + 1))

    return receipted


def every_update_is_fine(update, _base, _expected, _norms, _settings):
    return float(len(update.shapes()))


def never_forget(real):
    def settle(self, study, *, counts):
        kept = self._read(f"{study}.json")
        real(self, study, counts=counts)
        if not counts and kept:
            self._blobs.write(f"{study}.json", kept)

    return settle


def settle_always(real):
    return lambda self, study, counts: real(self, study, counts=True)


def never_stale(real):
    return lambda tensors, examples, facts, _staleness: real(tensors, examples, facts)


def accept_sometimes(real):
    def accept(self, round_number, *what):
        if round_number % 2 == 0:
            real(self, round_number, *what)

    return accept


def never_synced(_real):
    return lambda _self, _partial: None


def allow_everything(_real):
    """Gate, sender and inbox each ask: with one of them asleep nothing leaves yet."""
    return lambda _self, _subject, _code, *_where, **_named: (Consent.RAW, 1)


def stay(real):
    def commit(self, done, screen_state, owed=None, rollback=None):
        real(self, replace(done, model=done.base) if rollback is not None else done, screen_state, owed, rollback)

    return commit


def twice_asked(real):
    def prepare(journal, blobs, asked, rule, **facts):
        done, rollback = real(journal, blobs, asked, rule, **facts)
        return done, replace(rollback, request="1")

    return prepare


def still_owed(real):
    def commit(self, done, screen_state, owed=None, rollback=None):
        real(self, done, screen_state, self.owed() if rollback is not None else owed, rollback)

    return commit


MUTANTS = {
    "a study that goes back stays where it was": (Journal, "commit_round", stay),
    "work on a model that was rolled away still counts": (Journal, "commit_round", still_owed),
    "a rollback is carried out twice": (coordinator, "prepare", twice_asked),
    "the spool forgets what it gave a receipt for": (Spool, "commit", broken_spool_commit),
    "an edge forgets more than the hub has": (Forwarder, "receipted", receipt_beyond),
    "the hub forgets what it has had": (Inbox, "watermark", lambda _real: lambda _self, _edge, _boot: 0),
    "the lake forgets what it has committed": (_Lake, "version", lambda _real: lambda _self, _app: -1),
    "an acknowledged update is not written down": (Journal, "accept", accept_sometimes),
    "an update has its name before its bytes are on the disk": (MemoryBlobs, "sync", never_synced),
    "data without consent travels": (ConsentRegister, "choose", allow_everything),
    "a refused update is offered for ever": (Participant, "settle", never_forget),
    "what an edge keeps moves on with an update that does not count": (Participant, "settle", settle_always),
    "an edge does not ask about a receipt that was lost": (Participant, "unsettled", lambda _real: lambda _self, _study: None),
    "nobody checks an update": (reception, "check_update", lambda _real: every_update_is_fine),
    "a stale update weighs like a fresh one": (making, "WeightedUpdate", never_stale),
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda name: name.replace(" ", "-"))
def test_a_broken_promise_is_seen(mutant, monkeypatch):
    where, name, make = MUTANTS[mutant]
    monkeypatch.setattr(where, name, make(getattr(where, name)))
    for seed in range(400):
        try:
            if play(seed).violations:
                return
        except (ValueError, KeyError, AssertionError):
            return  # it broke so badly that a part noticed by itself
    pytest.fail(f"400 schedules did not see that {mutant}")
