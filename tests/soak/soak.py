"""A hub as a person runs it, under a load that lasts: virtual edges, their devices' readings, rounds all the time, and faults.

Faults come by seed: a process of edges is killed, the hub is killed, a link is cut. The hub is killed in the first third alone,
so that the second half measures one process. At the end everything becomes calm, and what devices had receipts for is compared
with the rows of the lake. Time does not count while the hub is away: the second half is one of its life.
"""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from tests.soak.edges import STEP_US, Plan, devices_of, edges_main, sent_of
from tests.soak.links import Doors

from wardround.clock import SystemClock
from wardround.collect.inbox import Inbox
from wardround.collect.spool import read_facts
from wardround.collect.storage import FolderStorage
from wardround.demo.programs import Program
from wardround.hub import create_home
from wardround.learn.journal import Journal
from wardround.ports import free_port
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.process.transforms import TASKS
from wardround.settings import HubSettings, parse_settings
from wardround.store import CertificateRecord, open_store
from wardround.trust.certificates import Authority, describe, new_key
from wardround.trust.erasures import ErasureBook
from wardround.trust.identity import IdentityFolder

READY_S = 600.0
HUB_KILLS_UNTIL = 1 / 3  # share of the time
DEADLINE_S = 20.0
STUCK_S = 120.0  # without a round while the hub is there: it has its deadline, asks again, and asks again
SETTLE_S = 300.0
STUDY = f"""\
name = "soak"
task = "activity"
[learner]
hidden = []
[rounds]
count = 100000
edges_min = 3
edges_max = 20
examples_min = 5
deadline_s = {DEADLINE_S}
interval_s = 0.5
[triage]
screen_threshold = 1e6
twin_cosine_max = 1.0
[score]
held_back = 0.0
"""


@dataclass(frozen=True)
class Load:
    """How much, and for how long."""

    seconds: float
    edges: int = 200
    devices: int = 10  # of each edge
    processes: int = 10  # that the edges are in
    period_s: float = 10.0  # from a device's reading to its next
    sample_s: float = 10.0
    fault_s: tuple[float, float] = (5.0, 40.0)  # from one to the next
    away_s: tuple[float, float] = (0.5, 15.0)  # how long what was killed or cut stays so
    seed: int = 0


@dataclass
class Sample:
    """The hub at one moment."""

    s: float  # since the load began, without the time that the hub was away
    incarnation: int
    rss: int  # bytes, of its own process
    workers_rss: int  # of those it has started
    rounds: int


