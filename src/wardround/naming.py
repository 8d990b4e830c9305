"""What subjects are called in a study: the question of an export, through the running hub to the edges, and back.

The export asks in the hub's store; the hub carries question and answers, which are sealed to the export (trust/study_names.py),
and keeps neither once the export has read them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import structlog

from wardround.clock import Clock, SystemClock
from wardround.errors import ProcessError, TrustError
from wardround.processing import held, new_id
from wardround.store import Request, Store, opened
from wardround.trust.sealing import Opener
from wardround.trust.study_names import Answers, Asking, Named, Question, read_answers
from wardround.wire import wardround_pb2 as pb

log = structlog.get_logger(__name__)
TOPIC = "study-names"
AT_ONCE = 4  # questions: others wait their turn
LOOK_S = 0.1
GRACE_S = 15.0  # the hub answers at the deadline, and looks every second


class Naming:
    """The hub's side. Safe to use from several threads."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store, self._clock = store, clock
        self._lock = threading.Lock()
        self._open: dict[str, tuple[Request, Asking]] = {}

    def attached(self, edge: str) -> None:
        """An edge is there, anew: what it has not answered it is asked again."""
        with self._lock:
            for _, asking in self._open.values():
                asking.again(edge)

    def due(self, attached: Collection[str]) -> list[tuple[str, pb.HubMessage]]:
        """Take up what is asked in the store, settle what is done, and say what to ask now, of whom."""
        with self._lock:
            for request in self._store.requests(TOPIC):
                if request.request_id not in self._open and len(self._open) < AT_ONCE:
                    self._take_up(request)
            messages = [m for _, asking in self._open.values() for m in asking.due(attached)]
            for request, asking in list(self._open.values()):
                if (answers := asking.done(self._clock.now_us())) is not None:
                    self._settle(request, "done", msgspec.json.encode(answers).decode())
        return messages

    def answered(self, edge: str, message: pb.NamesGiven) -> None:
        """An edge's answer."""
        with self._lock:
            if (found := self._open.get(message.request)) is not None:
                found[1].answered(edge, message)

    def _take_up(self, request: Request) -> None:
        try:
            question = msgspec.convert(request.body, Question)
        except msgspec.ValidationError as error:
            self._settle(request, "refused", f"the question cannot be read: {error}")
            return
        self._open[request.request_id] = (request, Asking(request.request_id, question))

    def _settle(self, request: Request, state: str, answer: str) -> None:
        self._open.pop(request.request_id, None)
        self._store.put_request(replace(request, body={}, state=state, answer=answer))


@dataclass(frozen=True, slots=True)
class Names:
    """What came of a question: by edge and subject what the edges said, and the edges that said nothing."""

    named: Mapping[tuple[str, str], Named]
    away: tuple[str, ...]
    silent: tuple[str, ...]


def ask_names(
    home: Path, study: str, subjects: Mapping[str, tuple[str, ...]], codes: tuple[str, ...], who: str, wait_s: float
) -> Names:
    """Ask the edges through the running hub, and wait for them.

    Args:
        subjects: the lake's names, by edge.
        wait_s: an edge that has not answered by then is left out.

    Raises:
        ProcessError: no hub runs here, or it does not answer.
        TrustError: an answer cannot be opened.
    """
    if not held(home):
        raise ProcessError(f"no hub runs in {home}, and edges are asked through it", remedy="start it with `wardround hub run`")
    clock, opener = SystemClock(), Opener()
    until_us = clock.now_us() + round(wait_s * 1e6)
    question = Question(study=study, key=opener.public, codes=codes, subjects=dict(subjects), until_us=until_us)
    request = Request(new_id(clock), TOPIC, "ask", msgspec.to_builtins(question), who, clock.now_us())
    with opened(home / "hub.sqlite") as store:
        store.put_request(request)
        answered = replace(request, body={}, state="refused", answer="nobody waits for it")
        try:
            answered = _wait(store, request.request_id, time.monotonic() + wait_s + GRACE_S)
        finally:
            store.put_request(replace(answered, body={}, answer=""))
    if answered.state != "done":
        raise TrustError(f"the hub refused: {answered.answer}", remedy="bring the hub and this command to the same version")
    answers = msgspec.json.decode(answered.answer, type=Answers)
    return Names(read_answers(request.request_id, question, answers, opener), answers.away, answers.silent)


def _wait(store: Store, request_id: str, until_s: float) -> Request:
    while time.monotonic() < until_s:
        found = store.request(request_id)
        if found is not None and found.state != "asked":
            return found
        time.sleep(LOOK_S)
    raise ProcessError("the hub did not answer in time", remedy="see its log; a hub of an earlier version cannot ask for names")
