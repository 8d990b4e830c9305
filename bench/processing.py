"""Processing: what containers cost, what a second worker gives, the framework's own share, memory, pruning, start.

    python bench/processing.py [--samples 1e8] [--nodes 2] [--rounds 3] [--json]

The job is the one that feeds the model: R peaks and the features of every beat, from an ECG of 250 Hz in the lake. Beside it, in
the same run and interleaved with it: the same transform over the same files, read with Polars in one process and nothing else,
and that twice at once: no second worker can give more than a second core does, and a busy machine shows there.
Containers need root and Podman; without them that part is left out and said. Pass --samples 1e9 for the billion.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing as mp
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from wardround.clock import SystemClock
from wardround.demo.nodes import RehearsalNode, image_store, why_not
from wardround.process.catalogue import JOBS
from wardround.process.dask_runner import MALLOC, DaskRunner, Runner
from wardround.process.jobs import Jobs
from wardround.process.lake import Lake
from wardround.process.nodes import image
from wardround.process.nodes.fleet import Fleet
from wardround.process.nodes.runner import NodesRunner
from wardround.process.tables import BRONZE, observation_rows
from wardround.process.transforms import TASKS
from wardround.process.work import Known
from wardround.records import NodeRecord, Observation
from wardround.trust.certificates import Authority

JOB = JOBS["examples-ventricular-beats"]
TASK = TASKS["ventricular-beats"]
RATE_HZ, CHUNK_S, SPAN_S = 250, 10, 4 * 3600
T0 = 1_700_006_400_000_000 - 1_700_006_400_000_000 % (SPAN_S * 1_000_000)
WORKER_BYTES = 1_500_000_000


def fill(place: Path, samples: int) -> int:
    """ECGs in ten-second chunks, one subject-span of four hours after the other; how many samples."""
    lake = Lake(place)
    spans = max(2, round(samples / (SPAN_S * RATE_HZ)))
    per_commit = max(1, min(8, spans))
    chunks = SPAN_S // CHUNK_S
    for first in range(0, spans, per_commit):
        rows = []
        for span in range(first, min(spans, first + per_commit)):
            rng = np.random.default_rng(span)
            phase = (np.arange(SPAN_S * RATE_HZ) / RATE_HZ * rng.uniform(0.9, 1.4)) % 1.0
            wave = np.exp(-np.square((phase - 0.5) / 0.012) / 2) + 0.2 * np.exp(-np.square((phase - 0.75) / 0.05) / 2)
            counts = np.round((wave + rng.normal(0, 0.02, len(wave))) * 200).astype("<i2").reshape(chunks, -1)
            day_span = T0 + (span // 64) * SPAN_S * 1_000_000
            for k in range(chunks):
                t0_us = day_span + k * CHUNK_S * 1_000_000
                rows.append(
                    (
                        Observation(
                            subject=f"patient-{span % 64:03d}",
                            device="d",
                            edge="e",
                            code="mdc:131330",
                            unit="mV",
                            t0_us=t0_us,
                            t0_device_us=t0_us,
                            n=counts.shape[1],
                            period_us=1e6 / RATE_HZ,
                            values=counts[k].tobytes(),
                            scale=1 / 200,
                        ),
                        "b",
                        span * chunks + k,
                        t0_us,
                    )
                )
        lake.append(BRONZE, observation_rows(rows), app="inbox", version=first + 1)
    return spans * SPAN_S * RATE_HZ


def plain(folder: Path) -> float:
    """The same transform over the same files with Polars alone, in this process; seconds."""
    import polars as pl  # it reads its number of threads when it is imported

    started = time.perf_counter()
    files = str(folder / "lake" / BRONZE / "**" / "*.parquet")
    columns = ["subject", "t0_us", "n", "period_us", "values", "scale"]
    scan = pl.scan_parquet(files, hive_partitioning=True).select(columns)
    span_us = SPAN_S * 1_000_000
    parts = scan.select("subject", (pl.col("t0_us") // span_us).alias("span")).unique().collect().sort("span", "subject")
    made = 0
    for subject, span in parts.iter_rows():
        own = scan.filter(
            (pl.col("subject") == subject)
            & (pl.col("t0_us") >= span * span_us - JOB.margin_us)
            & (pl.col("t0_us") < (span + 1) * span_us + JOB.margin_us)
        ).collect()
        runs = [
            Observation(
                device="d", edge="e", code="mdc:131330", unit="mV", t0_device_us=0, **dict(zip(columns, row, strict=True))
            )
            for row in own.iter_rows()
        ]
        examples = TASK.examples(runs)
        made += int(((examples.t_us >= span * span_us) & (examples.t_us < (span + 1) * span_us)).sum())
    if made == 0:
        raise SystemExit("the plain run made nothing")
    return time.perf_counter() - started


class Memory:
    """The largest resident size of any process below some, sampled."""

    def __init__(self, below: Callable[[], list[psutil.Process]]) -> None:
        self.peak = 0
        self._below, self._stop = below, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.1):
            for process in self._below():
                try:
                    self.peak = max(self.peak, process.memory_info().rss)
                except psutil.Error:
                    continue


def job(folder: Path, runner: Runner, name: str) -> tuple[float, int]:
    """The job from nothing to its commit; seconds and rows."""
    lake = Lake(folder / "lake")
    lake.delete(JOB.target, "true")
    started = time.perf_counter()
    jobs = Jobs(lake, runner, SystemClock(), folder / f"staging-{name}", Known(ranges={name: (None, None)}))
    report = jobs.run(JOB)
    seconds = time.perf_counter() - started
    if report.failed or not report.rows:
        raise SystemExit(f"{name}: {report.failed[:1]}, {report.rows} rows")
    return seconds, report.rows


def nodes_up(folder: Path, count: int) -> tuple[NodesRunner, list[RehearsalNode], float, float]:
    """Nodes with a worker each; seconds until the first container runs, and until all have joined."""
    if not image.present():
        image.build_any()
    shared = image_store()
    nodes = [RehearsalNode(f"node-{i}", folder / f"n{i}", images=shared) for i in range(count)]
    for node in nodes:
        node.start()
    authority = Authority.create(folder / "pki", "bench")
    fleet = Fleet(hub_id="bench", keys=folder, authority=authority, lake=str(folder / "lake"))
    runner = NodesRunner(fleet, folder / "tls", authority)
    fleet.set_nodes([NodeRecord(n.name, n.url, 1, WORKER_BYTES, 1.0, "", False, 0) for n in nodes])
    started = time.perf_counter()
    runner.start()
    until = started + 60
    while not any(n.containers() for n in nodes) and time.perf_counter() < until:
        time.sleep(0.02)
    first = time.perf_counter() - started
    if not runner.wait_ready(60, workers=count):
        raise SystemExit(f"workers did not join: {fleet.statuses()}")
    return runner, nodes, first, time.perf_counter() - started


def pruning(lake: Lake) -> tuple[float, float]:
    """Seconds to read one subject's last hour, and to read the same columns of everything."""
    subject = "patient-000"
    last = T0 + SPAN_S * 1_000_000
    columns = ["subject", "t0_us", "values"]
    lake.read(BRONZE, columns=["n"], subjects=[subject])  # the log is read once by whoever reads
    started = time.perf_counter()
    rows = lake.read(BRONZE, columns=columns, subjects=[subject], since_us=last - 3_600_000_000, until_us=last)
    one = time.perf_counter() - started
    if rows.num_rows != 3600 // CHUNK_S:
        raise SystemExit(f"an hour is {rows.num_rows} chunks")
    started = time.perf_counter()
    lake.read(BRONZE, columns=columns)
    return one, time.perf_counter() - started