@dataclass
class Outcome:
    """What was found."""

    load: Load
    samples: list[Sample] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    stored: int = 0
    lost: int = 0
    duplicated: int = 0
    refused: int = 0
    rounds: int = 0
    stuck: int = 0
    longest_s: float = 0.0  # without a round
    unsettled: str = ""
    ended: list[str] = field(default_factory=list)  # by themselves

    def growth(self) -> float:
        """Of the hub's memory in the second half: the last fifth of its samples against the first, by their medians."""
        half = [s.rss for s in self.samples if s.s >= self.load.seconds / 2]
        part = max(1, len(half) // 5)
        return statistics.median(half[-part:]) / statistics.median(half[:part]) - 1 if half else float("nan")

    def breaches(self, growth_max: float) -> list[str]:
        """Every limit that does not hold."""
        later = {s.incarnation for s in self.samples if s.s >= self.load.seconds / 2}
        found = [
            (not self.growth() <= growth_max, f"the hub's memory grew by more than {growth_max:.0%} in the second half"),
            (len(later) != 1, f"the second half saw {len(later)} processes of the hub"),
            (self.lost > 0, f"{self.lost} lost"),
            (self.duplicated > 0, f"{self.duplicated} duplicated"),
            (self.refused > 0, f"{self.refused} refused"),
            (self.sent == 0, "nothing was sent"),
            (self.rounds == 0, "no round is over"),
            (self.stuck > 0, f"{self.stuck} times no round in {STUCK_S:.0f} s"),
            (bool(self.unsettled), self.unsettled),
            *((True, one) for one in self.ended),
        ]
        return [words for broken, words in found if broken]

    def table(self, growth_max: float) -> str:
        """For a person."""
        load, of = self.load, {}
        for sample in self.samples:
            of.setdefault(sample.incarnation, []).append(sample)
        rows = [
            ("load", f"{load.edges} edges, {load.edges * load.devices:,} devices, {load.seconds:.0f} s, seed {load.seed}"),
            ("faults", ", ".join(f"{n} {kind}" for kind, n in sorted(self.faults.items())) or "none"),
            *(
                (
                    f"hub's memory, process {k}",
                    f"{own[0].rss / 1e6:.0f} MB at {own[0].s:.0f} s, {own[-1].rss / 1e6:.0f} MB at {own[-1].s:.0f} s, "
                    f"most {max(s.rss for s in own) / 1e6:.0f}; its workers most {max(s.workers_rss for s in own) / 1e6:.0f}",
                )
                for k, own in sorted(of.items())
            ),
            ("growth in the second half", f"{self.growth():+.1%} (limit {growth_max:.0%})"),
            ("observations", f"{self.sent:,} with a receipt, {self.stored:,} in the lake"),
            ("lost", f"{self.lost:,}"),
            ("duplicated", f"{self.duplicated:,}"),
            ("refused", f"{self.refused:,}"),
            ("rounds done", f"{self.rounds:,}"),
            ("rounds stuck", f"{self.stuck} (longest time without one {self.longest_s:.0f} s, limit {STUCK_S:.0f})"),
        ]
        return "\n".join(f"{name:28} {value}" for name, value in rows)


class Soak:
    """The processes of one run. `play` does it all."""

    def __init__(self, home: Path, load: Load) -> None:
        self.home, self.load, self._chance = home, load, random.Random(f"soak/{load.seed}")
        self.names = [f"edge-{k:03d}" for k in range(load.edges)]
        self.outcome = Outcome(load)
        self._ports = {name: free_port() for name in ("grpc", "enrolment", "console")}
        self._hub_home = home / "hub"
        text = 'site = "Soak"\nsimulated = true\n' + "".join(f"[{k}]\nport = {p}\n" for k, p in self._ports.items())
        create_home(self._hub_home, text, parse_settings(text, HubSettings, where="soak")).close()
        arguments = ["wardround.cli.main", "hub", "run", "--home", str(self._hub_home)]
        self._hub = Program("hub", arguments, home / "hub.log", self._hub_home / "ready.json")
        task = TASKS["activity"]
        self._plan = Plan(
            home=home,
            devices=load.devices,
            period_s=load.period_s,
            start_us=SystemClock().now_us() - 3_600_000_000,
            features=len(task.feature_names),
            classes=len(task.classes),
        )
        self._groups = [self.names[k :: load.processes] for k in range(load.processes)]
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.soak.edges"])
        self._processes: dict[int, mp.process.BaseProcess] = {}
        self._there = threading.Event()  # the hub is ready: it can be weighed, and a round is due
        self._over = threading.Event()
        self._began = self._away_s = 0.0
        self._doors: Doors | None = None
        self._journal: Journal | None = None

    def play(self, say: Callable[[str], None] = lambda _words: None) -> Outcome:
        """Everything, until it is counted."""
        try:
            self._begin()
            say(f"{len(self.names)} edges have joined; the load begins")
            self._began = time.monotonic()
            sampler = threading.Thread(target=self._sample, args=(say,), daemon=True)
            sampler.start()
            self._harm(say)
            self._over.set()
            sampler.join(60)
            self._settle()
            self._count()
        finally:
            self._over.set()
            for group in list(self._processes):
                self._kill(group)
            self._hub.stop(30.0)
            if self._doors is not None:
                self._doors.close()
        return self.outcome

    # -- the beginning

    def _begin(self) -> None:
        self._join()
        self._hub.start()
        self._hub.wait_ready(READY_S)
        self._doors = Doors(len(self._groups), self._ports["grpc"])
        for group in range(len(self._groups)):
            self._start(group)
        (self.home / "soak.toml").write_text(STUDY)
        command = [sys.executable, "-m", "wardround.cli.main", "study", "start", str(self.home / "soak.toml")]
        subprocess.run([*command, "--home", str(self._hub_home)], check=True, capture_output=True, timeout=READY_S)
        self._there.set()

    def _join(self) -> None:
        """Every edge's identity, and what the hub notes of one that has joined: its door is not what is under load here."""
        authority, clock = Authority.load(self._hub_home / "pki"), SystemClock()
        store, erasures = open_store(self._hub_home / "hub.sqlite"), ErasureBook(self._hub_home / "erasures.sqlite")
        for name in self.names:
            key, now_us = new_key(), clock.now_us()
            certificate = authority.issue_edge(name, key.public_key(), 24.0)
            listener = authority.issue_listener(name, key.public_key(), ["127.0.0.1"], 24.0)
            identity = IdentityFolder(self.home / name / "identity")
            identity.replace(key, certificate=certificate, listener=listener, authority=authority.pem)
            facts = describe(certificate)
            erasures.joined(name, now_us)
            store.joined(CertificateRecord(facts.serial, name, now_us, facts.not_after_us))
        erasures.close()
        store.close()

    def _start(self, group: int) -> None:
        arguments = (self._plan, self._groups[group], self._doors.ports[group])
        self._processes[group] = process = self._context.Process(target=edges_main, args=arguments, daemon=True)
        process.start()

    def _kill(self, group: int) -> None:
        process = self._processes.pop(group)
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)
        process.join(10)

    # -- faults

    def _now_s(self) -> float:
        """How long the load has lasted, without the time that the hub was away."""
        return time.monotonic() - self._began - self._away_s

    def _harm(self, say: Callable[[str], None]) -> None:
        """Faults until the time is over; everything is well again when this returns."""
        load, chance = self.load, self._chance
        kinds = ["link cut", "edges killed", "hub killed"]  # the hub first, so that the shortest run has it
        while (left_s := load.seconds - self._now_s()) > 0:
            time.sleep(min(chance.uniform(*load.fault_s), left_s))
            self._look_for_ended()
            if (now := self._now_s()) >= load.seconds:
                return
            if not kinds:  # each kind in turn, in an order by lot
                kinds = chance.sample(["edges killed", "hub killed", "link cut"], 3)
            kind, group, away_s = kinds.pop(), chance.randrange(load.processes), chance.uniform(*load.away_s)
            if kind == "hub killed":
                if now > load.seconds * HUB_KILLS_UNTIL:
                    continue
                self._there.clear()
                since = time.monotonic()
                self._hub.kill()
                time.sleep(away_s)
                self._hub.start()
                self._hub.wait_ready(READY_S)
                self._away_s += time.monotonic() - since
                self._there.set()
            elif kind == "link cut":
                self._doors.shut(group)
                time.sleep(away_s)
                self._doors.open(group)
            else:
                self._kill(group)
                time.sleep(away_s)
                self._start(group)
            self.outcome.faults[kind] += 1
            say(f"{now:6.0f} s  {kind}, away for {away_s:.1f} s")

    def _look_for_ended(self) -> None:
        if not self._hub.running:
            self.outcome.ended.append(f"the hub ended by itself:\n{self._hub.tail()}")
            self._hub.start()
            self._hub.wait_ready(READY_S)
        for group, process in list(self._processes.items()):
            if process.exitcode is not None:
                log = (self.home / f"{self._groups[group][0]}.log").read_text(errors="replace")
                self.outcome.ended.append(f"edges ended by themselves with {process.exitcode}:\n{log[-2_000:]}")
                self._start(group)

    # -- what is measured all the time

    def _rounds(self) -> int:
        folder = self._hub_home / "studies" / "soak"
        if self._journal is None and (folder / "journal.sqlite").exists():
            self._journal = Journal(FolderStorage(folder).connect)
        last = self._journal.last() if self._journal is not None else None
        return last.number if last is not None else 0

    def _sample(self, say: Callable[[str], None]) -> None:
        outcome, rounds, waited_s, said = self.outcome, 0, 0.0, False
        looked = time.monotonic()
        weighed = -self.load.sample_s
        while not self._over.wait(min(1.0, self.load.sample_s)):
            now = time.monotonic()
            there, before, looked = self._there.is_set(), looked, now
            if not there:
                continue
            newest = self._rounds()
            if newest > rounds:
                rounds, waited_s, said = newest, 0.0, False
            else:
                waited_s += now - before
                outcome.longest_s = max(outcome.longest_s, waited_s)
                if waited_s > STUCK_S and not said:
                    outcome.stuck, said = outcome.stuck + 1, True
            outcome.rounds = newest
            if self._now_s() - weighed < self.load.sample_s:
                continue
            weighed = self._now_s()
            with contextlib.suppress(psutil.NoSuchProcess):
                hub = psutil.Process(self._hub.process.pid)
                workers = 0
                for child in hub.children(recursive=True):
                    with contextlib.suppress(psutil.NoSuchProcess):
                        workers += child.memory_info().rss
                outcome.samples.append(Sample(weighed, self._hub.starts, hub.memory_info().rss, workers, newest))
                say(f"{weighed:6.0f} s  hub {outcome.samples[-1].rss / 1e6:.0f} MB, {newest} rounds")

    # -- the end

    def _waits(self) -> str:
        """What is not through yet; empty when all is."""
        if restless := sum(not (self.home / name / "calm").exists() for name in self.names):
            return f"{restless} edges still measure"
        if spooled := sum(read_facts(FolderStorage(self.home / name / "spool")).observations for name in self.names):
            return f"{spooled} observations wait in spools"
        inbox = Inbox(FolderStorage(self._hub_home / "inbox"))
        try:
            return f"{n} observations wait in the inbox" if (n := inbox.waiting()) else ""
        finally:
            inbox.close()

    def _settle(self) -> None:
        """Until all is through, and one more round is over."""
        (self.home / "calm").touch()
        until, rounds = time.monotonic() + SETTLE_S, self._rounds()
        while (waits := self._waits()) and time.monotonic() < until:
            time.sleep(0.5)
        self.outcome.unsettled = waits
        until = time.monotonic() + STUCK_S
        while self._rounds() <= rounds and time.monotonic() < until:
            time.sleep(0.2)
        self.outcome.rounds = self._rounds()
        self.outcome.stuck += self.outcome.rounds <= rounds
        self._look_for_ended()

    def _count(self) -> None:
        sent = {d: sent_of(self.home, name) for name in self.names for d in devices_of(name, self._plan.devices)}
        outcome = self.outcome
        outcome.sent = sum(sent.values())
        outcome.stored, outcome.lost, outcome.duplicated = count(Lake(self._hub_home / "lake"), sent, self._plan.start_us)
        with contextlib.suppress(FileNotFoundError):
            outcome.refused = len((self.home / "refused").read_text().splitlines())


def count(lake: Lake, sent: Mapping[str, int], start_us: int) -> tuple[int, int, int]:
    """Rows of a lake, how many messages it lacks of those that devices had a receipt for, and how many it has too often.

    A row without a receipt may be there: its edge was killed between its disk and the device."""
    table = lake.read(BRONZE, columns=["device", "t0_device_us"])
    seen = Counter(zip(table.column("device").to_pylist(), table.column("t0_device_us").to_pylist(), strict=True))
    lost = sum(not seen[device, start_us + k * STEP_US] for device, n in sent.items() for k in range(1, n + 1))
    return table.num_rows, lost, sum(n - 1 for n in seen.values())
