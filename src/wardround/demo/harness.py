"""The main job: real programs over real links on this machine, harm in the middle, and a count of what came of it."""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from wardround.clock import SystemClock
from wardround.collect.inbox import Inbox
from wardround.collect.storage import FolderStorage
from wardround.demo.nodes import RehearsalNode
from wardround.demo.opening import START_DEADLINE_S, start_all, start_nodes
from wardround.demo.outcome import report_of
from wardround.demo.plan import Plan
from wardround.demo.programs import Program, ProgramFailed
from wardround.demo.report import Report
from wardround.demo.run import Run, Voice
from wardround.errors import WardroundError
from wardround.hub import known
from wardround.learn.study import Study, parse_study
from wardround.process.catalogue import JOBS
from wardround.process.dask_runner import HereRunner
from wardround.process.jobs import Jobs
from wardround.process.lake import Lake
from wardround.store import StudyRecord
from wardround.trust.at_rest import open_seal

RUN_DEADLINE_S = 240.0
STUDY_STARTS_AT = {"ventricular-beats": 0.25, "activity": 0.6}  # share of the recording that has been sent
KILL_EDGE_ROUND, KILL_HUB_ROUND, POISON_ROUND = 5, 9, 14
DEAD_SENSOR_AT = 0.55
DOWN_S = 1.5
NODE_CUT_AT = 0.5  # share of the recording that has been sent
MARKER = "made-by-wardround-demo"
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
            start_nodes(run, nodes)
        start_all(run)
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
            _tell_to_lie(run, liar)
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
        if not poisoned and (run.edge_home(liar) / "poisoned").exists():
            run.harm_us["update-poisoned"] = (run.edge_home(liar) / "poisoned").stat().st_mtime_ns // 1_000
            run.kills.append(f"{liar} sends updates turned round, eight times as large, after round {POISON_ROUND}")
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


def _tell_to_lie(run: Run, edge: str) -> None:
    """From a round on, which the edge itself awaits: rounds that pass while another harm is done are not missed."""
    (run.edge_home(edge) / "poison").write_text(str(POISON_ROUND))
    run.expected.append(("update-poisoned", edge))


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
    inbox = Inbox(FolderStorage(run.hub_home / "inbox"), open_seal(run.hub_home))
    waiting = inbox.waiting()
    inbox.close()
    jobs = Jobs(Lake(run.hub_home / "lake"), HereRunner(), SystemClock(), run.folder / "staging", known())
    return not waiting and not jobs.plan(JOBS[f"examples-{run.plan.task}"]).parts
