"""The main job: real programs over real links on this machine, harm in the middle, and a count of what came of it."""

from __future__ import annotations

import contextlib
import json
import pickle
import secrets
import shutil
import socket
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from wardround.clock import SystemClock
from wardround.collect.inbox import Inbox
from wardround.collect.quarantine import Quarantine
from wardround.collect.storage import FolderStorage
from wardround.demo.device import PlayedDevice, PlayPlan
from wardround.demo.ledger import Ledger, checksum
from wardround.demo.plan import Plan, PlannedEdge
from wardround.demo.programs import Program, ProgramFailed
from wardround.demo.references import reference_scores, trainable
from wardround.demo.report import AlertFact, Counted, Report, Scores, StoredRun, count
from wardround.edge import EdgeHome
from wardround.errors import WardroundError
from wardround.hub import create_home
from wardround.learn.blobs import FolderBlobs
from wardround.learn.journal import model_name
from wardround.learn.learners import make_learner
from wardround.learn.models import decode_model
from wardround.learn.scores import METRICS, by_group, gap_closed, worst
from wardround.learn.study import Study, parse_study
from wardround.process.dask_runner import HereRunner
from wardround.process.jobs import GoldJob, gold_examples
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wardround.process.transforms import TASKS
from wardround.settings import HubSettings, parse_settings
from wardround.store import Person, Store, StudyRecord, open_store
from wardround.training_data import examples_of
from wardround.trust.certificates import Authority
from wardround.trust.enrolment import join_hub
from wardround.trust.join import mint
from wardround.trust.passwords import hash_password, new_password

START_DEADLINE_S = 60.0
RUN_DEADLINE_S = 240.0
MESSAGE_S = 10.0  # of signal in one message
STUDY_STARTS_AT = {"ventricular-beats": 0.25, "activity": 0.6}  # share of the recording that has been sent
KILL_EDGE_ROUND, KILL_HUB_ROUND, POISON_ROUND = 5, 9, 14
DEAD_SENSOR_AT = 0.55
DOWN_S = 1.5
MARKER = "made-by-wardround-demo"
PORTS = range(20_000, 30_000)
COUNTED = (
    *("device", "device_boot", "device_seq", "device_index", "code", "n", "t0_device_us"),
    *("values", "values_type", "value", "scale", "origin"),
)
STUDY = {
    "ventricular-beats": """\
name = "ventricular-beats"
task = "ventricular-beats"

[learner]
kind = "mlp"
hidden = [32]
class_weighting = "balanced"

[rounds]
count = 24
edges_min = 3
deadline_s = 20.0
examples_min = 40
interval_s = 0.6
""",
    "activity": """\
name = "activity"
task = "activity"

[learner]
kind = "mlp"
hidden = [64]

[rounds]
count = 30
edges_min = 12
deadline_s = 20.0
examples_min = 20
interval_s = 0.3
""",
}


@dataclass
class Voice:
    """Where the demo says what happens: a phase with its progress, and single events."""

    phase: Callable[[str, float, str], None]  # name, share done, words
    event: Callable[[str], None]


