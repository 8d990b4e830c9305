"""Who may come in at the console: password, second factor, and how long that stands. Every refusal is in the audit log."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import replace

from wardround.clock import Clock
from wardround.console.signing_in import Came, Enrolment, NextStep
from wardround.errors import LoginRefused, TrustError
from wardround.store import Person, SecondFactor, Store
from wardround.trust import second_factor as totp
from wardround.trust.oidc import Identity
from wardround.trust.passwords import Brake, SignIn

STANDING_S = 2.0  # a session ends within so long of what it stands on: role, password, second factor
STANDINGS_MAX = 10_000
ELSEWHERE = "oidc:"  # begins what stands in place of a password's hash for an account of the provider: no password fits it
DOES_NOT_FIT = "the code does not fit"
WHAT_TO_DO = "wait for the app's next code; or use a recovery code; or ask for `wardround user reset-factor NAME`"


class People:
    """The people of one hub. May be called from any thread."""

    def __init__(self, store: Store, clock: Clock, *, record: Callable[..., None], site: str, required: bool = False) -> None:
        """`required`: nobody comes in without a second factor; who has none yet makes one first."""
        self._store, self._clock, self._record, self._site, self._required = store, clock, record, site, required
        self._sign_in, self._codes = SignIn(clock), Brake(clock)
        self._lock = threading.Lock()
        self._standings: dict[str, tuple[float, str]] = {}

    @property
    def required(self) -> bool:
        """Whether everybody needs a second factor."""
        return self._required

    def sign_in(self, name: str, password: str) -> NextStep:
        """What comes after a password that fits.

        Raises:
            LoginRefused: name and password do not fit, or there were too many attempts.
        """
        person = self._store.person(name)
        try:
            self._sign_in.check(name, password, person.password_hash if person is not None else None)
        except LoginRefused as refused:
            self._record("denied", "sign-in refused", name[:40], reason=str(refused))
            raise
        factor = self._store.second_factor(name)
        if factor is not None and factor.confirmed_us is not None:
            return NextStep.CODE
        return NextStep.ENROL if self._required else NextStep.IN

    def come_from(self, identity: Identity) -> tuple[str, NextStep]:
        """Who an account of the provider is here, with the role that it has there now, and what comes next. It is made here when
        it comes first. A second factor that the provider has not asked for is asked for here, where there is one or the hub wants
        one.

        Raises:
            LoginRefused: the name is somebody else's here: a person with a password, or another account that had it before.
        """
        bound, person = ELSEWHERE + identity.key, self._store.person(identity.name)
        if person is not None and person.password_hash != bound:
            self._record("denied", "sign-in refused", identity.name, reason="the name is another's here")
            raise LoginRefused(
                f"the name {identity.name} is another's here",
                remedy=f"`wardround user remove {identity.name}`, if they are the same",
            )
        if person is None or person.role != identity.role:
            self._record("change", "role taken from the provider", identity.name, role=identity.role)
            seen_us = person.seen_us if person is not None else None
            self._store.put_person(Person(identity.name, identity.role, bound, seen_us))
        if identity.strong:
            return identity.name, NextStep.IN
        if self.has_factor(identity.name):
            return identity.name, NextStep.CODE
        return identity.name, NextStep.ENROL if self._required else NextStep.IN

    def come_in(self, name: str, how: str) -> Came:
        """Note that someone who has shown all there is to show is in.

        Raises:
            LoginRefused: nobody is called so any more.
        """
        person = self._store.person(name)
        if person is None:
            raise LoginRefused("name and password do not fit", remedy="ask whoever runs the hub")
        self._record("view", "signed in to the console", name, role=person.role, how=how)
        self._store.seen(name, self._clock.now_us())
        return Came(name, person.role, person.seen_us)

    def check_code(self, name: str, code: str) -> str:
        """Return which kind of code it was when it fits: it opens no second time.

        Raises:
            LoginRefused: it does not, or there were too many attempts.
        """
        factor = self._store.second_factor(name)
        try:
            self._codes.begin(name)
            if factor is None or factor.confirmed_us is None:
                raise LoginRefused(DOES_NOT_FIT, remedy=WHAT_TO_DO)  # noqa: TRY301 - one place records every refusal
            step = totp.fitting_step(factor.secret, code, now_us=self._clock.now_us(), after=factor.used_step)
            left = totp.without(factor.recovery, code) if step is None else None
            if step is not None:
                used = replace(factor, used_step=step)
            elif left is not None:
                used = replace(factor, used_step=factor.used_step + 1, recovery=left)
            else:
                raise LoginRefused(DOES_NOT_FIT, remedy=WHAT_TO_DO)  # noqa: TRY301
            if not self._store.use_second_factor(factor, used):
                raise LoginRefused("the code was used a moment ago", remedy=WHAT_TO_DO)  # noqa: TRY301
        except LoginRefused as refused:
            self._record("denied", "second factor refused", name[:40], reason=str(refused))
            raise
        self._codes.fits(name)
        if step is None:
            self._record("change", "recovery code used", name, left=len(used.recovery))
        return "recovery code" if step is None else "code"

    def has_factor(self, name: str) -> bool:
        """Whether someone has a second factor that counts."""
        factor = self._store.second_factor(name)
        return factor is not None and factor.confirmed_us is not None

    def enrol(self, name: str, *, anew: bool) -> Enrolment:
        """Someone's new second factor, to be shown until it is confirmed. `anew`: whoever saw an earlier one knows nothing.

        Raises:
            TrustError: there is one that counts already.
        """
        factor = self._store.second_factor(name)
        if factor is not None and factor.confirmed_us is not None:
            raise TrustError("there is a second factor already", remedy="remove it first, with one of its codes")
        if factor is None or anew:
            factor = SecondFactor(name, totp.new_secret(), self._clock.now_us())
            self._store.put_second_factor(factor)
        return Enrolment(totp.secret_text(factor.secret), totp.address(factor.secret, person=name, site=self._site))

    def confirm(self, name: str, code: str) -> tuple[str, ...]:
        """The recovery codes, shown once, when the app's first code fits: from now on the factor counts.

        Raises:
            LoginRefused: it does not fit, or there were too many attempts.
        """
        factor = self._store.second_factor(name)
        self._codes.begin(name)
        now_us = self._clock.now_us()
        step = totp.fitting_step(factor.secret, code, now_us=now_us, after=0) if factor is not None else None
        if factor is None or factor.confirmed_us is not None or step is None:
            raise LoginRefused(DOES_NOT_FIT, remedy="type the six digits that the app shows now")
        codes = totp.new_recovery_codes()
        digests = tuple(map(totp.recovery_digest, codes))
        self._record("change", "second factor made", name)
        if not self._store.use_second_factor(factor, replace(factor, confirmed_us=now_us, used_step=step, recovery=digests)):
            raise LoginRefused("the second factor was changed a moment ago", remedy="begin again")
        self._codes.fits(name)
        return codes

    def remove(self, name: str, code: str) -> None:
        """Sign in with the password alone from now on.

        Raises:
            LoginRefused: the code does not fit. TrustError: this hub wants everybody to have one.
        """
        if self._required:
            raise TrustError("this hub wants a second factor of everybody", remedy="`console.second_factor` in hub.toml says so")
        self.check_code(name, code)
        self._record("change", "second factor removed", name)
        self._store.remove_second_factor(name)

    def standing(self, name: str) -> str:
        """What a session of this person stands on: role, password, second factor; another text ends it. Empty for nobody."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            at_s, known = self._standings.get(name, (-STANDING_S, ""))
            if now_s - at_s < STANDING_S:
                return known
        person, factor = self._store.person(name), self._store.second_factor(name)
        found = _standing(person, factor) if person is not None else ""
        with self._lock:
            if len(self._standings) >= STANDINGS_MAX:
                self._standings.clear()
            self._standings[name] = (now_s, found)
        return found

    def fresh_standing(self, name: str) -> str:
        """The same, read now: for a session that begins."""
        with self._lock:
            self._standings.pop(name, None)
        return self.standing(name)


def _standing(person: Person, factor: SecondFactor | None) -> str:
    counts = factor.secret if factor is not None and factor.confirmed_us is not None else b""
    return hashlib.sha256(b"\0".join((person.role.encode(), person.password_hash.encode(), counts))).hexdigest()
