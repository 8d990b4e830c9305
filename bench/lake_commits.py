"""What a commit to the lake costs as they go on, and what the hub holds of them: CPU a commit, and memory.

    python bench/lake_commits.py [--commits 600] [--patients 200] [--json]

One commit is one value of every patient, after which a job looks for the rows that are new, as in a hub whose edges never rest.
Three ways in the same run, each in a process of its own: as delta-rs comes; with small files put together (process/upkeep.py);
and with that and its allocator told to give back what it frees (memory.py), as the hub runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

WAYS = {"as it comes": (), "put together": ("tidy",), "as the hub runs": ("tidy", "little")}
STEP = 100


def measure(commits: int, patients: int, *, tidy: bool, little: bool) -> list[tuple[int, float, float]]:
    """After every hundred commits: how many, milliseconds of CPU each of them cost, and MB held."""
    if little:
        from wardround.memory import hold_little

        hold_little()
    import psutil

    from wardround.memory import give_back
    from wardround.process.lake import Lake
    from wardround.process.tables import BRONZE, DAY_US, observation_rows
    from wardround.process.upkeep import Tidying
    from wardround.records import Observation

    def reading(patient: int, number: int) -> Observation:
        t_us = 20_000 * DAY_US + number * 1_000_000
        return Observation(
            subject=f"P-{patient}",
            device=f"d-{patient}",
            edge="e",
            code="loinc:8867-4",
            unit="/min",
            t0_us=t_us,
            t0_device_us=t_us,
            t_edge_us=t_us,
            value=60.0,
            device_boot="b",
            device_seq=number,
        )

    process, found = psutil.Process(), []
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        tidying = Tidying(lake)
        before_s = sum(process.cpu_times()[:2])
        for number in range(1, commits + 1):
            rows = observation_rows((reading(patient, number), "b", number, 0) for patient in range(patients))
            lake.append(BRONZE, rows, app="inbox", version=number)
            lake.read(BRONZE, subjects=["P-1"], made_after=number - 1)
            if tidy:
                tidying.look()
            if number % STEP == 0:
                give_back()
                now_s = sum(process.cpu_times()[:2])
                found.append((number, (now_s - before_s) / STEP * 1e3, process.memory_info().rss / 1e6))
                before_s = now_s
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--commits", type=int, default=600)
    parser.add_argument("--patients", type=int, default=200)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        ways = WAYS[options.way]
        print(json.dumps(measure(options.commits, options.patients, tidy="tidy" in ways, little="little" in ways)))
        return
    clean = {name: value for name, value in os.environ.items() if name != "_RJEM_MALLOC_CONF"}
    found = {}
    for way in WAYS:
        command = [sys.executable, str(Path(__file__)), "--way", way, "--commits", str(options.commits)]
        done = subprocess.run(
            [*command, "--patients", str(options.patients)], check=True, capture_output=True, text=True, env=clean, timeout=3_600
        )
        found[way] = json.loads(done.stdout.splitlines()[-1])
        if not options.json:
            print(f"{way}:", flush=True)
            for number, milliseconds, megabytes in found[way]:
                print(f"  {number:5d} commits  {milliseconds:6.0f} ms of CPU each  {megabytes:5.0f} MB held", flush=True)
    if options.json:
        print(json.dumps(found))


if __name__ == "__main__":
    main()