@dataclass
class _Run:
    """A run in progress."""

    plan: Plan
    folder: Path
    voice: Voice
    seed: int
    play_s: float
    hub: Program | None = None
    edges: dict[str, Program] = field(default_factory=dict)  # by edge
    devices: Program | None = None
    ports: dict[str, int] = field(default_factory=dict)
    secrets: dict[str, str] = field(default_factory=dict)
    held_back: set[str] = field(default_factory=set)
    harm_us: dict[str, int] = field(default_factory=dict)
    expected: list[tuple[str, str]] = field(default_factory=list)  # alert kind, edge
    kills: list[str] = field(default_factory=list)
    password: str = ""
    store: Store | None = None

    @property
    def records(self) -> Store:
        """The hub's store, opened once."""
        if self.store is None:
            self.store = open_store(self.hub_home / "hub.sqlite")
        return self.store

    @property
    def hub_home(self) -> Path:
        return self.folder / "hub"

    @property
    def console(self) -> str:
        return f"http://127.0.0.1:{self.ports['console']}"

    def edge_home(self, name: str) -> Path:
        return self.folder / "edges" / name

    def programs(self) -> list[Program]:
        unique = {id(p): p for p in (self.devices, *self.edges.values(), self.hub) if p is not None}
        return list(unique.values())


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that is over: its report, and its programs if they were left running."""

    report: Report
    console: str
    password: str
    stop: Callable[[], None]


def run_demo(plan: Plan, folder: Path, voice: Voice, *, seed: int, play_s: float, stay: bool) -> Finished:
    """Run the whole system once.

    Raises:
        WardroundError: a program failed, or the run did not come to its end in time.
    """
    started = time.monotonic()
    _clear(folder)
    run = _Run(plan, folder, voice, seed, play_s)
    with _stopping_on_error(run):
        _start(run)
        _play(run)
        if not stay:
            _stop(run)
        report = _report(run, time.monotonic() - started)
    return Finished(report, run.console, run.password, lambda: _stop(run))


def _clear(folder: Path) -> None:
    """An empty folder of ours; one that is somebody else's is left alone.

    Raises:
        WardroundError: it holds something that no demo has made.
    """
    if folder.exists() and any(folder.iterdir()) and not (folder / MARKER).exists():
        raise WardroundError(f"{folder} is not empty, and no demo made it", remedy="give --folder a new name")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / MARKER).write_text("made by `wardround demo`, which empties this folder when it runs again\n")


@contextlib.contextmanager
def _stopping_on_error(run: _Run) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _stop(run)
        raise


def _stop(run: _Run) -> None:
    for program in run.programs():
        program.stop()


# -- start


def _start(run: _Run) -> None:
    """Hub, edges and devices, from nothing."""
    run.voice.phase("start", 0.05, "making a hub: its own authority, store and lake")
    for name in ("grpc", "enrolment", "console", *(e.name for e in run.plan.edges)):
        run.ports[name] = free_port()
    text = _hub_toml(run)
    store = create_home(run.hub_home, text, parse_settings(text, HubSettings, where="hub.toml"))
    run.password = new_password()
    store.put_person(Person("oncall", "operator", hash_password(run.password), None))
    store.close()
    run.hub = Program(
        "hub",
        ["wardround.cli.main", "hub", "run", "--home", str(run.hub_home)],
        run.folder / "logs" / "hub.log",
        run.hub_home / "ready.json",
    )
    run.hub.start()
    run.voice.phase("start", 0.2, "opening the recordings")
    _write_recordings(run)
    run.hub.wait_ready(START_DEADLINE_S)
    run.voice.event(f"watch it at {run.console}, sign in as oncall with {run.password}")
    for i, edge in enumerate(run.plan.edges):
        run.voice.phase("start", 0.4 + 0.3 * i / len(run.plan.edges), f"{edge.name} joins with its own token")
        _join(run, edge)
    groups = _groups(run.plan.edges, run.plan.edges_per_process)
    for group in groups:
        homes = [str(run.edge_home(e.name)) for e in group]
        program = Program(
            group[0].name,
            ["wardround.demo.edge_process", *homes],
            run.folder / "logs" / f"edge-{group[0].name}.log",
            run.edge_home(group[-1].name) / "ready.json",
        )
        program.start()
        run.edges.update({e.name: program for e in group})
    for i, group in enumerate(groups):
        run.voice.phase("start", 0.7 + 0.25 * i / len(groups), f"{group[0].name} opens its listener")
        run.edges[group[0].name].wait_ready(START_DEADLINE_S)
    _start_devices(run)
    run.voice.phase("start", 1.0, f"hub, {len(run.plan.edges)} edges and {len(run.secrets)} devices run")


def _hub_toml(run: _Run) -> str:
    return f"""\
name = "hub-1"
site = "Northmoor rehearsal"
simulated = {str(run.plan.simulated).lower()}
heartbeat_s = 1.0

[grpc]
port = {run.ports["grpc"]}

[enrolment]
port = {run.ports["enrolment"]}

[console]
port = {run.ports["console"]}

