"""The main job: real programs over real links on this machine, harm in the middle, and a count of what came of it."""

from __future__ import annotations

import contextlib
import json
import pickle
import secrets
import shutil
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wardround.clock import SystemClock
from wardround.collect.inbox import Inbox
from wardround.collect.storage import FolderStorage
from wardround.demo.device import PlayedDevice, PlayPlan
from wardround.demo.nodes import RehearsalNode, image_store, why_not
from wardround.demo.outcome import report_of
from wardround.demo.plan import Plan, PlannedEdge
from wardround.demo.programs import Program, ProgramFailed
from wardround.demo.report import Report
from wardround.demo.run import Run, Voice
from wardround.edge import EdgeHome
from wardround.errors import WardroundError
from wardround.hub import create_home, known
from wardround.learn.study import Study, parse_study
from wardround.process.catalogue import JOBS
from wardround.process.dask_runner import HereRunner
from wardround.process.jobs import Jobs
from wardround.process.lake import Lake
from wardround.process.nodes import image
from wardround.records import NodeRecord
from wardround.settings import HubSettings, parse_settings
from wardround.store import Person, StudyRecord
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
NODE_BYTES = 1_200_000_000
NODE_CUT_AT = 0.5  # share of the recording that has been sent
MARKER = "made-by-wardround-demo"
PORTS = range(20_000, 30_000)
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


@dataclass(frozen=True, slots=True)
class Finished:
    """A run that is over: its report, and its programs if they were left running."""

    report: Report
    console: str
    password: str
    stop: Callable[[], None]


def run_demo(plan: Plan, folder: Path, voice: Voice, *, seed: int, play_s: float, stay: bool, nodes: int = 0) -> Finished:
    """Run the whole system once.

    Raises:
        WardroundError: a program failed, or the run did not come to its end in time.
    """
    started = time.monotonic()
    _clear(folder)
    run = Run(plan, folder, voice, seed, play_s)
    with _stopping_on_error(run):
        if nodes:
            _start_nodes(run, nodes)
        _start(run)
        _play(run)
        if not stay:
            _stop(run)
        report = report_of(run, _study(run), time.monotonic() - started)
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
def _stopping_on_error(run: Run) -> Iterator[None]:
    try:
        yield
    except BaseException:
        _stop(run)
        raise


def _stop(run: Run) -> None:
    for program in run.programs():
        program.stop()
    for node in run.nodes:
        node.stop()


# -- start


def _start(run: Run) -> None:
    """Hub, edges and devices, from nothing."""
    run.voice.phase("start", 0.05, "making a hub: its own authority, store and lake")
    for name in ("grpc", "enrolment", "console", *(e.name for e in run.plan.edges)):
        run.ports[name] = free_port()
    text = _hub_toml(run)
    store = create_home(run.hub_home, text, parse_settings(text, HubSettings, where="hub.toml"))
    for node in run.nodes:
        store.put_node(NodeRecord(node.name, node.url, 1, NODE_BYTES, 1.0, "", False, SystemClock().now_us()))
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


def _start_nodes(run: Run, count: int) -> None:
    """Podman services of their own on this machine; the workers' image is built when it is not there."""
    if why_not():
        raise WardroundError(f"no nodes can be made here: {why_not()}", remedy="leave --nodes out: the hub works by itself")
    if not image.present():
        run.voice.phase("start", 0.01, "building the workers' image (once, about a minute)")
        image.build_any(say=run.voice.event)
    shared = image_store()
    for i in range(1, count + 1):
        run.voice.phase("start", 0.02, f"node-{i} comes up")
        node = RehearsalNode(f"node-{i}", run.folder / "nodes" / f"node-{i}", images=shared)
        run.nodes.append(node)
        node.start()
    run.voice.event(f"{count} nodes: Podman services with a store and an API each, one worker container on each")


def _hub_toml(run: Run) -> str:
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


def _join(run: Run, edge: PlannedEdge) -> None:
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


