"""Where alerts are: at a hub, in its store, or at an edge, in its bedside ledger. The commands are the same for both."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from wardround.clock import SystemClock
from wardround.errors import HomeTaken, WardroundError

if TYPE_CHECKING:
    from wardround.bedside.ledger import BedsideLedger

ANSWER_S, LOOK_S = 30.0, 0.1
DAY_US = 86_400_000_000


class Alerts(Protocol):
    """The alerts of one home."""

    command: str  # how its people ask
    settings: str  # where its sinks stand

    def bodies(self, limit: int) -> Sequence[Mapping[str, Any]]:
        """The newest alerts first, as the book has them."""
        ...

    def shown(self, name: str) -> bytes:
        """What the running program last showed of its sinks or silences, as JSON."""
        ...

    def ask(self, act: str, body: Mapping[str, Any], who: str) -> str:
        """Ask the running program, and wait for its answer.

        Raises:
            WardroundError: none runs, it refused, or it did not answer.
        """
        ...

    def patients(self) -> Mapping[str, str]:
        """Subjects to patients, where that is known."""
        ...

    def patient_days(self, since_us: int, until_us: int) -> float:
        """For how long patients were watched, by whole days."""
        ...


class HubAlerts:
    """A hub's."""

    command, settings = "wardround alert", "hub.toml"

    def __init__(self, home: Path) -> None:
        self._home = home

    def bodies(self, limit: int) -> Sequence[Mapping[str, Any]]:
        from wardround.store import opened  # noqa: PLC0415

        with opened(self._home / "hub.sqlite") as store:
            return [a.body for a in store.alerts(limit=limit)]

    def shown(self, name: str) -> bytes:
        from wardround.store import opened  # noqa: PLC0415

        with opened(self._home / "hub.sqlite") as store:
            return store.load_state(name) or b""

    def ask(self, act: str, body: Mapping[str, Any], who: str, topic: str = "alerts") -> str:
        from wardround.processing import held, new_id  # noqa: PLC0415
        from wardround.store import Request, opened  # noqa: PLC0415

        if not held(self._home):
            raise WardroundError(f"no hub runs in {self._home}", remedy="start it with `wardround hub run`, or give its --home")
        clock = SystemClock()
        with opened(self._home / "hub.sqlite") as store:
            request = Request(new_id(clock), topic, act, body, who, clock.now_us())
            store.put_request(request)

            def look() -> tuple[str, str] | None:
                found = store.request(request.request_id)
                return None if found is None or found.state == "asked" else (found.state, found.answer)

            return _answered(look, self.command) or _late("hub")

    def patients(self) -> Mapping[str, str]:
        return {}  # a hub knows pseudonyms alone

    def patient_days(self, since_us: int, until_us: int) -> float:  # noqa: ARG002 - a hub watches no patient
        return 0.0


class EdgeAlerts:
    """An edge's own."""

    command, settings = "wardround edge alerts", "edge.toml"

    def __init__(self, home: Path) -> None:
        self._home = home

    def bodies(self, limit: int) -> Sequence[Mapping[str, Any]]:
        with self._ledger() as ledger:
            return [msgspec.to_builtins(a) for a in ledger.alerts()[:limit]]

    def shown(self, name: str) -> bytes:
        with self._ledger() as ledger:
            return ledger.state(name)

    def ask(self, act: str, body: Mapping[str, Any], who: str) -> str:
        from wardround.edge import EdgeHome  # noqa: PLC0415 - the edge's libraries take a moment

        with contextlib.suppress(HomeTaken), EdgeHome.open(self._home).held():
            raise WardroundError(f"no edge runs in {self._home}", remedy="start it with `wardround edge run`, or give its --home")
        with self._ledger() as ledger:
            request_id = ledger.ask(act, body, who, SystemClock().now_us())
            said = _answered(lambda: ledger.answered(request_id), self.command)
            if said is None:
                ledger.withdraw(request_id)
            return said or _late("edge")

    def patients(self) -> Mapping[str, str]:
        from wardround.edge import EdgeHome  # noqa: PLC0415

        opened = EdgeHome.open(self._home)
        pseudonyms = opened.pseudonyms()
        return {str(pseudonyms.of(d.patient)): d.patient for d in opened.registry().all()}

    def patient_days(self, since_us: int, until_us: int) -> float:
        from wardround.bedside.watching import patient_minutes  # noqa: PLC0415

        days = range(since_us // DAY_US, -(-until_us // DAY_US))
        with self._ledger() as ledger:
            return sum(n for day, n in patient_minutes(ledger).items() if day in days) / 1_440

    def order_scale(self, patient: str, scale: int, who: str) -> None:
        """Order the scale of oxygen saturation for a patient.

        Raises:
            WardroundError: no device of this edge is of that patient.
        """
        from wardround.edge import EdgeHome  # noqa: PLC0415

        opened = EdgeHome.open(self._home)
        if patient not in {d.patient for d in opened.registry().all()}:
            raise WardroundError(
                f"no device here is of patient {patient!r}", remedy="`wardround edge devices list` shows patients"
            )
        with self._ledger() as ledger:
            ledger.order_scale(str(opened.pseudonyms().of(patient)), scale, who, SystemClock().now_us())

    @contextmanager
    def _ledger(self) -> Iterator[BedsideLedger]:
        from wardround.bedside.ledger import BedsideLedger  # noqa: PLC0415
        from wardround.bedside.watching import FOLDER  # noqa: PLC0415
        from wardround.collect.storage import FolderStorage  # noqa: PLC0415

        if not (self._home / FOLDER).exists():
            raise WardroundError(
                f"{self._home} has watched no patient yet", remedy="start it with `wardround edge run`, or give another --home"
            )
        ledger = BedsideLedger(FolderStorage(self._home / FOLDER))
        try:
            yield ledger
        finally:
            ledger.close()


def alerts_of(home: Path) -> HubAlerts | EdgeAlerts:
    """The alerts of a home, of whichever kind it is."""
    return EdgeAlerts(home) if (home / "edge.toml").exists() else HubAlerts(home)


def shown_rows(alerts: Alerts, name: str) -> Any:
    """What was shown last, decoded."""
    return json.loads(alerts.shown(name) or b"[]")


def _answered(look: Callable[[], tuple[str, str] | None], command: str) -> str | None:
    """The answer once there is one; None: there is none in time.

    Raises:
        WardroundError: it is refused.
    """
    until = time.monotonic() + ANSWER_S
    while time.monotonic() < until:
        found = look()
        if found is not None:
            state, said = found
            if state == "refused":
                raise WardroundError(said, remedy=f"nothing has changed; `{command} list` shows what is open")
            return said
        time.sleep(LOOK_S)
    return None


def _late(program: str) -> str:
    raise WardroundError(f"the {program} has not answered in {ANSWER_S:.0f} s", remedy="look at its log")
