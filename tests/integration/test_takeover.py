"""Two hubs over one PostgreSQL and one home, as real processes: when one is killed the other goes on where it was.

`make test` plays a hub with an edge that joins; `make test-takeover` a study too, whose hub is killed in the middle of a round,
and a hub that was only stopped for a while, and must not go on.
"""

from __future__ import annotations

import os
import signal
import time

import pytest
import sqlalchemy as sa

from motion import recording
from postgres_under_test import running
from programs_under_test import Site, wardround
from wardround.collect.storage import FolderStorage
from wardround.demo.programs import Program
from wardround.learn.journal import Journal
from wardround.standing_by import EX_TEMPFAIL
from wardround.store.lease import held
from wardround.store.schema import lease

whole = pytest.mark.skipif(not os.environ.get("WARDROUND_TAKEOVER"), reason="make test-takeover plays it")
PATIENT_S = 240.0
EDGES = ("edge-1", "edge-2", "edge-3")
STUDY = """\
name = "moves"
task = "activity"
[learner]
hidden = []
[rounds]
count = 12
edges_min = 2
examples_min = 5
deadline_s = 600.0
interval_s = 0.2
[triage]
screen_threshold = 1e6
twin_cosine_max = 1.0
[score]
held_back = 0.0
"""


@pytest.fixture
def postgres():
    with running() as server:
        yield server


@pytest.fixture
def pair(tmp_path, postgres, request):
    """A site whose hub has a second one; the lease lasts for `request.param` seconds."""
    made = Site(tmp_path, more=f'[store]\nurl = "{postgres.database()}"\nlease_s = {request.param}\n')
    arguments = ["wardround.cli.main", "hub", "run", "--standby", "--home", str(made.home)]
    made.second = Program("second", arguments, tmp_path / "second.log")
    made.programs.append(made.second)
    yield made
    made.stop()


def until(site, holds, what: str):
    end = time.monotonic() + PATIENT_S
    while not (found := holds()):
        assert time.monotonic() < end, f"{what}\n{site.hub.tail()}\n{site.second.tail()}"
        time.sleep(0.1)
    return found


def stands_by(site, words: str = "this one waits") -> None:
    site.second.start()
    until(site, lambda: words in site.second.log.read_text(errors="replace"), "the second hub does not stand by")


def taken_over(site, term: int) -> None:
    until(site, (site.home / "ready.json").exists, "the second hub does not take over")
    store = site.store()
    assert held(store.engine).term == term
    store.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("pair", [3_600.0], indirect=True)
def test_a_second_hub_waits_for_the_lease_and_takes_over_when_the_first_is_killed(pair):
    pair.start_hub()
    pair.edge("icu-a")
    stands_by(pair)
    (pair.home / "ready.json").unlink()
    pair.hub.kill()
    store = pair.store()
    assert held(store.engine).left_s > 0, "a lease outlasts its holder"
    with store.engine.begin() as db:  # an hour later
        db.execute(sa.update(lease).values(ends_us=1))
    store.close()
    taken_over(pair, term=2)
    pair.edge("icu-b")
    store = pair.store()
    assert [e.name for e in store.edges()] == ["icu-a", "icu-b"]
    store.close()


@whole
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pair", [8.0], indirect=True)
def test_a_round_goes_on_with_the_second_hub_when_the_first_is_killed_in_the_middle_of_it(pair, tmp_path):
    pair.start_hub()
    programs = []
    for i, name in enumerate(EDGES):
        programs.append(pair.edge(name))
        pair.keep(name, recording(f"p-{i}", name, i))
        programs[-1].start()
        programs[-1].wait_ready(PATIENT_S)
    (tmp_path / "study.toml").write_text(STUDY)
    begun = wardround("study", "start", str(tmp_path / "study.toml"), "--home", str(pair.home), timeout=PATIENT_S)
    assert begun.returncode == 0, begun.stderr
    folder = pair.home / "studies" / "moves"
    until(pair, (folder / "journal.sqlite").exists, "the study does not begin")

    def journal() -> Journal:
        return Journal(FolderStorage(folder).connect)

    stands_by(pair)
    until(pair, lambda: len(journal().committed()) >= 3, "no round is committed")
    programs[2].process.send_signal(signal.SIGSTOP)  # the round stays open for it
    try:

        def halfway():
            now = journal().current()
            return now if now is not None and now.number > 0 and len(journal().accepted(now.number)) == 2 else None

        open_ = until(pair, halfway, "no round waits for the third edge")
        kept = {edge: a.sha256 for edge, a in journal().accepted(open_.number).items()}
        (pair.home / "ready.json").unlink()
        pair.hub.kill()
    finally:
        programs[2].process.send_signal(signal.SIGCONT)
    taken_over(pair, term=2)
    until(pair, lambda: len(journal().committed()) == 13, "the study does not end")
    committed = journal().committed()
    assert [c.number for c in committed] == list(range(13)), "every round once, none twice"
    after = {edge: a.sha256 for edge, a in journal().accepted(open_.number).items()}
    assert {edge: after[edge] for edge in kept} == kept, "what had a receipt counts in its round"
    assert set(kept) <= set(committed[open_.number].folded)
    store = pair.store()
    until(pair, lambda: [r.number for r in store.rounds("moves")] == list(range(13)), "the records lack rounds")
    store.close()


@whole
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pair", [8.0], indirect=True)
def test_a_hub_that_was_stopped_for_a_while_ends_instead_of_going_on(pair):
    pair.start_hub()
    stands_by(pair)
    (pair.home / "ready.json").unlink()
    pair.hub.process.send_signal(signal.SIGSTOP)
    until(pair, lambda: "holds the home" in pair.second.log.read_text(errors="replace"), "the lease does not end")
    assert not (pair.home / "ready.json").exists(), "the first may still write: its lock on the home holds"
    pair.hub.process.send_signal(signal.SIGCONT)
    assert pair.hub.process.wait(PATIENT_S) == EX_TEMPFAIL
    taken_over(pair, term=2)


@whole
@pytest.mark.timeout(900)
@pytest.mark.parametrize("pair", [8.0], indirect=True)
def test_a_hub_whose_database_is_gone_ends_and_one_that_stands_by_outlasts_it(pair, postgres):
    pair.start_hub()
    stands_by(pair)
    (pair.home / "ready.json").unlink()
    postgres.stop()
    assert pair.hub.process.wait(PATIENT_S) != 0
    postgres.start()
    taken_over(pair, term=2)
