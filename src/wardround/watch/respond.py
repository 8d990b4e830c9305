"""What is done about an alert without waiting for a person: pure. An alert and how its study stands in, a response out.

    planned --> done --> over         its time has passed (a quarantine)
       |         +-----> undoing --> undone
       +-> failed
    dry-run                           said on the alert, and not done

A response is *planned* on disk before it is done and *done* after, so that a kill in between is made good once: whoever carries
it out may be asked twice for the same id. Each kind of response has a limit that no sequence of alerts exceeds, a quarantine
leaves the quorum and three quarters of the edges alone, and what a person has undone is not done again within its limit's span.
Where a rollback has not helped within PATIENCE_ROUNDS, the next response that is allowed follows: in the end a pause, which goes
back once more, so that what has been learned meanwhile is not trained on. While edges are being set aside there is none: each of
them may be the last, and in a study that is paused no further one is found. A model that is far off makes no rounds: every
attempt that comes to nothing because updates cannot count is one more round in which it is still wrong.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from wardround.settings import QuarantineResponse, RespondSettings, ResponseSettings, RetrainResponse
from wardround.watch.alerts import Alert, Finding

ENTRIES_STUDY_MAX = 1_000  # more than every limit together looks back on
PATIENCE_ROUNDS = 3  # after a rollback; what is still wrong in the last of them was not in the model
LATE_ROUNDS = 2  # by which the watch may be behind the rounds: what it saw last before these is over
NARROWING_ROUNDS_MAX = 30  # that edges are set aside in before a pause waits no longer: the first come back, as quarantine ends
BY_ITSELF = "Wardround"  # who responds
NOT_BACK = "it could not go back"  # in the answer of a pause that should have


class Act(StrEnum):
    """What can be done, in the order in which it is tried."""

    ROLLBACK = "rollback"
    QUARANTINE = "quarantine"
    RETRAIN = "retrain"
    RECALIBRATE = "recalibrate"
    PAUSE = "pause"


class State(StrEnum):
    """Where a response stands."""

    PLANNED = "planned"
    DONE = "done"
    FAILED = "failed"
    DRY_RUN = "dry-run"
    UNDOING = "undoing"
    UNDONE = "undone"
    OVER = "over"


UNFINISHED = (State.PLANNED, State.UNDOING)  # somebody must see to it
HOLDS = (State.PLANNED, State.DONE, State.UNDOING)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One response and its whole life. `cause` names the alert and when it fired: firing again is another cause."""

    response_id: str
    alert_id: str
    cause: str
    kind: str  # of the alert
    act: Act
    study: str
    edge: str  # whom it is about: of a quarantine alone
    state: State
    made_us: int
    made_round: int
    until_round: int = 0  # of a quarantine: the last round for which it holds
    from_round: int = 0  # of a rollback: the newest model before it; of a pause that goes back, too (0: it does not)
    to_round: int = 0  # the model that these go back to
    rounds: int = 0  # of a retraining
    answer: str = ""  # what came of it, in the words of who did it
    ended_us: int = 0
    ended_by: str = ""
    ended_why: str = ""

    @property
    def undoable(self) -> bool:
        """Whether it can be undone now."""
        return self.state is State.DONE


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """How a study stands."""

    study: str
    round_number: int  # of the next round
    edges: frozenset[str]  # that may train
    aside: frozenset[str] = frozenset()  # of these: weight 0 already
    quorum: int = 1
    paused: bool = False
    finished: bool = False
    newest: int = 0  # round of the newest model
    last_good: int | None = None  # round of the model that a rollback goes to
    shown: Mapping[str, int] = field(default_factory=dict)  # the round that showed a cause last, by kind, while it is not over
    setting_aside: tuple[int, int] = (0, 0)  # the first and the newest round of the newest run of edges that were set aside
    abandoned: int = 0  # attempts at the next round, since the newest model, in which too few updates could count
    drifting: frozenset[str] = frozenset()  # edges with an open alert of a kind that calls for retraining

    @property
    def attempts_more(self) -> int:
        """Rounds that the next one's attempts stand for, beside itself."""
        return max(0, self.abandoned - 1)


