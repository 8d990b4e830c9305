"""The watch of one live study: from a committed round to the watch of its training, and from there to alerts and thresholds.

The coordinator's event is kept and looked at later, off its lock; at most QUEUE_MAX rounds wait. What the watch knows is saved
when something begins or ends, and else every SAVE_S: a kill costs it the rounds since, and no alert. Attempts at a round that
come to nothing are heard of as well: those for which it was not the edges that were missing, but updates that could not count.
"""

from __future__ import annotations

import hashlib
import math
import threading
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import msgspec
import structlog

from wardround.clock import Clock
from wardround.learn.messages import Reported, RoundEvent
from wardround.learn.study import Study
from wardround.own_reports import OwnReports
from wardround.row_counts import decode_rows
from wardround.watch.advisory import Advice, Advisory, make_advisory
from wardround.watch.calibration import CalibrationReport
from wardround.watch.detectors.screens import Screens
from wardround.watch.detectors.seen import Standing
from wardround.watch.model_watch import Deviation, EdgeSeen, ModelWatch, RoundSeen, for_updates

log = structlog.get_logger(__name__)
QUEUE_MAX = 64
SAVE_S = 5.0
Advise = Callable[[str, Sequence[Advice], Collection[str]], None]  # study, what joint detectors say, of which edges
Tell = Callable[[str, Sequence[Deviation], Collection[Standing]], None]  # study, what a round showed, what stands


class States(Protocol):
    """Where what the watch knows is kept, by name: the store, as far as it is asked here."""

    def load_state(self, key: str) -> bytes | None: ...

    def save_state(self, key: str, value: bytes) -> None: ...


def report_name(study: str) -> str:
    """Under which the store keeps the newest report of a study's calibration, as JSON."""
    return f"calibration/{study}"


# What decides which losses, steps, durations and answers are usual; not who may respond, be released, or be told.
OF_THRESHOLDS = ("name", "kind", "task", "learner", "rounds", "schedule", "strategy", "relay", "privacy", "compression")


def configuration(study: Study, features: Collection[str]) -> str:
    """A digest of what a study is: another one is another model, and is calibrated anew.

    Of its settings those that depart from the default count: one that a newer version has, and that nobody has set, is no change.
    """
    said = {name: _departs(getattr(study, name)) for name in OF_THRESHOLDS}
    return hashlib.sha256(msgspec.json.encode([said, list(features)], order="sorted")).hexdigest()[:16]


def _departs(value: object) -> object:
    if not isinstance(value, msgspec.Struct):
        return value
    own = {field.name: (field, getattr(value, field.name)) for field in msgspec.structs.fields(value)}
    return {name: _departs(given) for name, (field, given) in own.items() if given != _default(field)}


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default_factory() if callable(field.default_factory) else field.default


@dataclass(frozen=True, slots=True)
class _Between:
    """What happens between two committed rounds: an attempt at round `abandoned` came to nothing, or (0) the study went back."""

    abandoned: int = 0