def _write_recordings(run: Run) -> None:
    devices = [d for e in run.plan.edges for d in e.devices]
    folder = run.folder / "recordings"
    folder.mkdir(exist_ok=True)
    for i, device in enumerate(devices):
        run.voice.phase("start", 0.2 + 0.2 * i / len(devices), f"opening the recording of {device.device}")
        with (folder / f"{device.device}.pickle").open("wb") as file:
            pickle.dump(device.open(), file)


def _start_devices(run: Run) -> None:
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


def _play(run: Run) -> None:
    """Devices report, rounds are held, harm is done; until everything is through."""
    study = _study(run)
    training = [e.name for e in run.plan.training]
    victim, liar, deaf = training[1 % len(training)], training[2 % len(training)], training[0]
    until = time.monotonic() + RUN_DEADLINE_S
    began = time.monotonic()
    asked = poisoned = dead = killed_edge = killed_hub = cut = False
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
        if not cut and len(run.nodes) > 1 and played >= NODE_CUT_AT:
            _cut_power(run, run.nodes[-1])
            cut = True
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


def _study(run: Run) -> Study:
    """The study, with the held-back subjects or edges of this plan."""
    edges = [e.name for e in run.plan.edges if e.held_back]
    text = STUDY[run.plan.task]
    if edges:
        text += f"\n[score]\nheld_back = 0.0\nheld_back_edges = {json.dumps(edges)}\n"
    else:
        text += f"\n[score]\nheld_back = 0.0\nheld_back_subjects = {json.dumps(sorted(run.held_back))}\n"
    (run.folder / "study.toml").write_text(text)
    return parse_study(text, where="study.toml")


def _ask_for(run: Run, study: Study) -> None:
    now_us = time.time_ns() // 1_000
    text = (run.folder / "study.toml").read_text()
    run.records.put_study(StudyRecord(study.name, text, "requested", "", now_us, now_us))


def _round(run: Run, study: Study) -> tuple[int, str]:
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


def _devices(run: Run) -> dict[str, int]:
    try:
        facts: dict[str, int] = json.loads((run.folder / "devices.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return facts


def _check_alive(run: Run) -> None:
    for program in run.programs():
        if program is not run.devices and not program.running:
            raise ProgramFailed(f"{program.name} ended by itself:\n{program.tail()}", remedy=f"read {program.log}")


def _kill_sensor(run: Run, edge: str) -> None:
    planned = next(e for e in run.plan.edges if e.name == edge)
    device = next(d.device for d in planned.devices if d.consent.value == "raw" and not d.held_back)
    run.harm_us["sensor-dead"] = time.time_ns() // 1_000
    run.expected.append(("sensor-dead", edge))
    partial = run.folder / "control.partial"
    partial.write_text(json.dumps({"dead": {device: run.plan.dead_signal}}))
    partial.replace(run.folder / "control.json")
    run.kills.append(f"{run.plan.dead_signal} of {device} at {edge} dies")
    run.voice.event(f"the sensor {run.plan.dead_signal} of {device} at {edge} dies")


def _cut_power(run: Run, node: RehearsalNode) -> None:
    """Service, monitors and containers of a node at once; it comes back later, with its dead containers still listed."""
    node.power_cut()
    run.kills.append(f"power cut of {node.name}")
    run.voice.event(f"power cut of {node.name}")
    time.sleep(DOWN_S)
    node.start()
    run.voice.event(f"{node.name} is back")


def _kill(run: Run, program: Program, what: str) -> None:
    """SIGKILL, a moment of darkness, a new start."""
    program.kill()
    run.kills.append(f"SIGKILL to the {what}")
    run.voice.event(f"SIGKILL to the {what}")
    run.harm_us.setdefault("edge-silent", time.time_ns() // 1_000)
    time.sleep(DOWN_S)
    program.start()
    program.wait_ready(START_DEADLINE_S)
    run.voice.event(f"the {what} is back")


def _drained(run: Run) -> bool:
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
    jobs = Jobs(Lake(run.hub_home / "lake"), HereRunner(), SystemClock(), run.folder / "staging", known())
    return not waiting and not jobs.plan(JOBS[f"examples-{run.plan.task}"]).parts


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
