"""What DP-SGD spends at an edge survives SIGKILL of its training worker. WARDROUND_EDGE_BUDGET_RUNS=200 plays so many seeds."""

from __future__ import annotations

import multiprocessing as mp
import os
import random
import signal
from collections import Counter

import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.rdp import RdpAccountant
from tests.rounds import edge_budget_programs as programs

from wardround.learn.privacy.edge_budget import FOLDER, SUFFIX
from wardround.learn.privacy.ledger import read_ledger, spent
from wardround.learn.privacy.patient_budget import histories, name_of, trainings

RUNS = int(os.environ.get("WARDROUND_EDGE_BUDGET_RUNS", "2"))
FIRST = int(os.environ.get("WARDROUND_SEED", "0"))
KILLS = 3
WAIT_S = 240.0


@pytest.fixture(scope="module")
def train():
    """Train in a process of its own; how it ended: 0, or minus the signal."""
    context = mp.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=programs.nursery, args=(theirs,), daemon=True)
    process.start()
    theirs.close()

    def play(home, *, first, rounds, dies_at, torn):
        ours.send((home, home / "diary", first, rounds, dies_at, torn))
        assert ours.poll(WAIT_S), "stuck"
        return ours.recv()

    yield play
    ours.close()
    process.join(30)
    process.kill()


def check_order(diary):
    """In each training no batch is drawn before the lines that pay for it, by study and by patient, are written and synced."""
    written, synced = 0, False
    for what in diary:
        if what == programs.TRAIN:
            written, synced = 0, False
        elif what == programs.WRITE:
            written, synced = written + 1, False
        elif what == programs.SYNC:
            synced = written == 2
        else:
            assert synced, f"{diary}: examples were drawn before their cost was on the disk"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(FIRST, FIRST + RUNS))
def test_no_example_is_looked_at_before_it_is_paid_for_and_nothing_paid_is_forgotten(seed, train, tmp_path):
    chance = random.Random(f"edge budget/{seed}")
    path = tmp_path / FOLDER / f"{programs.STUDY}{SUFFIX}"
    highest, by_patient, number, deaths = 0, Counter[str](), 1, 0
    for _ in range(KILLS):
        # in each training both ledgers are opened, which syncs twice, and get a line, which is a write and a sync; then six draws
        dies_at, torn = chance.randint(1, 2 * (4 + 4 + 6)), chance.random() < 0.5
        ended = train(tmp_path, first=number, rounds=2, dies_at=dies_at, torn=torn)
        assert ended == -signal.SIGKILL, f"WARDROUND_SEED={seed}: it ended with {ended}"
        deaths += 1
        entries = read_ledger(path)  # as it lies there, torn or not
        paid = sum(e.times for e in entries)
        assert paid >= highest, f"WARDROUND_SEED={seed}: {paid} steps are paid for, there were {highest}"
        highest = paid
        given = Counter({name: sum(spent.values()) for name, spent in histories(trainings(tmp_path)).items()})
        assert given >= by_patient, f"WARDROUND_SEED={seed}: patients have given {given}, and had given {by_patient}"
        by_patient = given
        diary = (tmp_path / "diary").read_text().split() if (tmp_path / "diary").exists() else []
        least = min([paid, *given.values()]) if given else 0
        assert diary.count(programs.DRAW) <= least, f"WARDROUND_SEED={seed}: more was drawn than paid for"
        number = max((e.round for e in entries), default=1)  # the hub asks again for the round that was cut off
    check_order((tmp_path / "diary").read_text().split())
    assert train(tmp_path, first=number, rounds=2, dies_at=0, torn=False) == 0
    entries = read_ledger(path)
    assert sum(e.times for e in entries) > highest
    everybody = {name_of(s) for s in programs.examples("", "").subjects}
    assert set(histories(trainings(tmp_path))) == everybody - programs.HELD_BACK
    accountant = RdpAccountant(neighboring_relation=NeighboringRelation.ADD_OR_REMOVE_ONE)
    for release, times in spent(entries).items():
        accountant.compose(PoissonSampledDpEvent(release.rate, GaussianDpEvent(release.noise)), times)
    told = float((tmp_path / "said").read_text().split()[-1])
    assert told == pytest.approx(accountant.get_epsilon(programs.DELTA), rel=1e-9), f"WARDROUND_SEED={seed}"
    assert deaths == KILLS
