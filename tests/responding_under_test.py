"""A hub's responding over real parts (store, alert book, coordinator, registry's request book), without network and lake.

Run as a program it is killed by itself in the middle of a response: `python responding_under_test.py FOLDER POINT`.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from types import MappingProxyType, SimpleNamespace

from wardround.clock import ManualClock
from wardround.collect.storage import FolderStorage
from wardround.learn.blobs import FolderBlobs
from wardround.learn.coordinator import SETTLE_S, Coordinator
from wardround.learn.journal import Journal
from wardround.learn.messages import Order, Upload, new_upload
from wardround.learn.rollbacks import Asked
from wardround.learn.strategies import make_strategy
from wardround.learn.study import LearnerSettings, StrategySettings, parse_study
from wardround.records import EdgeId
from wardround.responding import Responding
from wardround.simulation.toy import CLASSES, FEATURES, signed, toy_model, toy_training
from wardround.store import EdgeRecord, StudyRecord, open_store
from wardround.studies import RunningStudy, Studies
from wardround.study_watch import StudyWatch
from wardround.watch.alerts import Finding
from wardround.watch.detectors.own_history import OwnHistory
from wardround.watch.detectors.screens import Screens
from wardround.watch.model_watch import EdgeSeen, RoundSeen
from wardround.watch.watcher import Watch

EDGES = tuple(f"edge-{i}" for i in range(4))
STUDY = """
name = "s"
task = "activity"
[rounds]
count = 4
edges_min = 2
deadline_s = 10.0
examples_min = 1
[respond]
quarantine = { mode = "act", kinds = ["edge-loss"], rounds = 3 }
rollback = { mode = "act", kinds = ["model-diverged"] }
pause = { mode = "act", kinds = ["stop-it"] }
retrain = { mode = "act", kinds = ["federation-shift"], rounds = 2 }
recalibrate = { mode = "act", kinds = ["unusual"] }
"""


class _Releases:
    """The registry, as far as a response needs it: the models of rounds, the last good one, going back."""

    def __init__(self, coordinator):
        self.coordinator = coordinator

    def entries(self):
        return [SimpleNamespace(number=c.number) for c in self.coordinator.committed() if c.folded and c.number]

    def last_good(self):
        return SimpleNamespace(number=1)

    def roll_back(self, asked: Asked) -> str:
        done = self.coordinator.roll_back(asked)
        return f"back at round {asked.to_round}, noted as {done.number}"


class Hub:
    """Opened anew on the same folder it goes on from what is on disk."""

    def __init__(self, folder: Path, record=None, text=STUDY):
        self.folder, self.clock, self.orders, self.events, self.told, self.audit = folder, ManualClock(), {}, [], [], []
        self.store = open_store(folder / "hub.sqlite")
        for edge in EDGES:
            self.store.put_edge(EdgeRecord(edge, 1, "01", 2**62, None))
        self.watch = Watch(
            clock=self.clock,
            heartbeat_s=1.0,
            signal_title=str,
            on_change=lambda _: self.store.save_state("alert-book", self.watch.save()),
            saved=self.store.load_state("alert-book") or b"",
        )
        self.coordinator = Coordinator(
            parse_study(text, where="test"),
            settings=b"",
            initial=lambda: toy_model(0),
            shape=(FEATURES, CLASSES),
            strategy=make_strategy(StrategySettings(), LearnerSettings()),
            screen=OwnHistory("test"),
            journal=Journal(FolderStorage(folder).connect),
            blobs=FolderBlobs(folder),
            clock=self.clock,
            send=lambda edge, message: self.orders.update({edge: message}) if isinstance(message, Order) else None,
            on_event=self.events.append,
        )
        running = RunningStudy.__new__(RunningStudy)
        running.study, running.coordinator, running.releases = (
            self.coordinator.study,
            self.coordinator,
            _Releases(self.coordinator),
        )
        running.watched = StudyWatch(
            self.coordinator.study,
            ("x", "y"),
            screens=Screens("test"),
            store=self.store,
            clock=self.clock,
            tell=lambda *_: None,
            is_well=lambda _: True,
            advise=lambda *_: None,
        )
        self.running = running
        self.happened = []
        self.studies = Studies(self.store, self.clock, lambda _: running, lambda *line: self.happened.append(line))
        record_of = next((s for s in self.store.studies() if s.name == "s"), None)
        if record_of is None:
            self.store.put_study(StudyRecord("s", text, "running", "", 1, 1))
        self.coordinator.pause(paused=record_of is not None and record_of.state == "paused")
        self.studies.running["s"] = running
        self.responding = Responding(
            store=self.store,
            watch=self.watch,
            studies=self.studies,
            clock=self.clock,
            record=record or (lambda *entry, **facts: self.audit.append((*entry, facts))),
            tell=lambda edge, notice: self.told.append((edge, notice)),
        )
        self.sync()

    def sync(self):
        last = next(reversed(self.coordinator.committed()), None)
        self.running.newest = SimpleNamespace(number=last.number) if last is not None else None

    def round(self):
        """One round among every edge."""
        for edge in EDGES:
            self.coordinator.attach(EdgeId(edge))
        self.coordinator.tick()
        self.clock.advance(SETTLE_S + 0.1)
        self.coordinator.tick()
        for edge in EDGES:
            order = self.orders[edge]
            done = toy_training(edge, order, order.model, b"")
            upload: Upload = signed(edge, new_upload(order, done.data, done.examples, {}))
            self.coordinator.append(EdgeId(edge), upload, 0, done.data)
            assert self.coordinator.finish(EdgeId(edge), upload).accepted
        self.sync()

    def watch_rounds(self, count, first=0, loss=0.5, aside=MappingProxyType({})):
        """Rounds of the watch of its training, healthy ones where the loss is what it was."""
        for number in range(first, first + count):
            out = aside.get(number)
            edges = {e: EdgeSeen(examples=50, loss=loss + 0.01 * (number % 5), aside=e == out) for e in EDGES}
            self.running.watched._waiting.append(RoundSeen(number=number, edges=edges))
        self.running.watched.look()

    def alert(self, kind, edge=""):
        """Raise one; the alert as it stands."""
        now_us = self.clock.now_us()
        about = {"kind": kind, "edge": edge, "study": "s", "title": kind, "priority": "medium", "category": "model"}
        self.watch._raise(Finding(**about, since_us=now_us, detected_us=now_us))
        return self.newest(kind, edge)

    def newest(self, kind, edge=""):
        return next(a for a in self.watch.alerts() if (a.finding.kind, a.finding.edge) == (kind, edge))

    def entries(self):
        return self.responding._book.entries()

    def close(self):
        self.store.close()


def main(folder: str, point: str, kind: str, edge: str) -> None:
    """Respond to an alert, and be killed: `before` it is done, or `after` it is done and before that is noted."""
    hub = Hub(Path(folder), record=lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL) if point == "before" else None)
    hub.round()
    hub.round()
    hub.round()
    if point == "after":
        hub.responding._book.settle = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)
    if point == "middle":  # a person's request, asked and not yet answered
        hub.studies._answer = lambda _: os.kill(os.getpid(), signal.SIGKILL)
    hub.alert(kind, edge)
    hub.responding.look()


if __name__ == "__main__":
    main(*sys.argv[1:])
