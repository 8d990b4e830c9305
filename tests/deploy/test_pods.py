"""What `wardround deploy render` writes, played: the image of this commit; a hub and an edge as pods that join and work together.

Needs root and Podman, and minutes: `make test-deploy`.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from newcomer_under_test import ROOT, environment, podman, why_no_container
from programs_under_test import wardround
from wardround.ports import free_port
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE
from wearable_under_test import record

pytestmark = [
    pytest.mark.skipif(not os.environ.get("WARDROUND_DEPLOY"), reason="minutes, and root: make test-deploy"),
    pytest.mark.timeout(1_800),
]
USER = 10_001  # whom the image runs as
READY_S = 240.0
HUB, EDGE = "wardround-hub-hub", "wardround-edge-icu-a-edge"
HOME = "/home/wardround"


@pytest.fixture(scope="module")
def image() -> str:
    """Of what is committed, as `make image` makes it; or the one that WARDROUND_IMAGE names."""
    if why := why_no_container():
        pytest.skip(why)
    if made_before := os.environ.get("WARDROUND_IMAGE"):
        return made_before
    made = subprocess.run(
        [str(ROOT / "scripts" / "image")], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=1_200, check=False
    )
    assert made.returncode == 0, made.stdout + made.stderr
    return made.stdout.strip().splitlines()[-1]


def until(holds, what: str):
    """Its answer, once it is true."""
    end = time.monotonic() + READY_S
    while time.monotonic() < end:
        with contextlib.suppress(OSError, ValueError):
            if answer := holds():
                return answer
        time.sleep(0.5)
    shown = "".join(f"\n{c}:\n{podman('logs', '--tail', '30', c).stderr}" for c in (HUB, EDGE))
    raise AssertionError(f"not within {READY_S:.0f} s: {what}{shown}")


def ready(home: Path):
    return until(lambda: json.loads((home / "ready.json").read_text()), f"{home.name} is ready")


def play(home: Path, out: Path, image: str) -> Path:
    """Render, and play the pod; the file."""
    made = json.loads(need("deploy", "render", "--home", str(home), "--out", str(out), "--image", image, "--json"))
    (kube,) = [Path(f) for f in made["files"] if f.endswith(".kube.yaml")]
    subprocess.run(["chown", "-R", f"{USER}:{USER}", str(home)], check=True)
    played = podman("kube", "play", "--network", "podman", str(kube))  # where its gateway is the hub's address
    assert played.returncode == 0, played.stderr
    return kube


def need(*words: str, stdin: str = "") -> str:
    done = wardround(*words, stdin=stdin)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def inspected(container: str) -> dict:
    (facts,) = json.loads(podman("container", "inspect", container).stdout)
    return facts


def typed(container: str, *words: str, stdin: str = "") -> str:
    """A command typed in a pod, as docs/operations.md says."""
    done = podman("exec", "--interactive", container, "python", "-m", "wardround.cli.main", *words, stdin=stdin)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def joins(image: str, home: Path, token: str) -> None:
    """In a container, too: what this machine sends to a published port may go another way than what containers send."""
    home.mkdir()
    os.chown(home, USER, USER)
    command = ["run", "--rm", "--interactive", "--read-only", "--tmpfs", "/tmp", "--volume", f"{home}:{HOME}", image]
    joined = podman(*command, "edge", "join", "-", "--home", HOME, "--mqtt-port", str(free_port()), stdin=f"{token}\n")
    assert joined.returncode == 0, joined.stdout + joined.stderr


def goes_through(hub: Path, edge: Path) -> None:
    """What is imported in the edge's pod comes to the lake of the hub's."""
    record(edge)
    typed(EDGE, "edge", "import", "recording.hea", "--patient", "P1", "--device", "holter-1", "--home", HOME)
    until(lambda: stored(hub) == 1, "what the edge imported is in the hub's lake")


def stored(hub: Path) -> int:
    """Runs in the lake, once there is one."""
    return Lake(hub / "lake").read(BRONZE, columns=["subject"]).num_rows if (hub / "lake" / BRONZE).is_dir() else 0


def test_a_hub_and_an_edge_as_pods_join_and_what_one_is_given_comes_to_the_other(image, tmp_path):
    gateway = json.loads(podman("network", "inspect", "podman").stdout)[0]["subnets"][0]["gateway"]
    hub, edge, out = tmp_path / "hub", tmp_path / "icu-a", tmp_path / "units"
    need("hub", "init", "--home", str(hub), "--host", gateway)
    with (hub / "hub.toml").open("a") as file:
        file.write("heartbeat_s = 1.0\n")
        file.write("".join(f'[{part}]\nhost = "0.0.0.0"\nport = {free_port()}\n' for part in ("grpc", "enrolment", "console")))
        file.write('[log]\nfile = "log/hub.log"\njson = true\n')
    pods: list[Path] = []
    try:
        pods.append(play(hub, out, image))
        ready(hub)
        token = json.loads(typed(HUB, "hub", "invite", "icu-a", "--home", HOME, "--json"))["token"]
        joins(image, edge, token)
        need("edge", "device", "patch-1", "--patient", "P1", "--consent", "raw", "--home", str(edge))
        pods.append(play(edge, out, image))
        ready(edge)
        goes_through(hub, edge)

        for container in (HUB, EDGE):
            facts = inspected(container)
            assert facts["Config"]["User"] == f"{USER}:{USER}"
            assert facts["HostConfig"]["ReadonlyRootfs"] is True
        lines = (hub / "log" / "hub.log").read_text().splitlines()
        assert "hub runs" in [json.loads(line)["event"] for line in lines]
    finally:
        for kube in pods:
            podman("kube", "down", str(kube))
