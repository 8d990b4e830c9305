"""Passwords of people: Argon2id, and a brake on guessing."""

from __future__ import annotations

import secrets
import threading

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from wardround.clock import Clock
from wardround.errors import LoginRefused

_hasher = PasswordHasher()
_DUMMY = _hasher.hash("no such person")


def new_password() -> str:
    """Four groups of four letters and digits: 80 bits, easy to type."""
    alphabet = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(alphabet) for _ in range(4)) for _ in range(4))


def hash_password(password: str) -> str:
    """The Argon2id hash, with its parameters and salt."""
    return _hasher.hash(password)


class SignIn:
    """Check a password with a growing wait per name after each failure."""

    WAIT_S_MAX = 300.0
    NAMES_MAX = 10_000

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failures: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()

    def check(self, name: str, password: str, stored_hash: str | None) -> None:
        """Return when name and password fit.

        Raises:
            LoginRefused: they do not, or too many attempts failed just now; the same words for an unknown name.
        """
        now = self._clock.monotonic_s()
        with self._lock:
            count, until = self._failures.get(name, (0, 0.0))
        if now < until:
            raise LoginRefused(f"too many attempts; wait {until - now:.0f} s", remedy="wait, then try again")
        try:
            _hasher.verify(stored_hash or _DUMMY, password)
            fits = stored_hash is not None
        except (VerificationError, InvalidHashError):
            fits = False
        with self._lock:
            if fits:
                self._failures.pop(name, None)
                return
            if len(self._failures) >= self.NAMES_MAX:
                self._failures.pop(next(iter(self._failures)))
            wait = 0.0 if count < 2 else min(self.WAIT_S_MAX, 2.0 ** (count - 1))
            self._failures[name] = (count + 1, now + wait)
        raise LoginRefused("name and password do not fit", remedy="`wardround hub password NAME` sets a new one")
