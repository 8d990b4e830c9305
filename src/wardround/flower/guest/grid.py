"""A Flower Grid over Wardround edges: what a ServerApp pushes becomes orders of the hub, what comes back has passed its triage.

`push_messages` is one round, and so are single messages that come close together, as Flower's older interface sends them.
Replies are handed over together once the hub has decided the round, by quorum and deadline; whoever failed, was refused or came
too late is an error reply, as Flower's own runtime gives. A hub that restarts is met again, and is told again what was asked:
nothing is asked twice of an edge that has delivered.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import socket
import sys
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from flwr.app import Error, Message
from flwr.proto.node_pb2 import NodeInfo
from flwr.serverapp import Grid
from flwr.supercore.run import Run

from wardround.flower.frames import Header, reachable, receive, send
from wardround.flower.guest.records import packed, unpacked

HUB_AWAY_S = 60.0  # a hub that is not back by then ends the run
RETRY_S = 0.2
BATCHES_MAX = 1_000  # pushed and not decided
QUORUM_OF = ("train", "evaluate")  # as run.py's, which this environment cannot import
QUIET_S = 0.01  # single messages that come no further apart are one round
QUORUM_WAIT_S = 5.0  # how long fewer than a quorum wait for more
MESSAGE_UNAVAILABLE = 3  # Flower's ErrorCode


class RunEnded(Exception):
    """The hub has ended the run, or is gone; the message says why."""


@dataclass
class _Batch:
    """One push: what was asked, and what has come of it."""

    header: Header
    contents: dict[str, bytes]
    decided: bool = False


@dataclass
class _State:
    """Shared with the thread that reads; guarded by `changed`."""

    changed: threading.Condition = field(default_factory=threading.Condition)
    batches: dict[int, _Batch] = field(default_factory=dict)
    asked: dict[int, Any] = field(default_factory=dict)  # messages by number
    replies: dict[str, Any] = field(default_factory=dict)  # by the id of the message replied to
    open_ids: set[str] = field(default_factory=set)
    nodes: list[tuple[int, str]] | None = None
    ended: str = ""


class WardroundGrid(Grid):  # type: ignore[misc]  # flwr is not there for the type checker
    """One run's grid. Safe to use from several threads, as Flower's own are."""

    def __init__(self, path: str, hello: Header) -> None:
        """Connect to the hub's socket at `path`; `hello` says what runs.

        Raises:
            RunEnded: there is no hub, or it refuses the run.
        """
        self._path, self._hello = path, hello
        self._run = Run.create_empty(int(hello["run_id"]))
        self._state, self._writing = _State(), threading.Lock()
        self._number = self._batch = self._taken = 0
        self._quorum = int(hello["limits"]["quorum"])
        self._gathered: dict[tuple[str, str, float], tuple[list[Any], float]] = {}
        self._met: collections.deque[tuple[str, str]] = collections.deque(maxlen=64)  # kinds whose quorum has been asked
        self._link = self._connect(until_s=0.0)
        threading.Thread(target=self._flush, name="gather", daemon=True).start()
        threading.Thread(target=self._read, name="hub", daemon=True).start()

    # -- what Flower asks of a Grid

    def set_run(self, run: Any) -> None:
        """The run that this grid is for."""
        self._run = run

    @property
    def run(self) -> Any:
        """A copy of the run's description."""
        return Run(**vars(self._run))

    def create_message(self, content: Any, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None) -> Any:
        """A message; deprecated by Flower in favour of its constructor."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Edges that are attached to the hub and not set aside, as Flower's node ids."""
        return [node for node, _ in self._nodes()]

    def get_nodes(self) -> list[Any]:
        """The same, with the edges' names."""
        return [NodeInfo(node_id=node, name=name) for node, name in self._nodes()]

    def push_messages(self, messages: Iterable[Any]) -> list[str]:
        """Ask edges; the ids of the messages, in their order."""
        return self._ask(messages, 0.0)

    def _ask(self, messages: Iterable[Any], timeout_s: float) -> list[str]:
        """As push_messages, with a time for each round; 0: as long as the hub gives it."""
        rounds: list[list[Any]] = []
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = uuid4().hex
            ids.append(message.metadata.message_id)
            node = message.metadata.dst_node_id
            free = next((r for r in rounds if all(m.metadata.dst_node_id != node for m in r)), None)
            if free is None:  # an edge does one thing at a time: its second message is the next round's
                rounds.append([message])
            else:
                free.append(message)
        for asked in rounds:
            if len(asked) < self._quorum and asked[0].metadata.message_type.partition(".")[0] in QUORUM_OF:
                self._gather(asked, timeout_s)
            else:
                self._push(asked, timeout_s)
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Any]:
        """The replies that are there; each is given once."""
        with self._state.changed:
            self._check()
            return [self._state.replies.pop(i) for i in list(message_ids) if i in self._state.replies]

    def send_and_receive(self, messages: Iterable[Any], *, timeout: float | None = None) -> list[Any]:
        """Ask edges and wait until their round is decided: all have answered, or its time is over."""
        asked = list(messages)
        if not asked:
            return []
        until_s = None if timeout is None else time.monotonic() + timeout
        ids = self._ask(asked, timeout or 0.0)
        state = self._state
        with state.changed:
            while state.open_ids & set(ids):
                self._check()
                left_s = None if until_s is None else until_s + 5.0 - time.monotonic()  # the hub keeps the time, this is a net
                if left_s is not None and left_s <= 0:
                    break
                state.changed.wait(min(left_s or 1.0, 1.0))
            self._check()
        return self.pull_messages(ids)

    def close(self) -> None:
        """End the run at the hub."""
        with self._writing:
            with contextlib.suppress(OSError):  # it is over there as well
                send(self._link, {"op": "end"})
            self._link.close()

    # -- what happens beneath

    def _gather(self, messages: list[Any], timeout_s: float) -> None:
        """Keep messages of one kind until they are a round: no more come, and they are a quorum or have waited for one."""
        first = messages[0].metadata
        key = (first.message_type, first.group_id, timeout_s)
        with self._state.changed:
            self._check()
            self._state.open_ids |= {m.metadata.message_id for m in messages}
            gathered, _ = self._gathered.get(key, ([], 0.0))
            self._gathered[key] = ([*gathered, *messages], time.monotonic())
            self._state.changed.notify_all()

    def _flush(self) -> None:
        """Push what has been gathered; the thread of single messages."""
        state = self._state
        while not state.ended:
            ready: list[tuple[list[Any], float]] = []
            with state.changed:
                now_s = time.monotonic()
                for key, (messages, last_s) in list(self._gathered.items()):
                    enough = len(messages) >= self._quorum or key[:2] in self._met
                    nodes = [m.metadata.dst_node_id for m in messages]
                    if now_s - last_s >= (QUIET_S if enough else QUORUM_WAIT_S) or len(set(nodes)) < len(nodes):
                        del self._gathered[key]
                        self._met.append(key[:2])
                        ready.append((messages, key[2]))
                if not ready:
                    state.changed.wait(QUIET_S if self._gathered else None)
            for messages, timeout_s in ready:
                try:
                    self._push(messages, timeout_s)
                except Exception as error:  # noqa: BLE001 - whoever waits for these replies must hear of it
                    self._end(str(error) or type(error).__name__)

    def _push(self, messages: list[Any], timeout_s: float) -> None:
        """Send one round."""
        contents: dict[int, tuple[str, bytes]] = {}
        rows, parcels = [], {}
        state = self._state
        with state.changed:
            self._check()
            if sum(not b.decided for b in state.batches.values()) >= BATCHES_MAX:
                raise RunEnded(f"{BATCHES_MAX} rounds wait at the hub: pull their replies before you push more")
            self._batch += 1
            for message in messages:
                self._number += 1
                key = id(message.content)
                if key not in contents:  # strategies send one RecordDict to every node: it is packed once, and travels once
                    data = packed(message.content)
                    contents[key] = (hashlib.sha256(data).hexdigest(), data)
                digest, data = contents[key]
                parcels[digest] = data
                m = message.metadata
                rows.append(
                    {
                        "number": self._number,
                        "node": m.dst_node_id,
                        "content": digest,
                        "message": {
                            "id": m.message_id,
                            "type": m.message_type,
                            "group": m.group_id,
                            "ttl": m.ttl,
                            "created_at": m.created_at,
                        },
                    }
                )
                state.asked[self._number] = message
                state.open_ids.add(m.message_id)
            header = {
                "op": "batch",
                "batch": self._batch,
                "taken": self._taken,
                "timeout_s": timeout_s,
                "messages": rows,
            }
            batch = state.batches[self._batch] = _Batch(header, parcels)
        self._tell(batch)

    def _tell(self, batch: _Batch) -> None:
        try:
            with self._writing:
                for digest, data in batch.contents.items():
                    send(self._link, {"op": "content", "digest": digest}, data)
                send(self._link, batch.header)
        except OSError:  # the reading thread meets the hub again, and tells it all that is open
            return

    def _nodes(self) -> list[tuple[int, str]]:
        state = self._state
        with state.changed:
            state.nodes = None
        deadline_s = time.monotonic() + HUB_AWAY_S
        while True:
            try:
                with self._writing:
                    send(self._link, {"op": "nodes"})
            except OSError:
                time.sleep(RETRY_S)
            with state.changed:
                state.changed.wait_for(lambda: state.nodes is not None or bool(state.ended), timeout=2.0)
                self._check()
                if state.nodes is not None:
                    return state.nodes
            if time.monotonic() > deadline_s:
                raise RunEnded(f"the hub did not answer for {HUB_AWAY_S:.0f} s")

    def _check(self) -> None:
        if self._state.ended:
            raise RunEnded(self._state.ended)

    def _connect(self, *, until_s: float) -> socket.socket:
        while True:
            link = socket.socket(socket.AF_UNIX)
            try:
                link.connect(reachable(Path(self._path)))
                send(link, self._hello)
                header, _ = receive(link)
            except (OSError, EOFError, ValueError) as error:
                link.close()
                if time.monotonic() > until_s:
                    raise RunEnded(f"no hub answers at {self._path}: {error or type(error).__name__}") from error
                time.sleep(RETRY_S)
                continue
            if header.get("op") != "welcome":
                link.close()
                raise RunEnded(str(header.get("reason", "the hub refused the run")))
            return link

    def _read(self) -> None:
        """Take what the hub says; meet it again when it was gone."""
        state = self._state
        while True:
            try:
                header, payload = receive(self._link)
                self._take(header, payload)
            except (OSError, EOFError):
                if not self._again():
                    return
            except Exception as error:  # noqa: BLE001 - a reader that dies in silence would leave the app waiting
                self._end(f"what the hub said could not be read: {type(error).__name__}: {error}")
                return
            if state.ended:
                return

    def _again(self) -> bool:
        if self._link.fileno() < 0:  # closed by `close`
            return False
        print("Wardround: the hub is away; waiting for it", file=sys.stderr)  # noqa: T201 - the log of a run
        try:
            link = self._connect(until_s=time.monotonic() + HUB_AWAY_S)
        except RunEnded as error:
            self._end(str(error))
            return False
        with self._writing:
            self._link = link
        with self._state.changed:
            batches = [b for _, b in sorted(self._state.batches.items()) if not b.decided]
        for batch in batches:
            self._tell(batch)
        return True

    def _end(self, why: str) -> None:
        with self._state.changed:
            self._state.ended = why
            self._state.changed.notify_all()

    def _take(self, header: Header, payload: bytes) -> None:
        state, kind = self._state, header.get("op")
        with state.changed:
            if kind == "nodes":
                state.nodes = [(int(node), str(name)) for node, name in header["nodes"]]
            elif kind == "reply":
                asked = state.asked.get(header["number"])
                if asked is not None:
                    self._replied(asked, Message(unpacked(payload), reply_to=asked))
            elif kind == "decided":
                self._decided(header)
            elif kind == "refused":
                state.ended = str(header["reason"])
            state.changed.notify_all()

    def _replied(self, asked: Any, reply: Any) -> None:
        reply.metadata.__dict__["_message_id"] = uuid4().hex
        self._state.replies[asked.metadata.message_id] = reply

    def _decided(self, header: Header) -> None:
        state, number = self._state, int(header["batch"])
        batch = state.batches.pop(number, None)
        if batch is None:
            return
        batch.decided = True
        self._taken = max(self._taken, number)
        failed = {int(n): (int(code), str(reason)) for n, code, reason in header["failed"]}
        for row in batch.header["messages"]:
            asked = state.asked.pop(row["number"])
            if asked.metadata.message_id not in state.replies:
                code, reason = failed.get(row["number"], (MESSAGE_UNAVAILABLE, "no reply"))
                self._replied(asked, Message(Error(code, reason), reply_to=asked))
            state.open_ids.discard(asked.metadata.message_id)
        print(f"Wardround: {header['words']}", file=sys.stderr)  # noqa: T201 - the log of a run
