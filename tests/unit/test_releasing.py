"""The registry of a study's models while models are measured: whoever asks what an edge is to hold does not wait for that."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from wardround.clock import ManualClock
from wardround.learn.study import parse_study
from wardround.process.transforms import TASKS
from wardround.releasing import Fleet, Releases
from wardround.store import ModelRecord, open_store

TEXT = 'name = "s"\ntask = "activity"\n'
LONG_S = 60


@pytest.fixture
def store(tmp_path):
    store = open_store(tmp_path / "hub.sqlite")
    store.put_models([ModelRecord("s", 3, "m" * 64, "", "current", 3, 1, 1, {"calibration": {"temperature": 2.0}})])
    yield store
    store.close()


def test_what_an_edge_holds_is_said_while_models_are_measured(store):
    measuring, go_on = threading.Event(), threading.Event()

    def held_back():
        measuring.set()
        assert go_on.wait(LONG_S)
        return []

    releases = Releases(
        parse_study(TEXT, where="test"),
        TEXT,
        TASKS["activity"],
        settings=b"",
        metric="accuracy",
        learner=None,
        coordinator=SimpleNamespace(committed=list, rollbacks=list, pin=lambda _models: None, finished=True),
        store=store,
        clock=ManualClock(),
        fleet=Fleet(edges=lambda: ["icu-a"], holds=lambda _edge: (), tell=None, sign=None, edge_of=None),
        held_back=held_back,
        say=lambda _title, _detail: None,
    )
    looking = threading.Thread(target=releases.look, daemon=True)
    looking.start()
    assert measuring.wait(LONG_S)
    answered = []
    asking = threading.Thread(
        target=lambda: answered.extend([releases.release_for("icu-a").number, releases.measured_us(), len(releases.entries())]),
        daemon=True,
    )
    asking.start()
    asking.join(LONG_S)
    go_on.set()
    looking.join(LONG_S)
    assert answered == [3, 1, 1]
