"""Going back: the next round starts from the older model, nothing counts twice, and both halves of a strategy begin anew."""

from __future__ import annotations

import numpy as np
import pytest
from tests.unit.learn.test_coordinator import STUDY, Hub

from wardround.errors import StudyError
from wardround.learn.blobs import MemoryBlobs
from wardround.learn.journal import model_name
from wardround.learn.messages import Done
from wardround.learn.models import CONTROL_PREFIX, decode_model, encode_model
from wardround.learn.participant import Participant
from wardround.learn.rollbacks import Asked
from wardround.learn.strategies import make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings
from wardround.records import EdgeId


@pytest.fixture(params=["memory", "folder"])
def hub(request, tmp_path):
    hub = Hub(None if request.param == "memory" else tmp_path)
    hub.attach("a", "b")
    for _ in range(4):  # the statistics and three rounds
        hub.round("a", "b")
    return hub


def back(hub, to, request=""):
    return hub.coordinator.roll_back(Asked(to, "someone", "it was worse", request))


def test_the_next_round_starts_from_the_model_rolled_back_to(hub):
    first = hub.coordinator.committed()[1]
    done = back(hub, 1)
    assert (done.number, done.model, dict(done.folded)) == (4, first.model, {})
    hub.coordinator.tick()
    assert (hub.orders["a"].round_number, hub.orders["a"].base) == (5, first.model)
    hub.round("a", "b")
    assert hub.coordinator.committed()[-1].base == first.model
    assert "rolled-back" in hub.kinds()


def test_it_is_as_much_there_after_a_kill(hub):
    back(hub, 1)
    hub.kill()
    assert hub.coordinator.rollbacks()[0].to_round == 1
    hub.attach("a", "b")
    assert hub.orders["a"].base == hub.coordinator.committed()[1].model


def test_what_had_arrived_for_the_open_round_is_set_aside_and_what_is_under_way_is_late(hub):
    assert hub.upload("a").accepted
    _, done = hub.made("b")
    late = hub.announce("b", done.data, examples=done.examples)
    assert back(hub, 2).aside == ("a",)
    hub.coordinator.append(EdgeId("b"), late, 0, done.data)
    assert hub.coordinator.finish(EdgeId("b"), late).reason == "round"
    assert hub.coordinator.position(EdgeId("a"), hub.announce("a", b"x"))[1]  # its receipt stands


def test_the_same_request_is_carried_out_once_and_a_rollback_is_undone_by_another(hub):
    third = hub.coordinator.committed()[3].model
    assert back(hub, 1, "r1") == back(hub, 1, "r1")
    assert len(hub.coordinator.rollbacks()) == 1
    assert back(hub, 3, "r2").model == third


def test_a_rollback_takes_no_round_from_the_study(hub):
    back(hub, 1)
    hub.coordinator.tick()
    hub.round("a", "b")
    assert not hub.coordinator.finished
    hub.round("a", "b")
    assert hub.coordinator.finished
    back(hub, 1)
    assert hub.coordinator.finished


def test_a_round_that_is_not_over_is_refused(hub):
    with pytest.raises(StudyError, match="round 9 is not over"):
        back(hub, 9)
    hub.blobs.delete(model_name(hub.coordinator.committed()[1].model))
    with pytest.raises(StudyError, match="not kept any more"):
        back(hub, 1)


def test_models_go_when_they_are_old_and_stay_when_they_are_pinned(monkeypatch):
    text = STUDY.replace("count = 5", "count = 9") + "[release]\nmodels_kept = 3\n"
    monkeypatch.setattr("tests.unit.learn.test_coordinator.STUDY", text)
    hub = Hub()
    hub.attach("a", "b")
    models = []

    def there():
        return [i for i, m in enumerate(models) if hub.coordinator.model_size(m)]

    for _ in range(3):
        hub.round("a", "b")
        models.append(hub.coordinator.committed()[-1].model)
    hub.coordinator.pin({models[1]})
    for _ in range(4):
        hub.round("a", "b")
        models.append(hub.coordinator.committed()[-1].model)
    assert there() == [1, 4, 5, 6]
    hub.coordinator.pin({models[5]})
    assert there() == [4, 5, 6]


def test_paused_opens_no_round_and_stopped_gives_the_open_one_up(hub):
    hub.coordinator.pause(paused=True)
    hub.round("a", "b")  # the one in progress ends
    hub.clock.advance(5)
    hub.coordinator.tick()
    assert hub.coordinator.open_round is None
    hub.coordinator.pause(paused=False)
    hub.coordinator.tick()
    assert hub.coordinator.open_round is not None
    hub.coordinator.stop()
    hub.clock.advance(50)
    hub.coordinator.tick()
    assert hub.coordinator.open_round is None
    assert hub.kinds()[-1] == "abandoned"


def test_both_halves_of_a_paired_strategy_begin_anew(monkeypatch):
    scaffold = make_strategy(StrategySettings(name="scaffold"), LearnerSettings(momentum=0.0))
    monkeypatch.setattr("tests.unit.learn.test_coordinator.make_strategy", lambda *_: scaffold)
    hub = Hub()
    hub.attach("a", "b")
    hub.round("a", "b")
    data = hub.coordinator.committed()[0]
    # A toy training sends no control variates, so the model rolled back to is given some.
    tensors = decode_model(hub.coordinator.model(data.model))
    with_controls = {**tensors, CONTROL_PREFIX + "w": np.ones_like(tensors["w"])}
    hub.blobs.write(model_name(data.model), encode_model(with_controls))
    done = back(hub, 0)
    model = decode_model(hub.coordinator.model(done.model))
    assert not model[CONTROL_PREFIX + "w"].any()
    np.testing.assert_array_equal(model["w"], tensors["w"])
    hub.coordinator.tick()
    assert hub.orders["a"].kept_since == done.number
    edge = Participant(MemoryBlobs())
    edge.keep(hub.orders["a"], Done(b"u", 1, {}, b"half"))
    edge.settle("s", counts=True)
    assert edge.kept("s", done.number) == b"half"
    assert edge.kept("s", hub.orders["a"].round_number) == b""
    assert edge.kept("s") == b"half"