class StudyWatch:
    """Of one running study. Safe to use from several threads."""

    def __init__(
        self,
        study: Study,
        features: Sequence[str],
        *,
        screens: Screens,
        store: States,
        clock: Clock,
        tell: Tell,
        is_well: Callable[[str], bool],
        advise: Advise = lambda _study, _advice, _standing: None,
    ) -> None:
        """`tell` makes alerts; `is_well(study)`: no other alert of it is open; `advise` has what joint detectors say.

        Raises:
            SettingsError: the study wants a joint detector whose library is not installed.
        """
        self._name, self._features = study.name, len(features)
        self._screens, self._store, self._clock, self._tell, self._is_well = screens, store, clock, tell, is_well
        self._lock = threading.Lock()
        self._waiting: deque[RoundSeen | _Between] = deque(maxlen=QUEUE_MAX)
        self._quorum, self._attempted = study.rounds.edges_min, 0
        self._asked = frozenset[str]()  # in the attempt that is open
        self._delivered, self._spoilt = set[str](), set[str]()  # and whose update counts, also of an earlier one, or cannot
        self._saved_s = -math.inf
        self._watch = ModelWatch(
            configuration(study, features), features=features, budget_per_1000=study.watch.false_alarms_per_1000
        )
        state = store.load_state(f"model-watch/{study.name}")
        if state and not self._watch.restore(state):
            log.info("the watch of a study begins anew", study=study.name, reason="another configuration, or another version")
        self._own = OwnReports(store.load_state(f"own-reports/{study.name}") or b"")
        self._own_kept = self._own.state()
        self._advise = advise
        self._advisory = make_advisory(study.watch.advisory, study.watch.false_alarms_per_1000)
        if self._advisory is not None and (kept := store.load_state(f"advisory/{study.name}")):
            self._advisory.restore(kept)

    def told(self, event: RoundEvent) -> None:
        """What an edge says of itself. Returns at once."""
        self._own.told(event)

    def over(self) -> None:
        """A round has ended, in a model or not. Returns at once."""
        self._own.end()

    def committed(self, event: RoundEvent) -> None:
        """A round that trained was committed. Returns at once."""
        self.over()
        if not event.reported:
            return
        edges = {edge: self._edge(edge, own) for edge, own in event.reported.items()}
        moved = not all(own.aside for own in edges.values())  # else the model is its base, and the newest step an older one
        if len(self._waiting) == QUEUE_MAX:
            log.warning("the watch has fallen behind: a round is not looked at", study=self._name)
        self._waiting.append(
            RoundSeen(
                number=event.round_number,
                edges=edges,
                asked=len(event.participants),
                step_norm=self._screens.step_norm if moved else None,
            )
        )

    def heard(self, event: RoundEvent) -> None:
        """Something else has happened in a round. Returns at once."""
        if event.kind == "opened":
            if event.round_number != self._attempted:  # what an earlier attempt has delivered counts in this one
                self._attempted, self._delivered = event.round_number, set()
            self._spoilt, self._asked = set(), frozenset(event.participants)
        elif event.kind == "accepted":
            self._delivered.add(event.edge)
            self._spoilt.discard(event.edge)
        elif event.kind in ("refused", "failed") and event.edge in self._asked:
            self._spoilt.add(event.edge)
        elif event.kind == "abandoned" and event.round_number:
            spoilt = self._spoilt - self._delivered
            if for_updates(spoilt, self._delivered, self._quorum):
                self._waiting.append(_Between(event.round_number))
        elif event.kind == "rolled-back":
            self._waiting.append(_Between())

    def look(self) -> bool:
        """Look at the rounds that wait; whether there were any."""
        with self._lock:
            looked = False
            if (told := self._own.look()) is not None:
                looked = True
                self._tell(self._name, told, self._standing())
                if any(d.state != "on" for d in told):
                    self._saved_s = -math.inf
            while self._waiting:
                seen = self._waiting.popleft()
                if isinstance(seen, _Between):
                    self._between(seen)
                    continue
                deviations = self._watch.round(replace(seen, healthy=self._is_well(self._name)))
                looked = True
                self._tell(self._name, deviations, self._standing())
                if self._advisory is not None:
                    self._ask_advisory(self._advisory, seen)
                if any(d.state != "on" for d in deviations):
                    self._saved_s = -math.inf
            if looked and self._clock.monotonic_s() - self._saved_s >= SAVE_S:
                self._save()
            return looked

    def _between(self, happened: _Between) -> None:
        if happened.abandoned:
            self._watch.abandoned(happened.abandoned)
        else:
            self._watch.went_back()

    def _standing(self) -> list[Standing]:
        """What is not over, of all that is alerted of."""
        return [*self._watch.standing(), *self._own.standing()]

    def _ask_advisory(self, advisory: Advisory, seen: RoundSeen) -> None:
        """What joint detectors make of a round. An edge of which something else is known teaches them nothing."""
        standing = self._watch.standing()
        accused = {edge for _, edge, _ in standing if edge}
        advice = advisory.round(seen, accused=accused, healthy=not standing and self._is_well(self._name))
        self._advise(self._name, advice, advisory.standing())

    def close(self) -> None:
        """Keep what is known."""
        self.look()
        with self._lock:
            self._save()

    def calibrate_again(self) -> None:
        """What comes next is the new usual: thresholds and pasts begin anew, and what is open is over."""
        with self._lock:
            self._watch.calibrate_again()
            if self._advisory is not None:
                self._advisory.calibrate_again()
                self._advise(self._name, (), ())
            self._tell(self._name, (), self._own.standing())
            self._save()

    def state(self) -> bytes:
        """Thresholds and pasts as they are, for `give_back`."""
        with self._lock:
            return self._watch.state()

    def give_back(self, state: bytes) -> bool:
        """Take up thresholds and pasts of before; False: they are of another configuration, and everything begins anew."""
        with self._lock:
            taken = self._watch.restore(state)
            self._save()
            return taken

    def calibration(self) -> CalibrationReport:
        """How far calibration is."""
        with self._lock:
            return self._watch.calibration()

    def shown(self) -> Mapping[str, int]:
        """The round that showed a cause last, by kind, of the causes that are not over."""
        with self._lock:
            return self._watch.shown()

    def abandoned_attempts(self) -> int:
        """How many attempts at the next round have come to nothing since the newest model, as updates could not count."""
        with self._lock:
            return self._watch.abandoned_attempts()

    def setting_aside(self) -> tuple[int, int]:
        """The first and the newest round of the newest run of edges that were set aside; 0, 0: there was none."""
        with self._lock:
            return self._watch.setting_aside()

    def scores(self) -> Mapping[tuple[str, str], tuple[float, float]]:
        """The newest score of each (sign, edge) beside its threshold."""
        with self._lock:
            return self._watch.scores()

    def own_scores(self) -> Mapping[tuple[str, str], tuple[float, float]]:
        """The newest score of each (screen, edge) that edges say of themselves, beside the threshold that holds there."""
        return self._own.scores()

    def _save(self) -> None:
        self._saved_s = self._clock.monotonic_s()
        self._store.save_state(f"model-watch/{self._name}", self._watch.state())
        if (own := self._own.state()) != self._own_kept:  # most studies have none: a commit less for each that is saved
            self._store.save_state(f"own-reports/{self._name}", own)
            self._own_kept = own
        if self._advisory is not None:
            self._store.save_state(f"advisory/{self._name}", self._advisory.state())
        self._store.save_state(report_name(self._name), msgspec.json.encode(self._watch.calibration()))

    def _edge(self, edge: str, own: Reported) -> EdgeSeen:
        loss = own.metrics.get("loss_before", own.metrics.get("loss"))
        inputs = confidence = None
        if own.rows:
            try:
                counts = decode_rows(own.rows)
            except ValueError as error:
                log.warning("row counts of an edge cannot be read", study=self._name, edge_id=edge, reason=str(error))
            else:
                known = len(counts.inputs) == self._features
                inputs, confidence = (counts.inputs, counts.confidence) if known else (None, None)
        return EdgeSeen(
            examples=own.examples,
            loss=loss,
            seconds=own.seconds,
            trained_s=own.metrics.get("duration_s"),
            inputs=inputs,
            confidence=confidence,
            aside=own.aside,
            trial=own.trial,
        )
