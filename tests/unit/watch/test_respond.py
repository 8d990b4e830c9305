"""Responses: no sequence of alerts exceeds a limit, undo restores, a kill is made good once, a person's word holds."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround.errors import StudyError
from wardround.learn.responses import check_respond
from wardround.settings import (
    PauseResponse,
    QuarantineResponse,
    RecalibrateResponse,
    RespondSettings,
    RetrainResponse,
    RollbackResponse,
)
from wardround.watch.alerts import Alert, AlertBook, Finding, State
from wardround.watch.respond import HOLDS, Act, CannotUndo, Entry, HeldBack, ResponseBook, Situation
from wardround.watch.respond import State as Stands
from wardround.watch.response_words import before_undo, held_back, on_alert, until, what

HOUR_US = 3_600_000_000
EDGES = frozenset(f"edge-{i}" for i in range(8))
ACT = RespondSettings(
    quarantine=QuarantineResponse(mode="act", kinds=("edge-loss",), limit=2, limit_rounds=10, limit_hours=1.0, rounds=5),
    rollback=RollbackResponse(mode="act", kinds=("diverged",), limit=1, limit_rounds=20, limit_hours=0.0),
    pause=PauseResponse(mode="act", kinds=("diverged",), limit=1, limit_rounds=5, limit_hours=0.0),
    retrain=RetrainResponse(mode="act", kinds=("drift",), limit=1, limit_rounds=10, limit_hours=0.0, rounds=3, share_min=0.2),
    recalibrate=RecalibrateResponse(mode="act", kinds=("common",), limit=1, limit_rounds=10, limit_hours=0.0),
)
NOW = Situation(study="s", round_number=20, edges=EDGES, quorum=3, newest=19, last_good=12)


def alert(kind="edge-loss", edge="edge-0", number=1, since_us=0):
    finding = Finding(
        kind=kind, title=kind, priority="medium", category="model", since_us=since_us, detected_us=since_us, edge=edge, study="s"
    )
    return Alert(alert_id=f"A-{number:04d}", state=State.FIRING, finding=finding, raised_us=since_us, changed_us=since_us)


def changed(now=NOW, **changes):
    return Situation(**{**{f: getattr(now, f) for f in Situation.__slots__}, **changes})


def test_an_edge_is_set_aside_until_a_round_and_the_alert_says_how_to_undo_it():
    book = ResponseBook()
    entry = book.consider(alert(), ACT, NOW, 0)
    assert (entry.act, entry.edge, entry.state, entry.until_round) == (Act.QUARANTINE, "edge-0", Stands.PLANNED, 24)
    assert book.consider(alert(), ACT, NOW, 1) is None  # it is on its way
    done = book.settle(entry.response_id, done=True, answer="set aside", now_us=2)
    said = on_alert(done)
    assert (said.undo, said.until, said.person_too) == (f"response:{entry.response_id}", "until round 24", False)
    assert not book.look(changed(aside=frozenset({"edge-0"}), round_number=24), 3)
    assert [e.state for e in book.look(changed(aside=frozenset({"edge-0"}), round_number=25), 4)] == [Stands.OVER]
    assert book.consider(alert(), ACT, changed(round_number=25), 5).response_id == "R-0002"  # the cause is still there


def test_a_dry_run_says_what_it_would_do_and_keeps_its_own_limit():
    quiet = msgspec.structs.replace(ACT, quarantine=msgspec.structs.replace(ACT.quarantine, mode="dry-run"))
    book = ResponseBook()
    entry = book.consider(alert(), quiet, NOW, 0)
    assert entry.state is Stands.DRY_RUN
    assert on_alert(entry).what == "would set edge-0 aside in s from round 20, weight 0 (dry run: nothing was done)"
    assert not on_alert(entry).undo
    assert on_alert(entry).person_too
    assert book.consider(alert(), quiet, NOW, 1) is None
    assert isinstance(book.consider(alert(edge="edge-1", number=2), quiet, NOW, 2), Entry)
    assert "limit" in book.consider(alert(edge="edge-2", number=3), quiet, changed(edges=EDGES | {"i", "j", "k", "l"}), 3).why
    assert isinstance(book.consider(alert(edge="edge-3", number=4), ACT, NOW, 3), Entry)  # what was tried only stands in no way


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (changed(aside=frozenset({"edge-1", "edge-2"})), "2 of 8 edges are set aside, and 2 may be at most"),
        (changed(quorum=8), "fewer edges than the quorum of 8 would count"),
        (changed(edges=frozenset({"edge-0", "edge-1", "edge-2"})), "0 of 3 edges are set aside, and 0 may be at most"),
        (changed(edges=EDGES - {"edge-0"}), "edge-0 does not train in s"),
    ],
)
def test_a_quarantine_is_held_back(now, why):
    held = ResponseBook().consider(alert(), ACT, now, 0)
    assert (held.why, held.covered) == (why, False)
    assert held_back(held).person_too


def test_who_is_set_aside_already_needs_no_response():
    held = ResponseBook().consider(alert(), ACT, changed(aside=frozenset({"edge-0"})), 0)
    assert held.covered
    assert held_back(held).what == "edge-0 is set aside already"


def test_where_going_back_is_not_possible_the_study_is_paused():
    assert ResponseBook().consider(alert("diverged", ""), ACT, NOW, 0).act is Act.ROLLBACK
    for now in (changed(last_good=None), changed(last_good=19)):
        assert ResponseBook().consider(alert("diverged", ""), ACT, now, 0).act is Act.PAUSE
    book = ResponseBook()
    first = book.consider(alert("diverged", ""), ACT, NOW, 0)
    book.settle(first.response_id, done=False, answer="the disk is full", now_us=1)
    second = book.consider(alert("diverged", ""), ACT, NOW, 2)
    assert second.act is Act.PAUSE
    assert on_alert(book.get(first.response_id)).what == "a rollback failed: the disk is full"


def test_a_rollback_that_has_not_helped_is_followed_by_a_pause():
    book, diverged = ResponseBook(), alert("diverged", "")
    back = book.consider(diverged, ACT, NOW, 0)
    shown = changed(round_number=24, shown={"diverged": 23})
    assert book.consider(diverged, ACT, shown, 1) is None  # it is on its way
    book.settle(back.response_id, done=True, answer="", now_us=2)
    for now in (
        changed(round_number=23, shown={"diverged": 22}),  # too early to say
        changed(round_number=30, shown={"diverged": 22}),  # it helped, and the alert is open until its quiet rounds are over
        changed(round_number=30, shown={"diverged": 27}),  # it went on for a while, and is gone
        changed(round_number=30, shown={"something else": 29}),
        changed(round_number=30),
    ):
        assert book.consider(diverged, ACT, now, 3) is None
    pause = ResponseBook(book.save()).consider(diverged, ACT, shown, 4)
    assert pause.act is Act.PAUSE
    pause = book.consider(diverged, ACT, shown, 4)
    book.settle(pause.response_id, done=True, answer="", now_us=5)
    assert book.consider(diverged, ACT, changed(shown, paused=True), 6) is None


def test_while_edges_are_being_set_aside_a_study_is_not_paused_but_not_for_ever():
    book, diverged = ResponseBook(), alert("diverged", "")
    back = book.consider(diverged, ACT, NOW, 0)
    book.settle(back.response_id, done=True, answer="", now_us=1)
    still = changed(round_number=46, shown={"diverged": 45})
    for run in ((43, 43), (41, 45), (15, 45)):
        held = book.consider(diverged, ACT, changed(still, setting_aside=run), 2)
        assert (held.act, held.covered) == (Act.ROLLBACK, False)
    alone = msgspec.structs.replace(ACT, rollback=RollbackResponse(mode="off"))
    held = ResponseBook().consider(diverged, alone, changed(still, setting_aside=(41, 45)), 2)
    assert held.why == "edges are still being found and set aside, as of round 45"
    for run in ((0, 0), (41, 42), (14, 45)):  # none was; the last one is long ago; it has no end
        assert ResponseBook(book.save()).consider(diverged, ACT, changed(still, setting_aside=run), 3).act is Act.PAUSE


def test_a_model_of_which_no_round_comes_to_an_end_after_a_rollback_is_paused_and_gone_back_from():
    book, diverged = ResponseBook(), alert("diverged", "")
    back = book.consider(diverged, ACT, NOW, 0)
    book.settle(back.response_id, done=True, answer="", now_us=1)
    stuck = changed(round_number=22, newest=21, shown={"diverged": 22}, abandoned=2)  # 20 is the rollback, and 21 was made
    for waits in (
        changed(stuck, abandoned=1),
        changed(stuck, abandoned=9, shown={}),  # the cause is over: something else is in the way
        changed(stuck, abandoned=9, shown={"something else": 22}),
    ):
        assert book.consider(diverged, ACT, waits, 2) is None
    pause = ResponseBook(book.save()).consider(diverged, ACT, stuck, 3)
    assert (pause.act, pause.from_round, pause.to_round) == (Act.PAUSE, 21, 12)
    assert what(pause) == "paused s and went back to the model of round 12"
    assert before_undo(pause, 23).consequences[0].endswith(", from the model of round 12.")
    for now in (changed(stuck, newest=19), changed(stuck, last_good=21), changed(stuck, last_good=None)):  # it is there already
        pause = ResponseBook(book.save()).consider(diverged, ACT, now, 3)
        assert (pause.act, pause.from_round, what(pause)) == (Act.PAUSE, 0, "paused s")
    quiet = msgspec.structs.replace(ACT, rollback=msgspec.structs.replace(ACT.rollback, mode="dry-run"))
    assert ResponseBook(book.save()).consider(diverged, quiet, stuck, 3).from_round == 0


def test_attempts_that_come_to_nothing_find_no_edge_that_could_be_set_aside():
    book, diverged = ResponseBook(), alert("diverged", "")
    back = book.consider(diverged, ACT, NOW, 0)
    book.settle(back.response_id, done=True, answer="", now_us=1)
    still = changed(round_number=24, shown={"diverged": 24}, setting_aside=(23, 23))
    assert isinstance(book.consider(diverged, ACT, changed(still, abandoned=3), 2), HeldBack)
    assert book.consider(diverged, ACT, changed(still, abandoned=4), 3).act is Act.PAUSE


def test_a_rollback_that_has_not_helped_is_told_where_nothing_may_follow():
    book = ResponseBook()
    alone = msgspec.structs.replace(ACT, pause=PauseResponse(mode="off"))
    back = book.consider(alert("diverged", ""), alone, NOW, 0)
    book.settle(back.response_id, done=True, answer="", now_us=1)
    held = book.consider(alert("diverged", ""), alone, changed(round_number=24, shown={"diverged": 23}), 2)
    assert held.why == "R-0001 has not helped in 3 rounds"


@pytest.mark.parametrize("state", ["undone", "dry-run"])
def test_a_rollback_that_a_person_has_undone_or_that_was_tried_only_is_followed_by_nothing(state):
    book, diverged = ResponseBook(), alert("diverged", "")
    mode = "dry-run" if state == "dry-run" else "act"
    own = msgspec.structs.replace(ACT, rollback=msgspec.structs.replace(ACT.rollback, mode=mode))
    back = book.consider(diverged, own, NOW, 0)
    if state == "undone":
        book.settle(back.response_id, done=True, answer="", now_us=1)
        book.undo(back.response_id, "anna", "")
        book.settle(back.response_id, done=True, answer="", now_us=2)
    assert book.consider(diverged, own, changed(round_number=24, shown={"diverged": 23}), 3) is None


def test_retraining_waits_for_enough_edges():
    book = ResponseBook()
    assert book.consider(alert("drift"), ACT, changed(drifting=frozenset({"edge-0"})), 0) is None
    entry = book.consider(alert("drift"), ACT, changed(drifting=frozenset({"edge-0", "edge-1"})), 0)
    assert (entry.act, entry.rounds, entry.edge) == (Act.RETRAIN, 3, "")


def test_a_persons_undo_holds():
    book = ResponseBook()
    entry = book.consider(alert(), ACT, NOW, 0)
    with pytest.raises(CannotUndo, match="planned"):
        book.undo(entry.response_id, "anna", "")
    book.settle(entry.response_id, done=True, answer="", now_us=0)
    assert book.undo(entry.response_id, "anna", "the cable").state is Stands.UNDOING
    assert book.settle(entry.response_id, done=True, answer="", now_us=1).ended_by == "anna"
    with pytest.raises(CannotUndo, match="undone"):
        book.undo(entry.response_id, "anna", "")
    with pytest.raises(CannotUndo, match="no response"):
        book.undo("R-9999", "anna", "")
    again = alert(number=1, since_us=77)  # it fires again
    assert book.consider(again, ACT, changed(round_number=29), HOUR_US).why == "anna has undone R-0001"
    later = changed(round_number=31)
    assert isinstance(book.consider(again, ACT, later, 2 * HOUR_US), Entry)


def test_what_somebody_ended_by_hand_counts_as_undone():
    book = ResponseBook()
    entry = book.consider(alert(), ACT, NOW, 0)
    book.settle(entry.response_id, done=True, answer="", now_us=0)
    assert [e.state for e in book.look(NOW, 1)] == [Stands.UNDONE]  # it counts, and round 24 is not over
    assert isinstance(book.consider(alert(since_us=5), ACT, NOW, 2), HeldBack)


def test_what_could_not_be_undone_still_holds():
    book = ResponseBook()
    entry = book.consider(alert(), ACT, NOW, 0)
    book.settle(entry.response_id, done=True, answer="", now_us=0)
    book.undo(entry.response_id, "anna", "")
    assert book.settle(entry.response_id, done=False, answer="no", now_us=1).state is Stands.DONE


def test_every_act_has_its_words():
    now = changed(drifting=EDGES)
    for kind, act in (
        ("diverged", Act.ROLLBACK),
        ("edge-loss", Act.QUARANTINE),
        ("drift", Act.RETRAIN),
        ("common", Act.RECALIBRATE),
    ):
        entry = ResponseBook().consider(alert(kind), ACT, now, 0)
        assert entry.act is act
        words = before_undo(entry, 21)
        assert words.title.endswith("?")
        assert len(words.consequences) == 3
        assert what(entry)
    paused = ResponseBook().consider(alert("diverged", ""), ACT, changed(last_good=None), 0)
    assert (what(paused), until(paused)) == ("paused s", "until somebody resumes it")
    assert before_undo(paused, 21).words == "Resume s"


def test_off_means_off_and_settings_are_checked():
    off = RespondSettings(quarantine=QuarantineResponse(mode="off", kinds=("edge-loss",)))
    assert ResponseBook().consider(alert(), off, NOW, 0) is None
    check_respond(ACT)
    for wrong in (
        RespondSettings(quarantine=QuarantineResponse(share_max=0.5)),
        RespondSettings(pause=PauseResponse(limit=0)),
        RespondSettings(pause=PauseResponse(kinds=("Not A Kind",))),
        RespondSettings(retrain=RetrainResponse(limit_hours=math.nan)),
    ):
        with pytest.raises(StudyError, match="respond\\."):
            check_respond(wrong)


class World:
    """A study to which responses are done, each at least once; and what somebody else does beside."""

    def __init__(self):
        self.round, self.t_us = 20, 0
        self.ours: dict[str, int] = {}
        self.others: set[str] = set()
        self.paused = False
        self.model, self.newest = 19, 19
        self.more: dict[str, int] = {}
        self.anew: set[str] = set()
        self.done: set[str] = set()
        self.book = ResponseBook()
        self.alerts = AlertBook()

    @property
    def aside(self):
        return frozenset(self.others | {e for e, last in self.ours.items() if last >= self.round})

    def situation(self):
        return changed(
            round_number=self.round, aside=self.aside, paused=self.paused, newest=self.newest, last_good=12, drifting=EDGES
        )

    def raised(self, kind, edge):
        finding = alert(kind, edge).finding
        self.alerts.raise_(finding, self.t_us)
        return next(a for a in self.alerts.alerts() if a.finding.fingerprint == finding.fingerprint)

    def do(self, entry):
        if entry.act is Act.QUARANTINE:
            self.ours[entry.edge] = entry.until_round
        elif entry.act is Act.ROLLBACK:
            if entry.response_id not in self.done:
                self.model = entry.to_round
        elif entry.act is Act.PAUSE:
            self.paused = True
        elif entry.act is Act.RETRAIN:
            self.more[entry.response_id] = entry.rounds
        else:
            self.anew.add(entry.response_id)
        self.done.add(entry.response_id)

    def take_back(self, entry):
        if entry.act is Act.QUARANTINE:
            self.ours.pop(entry.edge, None)
        elif entry.act is Act.ROLLBACK:
            self.model = entry.from_round
        elif entry.act is Act.PAUSE:
            self.paused = False
        elif entry.act is Act.RETRAIN:
            self.more.pop(entry.response_id, None)
        else:
            self.anew.discard(entry.response_id)

    def finish(self):
        for entry in self.book.unfinished():
            (self.take_back if entry.state is Stands.UNDOING else self.do)(entry)
            self.book.settle(entry.response_id, done=True, answer="", now_us=self.t_us)

    def holds_its_limits(self):
        counted = [e for e in self.book.entries() if e.state is not Stands.DRY_RUN]
        for act in Act:
            own, mine = getattr(ACT, act.value), [e for e in counted if e.act is act]
            for e in mine:
                assert sum(0 <= o.made_round - e.made_round < own.limit_rounds for o in mine) <= own.limit
                assert sum(0 <= o.made_us - e.made_us < own.limit_hours * HOUR_US for o in mine) <= own.limit


STEPS = st.one_of(
    st.tuples(st.just("alert"), st.sampled_from(["edge-loss", "diverged", "drift", "common"]), st.sampled_from(sorted(EDGES))),
    st.tuples(st.just("clear"), st.sampled_from(["edge-loss", "diverged", "drift", "common"]), st.sampled_from(sorted(EDGES))),
    st.tuples(st.just("rounds"), st.integers(1, 12)),
    st.tuples(st.just("hours"), st.floats(0.01, 3.0)),
    st.tuples(st.just("undo"), st.integers(0, 5)),
    st.tuples(st.just("screen"), st.sampled_from(sorted(EDGES))),
    st.tuples(st.just("resume")),
    st.tuples(st.just("restart")),
    st.tuples(st.just("kill"), st.booleans()),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(STEPS, max_size=60))
def test_no_sequence_of_alerts_exceeds_a_limit_and_undo_restores(steps):
    world = World()
    for step in steps:
        if step[0] == "alert":
            before = world.aside
            raised = world.raised(step[1], step[2])
            found = world.book.consider(raised, ACT, world.situation(), world.t_us)
            if isinstance(found, Entry) and found.act is Act.QUARANTINE:
                assert len(before | {found.edge}) <= math.floor(0.25 * len(EDGES))
                assert len(EDGES) - len(before | {found.edge}) >= NOW.quorum
            world.finish()
        elif step[0] == "kill":  # planned on disk; perhaps done, and not settled: the next hub does it again
            raised = world.raised("edge-loss", "edge-7")
            found = world.book.consider(raised, ACT, world.situation(), world.t_us)
            if isinstance(found, Entry) and step[1]:
                world.do(found)
            world.book = ResponseBook(world.book.save())
            world.finish()
        elif step[0] == "clear":
            world.alerts.clear(alert(step[1], step[2]).finding.fingerprint, world.t_us)
        elif step[0] == "rounds":
            world.round += step[1]
        elif step[0] == "hours":
            world.t_us += round(step[1] * HOUR_US)
        elif step[0] == "undo":
            undoable = [e for e in world.book.entries() if e.undoable]
            if undoable:
                world.book.undo(undoable[step[1] % len(undoable)].response_id, "anna", "")
                world.finish()
        elif step[0] == "screen" and len(world.others) < 2:
            world.others.add(step[1])
        elif step[0] == "resume":
            world.paused = False
        elif step[0] == "restart":
            saved = world.book.save()
            world.book = ResponseBook(saved)
            assert world.book.save() == saved
        world.book.look(world.situation(), world.t_us)
        world.holds_its_limits()
        assert not world.book.unfinished()
        holding = [e for e in world.book.entries() if e.state in HOLDS]
        assert {e.edge for e in holding if e.act is Act.QUARANTINE} == {
            e for e, last in world.ours.items() if last >= world.round
        }
    for entry in [e for e in world.book.entries() if e.undoable]:  # newest first
        world.book.undo(entry.response_id, "anna", "")
        world.finish()
    assert not world.aside - world.others
    assert (world.more, world.anew) == ({}, set())
    assert not world.paused
    assert world.model == world.newest
