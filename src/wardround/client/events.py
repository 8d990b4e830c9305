"""Server-sent events (WHATWG HTML, section 9.2): from bytes to typed events, and the stream that comes back after every break."""

from __future__ import annotations

import http.client
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from wardround.client.answers import Alert, Happening, Hub
from wardround.client.refusals import ApiRefused, HubUnreachable
from wardround.client.wire import STATUS_WAIT, Wire

LINE_MAX = 4_000_000
SILENT_S = 20.0  # the hub says something every second
WAIT_S_MAX = 30.0
TRIES = 8  # in a row without one event: some two minutes
READ_BYTES = 65_536
KINDS: dict[str, type[Hub] | type[Alert] | type[Happening]] = {"hub": Hub, "alert": Alert, "happening": Happening}


@dataclass(frozen=True, slots=True)
class Event:
    """What has changed. `id` is the place to go on from."""

    id: str
    kind: str
    data: Hub | Alert | Happening


class Parser:
    """Bytes in, `(id, event, data)` out, however they are cut into pieces."""

    def __init__(self) -> None:
        self._rest = b""
        self._fields: dict[str, str] = {}
        self.last_id = ""

    def feed(self, data: bytes) -> list[tuple[str, str, str]]:
        """The events that are whole now.

        Raises:
            ValueError: a line is longer than any of a hub's, or is no UTF-8.
        """
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_MAX:
            raise ValueError(f"a line of more than {LINE_MAX} bytes")
        found = []
        for line in lines:
            name, _, value = line.removesuffix(b"\r").decode().partition(":")
            value = value.removeprefix(" ")
            if name == "" and value == "":
                if "data" in self._fields:
                    self.last_id = self._fields.get("id", self.last_id)
                    found.append((self.last_id, self._fields.get("event", "message"), self._fields["data"]))
                self._fields = {}
            elif name == "data" and "data" in self._fields:
                self._fields["data"] += f"\n{value}"
            elif name:  # without a name it is a comment
                self._fields[name] = value
        return found


def events(wire: Wire, *, after: str = "", sleep: Callable[[float], None] = time.sleep) -> Iterator[Event]:
    """What changes, as it changes, for ever: a break is mended, and goes on after the last line that was seen.

    Args:
        after: an event's `id`: what happened since comes first.

    Raises:
        ApiRefused: the token does not hold any more, or does not cover this. HubUnreachable: the hub stays away.
    """
    failed = 0
    while True:
        why: Exception | None = None
        wait_s = min(WAIT_S_MAX, 0.5 * 2.0**failed)
        try:
            for event in _once(wire, after):
                failed, after, wait_s = 0, event.id or after, 0.5
                yield event
        except ApiRefused as refused:
            if refused.status not in STATUS_WAIT:
                raise
            why, wait_s = refused, max(wait_s, min(WAIT_S_MAX, refused.retry_after_s))
        except (OSError, http.client.HTTPException, ValueError) as broken:
            why = broken
        failed += 1
        if failed > TRIES:
            raise wire.unreachable(why) if why is not None else HubUnreachable(f"{wire.address} ends every stream at once")
        sleep(wait_s)


def _once(wire: Wire, after: str) -> Iterator[Event]:
    parser, headers = Parser(), {"Accept": "text/event-stream", **({"Last-Event-ID": after} if after else {})}
    with wire.opened("GET", "/events", headers=headers, timeout_s=SILENT_S) as answer:
        while data := answer.read1(READ_BYTES):
            for number, kind, text in parser.feed(data):
                if kind in KINDS:  # a newer hub may tell more
                    yield Event(number, kind, msgspec.json.decode(text, type=KINDS[kind]))