class Machine:
    """What a second core gives on this machine, whoever else works on it: the plain run once alone, and twice at once.

    Two processes stand ready, imports and all, so that a run is a run and no start.
    """

    def __init__(self, folder: Path) -> None:
        kind = mp.get_context("spawn")
        pairs = [kind.Pipe() for _ in range(2)]
        self._ends = [ours for ours, _ in pairs]
        self._processes = [kind.Process(target=_on_call, args=(folder, theirs), daemon=True) for _, theirs in pairs]
        for process in self._processes:
            process.start()

    def alone(self) -> float:
        """Seconds of one run."""
        return self._run(1)

    def twice(self) -> float:
        """Seconds until two runs at once are both done."""
        return self._run(2)

    def close(self) -> None:
        for end in self._ends:
            end.close()  # they find nobody there, and end
        for process in self._processes:
            process.join(10)

    def _run(self, count: int) -> float:
        started = time.perf_counter()
        for end in self._ends[:count]:
            end.send(None)
        for end in self._ends[:count]:
            end.recv()
        return time.perf_counter() - started


def _on_call(folder: Path, end: Any) -> None:
    with contextlib.suppress(EOFError):
        while True:
            end.recv()
            end.send(plain(folder))


def spent(processes: list[psutil.Process]) -> float:
    """Processor seconds that some processes have used so far."""
    return sum(sum(p.cpu_times()[:2]) for p in processes)