[processing]
workers = 2
interval_s = 4.0
lake_commit_interval_s = 1.0
"""


def _join(run: _Run, edge: PlannedEdge) -> None:
    """One edge: a one-time token from the hub, an identity over HTTPS, its devices and their patients' consents."""
    home = run.edge_home(edge.name)
    authority = Authority.load(run.hub_home / "pki")
    token = mint(
        run.records,
        SystemClock(),
        name=edge.name,
        host="127.0.0.1",
        port=run.ports["enrolment"],
        pin=authority.fingerprint,
    )
    joined = join_hub(token, home)
    (home / "edge.toml").write_text(
        f'name = "{joined.name}"\nhub_host = "{joined.hub_host}"\nhub_port = {joined.hub_port}\n'
        f"simulated = {str(joined.simulated).lower()}\n\n[mqtt]\nport = {run.ports[edge.name]}\n"
    )
    opened = EdgeHome.open(home)
    registry, consents, pseudonyms = opened.registry(), opened.consents(), opened.pseudonyms()
    for device in edge.devices:
        run.secrets[device.device] = registry.add(device.device, device.patient)
        subject = pseudonyms.of(device.patient)
        consents.set(subject, "*", device.consent)
        if device.held_back or edge.held_back:
            run.held_back.add(subject)
    consents.close()


def _write_recordings(run: _Run) -> None:
    devices = [d for e in run.plan.edges for d in e.devices]
    folder = run.folder / "recordings"
    folder.mkdir(exist_ok=True)
    for i, device in enumerate(devices):
        run.voice.phase("start", 0.2 + 0.2 * i / len(devices), f"opening the recording of {device.device}")
        with (folder / f"{device.device}.pickle").open("wb") as file:
            pickle.dump(device.open(), file)


def _start_devices(run: _Run) -> None:
    played = [
        PlayedDevice(
            device=device.device,
            secret=run.secrets[device.device],
            port=run.ports[edge.name],
            authority=str(run.edge_home(edge.name) / "identity" / "ca.pem"),
            consent=device.consent,
            recording=str(run.folder / "recordings" / f"{device.device}.pickle"),
        )
        for edge in run.plan.edges
        for device in edge.devices
    ]
    longest = 0.0
    for spec in played:
        with Path(spec.recording).open("rb") as file:
            longest = max(longest, pickle.load(file).duration_s)  # noqa: S301 - written a moment ago
    plan = PlayPlan(
        devices=tuple(played),
        speed=max(1.0, longest / run.play_s),
        message_s=MESSAGE_S,
        ledger=str(run.folder / "ledger.sqlite"),
        progress=str(run.folder / "devices.json"),
        control=str(run.folder / "control.json"),
        start_at_s=time.time() + 1.0,
        deadline_s=RUN_DEADLINE_S - 30.0,
    )
    path = run.folder / "devices-plan.json"
    path.write_bytes(msgspec.json.encode(plan))
    path.chmod(0o600)
    run.voice.event(f"devices play {longest / 60:.0f} min of signal at {plan.speed:.0f} times its speed")
    run.devices = Program("devices", ["wardround.demo.device", str(path)], run.folder / "logs" / "devices.log")
    run.devices.start()


# -- play


def _play(run: _Run) -> None:
    """Devices report, rounds are held, harm is done; until everything is through."""
    study = _study(run)
    training = [e.name for e in run.plan.training]
    victim, liar, deaf = training[1 % len(training)], training[2 % len(training)], training[0]
    until = time.monotonic() + RUN_DEADLINE_S
    began = time.monotonic()
    asked = poisoned = dead = killed_edge = killed_hub = False
    words = ""
    while time.monotonic() < until:
        _check_alive(run)
        played = min(1.0, (time.monotonic() - began) / run.play_s)
        progress = _devices(run)
        run.voice.phase("collect", played, f"{progress.get('samples', 0):,} samples receipted to devices")
        if not asked and played >= STUDY_STARTS_AT[run.plan.task]:
            _ask_for(run, study)
            asked = True
            run.voice.event(f"study {study.name}: {study.rounds.count} rounds of FedAvg among {len(training)} edges")
        number, words = _round(run, study)
        run.voice.phase("train", number / study.rounds.count, words)
        if not dead and played >= DEAD_SENSOR_AT:
            _kill_sensor(run, deaf)
            dead = True
        if not killed_edge and number >= KILL_EDGE_ROUND:
            _kill(run, run.edges[victim], f"edge process of {victim}")
            killed_edge = True
        if not killed_hub and number >= KILL_HUB_ROUND and run.hub is not None:
            _kill(run, run.hub, "hub")
            killed_hub = True
        if not poisoned and number >= POISON_ROUND:
            (run.edge_home(liar) / "poison").touch()
            run.harm_us["update-poisoned"] = time.time_ns() // 1_000
            run.expected.append(("update-poisoned", liar))
            run.kills.append(f"{liar} sends updates turned round, eight times as large, after round {number}")
            run.voice.event(f"{liar} begins to send poisoned updates")
            poisoned = True
        if number >= study.rounds.count and progress.get("finished") and _drained(run):
            return
        time.sleep(0.2)
    raise ProgramFailed(
        f"the run was not through after {RUN_DEADLINE_S:.0f} s: {words}, devices {_devices(run)}",
        remedy=f"look into {run.folder / 'logs'}",
    )