@dataclass(frozen=True, slots=True)
class HeldBack:
    """A response that a limit forbids, and why. `covered`: it needs none, as something else does it already."""

    act: Act
    why: str
    covered: bool = False


class CannotUndo(ValueError):
    """There is nothing to undo; the words say why."""


class _Saved(msgspec.Struct):
    number: int
    entries: list[Entry]


class ResponseBook:
    """Every response of a hub: those that hold, and those that limits still look back on."""

    def __init__(self, saved: bytes = b"") -> None:
        self._entries: dict[str, Entry] = {}
        self._number = 0
        if saved:
            found = msgspec.json.decode(saved, type=_Saved)
            self._number, self._entries = found.number, {e.response_id: e for e in found.entries}

    def save(self) -> bytes:
        """The whole book."""
        return msgspec.json.encode(_Saved(self._number, list(self._entries.values())))

    # -- deciding

    def consider(self, alert: Alert, settings: RespondSettings, now: Situation, now_us: int) -> Entry | HeldBack | None:
        """What to do about an open alert: a new entry (planned, or a dry run), what is held back and why, or nothing (more)."""
        held: HeldBack | None = None
        cause = cause_of(alert)
        from_there = False
        for act in Act:
            own: ResponseSettings = getattr(settings, act.value)
            if own.mode == "off" or alert.finding.kind not in own.kinds or not _concerns(act, own, now, alert.finding):
                continue
            before = [e for e in self._entries.values() if e.cause == cause and e.act is act and e.state is not State.OVER]
            standing = [e for e in before if e.state is not State.FAILED]
            if standing and not all(_in_vain(e, now) for e in standing):
                return None
            if standing:  # going back has not helped, and going back again would not: what goes wrong is still there
                from_there = own.mode == "act" and now.newest > standing[-1].made_round  # and a model was made since
                held = held or HeldBack(act, f"{standing[-1].response_id} has not helped in {PATIENCE_ROUNDS} rounds")
                continue
            if before:  # it could not be done, and what could not is not tried again; the next one may help
                held = held or HeldBack(act, before[-1].answer)
                continue
            against = self._against(act, own, alert.finding, now, now_us)
            if against is None:
                back = act is Act.ROLLBACK or (act is Act.PAUSE and from_there and _against_rollback(now) is None)
                return self._enter(act, own, alert, now, now_us, back=back)
            held = held or against
            if against.covered:
                return against
        return held

    def _against(self, act: Act, own: ResponseSettings, finding: Finding, now: Situation, now_us: int) -> HeldBack | None:
        """What speaks against a response now; None: nothing."""
        edge = finding.edge if act is Act.QUARANTINE else ""
        mine = [e for e in self._entries.values() if e.study == now.study and e.act is act]
        again = [e for e in mine if e.edge == edge and e.state is State.UNDONE and _recent(e, own, now, now_us)]
        if again:
            return HeldBack(act, f"{again[-1].ended_by or 'somebody'} has undone {again[-1].response_id}")
        why: HeldBack | None = None
        if isinstance(own, QuarantineResponse):
            why = self._against_quarantine(own, finding.edge, now)
        elif act is Act.ROLLBACK:
            why = _against_rollback(now)
        elif act is Act.PAUSE and now.paused:
            why = HeldBack(act, f"{now.study} is paused already", covered=True)
        elif act is Act.PAUSE and now.finished:
            why = HeldBack(act, f"{now.study} has all its rounds")
        elif act is Act.PAUSE and _narrowing(now):
            why = HeldBack(act, f"edges are still being found and set aside, as of round {now.setting_aside[1]}")
        if why is not None:
            return why
        counted = [e for e in mine if (e.state is State.DRY_RUN) == (own.mode == "dry-run")]
        if sum(now.round_number - e.made_round < own.limit_rounds for e in counted) >= own.limit:
            return HeldBack(act, f"{own.limit} in {own.limit_rounds} rounds is its limit")
        if sum(now_us - e.made_us < own.limit_hours * 3.6e9 for e in counted) >= own.limit:
            return HeldBack(act, f"{own.limit} in {own.limit_hours:g} hours is its limit")
        return None

    def _against_quarantine(self, own: QuarantineResponse, edge: str, now: Situation) -> HeldBack | None:
        mine = [e for e in self._entries.values() if e.study == now.study and e.act is Act.QUARANTINE and _holds(e, now)]
        tried = {e.edge for e in mine if e.state is not State.DRY_RUN or own.mode == "dry-run"}
        aside = (now.aside | tried) & now.edges
        if edge in aside:
            return HeldBack(Act.QUARANTINE, f"{edge} is set aside already", covered=True)
        if edge not in now.edges:
            return HeldBack(Act.QUARANTINE, f"{edge} does not train in {now.study}")
        most = math.floor(own.share_max * len(now.edges))
        if len(aside) + 1 > most:
            words = f"{len(aside)} of {len(now.edges)} edges are set aside, and {most} may be at most"
            return HeldBack(Act.QUARANTINE, words)
        if len(now.edges) - len(aside) - 1 < now.quorum:
            return HeldBack(Act.QUARANTINE, f"fewer edges than the quorum of {now.quorum} would count")
        return None

    def _enter(self, act: Act, own: ResponseSettings, alert: Alert, now: Situation, now_us: int, *, back: bool) -> Entry:
        self._number += 1
        quarantined = isinstance(own, QuarantineResponse)
        entry = Entry(
            response_id=f"R-{self._number:04d}",
            alert_id=alert.alert_id,
            cause=cause_of(alert),
            kind=alert.finding.kind,
            act=act,
            study=now.study,
            edge=alert.finding.edge if quarantined else "",
            state=State.DRY_RUN if own.mode == "dry-run" else State.PLANNED,
            made_us=now_us,
            made_round=now.round_number,
            until_round=now.round_number + own.rounds - 1 if isinstance(own, QuarantineResponse) else 0,
            from_round=now.newest if back else 0,
            to_round=now.last_good or 0 if back else 0,
            rounds=own.rounds if isinstance(own, RetrainResponse) else 0,
        )
        self._entries[entry.response_id] = entry
        self._prune(now)
        return entry

    def _prune(self, now: Situation) -> None:
        mine = [e for e in self._entries.values() if e.study == now.study]
        ended = [e for e in mine if e.state not in HOLDS and not _holds(e, now)]
        for entry in ended[: max(0, len(mine) - ENTRIES_STUDY_MAX)]:
            del self._entries[entry.response_id]

    # -- what becomes of them

    def settle(self, response_id: str, *, done: bool, answer: str, now_us: int) -> Entry:
        """What was planned, or was being undone, has come to its end; the entry as it stands now."""
        entry = self._entries[response_id]
        if entry.state is State.PLANNED:
            state = State.DONE if done else State.FAILED
            return self._put(entry, state=state, answer=answer, ended_us=0 if done else now_us)
        if entry.state is State.UNDOING:
            state = State.UNDONE if done else State.DONE  # what could not be undone still holds
            return self._put(entry, state=state, answer=answer, ended_us=now_us if done else 0)
        return entry

    def undo(self, response_id: str, who: str, reason: str) -> Entry:
        """Begin to undo a response, before it is done: the entry as it stands now.

        Raises:
            CannotUndo: there is none of that id, or nothing to undo in it.
        """
        entry = self._entries.get(response_id)
        if entry is None:
            raise CannotUndo(f"there is no response {response_id[:20]!r}")
        if not entry.undoable:
            raise CannotUndo(f"{response_id} is {entry.state.value}")
        return self._put(entry, state=State.UNDOING, ended_by=who, ended_why=reason)

    def look(self, now: Situation, now_us: int) -> list[Entry]:
        """Entries of a study that have ended by themselves or by somebody else's hand since the last look."""
        ended = []
        for entry in [e for e in self._entries.values() if e.study == now.study and e.state is State.DONE]:
            if entry.act is Act.QUARANTINE and now.round_number > entry.until_round:
                ended.append(self._put(entry, state=State.OVER, ended_us=now_us))
            elif (entry.act is Act.QUARANTINE and entry.edge not in now.aside) or (
                entry.act is Act.PAUSE and not now.paused and not now.finished
            ):
                ended.append(self._put(entry, state=State.UNDONE, ended_us=now_us, ended_by="somebody", ended_why="by hand"))
        return ended

    def _put(self, entry: Entry, **changes: object) -> Entry:
        self._entries[entry.response_id] = changed = msgspec.structs.replace(entry, **changes)
        return changed

    # -- what can be seen

    def get(self, response_id: str) -> Entry | None:
        """A response by its id."""
        return self._entries.get(response_id)

    def entries(self) -> list[Entry]:
        """Every response, newest first."""
        return list(self._entries.values())[::-1]

    def unfinished(self) -> list[Entry]:
        """What was on its way when it was last heard of, oldest first."""
        return [e for e in self._entries.values() if e.state in UNFINISHED]


