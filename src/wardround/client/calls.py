"""Every call of a hub's API as a method with types."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, TypeVar
from urllib.parse import quote

import msgspec

from wardround.client import answers as a
from wardround.client.events import Event, events
from wardround.client.refusals import HubUnreachable
from wardround.client.wire import Wire
from wardround.errors import SettingsError

T = TypeVar("T")
PAGE = 200
PAGES_MAX = 100_000
POLL_S = 0.5
StudyActKind = Literal["pause", "resume", "stop", "rollback", "promote"]


class HubClient:
    """A hub, from elsewhere. Safe to use from several threads.

    hub = HubClient.at("https://hub.example:7480", token_file=Path("token"), ca=Path("ca.pem"))
    for edge in hub.edges(state="silent"):
        print(edge.name, edge.silent_s)

    Every method raises ApiRefused where the hub says no, with its remedy, and HubUnreachable where no answer comes.
    """

    def __init__(self, wire: Wire) -> None:
        self._wire = wire

    @classmethod
    def at(cls, address: str, *, token_file: Path, ca: Path | None = None, timeout_s: float = 30.0) -> HubClient:
        """A client with the token that stands in a file.

        Raises:
            SettingsError: there is no such file, or address or token are none.
        """
        try:
            token = token_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as exc:
            raise SettingsError(
                f"{token_file} cannot be read", remedy="put the token that `wardround token new` shows into a file of mode 0600"
            ) from exc
        return cls(Wire(address, token, ca=ca, timeout_s=timeout_s))

    # -- to read

    def hub(self) -> a.Hub:
        """How the hub stands."""
        return self._get("/hub", a.Hub)

    def happenings(self, limit: int = 50) -> list[a.Happening]:
        """The newest lines of what happened, 200 at most."""
        return self._get("/happenings", list[a.Happening], limit=limit)

    def automation(self) -> list[a.Routine]:
        """What the hub does by the clock, what is late first."""
        return self._get("/automation", list[a.Routine])

    def jobs(self) -> Iterator[a.JobRun]:
        """Runs of processing jobs, the newest first."""
        return self._pages("/jobs", a.JobRun)

    def completeness(self) -> Iterator[a.Completeness]:
        """How complete each signal of each patient came."""
        return self._pages("/completeness", a.Completeness)

    def edges(self, state: Literal["connected", "silent", "set-aside", "revoked", ""] = "") -> Iterator[a.Edge]:
        """Every edge that has joined, or those in one state."""
        return self._pages("/edges", a.Edge, state=state)

    def edge(self, name: str) -> a.Edge:
        """One edge."""
        return self._get(f"/edges/{quote(name, safe='')}", a.Edge)

    def studies(self) -> Iterator[a.Study]:
        """Every study."""
        return self._pages("/studies", a.Study)

    def study(self, name: str) -> a.Study:
        """One study."""
        return self._get(_study(name), a.Study)

    def rounds(self, study: str) -> Iterator[a.Round]:
        """Committed rounds, the newest first."""
        return self._pages(f"{_study(study)}/rounds", a.Round)

    def models(self, study: str) -> Iterator[a.Model]:
        """Models in the registry, the newest first."""
        return self._pages(f"{_study(study)}/models", a.Model)

    def alerts(self, state: Literal["open", "resolved", "all"] = "open") -> Iterator[a.Alert]:
        """Alerts, the newest first."""
        return self._pages("/alerts", a.Alert, state=state)

    def alert(self, alert_id: str) -> a.Alert:
        """One alert."""
        return self._get(_alert(alert_id), a.Alert)

    def silences(self) -> list[a.Silence]:
        """Silences that hold."""
        return self._get("/silences", list[a.Silence])

    def events(self, after: str = "") -> Iterator[Event]:
        """What changes, as it changes, for ever; see `wardround.client.events`."""
        return events(self._wire, after=after)

    # -- to act

    def invite(self, edge: str) -> a.Invitation:
        """A join token for one edge; sent once, as its answer is told once."""
        return self._send("POST", f"/edges/{quote(edge, safe='')}/invitation", a.Invitation)

    def revoke(self, edge: str) -> str:
        """Shut an edge out; what was done, in words."""
        return self._send("POST", f"/edges/{quote(edge, safe='')}/revocation", a.Done).words

    def drain(self, edge: str) -> str:
        """Give an edge no more work, so that it can be switched off; how far it is, in words."""
        return self._send("POST", f"/edges/{quote(edge, safe='')}/drain", a.Done).words

    def undrain(self, edge: str) -> str:
        """Give it work again."""
        return self._send("DELETE", f"/edges/{quote(edge, safe='')}/drain", a.Done).words

    def drained(self, edge: str) -> a.Drain:
        """How far an edge is that is drained."""
        return self._get(f"/edges/{quote(edge, safe='')}/drain", a.Drain)

    def ask(self, study: str, kind: StudyActKind, reason: str, *, to_round: int | None = None, key: str = "") -> a.StudyAnswer:
        """Ask something of a study: once, however often it is sent. `rollback` and `promote` name a round.

        Args:
            key: of the caller's choice, where the caller itself may be started again; otherwise one is made.
        """
        body = {"kind": kind, "reason": reason} | ({} if to_round is None else {"to_round": to_round})
        return self._send("POST", f"{_study(study)}/requests", a.StudyAnswer, body=body, key=key or secrets.token_urlsafe(16))

    def answer(self, study: str, request_id: str) -> a.StudyAnswer:
        """What became of what was asked."""
        return self._get(f"{_study(study)}/requests/{quote(request_id, safe='')}", a.StudyAnswer)

    def wait_for(
        self, study: str, request_id: str, *, deadline_s: float = 120.0, sleep: Callable[[float], None] = time.sleep
    ) -> a.StudyAnswer:
        """The answer, once it is `done` or `refused`.

        Raises:
            HubUnreachable: it is neither within the deadline.
        """
        until_s = time.monotonic() + deadline_s
        while True:
            found = self.answer(study, request_id)
            if found.state != "asked":
                return found
            if time.monotonic() >= until_s:
                raise HubUnreachable(
                    f"{study} has not answered {request_id} in {deadline_s:.0f} s", remedy="it stays asked: look again later"
                )
            sleep(POLL_S)

    def acknowledge(self, alert_id: str, *, actionable: bool | None = None) -> str:
        """Someone is on it."""
        return self._send("POST", f"{_alert(alert_id)}/acknowledgement", a.Done, body={"actionable": actionable}).words

    def undo(self, alert_id: str, reason: str) -> str:
        """Undo what was done about an alert."""
        return self._send("POST", f"{_alert(alert_id)}/undo", a.Done, body={"reason": reason}).words

    def silence(self, matchers: Mapping[str, str], minutes: int, reason: str) -> str:
        """Tell nobody of alerts that fit all of these, for a while."""
        body = {"matchers": dict(matchers), "minutes": minutes, "reason": reason}
        return self._send("POST", "/silences", a.Done, body=body).words

    def unsilence(self, silence_id: str) -> str:
        """End a silence now."""
        return self._send("DELETE", f"/silences/{quote(silence_id, safe='')}", a.Done).words

    # -- parts

    def _get(self, path: str, kind: type[T], **query: object) -> T:
        return self._read(self._wire.call("GET", path, query=query), kind)

    def _send(self, method: str, path: str, kind: type[T], *, body: object = None, key: str = "") -> T:
        return self._read(self._wire.call(method, path, body=body, key=key), kind)

    def _read(self, text: bytes, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(text, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            raise HubUnreachable(
                f"what {self._wire.address} answers is not what this client knows: {exc}",
                remedy="see that it is a hub, and of this client's version",
            ) from exc

    def _pages(self, path: str, kind: type[T], **query: object) -> Iterator[T]:
        cursor = ""
        for _ in range(PAGES_MAX):
            page = self._get(path, dict[str, msgspec.Raw], limit=PAGE, cursor=cursor, **query)
            yield from self._read(bytes(page.get("items", msgspec.Raw(b"[]"))), list[kind])  # type: ignore[valid-type]
            cursor = self._read(bytes(page.get("next", msgspec.Raw(b'""'))), str)
            if not cursor:
                return


def _study(name: str) -> str:
    return f"/studies/{quote(name, safe='')}"


def _alert(alert_id: str) -> str:
    return f"/alerts/{quote(alert_id, safe='')}"