def _study(run: _Run) -> Study:
    """The study, with the held-back subjects or edges of this plan."""
    edges = [e.name for e in run.plan.edges if e.held_back]
    text = STUDY[run.plan.task]
    if edges:
        text += f"\n[score]\nheld_back = 0.0\nheld_back_edges = {json.dumps(edges)}\n"
    else:
        text += f"\n[score]\nheld_back = 0.0\nheld_back_subjects = {json.dumps(sorted(run.held_back))}\n"
    (run.folder / "study.toml").write_text(text)
    return parse_study(text, where="study.toml")


def _ask_for(run: _Run, study: Study) -> None:
    now_us = time.time_ns() // 1_000
    text = (run.folder / "study.toml").read_text()
    run.records.put_study(StudyRecord(study.name, text, "requested", "", now_us, now_us))


def _round(run: _Run, study: Study) -> tuple[int, str]:
    """The newest committed round, and its score in words."""
    rounds = run.records.rounds(study.name)
    if not rounds:
        return 0, "waiting for examples"
    scored = [r for r in rounds if "score" in r.facts]
    words = f"round {rounds[-1].number} of {study.rounds.count}"
    if scored:
        facts = scored[-1].facts["score"]
        words += f", {facts['metric']} {facts['value']:.3f} on unseen subjects"
    return rounds[-1].number, words