def entries_of(saved: bytes) -> list[Entry]:
    """The responses of a saved book, newest first, for who only looks."""
    return ResponseBook(saved).entries()


def cause_of(alert: Alert) -> str:
    """An alert and when it fired last."""
    since = next((t.t_us for t in reversed(alert.history) if t.what in ("firing", "firing again")), alert.raised_us)
    return f"{alert.alert_id}@{since}"


def kinds(settings: RespondSettings) -> Collection[str]:
    """The kinds of alerts that a study's settings respond to."""
    return {k for act in Act for k in getattr(settings, act.value).kinds if getattr(settings, act.value).mode != "off"}


def _concerns(act: Act, own: ResponseSettings, now: Situation, finding: Finding) -> bool:
    """Whether a response is about such a cause at all."""
    if act is Act.QUARANTINE:
        return bool(finding.edge)
    if isinstance(own, RetrainResponse):
        return not finding.edge or len(now.drifting & now.edges) >= max(1.0, own.share_min * len(now.edges))
    return True


def _against_rollback(now: Situation) -> HeldBack | None:
    if now.last_good is None:
        return HeldBack(Act.ROLLBACK, f"no model of {now.study} has passed the gates")
    if now.last_good >= now.newest:
        return HeldBack(Act.ROLLBACK, f"{now.study} is at its last good model already", covered=False)
    return None


