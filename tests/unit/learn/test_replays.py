"""Replay: what was set aside and is innocent counts after all: late, once, and only while it can."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.learn.test_coordinator import STUDY, Hub

from wardround.errors import StudyError
from wardround.learn.answers import answers, standing
from wardround.learn.journal import Journal, update_name
from wardround.learn.messages import Order
from wardround.learn.models import decode_model
from wardround.learn.replays import check_allowed
from wardround.learn.rollbacks import Asked
from wardround.learn.study import parse_study
from wardround.records import EdgeId
from wardround.simulation.toy import toy_training

B = EdgeId("b")


def start(text="", tmp_path=None):
    hub = Hub(tmp_path, text=(STUDY + text).replace("count = 5", "count = 20"))
    hub.attach("a", "b", "c")
    hub.round("a", "b", "c")  # the statistics
    return hub


@pytest.fixture(params=["memory", "folder"])
def hub(request, tmp_path):
    """Round 1 is over; b was set aside in it."""
    hub = start(tmp_path=None if request.param == "memory" else tmp_path)
    hub.coordinator.quarantine(B, 1, "doubt")
    hub.round("a", "b", "c")
    assert hub.coordinator.committed()[1].aside == ("b",)
    return hub


def replay(hub, edge="b", round_number=1, request="r1"):
    return hub.coordinator.replay(EdgeId(edge), round_number, Asked(round_number, "someone", "innocent", request))


def row(hub, edge="b", round_number=1):
    return answers(Journal(hub.storage.connect), edge=edge, round_number=round_number)[0]


def test_it_is_folded_into_the_next_round_as_one_that_is_late(hub):
    replay(hub)
    assert (row(hub).verdict, row(hub).detail) == ("replayed", "waits for the end of the next round")
    hub.round("a", "b", "c")
    assert (row(hub).verdict, row(hub).detail) == ("replayed", "counts in round 2")
    first, second = hub.coordinator.committed()[1:]
    [late] = second.replayed
    assert (late.edge, late.from_round, late.into_round, late.who, late.reason) == ("b", 1, 2, "someone", "innocent")
    base, model = (decode_model(hub.coordinator.model(d)) for d in (first.model, second.model))
    made = [(e, n, first.model, 2, 0) for e, n in second.folded.items()] + [("b", late.examples, first.base, 1, 1)]
    total = sum(n for _, n, *_ in made)
    expected = base["w"].astype(np.float64)
    for edge, n, digest, number, stale in made:
        order = Order("s", number, 1, "train", digest, b"", 0.0)
        update = decode_model(toy_training(edge, order, hub.coordinator.model(digest), b"").data)
        expected = expected + n / total / np.sqrt(1 + stale) * update["w"]  # FedBuff, section 5
    np.testing.assert_allclose(model["w"], expected, rtol=1e-5)
    assert [e.replayed for e in hub.events if e.kind == "committed"] == [(), (), second.replayed]


@pytest.mark.parametrize("killed", ["before", "after", "never"])
def test_it_counts_once_however_often_it_is_asked_and_whoever_is_killed(hub, killed):
    replay(hub)
    assert replay(hub).request == "r1"  # the answer was lost: the same request again is no error
    with pytest.raises(StudyError, match="replayed already: it waits"):
        replay(hub, request="r2")
    if killed == "before":
        hub.kill()
        hub.attach("a", "b", "c")
    hub.round("a", "b", "c")
    if killed == "after":
        hub.kill()
        hub.attach("a", "b", "c")
    with pytest.raises(StudyError, match="it counts in round 2"):
        replay(hub, request="r3")
    hub.round("a", "b", "c")
    assert [len(c.replayed) for c in hub.coordinator.committed()] == [0, 0, 1, 0]


def test_it_speaks_for_its_edge_again(hub):
    def refused_by_the_screen(journal):
        journal._db.execute("UPDATE judged SET reason = 'own-history-course' WHERE reason != ''")
        return standing(journal)["b"]

    journal = Journal(hub.storage.connect)
    before = refused_by_the_screen(journal)
    assert before.seen == {"accepted": 1, "aside": 1}
    replay(hub)
    assert standing(journal)["b"].seen == {"accepted": 2}


@pytest.mark.parametrize(
    ("edge", "round_number", "says"),
    [("a", 1, "was not set aside"), ("z", 1, "no update of z"), ("b", 9, "no update of b"), ("b", 0, "no update of b")],
)
def test_what_was_not_set_aside_cannot_be_replayed(hub, edge, round_number, says):
    with pytest.raises(StudyError, match=says) as caught:
        replay(hub, edge, round_number)
    assert caught.value.remedy


def test_bytes_that_are_gone_are_said_to_be(hub):
    hub.blobs.delete(update_name(1, "b"))
    with pytest.raises(StudyError, match="not kept any more") as caught:
        replay(hub)
    assert "aside_bytes_max" in caught.value.remedy


def test_bytes_that_go_before_the_round_ends_stop_no_round(hub):
    replay(hub)
    hub.blobs.delete(update_name(1, "b"))
    hub.round("a", "b", "c")
    assert hub.coordinator.committed()[-1].replayed == ()


def test_what_has_changed_on_the_disk_is_refused_by_triage(hub):
    spoilt = bytearray(hub.blobs.read(update_name(1, "b")))
    spoilt[-4:] = np.array([np.nan], np.float32).tobytes()
    hub.blobs.write(update_name(1, "b"), bytes(spoilt))
    with pytest.raises(StudyError, match="not-finite"):
        replay(hub)


def test_what_the_study_went_back_from_does_not_come_back(hub):
    replay(hub)
    hub.coordinator.roll_back(Asked(0, "someone", "worse", "back"))  # while the replay waits
    with pytest.raises(StudyError, match="gone back"):
        replay(hub, request="r2")
    hub.attach("a", "b", "c")
    hub.round("a", "b", "c")
    assert not any(c.replayed for c in hub.coordinator.committed())


def test_bytes_are_kept_for_so_many_rounds_and_no_longer():
    hub = start("[triage]\naside_rounds = 3\n")
    hub.coordinator.quarantine(B, 1, "doubt")
    for _ in range(3):
        hub.round("a", "b", "c")
        assert hub.blobs.size(update_name(1, "b"))
    assert not hub.blobs.size(update_name(1, "a"))  # it is in the model
    hub.round("a", "b", "c")
    assert not hub.blobs.size(update_name(1, "b"))
    with pytest.raises(StudyError, match="4 rounds old"):
        replay(hub)


def test_bytes_are_kept_within_a_bound_the_oldest_going_first():
    one = start()
    size = one.blobs.size(update_name(0, "a")) or 300
    hub = start(f"[triage]\naside_bytes_max = {2 * size}\n")
    hub.coordinator.quarantine(B, 9, "doubt")
    for _ in range(9):
        hub.round("a", "b", "c")
    kept = [n for n in range(1, 8) if hub.blobs.size(update_name(n, "b"))]
    assert kept
    assert kept == list(range(min(kept), 8))
    assert (
        sum(hub.blobs.size(update_name(n, "b")) for n in range(1, 10)) <= 2 * size + 2 * 300
    )  # the newest two are not looked at


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('[strategy]\nname = "scaffold"\n', "scaffold"),
        ('[strategy]\nname = "feddyn"\n', "feddyn"),
        ('[privacy]\nmode = "blind"\n', "blind"),
    ],
)
def test_a_study_that_cannot_take_late_updates_names_the_setting(text, named):
    with pytest.raises(StudyError, match=named) as caught:
        check_allowed(parse_study(STUDY + text, where="test"))
    assert "release" in caught.value.remedy
    check_allowed(parse_study(STUDY, where="test"))


def test_a_finished_study_has_no_round_left():
    hub = Hub(text=STUDY.replace("count = 5", "count = 1"))
    hub.attach("a", "b", "c")
    hub.round("a", "b", "c")
    hub.coordinator.quarantine(B, 1, "doubt")
    hub.round("a", "b", "c")
    with pytest.raises(StudyError, match="all its rounds"):
        replay(hub)


def test_rounds_go_on_when_every_edge_is_in_quarantine():
    """Each such round leaves the model as it is and takes none from the study, and the quarantine runs out by them."""
    hub = start()
    for edge in ("a", "b", "c"):
        hub.coordinator.quarantine(EdgeId(edge), 2, "doubt")
    before = hub.coordinator.committed()[0].model
    for _ in range(2):
        hub.round("a", "b", "c")
        done = hub.coordinator.committed()[-1]
        assert (done.model, dict(done.folded), done.aside) == (before, {}, ("a", "b", "c"))
        hub.clock.advance(3.0)
        hub.coordinator.tick()
    hub.kill()
    hub.attach("a", "b", "c")
    hub.round("a", "b", "c")
    done = hub.coordinator.committed()[-1]
    assert (done.number, done.model != before, set(done.folded)) == (3, True, {"a", "b", "c"})
    while not hub.coordinator.finished:
        hub.round("a", "b", "c")
    assert hub.coordinator.committed()[-1].number == 22  # of the study's 20, two moved nothing
