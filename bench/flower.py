"""The same Flower apps over Wardround edges and on Flower's own deployment runtime, one after the other in one run.

    python bench/flower.py [--edges 3] [--rounds 10] [--flower-python .venv/flower/bin/python] [--json]

The apps of tests/flower_apps: after Flower's quickstart-numpy with FedAvg, Krum, FedTrimmedAvg and FedAdam, and a NumPyClient
with the older server; training costs nothing, so what is left is the runtime's own time. A round is train and evaluate, as the
apps themselves see it. Wardround: `wardround hub run` and an `edge run` for each edge, mutual TLS 1.3, replies on disk before
their receipt, triage. Flower: a SuperLink and a SuperNode for each edge, in the clear, in memory, one round of each app (a
process is started for every message, so no round is warmer than another), as far as FLOWER_S goes. Both on this machine, its
cores shared by all processes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wardround.clock import SystemClock
from wardround.demo.programs import Program
from wardround.hub import create_home
from wardround.ports import free_port
from wardround.settings import HubSettings, parse_settings
from wardround.store import open_store
from wardround.trust.certificates import Authority
from wardround.trust.enrolment import join_hub
from wardround.trust.join import mint

APPS = Path(__file__).parents[1] / "tests" / "flower_apps"
STRATEGIES = ("fedavg", "krum", "trimmed", "fedadam")
LEGACY = "NumPyClient, flwr.server"
RATIO_MIN = 20.0
READY_S, APP_S = 60.0, 60.0
FLOWER_S = 95.0  # Flower's share of the two minutes; a strategy that it does not come to is left out, and said so
Rounds = dict[str, list[float]]


class Wardround:
    """A hub and its edges, as an operator starts them."""

    def __init__(self, folder: Path, edges: int, flower_python: str) -> None:
        self.home, self._folder, self._python = folder / "hub", folder, flower_python
        ports = {name: free_port() for name in ("grpc", "enrolment", "console")}
        text = 'site = "Bench"\n' + "".join(f"[{name}]\nport = {port}\n" for name, port in ports.items())
        create_home(self.home, text, parse_settings(text, HubSettings, where="bench")).close()
        arguments = ["wardround.cli.main", "hub", "run", "--home", str(self.home)]
        hub = Program("hub", arguments, folder / "hub.log", self.home / "ready.json")
        self.programs = [hub]
        hub.start()
        hub.wait_ready(READY_S)
        for i in range(edges):
            self.programs.append(self._edge(f"edge-{i}", i, ports["enrolment"]))
        for program in self.programs[1:]:
            program.start()
        for program in self.programs[1:]:
            program.wait_ready(READY_S)

    def _edge(self, name: str, partition: int, port: int) -> Program:
        home = self._folder / name
        store = open_store(self.home / "hub.sqlite")
        pin = Authority.load(self.home / "pki").fingerprint
        joined = join_hub(mint(store, SystemClock(), name=name, host="127.0.0.1", port=port, pin=pin), home)
        store.close()
        (home / "edge.toml").write_text(
            f'name = "{name}"\nhub_host = "{joined.hub_host}"\nhub_port = {joined.hub_port}\n[mqtt]\nport = {free_port()}\n'
            f'[flower]\npython = "{self._python}"\napps = "{APPS}"\n[flower.node_config]\npartition-id = {partition}\n'
        )
        arguments = ["wardround.cli.main", "edge", "run", "--home", str(home)]
        return Program(name, arguments, self._folder / f"{name}.log", home / "ready.json")

    def run(self, app: str, config: str) -> None:
        """Run an app to its end."""
        arguments = ["flower", "run", str(APPS / app), "--home", str(self.home), "--python", self._python, "-c", config]
        command = [sys.executable, "-m", "wardround.cli.main", *arguments]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=APP_S)
        if done.returncode:
            raise RuntimeError(
                f"{app} over Wardround ended with {done.returncode}:\n{done.stdout[-2_000:]}{done.stderr[-4_000:]}"
            )

    def stop(self) -> None:
        """End every program."""
        for program in reversed(self.programs):
            program.stop()


class Flower:
    """A SuperLink and its SuperNodes, as Flower's documentation starts them."""

    def __init__(self, folder: Path, edges: int, flower_python: str) -> None:
        self._folder, self._bin = folder, Path(flower_python).parent
        self._environment = {
            **os.environ,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(folder / "home"),
            "PATH": f"{self._bin}:{os.environ['PATH']}",
        }
        port = free_port()
        (folder / "home").mkdir(parents=True)
        (folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "bench"\n[superlink.bench]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        link = ["flower-superlink", "--insecure", "--disable-runtime-dependency-installation", "--port", str(port)]
        self._processes = [self._start("superlink", *link)]
        time.sleep(6)  # it says nowhere that it listens
        for i in range(edges):
            node = ["flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(free_port())]
            self._processes.append(self._start(f"node-{i}", *node, "--node-config", f"partition-id={i}"))

    def _start(self, name: str, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        with (self._folder / f"{name}.log").open("ab") as out:
            return subprocess.Popen(
                [self._bin / program, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    def run(self, app: str, config: str, out: Path, results: int, until_s: float) -> None:
        """Run an app until it has written so many results, or the time is over."""
        copy = shutil.copytree(APPS / app, self._folder / app, ignore=shutil.ignore_patterns("__pycache__"))
        command = [str(self._bin / "flwr"), "run", str(copy), "bench", "--run-config", config]
        subprocess.run(command, check=True, capture_output=True, timeout=APP_S, env=self._environment)
        while len(_results(out)) < results and time.monotonic() < until_s:
            time.sleep(0.1)

    def stop(self) -> None:
        """End every process, with what each has started."""
        for process in reversed(self._processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _results(out: Path) -> list[dict[str, Any]]:
    """What an app has written so far."""
    try:
        written = json.loads(out.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return []
    return written if isinstance(written, list) else [{"strategy": LEGACY, **written}]


def _rounds(out: Path) -> Rounds:
    """Seconds of each round, by strategy."""
    found: Rounds = {}
    for result in _results(out):
        times = [t for _, t in result["marks"]]
        found[result["strategy"]] = [after - before for before, after in itertools.pairwise(times)]
    return found


def on_wardround(folder: Path, edges: int, rounds: int, flower_python: str) -> Rounds:
    """Every app over Wardround edges; the first round of the first app starts the apps' processes and is left out."""
    folder.mkdir()
    wardround = Wardround(folder, edges, flower_python)
    found: Rounds = {}
    try:
        for app, more in (("ward-numpy", f" strategy='{' '.join(STRATEGIES)}'"), ("ward-legacy", "")):
            out = folder / f"{app}.json"
            wardround.run(app, f'num-server-rounds={rounds + 1} nodes={edges} out="{out}"{more}')
            found |= {strategy: seconds[1:] for strategy, seconds in _rounds(out).items()}
    finally:
        wardround.stop()
    return found


def on_flower(folder: Path, edges: int, flower_python: str) -> Rounds:
    """One round of every app on Flower's own runtime."""
    folder.mkdir()
    until_s = time.monotonic() + FLOWER_S
    flower = Flower(folder, edges, flower_python)
    found: Rounds = {}
    apps = (("ward-legacy", "", 1), ("ward-numpy", f" strategy='{' '.join(STRATEGIES)}'", len(STRATEGIES)))
    try:
        for app, more, results in apps:
            out = folder / f"{app}.json"
            flower.run(app, f'num-server-rounds=1 nodes={edges} out="{out}"{more}', out, results, until_s)
            found |= _rounds(out)
    finally:
        flower.stop()
    return found


def compared(ours: Rounds, theirs: Rounds) -> dict[str, Mapping[str, float]]:
    """Median seconds a round of each, and the ratio."""
    table: dict[str, Mapping[str, float]] = {}
    for name in (n for n in (*STRATEGIES, LEGACY) if n in theirs):
        a, b = statistics.median(ours[name]), statistics.median(theirs[name])
        table[name] = {"wardround_s": a, "wardround_s_max": max(ours[name]), "flower_s": b, "ratio": b / a}
    return table


def main() -> int:
    """Measure, print, and end with 1 when a ratio is not reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edges", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--flower-python", default=str(Path(sys.prefix) / "flower" / "bin" / "python"))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    if not Path(given.flower_python).exists():
        print(f"no Flower at {given.flower_python}: make .venv/flower/.ready", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        ours = on_wardround(Path(folder) / "wardround", given.edges, given.rounds, given.flower_python)
        theirs = on_flower(Path(folder) / "flower", given.edges, given.flower_python)
    table = compared(ours, theirs)
    if given.json:
        print(json.dumps({"edges": given.edges, "rounds": given.rounds, "ratio_min": RATIO_MIN, "rounds_of": table}))
    else:
        print(f"{given.edges} edges, a round of train and evaluate; Wardround with mutual TLS, Flower 1.42 without TLS")
        print(f"{'':26}{'Wardround':>11}{'(slowest)':>11}{'Flower':>10}{'ratio':>8}")
        for name, row in table.items():
            ours_s, slowest = row["wardround_s"], row["wardround_s_max"]
            print(f"  {name:24}{ours_s * 1e3:8.0f} ms{slowest * 1e3:8.0f} ms{row['flower_s']:8.1f} s{row['ratio']:7.0f}x")
        for name in ours:
            if name not in table:
                print(f"  {name:24}{statistics.median(ours[name]) * 1e3:8.0f} ms   Flower did not come to it in {FLOWER_S:.0f} s")
        print(f"  to reach{RATIO_MIN:55.0f}x")
    return 0 if table and min(row["ratio"] for row in table.values()) >= RATIO_MIN else 1


if __name__ == "__main__":
    sys.exit(main())
