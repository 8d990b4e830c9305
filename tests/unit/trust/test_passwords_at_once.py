"""Many who sign in at once, or somebody who only seems to be many: each password that is looked at takes 64 MB, and a thread."""

from __future__ import annotations

import queue
import threading

import pytest
from argon2.exceptions import VerifyMismatchError

from wardround.clock import ManualClock
from wardround.errors import LoginRefused
from wardround.trust import passwords
from wardround.trust.passwords import AT_ONCE, WAIT_MAX, SignIn

DEADLINE_S = 120
CROWD = 40  # threads of the console's server


class Slow:
    """Looks at a password for as long as it must, and counts how many it looks at."""

    def __init__(self):
        self.begun, self.go_on = threading.Semaphore(0), threading.Event()
        self.now = self.most = 0
        self._lock = threading.Lock()

    def verify(self, _hash, password):
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        self.begun.release()
        assert self.go_on.wait(DEADLINE_S)
        with self._lock:
            self.now -= 1
        if password != "right":
            raise VerifyMismatchError
        return True


def test_few_passwords_are_looked_at_at_once_and_a_crowd_is_sent_away(monkeypatch):
    slow = Slow()
    monkeypatch.setattr(passwords, "_hasher", slow)
    monkeypatch.setattr(passwords, "WAIT_S", DEADLINE_S)
    sign_in, said = SignIn(ManualClock()), queue.Queue()

    def attempt(number):
        try:
            sign_in.check(f"name-{number}", "wrong", "hash")
        except LoginRefused as refused:
            said.put(str(refused))

    threads = [threading.Thread(target=attempt, args=(number,), daemon=True) for number in range(CROWD)]
    for thread in threads:
        thread.start()
    for _ in range(AT_ONCE):
        assert slow.begun.acquire(timeout=DEADLINE_S)
    sent_away = [said.get(timeout=DEADLINE_S) for _ in range(CROWD - AT_ONCE - WAIT_MAX)]
    assert {"too many people sign in at this moment"} == set(sent_away)
    slow.go_on.set()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert [said.get_nowait() for _ in range(AT_ONCE + WAIT_MAX)] == ["name and password do not fit"] * (AT_ONCE + WAIT_MAX)
    assert slow.most == AT_ONCE
    sign_in.check("name-1", "right", "hash")


def test_whoever_is_sent_away_has_not_tried(monkeypatch):
    slow = Slow()
    monkeypatch.setattr(passwords, "_hasher", slow)
    monkeypatch.setattr(passwords, "WAIT_S", 0.01)
    sign_in = SignIn(ManualClock())
    held = [threading.Thread(target=sign_in.check, args=(f"n-{k}", "right", "hash"), daemon=True) for k in range(AT_ONCE)]
    for thread in held:
        thread.start()
    for _ in range(AT_ONCE):
        assert slow.begun.acquire(timeout=DEADLINE_S)
    for _ in range(10):
        with pytest.raises(LoginRefused, match="at this moment"):
            sign_in.check("ada", "right", "hash")
    slow.go_on.set()
    for thread in held:
        thread.join(DEADLINE_S)
    sign_in.check("ada", "right", "hash")
