"""docs/devices.md, typed from top to bottom at an edge that runs: what its devices sent is there, once, by every way in."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from wardround.collect.signals import load_signals
from wardround.ports import free_port

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```sh ?(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
WAIT_S = 150.0


def blocks() -> list[str]:
    """The page's, without those that need a program which is not here."""
    found = BLOCK.findall((ROOT / "docs" / "devices.md").read_text())
    return [text for program, text in found if not program or shutil.which(program)]


def edge_says(site, *words: str):
    done = subprocess.run(
        [sys.executable, "-m", "wardround.cli.main", "edge", *words, "--home", str(site.folder / "icu-a"), "--json"],
        capture_output=True, text=True, timeout=WAIT_S, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.mark.timeout(600)
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_devices_are_connected_as_the_page_says(site):
    edge = site.lone_edge("icu-a")
    toml = site.folder / "icu-a" / "edge.toml"
    toml.write_text(toml.read_text() + f'[https]\nhost = "127.0.0.1"\nport = {free_port()}\n')
    edge.start()
    ports = edge.wait_ready(WAIT_S)
    typed = blocks()
    told = {"EDGE": "127.0.0.1", "MQTT_PORT": str(ports["mqtt_port"]), "HTTPS_PORT": str(ports["https_port"])}
    path = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin"
    kept = {name: text for name, text in os.environ.items() if name.startswith("LC_") or name == "LANG"}
    done = subprocess.run(
        ["bash", "-eu", "-o", "pipefail", "-c", "\n".join(typed)],
        cwd=site.folder, env=kept | told | {"HOME": str(site.folder), "PATH": path},
        capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr + edge.tail()
    assert "Traceback" not in done.stderr
    assert re.findall(r"\} (\d{3})$", done.stdout, re.MULTILINE).count("202") == "".join(typed).count("curl ") == 5
    assert "all of it is on the edge's disk" in done.stdout
    assert "thermo-1 is revoked" in done.stdout

    until = time.monotonic() + WAIT_S
    while left := edge_says(site, "quarantine", "list")["counts"]:  # the replay is the running edge's to do
        assert time.monotonic() < until, left
    keys = {row.code: key for key, row in load_signals().rows.items()}
    came: Counter[str] = Counter()
    for hour in edge_says(site, "completeness", "--hours", "2"):
        came[keys[hour["code"]]] += hour["samples"]
    sent = {"body-temperature": 1, "heart-rate": 5, "ecg-ii": 5, "systolic": 1, "diastolic": 1}
    assert +came == sent | ({"skin-temperature": 1} if shutil.which("mosquitto_pub") else {})
