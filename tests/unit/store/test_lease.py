"""One of several hubs holds the lease, by the database's clock; who can no longer keep it must end."""

from __future__ import annotations

import threading

import pytest
import sqlalchemy as sa

from wardround.clock import ManualClock
from wardround.store import open_store
from wardround.store.lease import Keeper, Lease, held
from wardround.store.schema import lease as table

HOUR_S = 3_600.0
PATIENT_S = 55.0


@pytest.fixture
def store(place):
    opened = open_store(place)
    yield opened
    opened.close()


def end(store) -> None:
    """Its time is over, as by the database's clock."""
    with store.engine.begin() as db:
        db.execute(sa.update(table).values(ends_us=1))


def test_one_holds_it_until_it_ends_or_is_given_back(store) -> None:
    clock = ManualClock()
    a, b = (Lease(store.engine, name, clock, HOUR_S) for name in ("a", "b"))
    assert held(store.engine) is None
    assert a.take()
    assert not b.take()
    assert a.renew()
    now = held(store.engine)
    assert (now.holder, now.term) == ("a", 1)
    assert HOUR_S - 600 < now.left_s <= HOUR_S
    a.give_back()
    assert b.take()
    assert (held(store.engine).holder, held(store.engine).term) == ("b", 2)
    end(store)
    assert a.take()


def test_who_has_lost_it_cannot_renew_it_nor_give_away_what_is_anothers(store) -> None:
    clock = ManualClock()
    a, b = (Lease(store.engine, name, clock, HOUR_S) for name in ("a", "b"))
    assert a.take()
    end(store)
    assert not a.renew(), "it has ended: to go on needs a new term"
    assert b.take()
    assert not a.renew()
    a.give_back()
    assert held(store.engine).holder == "b"
    assert held(store.engine).left_s > 0


def test_of_many_that_want_it_at_once_one_gets_it(store) -> None:
    clock = ManualClock()
    leases = [Lease(store.engine, f"hub-{i}", clock, HOUR_S) for i in range(8)]
    for _ in range(5):
        got: list[str] = []
        go = threading.Barrier(len(leases))

        def want(lease, got=got, go=go) -> None:
            go.wait(PATIENT_S)
            if lease.take():
                got.append(lease._holder)

        threads = [threading.Thread(target=want, args=(lease,)) for lease in leases]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENT_S)
        assert len(got) == 1
        end(store)


def test_the_holder_reckons_its_end_from_before_it_asked(store) -> None:
    clock = ManualClock()
    lease = Lease(store.engine, "a", clock, 10.0)
    assert lease.take()
    clock.advance(4.0)
    assert lease.left_s == pytest.approx(6.0)


class FakeLease:
    """Renews as it is told, in a life that is short."""

    life_s = 0.04
    left_s = 100.0

    def __init__(self, renew) -> None:
        self._renew, self.renewals, self.given_back = renew, threading.Semaphore(0), False

    def renew(self) -> bool:
        self.renewals.release()
        return self._renew()

    def give_back(self) -> None:
        self.given_back = True


def kept(lease) -> tuple[Keeper, list[str], threading.Event]:
    reasons, gone = [], threading.Event()

    def lost(why: str) -> None:
        reasons.append(why)
        gone.set()

    keeper = Keeper(lease, lost)
    keeper.start()
    return keeper, reasons, gone


def test_a_keeper_renews_until_it_is_closed_and_then_gives_back() -> None:
    lease = FakeLease(lambda: True)
    keeper, reasons, _ = kept(lease)
    assert all(lease.renewals.acquire(timeout=PATIENT_S) for _ in range(3))
    keeper.close()
    assert (lease.given_back, reasons) == (True, [])


def test_a_keeper_says_that_another_has_taken_it() -> None:
    keeper, reasons, gone = kept(FakeLease(lambda: False))
    assert gone.wait(PATIENT_S)
    assert reasons == ["another hub has taken the lease"]
    keeper.close()


def test_a_keeper_outlasts_an_error_and_not_the_end_of_the_lease() -> None:
    def fails() -> bool:
        raise sa.exc.OperationalError("", {}, Exception("no answer"))

    lease = FakeLease(fails)
    keeper, reasons, gone = kept(lease)
    assert all(lease.renewals.acquire(timeout=PATIENT_S) for _ in range(3))
    assert reasons == []
    lease.left_s = 0.0
    assert gone.wait(PATIENT_S)
    assert "could not be reached" in reasons[0]
    keeper.close()


def test_a_database_that_does_not_answer_at_all_does_not_keep_a_hub_alive() -> None:
    answer = threading.Event()
    lease = FakeLease(lambda: answer.wait(PATIENT_S))
    keeper, reasons, gone = kept(lease)
    assert lease.renewals.acquire(timeout=PATIENT_S)
    lease.left_s = 0.0
    assert gone.wait(PATIENT_S)
    answer.set()
    keeper.close()
    assert len(reasons) == 1
