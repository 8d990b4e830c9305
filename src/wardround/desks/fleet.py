"""What the Fleet screen asks of the hub: from the store, the watch and heartbeats to its read model; and acts by role."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

from wardround.clock import Clock
from wardround.console.fleet_model import Branch, FleetEdge, FleetView, Invitation, InviteStep
from wardround.console.model import URGENCY, Overview
from wardround.console.shared import Shared
from wardround.console.words import duration
from wardround.draining import Draining
from wardround.errors import WardroundError
from wardround.learn.condition import Condition
from wardround.learn.grpc_wire import Beat
from wardround.learn.tree import STATE, StudyTree, Tree
from wardround.records import TokenRecord
from wardround.store import EdgeRecord, RoundRecord
from wardround.trust.join import parse
from wardround.trust.names import check_name
from wardround.trust.roles import Act
from wardround.watch.alerts import Alert
from wardround.watch.watcher import EdgeSeen

INVITATIONS_MAX = 20
ROUNDS_KEEP_S = 10.0
MODELS_KNOWN = 1_000  # the newest
BATTERY_LOW = 20.0  # per cent
CALM = 9
_DRAINED = {
    "finishing": "drained: finishing a round",
    "emptying": "drained: emptying its spool",
    "safe": "drained: safe to switch off",
    "off": "",
    "away": "drained, and away before it was safe",
}


class Store(Protocol):
    """The store, as far as it is asked here."""

    def edges(self) -> list[EdgeRecord]: ...

    def get(self, token_id: str) -> TokenRecord | None: ...

    def load_state(self, key: str) -> bytes | None: ...

    def rounds(self, study: str, newest: int | None = None) -> list[RoundRecord]: ...


class Watch(Protocol):
    """The watch, as far as it is asked here."""

    def edges(self) -> Mapping[str, EdgeSeen]: ...

    def open_alerts(self) -> list[Alert]: ...


class Acts(Protocol):
    """Invite and revoke, each in the audit log: the API's desk."""

    def invite(self, edge: str, who: str) -> tuple[str, float]: ...

    def revoke(self, edge: str, who: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class _Open:
    """An invitation that was made here: of its token only the number."""

    edge: str
    who: str
    token_id: str
    until_us: int


class HubFleetDesk:
    """Of one hub. May be called from any thread."""

    def __init__(
        self,
        store: Store,
        watch: Watch,
        clock: Clock,
        *,
        beats: Mapping[str, Beat],
        attached: Callable[[], set[str]],
        overview: Callable[[], Overview],
        check: Callable[[str, Act], None],
        acts: Acts,
        draining: Draining,
    ) -> None:
        """`overview` is the console's read model, which has links and rates; `check(who, act)` raises NotAllowed."""
        self._store, self._watch, self._clock, self._beats, self._attached = store, watch, clock, beats, attached
        self._overview, self._check, self._acts = overview, check, acts
        self._draining = draining
        self._lock = threading.Lock()
        self._open: deque[_Open] = deque(maxlen=INVITATIONS_MAX)
        self._study = ""
        self._rounds = Shared(self._numbers, clock, keep_s=ROUNDS_KEEP_S)
        self._view = Shared(self._build, clock, of=lambda: overview().now_us)

    def fleet(self) -> FleetView:
        """The newest read model."""
        return self._view()

    def ask(self, who: str) -> None:
        """Whether this person may invite and revoke.

        Raises:
            NotAllowed: their role does not cover it.
        """
        self._check(who, Act.EDGES)

    def invite(self, edge: str, who: str) -> str:
        """A join token for a name; only its number is kept here.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: the name is not allowed, or is that of an edge that is connected now.
        """
        self._check(who, Act.EDGES)
        check_name(edge, what="edge name")
        if edge in self._attached():
            raise WardroundError(f"{edge} is connected already", remedy="choose another name, or revoke that edge first")
        token, life_s = self._acts.invite(edge, who)
        made = _Open(edge, who, parse(token).token_id, self._clock.now_us() + round(life_s * 1e6))
        with self._lock:
            self._open.appendleft(made)
        self._view.forget()
        return token

    def revoke(self, edge: str, who: str) -> None:
        """Shut an edge out.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: no such edge, or it is revoked already.
        """
        self._check(who, Act.EDGES)
        if not self._acts.revoke(edge, who):
            raise WardroundError(f"no edge {edge} may come in", remedy="it is revoked already; look at the list again")
        self._view.forget()

    def drain(self, edge: str, who: str) -> str:
        """Give an edge no more work; words.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: there is no such edge, or it is drained already.
        """
        self._check(who, Act.EDGES)
        words = self._draining.begin(edge, who)
        self._view.forget()
        return words

    def undrain(self, edge: str, who: str) -> str:
        """Give it work again; words.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: it is not drained.
        """
        self._check(who, Act.EDGES)
        words = self._draining.end(edge, who)
        self._view.forget()
        return words

    # -- the read model

    def _build(self) -> FleetView:
        now_us = self._clock.now_us()
        tree = self._tree()
        self._study = tree.study if tree is not None else ""
        placed = {e.name: e for e in tree.edges} if tree is not None else {}
        seen, rounds = self._watch.edges(), self._rounds()
        views = {view.name: view for view in self._overview().edges}
        alerts: dict[str, list[Alert]] = {}
        for alert in self._watch.open_alerts():
            if alert.finding.edge:
                alerts.setdefault(alert.finding.edge, []).append(alert)
        drains = {one.edge: one for one in self._draining.all()}
        edges = []
        for record in self._store.edges():
            view = views.get(record.name)
            if record.revoked_us is not None:
                continue
            beat, branch, known = self._beats.get(record.name), placed.get(record.name), seen.get(record.name)
            own = alerts.get(record.name, [])
            worst = min((a.finding.priority for a in own), key=URGENCY.index, default=None)
            seen_us = known.last_us if known is not None else 0
            state = view.state if view is not None else "silent"
            condition = beat.condition if beat is not None else None
            battery = condition.battery if condition is not None else None
            need, urgency = _need(state, record, now_us, seen_us, own, condition)
            drain = drains.get(record.name)
            if drain is not None and urgency > 0 and (not own or drain.stage == "off"):
                need, urgency = _DRAINED[drain.stage], CALM if drain.stage == "off" else 4
            edges.append(
                FleetEdge(
                    name=record.name,
                    state=state,
                    urgency=urgency,
                    need=need,
                    priority=worst,
                    alerts=len(own),
                    seen_us=seen_us,
                    joined_us=record.joined_us,
                    per_s=view.per_s if view is not None else 0.0,
                    certificate_us=record.not_after_us,
                    spooled=beat.spooled if beat is not None else 0,
                    spool_bytes=beat.spool_bytes if beat is not None else 0,
                    told=beat is not None,
                    battery=battery,
                    machine=_machine(condition),
                    via=branch.above if branch is not None else "",
                    model=_model(beat.model if beat is not None else "", rounds),
                    drain=drain.stage if drain is not None else "",
                    drain_words=drain.words if drain is not None else "",
                )
            )
        edges.sort(key=lambda e: (e.urgency, e.name))
        branches = tuple(Branch(e.name, e.above, e.attached) for e in tree.edges) if tree is not None else ()
        return FleetView(now_us, tuple(edges), self._study, branches, self._invitations(now_us))

    def _tree(self) -> StudyTree | None:
        saved = self._store.load_state(STATE)
        studies: Sequence[StudyTree] = msgspec.json.decode(saved, type=Tree).studies if saved is not None else ()
        return studies[-1] if studies else None

    def _numbers(self) -> dict[str, int]:
        """The round of each model of the study, of the newest: an edge that has an older one is not said to have any of them."""
        return {r.model: r.number for r in self._store.rounds(self._study, MODELS_KNOWN)} if self._study else {}

    def _invitations(self, now_us: int) -> tuple[Invitation, ...]:
        attached = self._attached()
        with self._lock:
            found = tuple(self._open)
        made = []
        for one in found:
            kept = self._store.get(one.token_id)
            used = kept is not None and kept.used_by is not None
            steps = (
                ("The token is made, only its hash is kept", True),
                ("The edge shows it, and the hub signs the edge's key", used),
                ("The edge connects", used and one.edge in attached),
            )
            shown = tuple(InviteStep(title, "done" if done else "waiting") for title, done in steps)
            made.append(Invitation(one.edge, one.who, one.until_us, shown, over=not used and now_us > one.until_us))
        return tuple(made)


def _need(
    state: str, record: EdgeRecord, now_us: int, seen_us: int, alerts: Sequence[Alert], condition: Condition | None
) -> tuple[str, int]:
    """What an edge needs, in words, and how urgent that is."""
    worst = min(alerts, key=lambda a: URGENCY.index(a.finding.priority), default=None)
    rank = URGENCY.index(worst.finding.priority) if worst is not None else CALM
    if record.not_after_us <= now_us:
        return "its certificate has ended", min(rank, 0)
    if state == "silent":
        quiet = f"silent {duration((now_us - seen_us) / 1e6)}" if seen_us else "not seen since the hub started"
        return quiet, min(rank, 1)
    if worst is not None:
        return worst.finding.title, rank + 1
    if state == "set-aside":
        return "set aside", 4
    battery = condition.battery if condition is not None else None
    if condition is not None and battery is not None and battery < BATTERY_LOW and not condition.charging:
        return f"battery {battery:.0f} %", 4
    return "", CALM


def _machine(condition: Condition | None) -> str:
    if condition is None:
        return ""
    power = "mains" if condition.battery is None else "charging" if condition.charging else "on battery"
    words = [power, condition.network or "no network"]
    if condition.metered:
        words.append("metered")
    if condition.unwilling:
        words.append(condition.unwilling.replace("-", " "))
    return ", ".join(words)


def _model(digest: str, rounds: Mapping[str, int]) -> str:
    if not digest:
        return ""
    return f"round {rounds[digest]}" if digest in rounds else digest[:8]