def one_run(folder: Path, samples: int) -> dict[str, Any]:
    """Two processes, once, over many samples: rate and memory."""
    filling = mp.get_context("spawn").Process(target=fill, args=(folder / "lake", samples))
    filling.start()  # in a process of its own, whose memory is not the hub's
    filling.join()
    total = Lake(folder / "lake").count(BRONZE) * CHUNK_S * RATE_HZ
    runner = DaskRunner(workers=2, memory_bytes=WORKER_BYTES)
    try:
        runner.start()
        workers, hub = [psutil.Process(pid) for pid in runner.pids], [psutil.Process()]
        with Memory(lambda: workers) as memory, Memory(lambda: hub) as own:
            seconds, rows = job(folder, runner, "one run")
    finally:
        runner.close()
    one_hour, everything = pruning(Lake(folder / "lake"))
    facts = {"last_hour_s": one_hour, "read_all_s": everything, "worker_peak_bytes": memory.peak}
    facts["hub_peak_bytes"] = own.peak
    return facts | {"samples": total, "rows": rows, "samples_per_s": total / seconds, "seconds": seconds}


def measure(folder: Path, samples: int, nodes: int, rounds: int) -> dict[str, Any]:
    """Every figure, kinds of run interleaved, medians of them; what a second core gives is asked in every round as well."""
    lake = Lake(folder / "lake")
    total = fill(folder / "lake", samples)
    one_hour, everything = pruning(lake)
    facts: dict[str, Any] = {"samples": total, "last_hour_s": one_hour, "read_all_s": everything}
    two, single = DaskRunner(workers=2, memory_bytes=WORKER_BYTES), DaskRunner(workers=1, memory_bytes=WORKER_BYTES)
    kinds: dict[str, Runner] = {"two processes": two, "one process": single}
    made: list[RehearsalNode] = []
    machine = Machine(folder)
    try:
        two.start()
        single.start()
        if nodes and not why_not():
            runner, made, facts["container_start_s"], facts["container_joined_s"] = nodes_up(folder, nodes)
            kinds["containers"] = runner
        elif nodes:
            facts["containers_left_out"] = why_not()
        workers, hub = [psutil.Process(pid) for pid in (*two.pids, *single.pids)], psutil.Process()
        runs: dict[str, Callable[[], float]] = {"plain": machine.alone, "plain twice at once": machine.twice}
        times: dict[str, list[float]] = {name: [] for name in (*kinds, *runs)}
        cpu: dict[str, list[float]] = {"workers": [], "hub": []}
        with Memory(lambda: [*workers, *_in_containers(made)]) as memory:
            for number in range(rounds + 1):
                for name, kind in kinds.items():
                    before = spent(workers), spent([hub])
                    seconds, facts["rows"] = job(folder, kind, f"{name}-{number}")
                    times[name] += [seconds] if number else []  # the first round warms caches up
                    if kind is two and number:
                        cpu["workers"].append(spent(workers) - before[0])
                        cpu["hub"].append(spent([hub]) - before[1])
                for name, run in runs.items():
                    seconds = run()
                    times[name] += [seconds] if number else []
        facts["worker_peak_bytes"] = memory.peak
    finally:
        machine.close()
        for kind in kinds.values():
            kind.close()
        for node in made:
            node.stop()
    medians = {name: statistics.median(t) for name, t in times.items()}
    facts["seconds"], facts["load"] = times, os.getloadavg()[0]
    facts["cpu_s"] = {name: statistics.median(t) for name, t in cpu.items()}
    facts["samples_per_s"] = total / medians["two processes"]
    facts["second_core"] = 2.0 * medians["plain"] / medians["plain twice at once"]
    facts["second_worker"] = medians["one process"] / medians["two processes"]
    facts["framework_share"] = 1.0 - medians["plain"] / medians["one process"]
    if "containers" in medians:
        facts["container_overhead"] = medians["containers"] / medians["two processes"] - 1.0
    return facts


