"""Passwords of people: Argon2id, and a brake on guessing."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Iterator

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from wardround.clock import Clock
from wardround.errors import LoginRefused

_hasher = PasswordHasher()
AT_ONCE, WAIT_MAX, WAIT_S = 4, 8, 10.0  # passwords looked at, each with 64 MB of memory; how many more wait, and for how long
_DUMMY = _hasher.hash("no such person")


def new_password() -> str:
    """Four groups of four letters and digits: 80 bits, easy to type."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(4)) for _ in range(4))


def hash_password(password: str) -> str:
    """The Argon2id hash, with its parameters and salt."""
    return _hasher.hash(password)


class Brake:
    """A growing wait per name after each failure. An attempt counts before it is tried, so that many at once are many."""

    WAIT_S_MAX = 300.0
    NAMES_MAX = 10_000

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._attempts: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def begin(self, name: str) -> None:
        """Somebody tries.

        Raises:
            LoginRefused: too many attempts failed just now.
        """
        now = self._clock.monotonic_s()
        with self._lock:
            count, until = self._attempts.pop(name, (0, 0.0))
            if now < until:
                self._attempts[name] = (count, until)
                raise LoginRefused(f"too many attempts; wait {max(1, round(until - now))} s", remedy="wait, then try again")
            while len(self._attempts) >= self.NAMES_MAX:
                del self._attempts[next(iter(self._attempts))]
            wait = 0.0 if count < 2 else min(self.WAIT_S_MAX, 2.0 ** (count - 1))
            self._attempts[name] = (count + 1, now + wait)

    def fits(self, name: str) -> None:
        """What was tried was right."""
        with self._lock:
            self._attempts.pop(name, None)


class SignIn:
    """Check a password, with a brake on guessing."""

    WAIT_S_MAX = Brake.WAIT_S_MAX

    def __init__(self, clock: Clock) -> None:
        self._brake = Brake(clock)
        self._doors, self._room = threading.Semaphore(AT_ONCE), threading.Semaphore(AT_ONCE + WAIT_MAX)

    def check(self, name: str, password: str, stored_hash: str | None) -> None:
        """Return when name and password fit.

        Raises:
            LoginRefused: they do not, or too many attempts failed just now; the same words for an unknown name. Or too many
                people are at it at this moment: nobody has tried then.
        """
        with self._in_turn():
            self._brake.begin(name)
            fits = self._fits(password, stored_hash)
        if not fits:
            raise LoginRefused("name and password do not fit", remedy="`wardround hub password NAME` sets a new one")
        self._brake.fits(name)

    def _fits(self, password: str, stored_hash: str | None) -> bool:
        try:
            _hasher.verify(stored_hash or _DUMMY, password)
        except (VerificationError, InvalidHashError):
            return False
        return stored_hash is not None

    @contextlib.contextmanager
    def _in_turn(self) -> Iterator[None]:
        """Few at once. Whoever comes when many wait is sent away, not kept: a thread that waits is one that answers nobody."""
        with _held(self._room, 0.0), _held(self._doors, WAIT_S):
            yield


@contextlib.contextmanager
def _held(places: threading.Semaphore, within_s: float) -> Iterator[None]:
    if not places.acquire(timeout=within_s):
        raise LoginRefused("too many people sign in at this moment", remedy="try again in a few seconds")
    try:
        yield
    finally:
        places.release()