def _narrowing(now: Situation) -> bool:
    """Whether edges are being set aside just now, and that not for ever."""
    first, newest = now.setting_aside
    since = now.round_number + now.attempts_more - newest
    return newest > 0 and since <= PATIENCE_ROUNDS and newest - first <= NARROWING_ROUNDS_MAX


def _in_vain(entry: Entry, now: Situation) -> bool:
    """Whether a rollback has not helped: its cause still shows when the rounds since have had their time.

    An alert stays open for some quiet rounds, so that it is open says nothing.
    """
    if entry.act is not Act.ROLLBACK or entry.state is not State.DONE or entry.kind not in now.shown:
        return False
    shown = now.shown[entry.kind]
    lasted = shown + now.attempts_more >= entry.made_round + PATIENCE_ROUNDS
    return lasted and shown >= now.round_number - LATE_ROUNDS


def _holds(entry: Entry, now: Situation) -> bool:
    """Whether a quarantine is in force, or would be if it were more than a dry run."""
    return entry.state in (*HOLDS, State.DRY_RUN) and now.round_number <= entry.until_round


def _recent(entry: Entry, own: ResponseSettings, now: Situation, now_us: int) -> bool:
    return now.round_number - entry.made_round < own.limit_rounds or now_us - entry.ended_us < own.limit_hours * 3.6e9