def _in_containers(nodes: list[RehearsalNode]) -> list[psutil.Process]:
    return [p for node in nodes for p in node.processes() if "wardround.process.worker" in " ".join(p.cmdline())]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=float, default=3e7)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help="two processes, one run: rate and memory alone")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    wanted = {name: str(value) for name, value in {**MALLOC, "OMP_NUM_THREADS": 1, "POLARS_MAX_THREADS": 1}.items()}
    if any(os.environ.get(name) != value for name, value in wanted.items()):  # the plain run gets what workers get
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **wanted})
    with tempfile.TemporaryDirectory(prefix="wardround-bench-") as folder:
        samples = int(given.samples)
        facts = one_run(Path(folder), samples) if given.once else measure(Path(folder), samples, given.nodes, given.rounds)
    if given.json:
        print(json.dumps(facts, indent=2))
    else:
        lines = {
            "samples, rows made": f"{facts['samples']:,}, {facts['rows']:,}",
            "samples a second, two workers": f"{facts['samples_per_s']:,.0f}",
            "worker's largest size": f"{facts['worker_peak_bytes'] / 1e9:.2f} GB   (under 1.5)",
            "last hour of one subject": f"{facts['last_hour_s'] * 1e3:.0f} ms; everything {facts['read_all_s'] * 1e3:.0f} ms",
        }
        if "hub_peak_bytes" in facts:
            lines["hub's largest size"] = f"{facts['hub_peak_bytes'] / 1e9:.2f} GB"
        if "second_worker" in facts:
            own = facts["second_worker"] / facts["second_core"]
            lines["a second worker gives"] = f"{facts['second_worker']:.2f}x   (at least 1.7)"
            lines["the same work twice at once, bare"] = f"{facts['second_core']:.2f}x   (a worker gives {own:.0%} of it)"
            lines["CPU seconds: workers, hub"] = f"{facts['cpu_s']['workers']:.2f}, {facts['cpu_s']['hub']:.2f}"
            lines["load of the machine at the end"] = f"{facts['load']:.1f} on {os.cpu_count()} cores"
            lines["framework's own share"] = f"{facts['framework_share']:.1%}   (under 20 %, beside Polars and the transform)"
        if "container_overhead" in facts:
            lines["containers cost"] = f"{facts['container_overhead']:+.1%}   (at most 15 %)"
            lines["first container runs, all joined"] = f"{facts['container_start_s']:.2f} s, {facts['container_joined_s']:.2f} s"
        elif not given.once:
            lines["containers"] = f"left out: {facts.get('containers_left_out', 'not asked for')}"
        for name, value in lines.items():
            print(f"{name:34} {value}")
    sys.exit(0)


if __name__ == "__main__":
    main()
