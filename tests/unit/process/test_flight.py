"""Results that do not come: a worker that dies between the end of its task and the fetch of what it made.

The futures here are made up: in a real cluster that moment lasts milliseconds (tests/nodes meets it now and then).
"""

from __future__ import annotations

import collections
import itertools
from types import SimpleNamespace

import pytest

from wardround.process import dask_runner
from wardround.process.dask_runner import FETCH_MORE_S, FETCH_S, FETCHES_MAX, _ClusterLost, _Flight


class Future:
    """A task that is done; its result comes, or it does not, or it was an error of its own."""

    numbers = itertools.count()

    def __init__(self, result, status="finished"):
        self.key, self._result, self.status = f"make-{next(self.numbers)}", result, status
        self.released, self.waited_s = False, 0.0

    def done(self):
        return True

    def result(self, timeout):
        self.waited_s = timeout
        if isinstance(self._result, Exception):
            raise self._result
        return self._result

    def release(self):
        self.released = True


class Client:
    """Gives these futures, one for each task that is sent."""

    def __init__(self, *futures):
        self.futures, self.cancelled, self.removed = list(futures), [], []
        worker = SimpleNamespace(name="one-1", address="tls://127.0.0.1:1")
        scheduler = SimpleNamespace(
            tasks={f.key: SimpleNamespace(who_has={worker.address: worker}.values()) for f in futures[:1]},
            loop=SimpleNamespace(add_callback=lambda do, **what: do(**what)),
            remove_worker=lambda address, stimulus_id: self.removed.append(address),
        )
        self.cluster = SimpleNamespace(scheduler=scheduler)

    def submit(self, _function, _part, **_how):
        return self.futures.pop(0)

    def cancel(self, futures, force):
        assert force
        self.cancelled += futures


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    import distributed

    monkeypatch.setattr(distributed, "wait", lambda *_a, **_k: None)
    monkeypatch.setattr(dask_runner, "LOOK_S", 0.0)


def landed(flight, looks):
    return [(o.part, o.result, o.error) for _ in range(looks) for o in flight.landed()]


def send(*futures):
    client = Client(*futures)
    flight = _Flight(client, lambda part: part, ())
    flight.fill(collections.deque(["a"]), 1)
    return client, flight


def test_a_result_that_was_lost_with_its_worker_is_made_again_once():
    lost = Future(TimeoutError())
    client, flight = send(lost, Future("rows"))
    assert landed(flight, 3) == [("a", "rows", "")]
    assert client.cancelled == [lost]
    assert client.removed == ["tls://127.0.0.1:1"]  # who held it gets no other task
    assert not flight


def test_results_that_never_come_are_a_lost_cluster_and_the_part_is_still_in_flight():
    _, flight = send(*(Future(TimeoutError()) for _ in range(FETCHES_MAX + 1)))
    with pytest.raises(_ClusterLost, match="did not come"):
        landed(flight, FETCHES_MAX + 2)
    assert flight.parts() == ["a"]


def test_a_task_that_timed_out_by_itself_is_set_aside_with_its_words():
    _, flight = send(Future(TimeoutError("no answer"), status="error"))
    [(part, _, error)] = landed(flight, 1)
    assert part == "a"
    assert "no answer" in error


def test_results_that_died_with_one_worker_are_not_waited_for_one_after_the_other():
    lost = [Future(TimeoutError()) for _ in range(6)]
    flight = _Flight(Client(*lost, *(Future("rows") for _ in lost)), lambda part: part, ())
    flight.fill(collections.deque("abcdef"), 6)
    assert sorted(landed(flight, 2)) == [(part, "rows", "") for part in "abcdef"]
    assert sum(future.waited_s for future in lost) <= FETCH_S + 5 * FETCH_MORE_S