def _devices(run: _Run) -> dict[str, int]:
    try:
        facts: dict[str, int] = json.loads((run.folder / "devices.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return facts


def _check_alive(run: _Run) -> None:
    for program in run.programs():
        if program is not run.devices and not program.running:
            raise ProgramFailed(f"{program.name} ended by itself:\n{program.tail()}", remedy=f"read {program.log}")


def _kill_sensor(run: _Run, edge: str) -> None:
    planned = next(e for e in run.plan.edges if e.name == edge)
    device = next(d.device for d in planned.devices if d.consent.value == "raw" and not d.held_back)
    run.harm_us["sensor-dead"] = time.time_ns() // 1_000
    run.expected.append(("sensor-dead", edge))
    partial = run.folder / "control.partial"
    partial.write_text(json.dumps({"dead": {device: run.plan.dead_signal}}))
    partial.replace(run.folder / "control.json")
    run.kills.append(f"{run.plan.dead_signal} of {device} at {edge} dies")
    run.voice.event(f"the sensor {run.plan.dead_signal} of {device} at {edge} dies")


def _kill(run: _Run, program: Program, what: str) -> None:
    """SIGKILL, a moment of darkness, a new start."""
    program.kill()
    run.kills.append(f"SIGKILL to the {what}")
    run.voice.event(f"SIGKILL to the {what}")
    run.harm_us.setdefault("edge-silent", time.time_ns() // 1_000)
    time.sleep(DOWN_S)
    program.start()
    program.wait_ready(START_DEADLINE_S)
    run.voice.event(f"the {what} is back")


def _drained(run: _Run) -> bool:
    """Whether every spool and the inbox are empty, and gold has seen the newest observations."""
    for edge in run.plan.edges:
        storage = FolderStorage(run.edge_home(edge.name) / "spool")
        db = storage.connect("spool")
        waiting = db.execute("SELECT count(*) FROM waiting").fetchone()[0]
        db.close()
        if waiting:
            return False
    inbox = Inbox(FolderStorage(run.hub_home / "inbox"))
    waiting = inbox.waiting()
    inbox.close()
    job = GoldJob(Lake(run.hub_home / "lake"), TASKS[run.plan.task], HereRunner(), SystemClock())
    return not waiting and not job.plan()


# -- report


def _report(run: _Run, seconds: float) -> Report:
    run.voice.phase("report", 0.1, "counting ledger against lake")
    study = _study(run)
    rounds = [r for r in run.records.rounds(study.name) if r.number > 0]
    alerts = run.records.alerts()
    aside_hub = run.records.quarantine_count()
    lake = Lake(run.hub_home / "lake")
    counted = _count(run, lake, aside_hub)
    run.voice.phase("report", 0.3, "training the two references: each edge alone, all data pooled")
    scores = _scores(run, lake, study, rounds[-1].model)
    facts = [
        AlertFact(
            kind=a.body["finding"]["kind"],
            edge=a.body["finding"].get("edge", ""),
            seconds_to_detect=max(0.0, (a.body["finding"]["detected_us"] - _harm_us(run, a.body["finding"])) / 1e6),
            response=(a.body.get("response") or {}).get("what", "") or "shown to the team",
            title=a.body["finding"]["title"],
        )
        for a in reversed(alerts)
    ]
    run.voice.phase("report", 1.0, "done")
    return Report(
        simulated=run.plan.simulated,
        source=run.plan.source,
        task=run.plan.task,
        observations=counted,
        rounds=len(rounds),
        seconds_median=statistics.median(r.seconds for r in rounds),
        scores=scores,
        alerts=tuple(facts),
        kills=tuple(run.kills),
        seconds=seconds,
        expected=tuple(run.expected),
        notes=run.plan.notes,
    )


def _harm_us(run: _Run, finding: dict[str, int | str]) -> int:
    return run.harm_us.get(str(finding["kind"]), int(finding["since_us"]))


def _count(run: _Run, lake: Lake, aside_hub: int) -> Counted:
    ledger = Ledger(run.folder / "ledger.sqlite")
    stored = [_stored(row) for row in lake.read(BRONZE, columns=COUNTED).to_pylist()]
    aside = aside_hub
    for edge in run.plan.edges:
        quarantine = Quarantine(FolderStorage(run.edge_home(edge.name) / "spool"))
        aside += sum(quarantine.counts().values())
        quarantine.close()
    counted = count(ledger.runs(), stored, aside)
    ledger.close()
    return counted


def _stored(row: dict[str, Any]) -> StoredRun:
    values = np.array([row["value"]], np.float64)
    if row["values"] is not None:
        values = row["origin"] + np.frombuffer(row["values"], "<" + row["values_type"]) * row["scale"]
    key = (row["device"], row["device_boot"], row["device_seq"], row["code"])
    return StoredRun(key, row["device_index"], row["n"], checksum(row["t0_device_us"], values))


def _scores(run: _Run, lake: Lake, study: Study, model: str) -> Scores:
    """The final model and the two references, on every held-back example the lake has."""
    task = TASKS[study.task]
    learner = make_learner(study.learner, len(task.feature_names), len(task.classes))
    metric = study.score.metric or task.metric
    gold = gold_examples(lake, task, sorted(run.held_back))
    held_back = gold.where(gold.labels >= 0)
    data = FolderBlobs(run.hub_home / "studies" / study.name).read(model_name(model))
    probabilities = learner.predict(decode_model(data), held_back.features)
    owners = lake.read(BRONZE, columns=["subject", "edge"], subjects=sorted(run.held_back)).to_pydict()
    edge_of = dict(zip(owners["subject"], owners["edge"], strict=True))
    edges = np.array([edge_of[str(s)] for s in held_back.subjects], np.str_)
    lowest = worst(by_group(metric, held_back.labels, probabilities, edges)) or ("", float("nan"))
    federated = METRICS[metric](held_back.labels, probabilities)
    local = {
        e.name: trainable(examples_of(str(run.edge_home(e.name)), study.task), frozenset(run.held_back))
        for e in run.plan.training
    }
    alone, pooled = reference_scores(learner, study, metric, local, held_back)
    mean = float(np.mean(list(alone.values())))
    return Scores(
        metric=metric,
        local_only_mean=mean,
        local_only_worst=min(alone.values()),
        federated=federated,
        federated_worst_edge=lowest[1],
        pooled=pooled,
        gap_closed=gap_closed(mean, federated, pooled),
        worst_edge=lowest[0],
    )


def _groups(edges: Sequence[PlannedEdge], size: int) -> list[list[PlannedEdge]]:
    return [list(edges[i : i + size]) for i in range(0, len(edges), size)]


def free_port() -> int:
    """A port that nobody listens on, outside the range from which the system gives ports to connections by itself.

    Raises:
        WardroundError: there is none.
    """
    for _ in range(200):
        port = PORTS.start + secrets.randbelow(len(PORTS))
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise WardroundError(f"no port is free in {PORTS.start} to {PORTS.stop}", remedy="stop programs that listen")
