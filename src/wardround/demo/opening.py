"""Brings everything up: nodes, hub, edges that join with their own tokens, and devices that play their recordings."""

from __future__ import annotations

import pickle
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from wardround.clock import SystemClock
from wardround.demo.device import PlayedDevice, PlayPlan
from wardround.demo.nodes import RehearsalNode, image_store, why_not
from wardround.demo.plan import PlannedEdge
from wardround.demo.programs import Program
from wardround.demo.run import Run
from wardround.edge import EdgeHome
from wardround.errors import WardroundError
from wardround.hub import create_home
from wardround.ports import free_port
from wardround.process.nodes import image
from wardround.records import NodeRecord
from wardround.settings import HubSettings, parse_settings
from wardround.store import Person
from wardround.trust.certificates import Authority
from wardround.trust.enrolment import join_hub
from wardround.trust.join import mint
from wardround.trust.passwords import hash_password, new_password

START_DEADLINE_S = 60.0
DEVICES_S = 210.0  # the devices give up by then, half a minute before the run does
MESSAGE_S = 10.0  # of signal in one message
NODE_BYTES = 1_200_000_000


def start_all(run: Run) -> None:
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


def start_nodes(run: Run, count: int) -> None:
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
        deadline_s=DEVICES_S,
    )
    path = run.folder / "devices-plan.json"
    path.write_bytes(msgspec.json.encode(plan))
    path.chmod(0o600)
    run.voice.event(f"devices play {longest / 60:.0f} min of signal at {plan.speed:.0f} times its speed")
    run.devices = Program("devices", ["wardround.demo.device", str(path)], run.folder / "logs" / "devices.log")
    run.devices.start()


def _groups(edges: Sequence[PlannedEdge], size: int) -> list[list[PlannedEdge]]:
    return [list(edges[i : i + size]) for i in range(0, len(edges), size)]
