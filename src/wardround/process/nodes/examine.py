"""Looks at one node the way the hub will use it: the way there, its Podman, the image, a confined container, the lake."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from wardround.errors import ProcessError, WardroundError
from wardround.process.nodes import image
from wardround.process.nodes.containers import LAKE, NodeApi, NodeFacts
from wardround.process.nodes.fleet import lake_on
from wardround.process.nodes.links import make_link
from wardround.process.nodes.store_way import store_way
from wardround.process.relays import Relays
from wardround.records import Check, NodeRecord

VERSION_MIN = 4
MARK = ".wardround-lake"
STORE_S = 5.0
TRY_BYTES = 256 * 1024 * 1024
_TRY = """
import os
status = dict(line.split(":", 1) for line in open("/proc/self/status") if ":" in line)
links = [n for n in os.listdir("/sys/class/net") if n != "lo"] if os.path.isdir("/sys/class/net") else []
try:
    open("/probe", "w"); written = True
except OSError:
    written = False
limit = "0"
for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
    try:
        limit = open(path).read().strip()
    except OSError:
        continue
limit = int(limit) if limit.isdecimal() else 0
print(int(status["CapEff"], 16), status["NoNewPrivs"].strip(), os.getuid(), int(written), len(links), limit)
try:
    print(open("LAKE/MARK").read().strip())
except OSError as error:
    print("no lake:", error)
"""


def examine(
    record: NodeRecord,
    *,
    lake: str,
    hub_id: str,
    keys: Path,
    lake_options: Mapping[str, str] = MappingProxyType({}),
    say: Callable[[str], None] = lambda _words: None,
) -> Iterator[Check]:
    """What is found, one after the other; ends early when nothing more can be looked at."""
    relays = Relays()
    link = make_link(record.url, name=f"{record.name}-doctor", hub_id=hub_id, keys=keys, relays=relays)
    api: NodeApi | None = None
    try:
        say("reaching the node")
        api = NodeApi(link.open())
        facts = api.facts()
        yield Check("reached", True, record.url)
        yield from _podman(record, facts)
        say("looking for the image")
        has_image = api.has_image(image.reference())
        words = image.reference() if has_image else "not there; the hub copies it when it uses the node"
        yield Check("image", True if has_image else None, words)
        if has_image:
            say("trying a container")
            yield from _container(api, record, lake=lake, hub_id=hub_id)
        if "://" in lake:
            yield _store(lake, lake_options)
    except WardroundError as error:
        yield Check("reached" if api is None else "works", False, str(error), error.remedy)
    finally:
        if api is not None:
            api.close()
        link.close()
        relays.close_all()


def _store(lake: str, options: Mapping[str, str]) -> Check:
    """Whether a container can be led to the object store, and whether the store answers where the relay leads."""
    try:
        way = store_way(lake, options)
    except ProcessError as error:
        return Check("lake", False, str(error), error.remedy)
    assert way is not None  # noqa: S101 - it is no folder
    try:
        with socket.create_connection((way.host, way.port), STORE_S):
            pass
    except OSError as error:
        remedy = "start the store, or correct AWS_ENDPOINT_URL in processing.lake_options"
        return Check("lake", False, f"{way.host}:{way.port} does not answer: {error}", remedy)
    return Check("lake", True, f"{lake}; containers are led to {way.host}:{way.port} and nowhere else")


def _podman(record: NodeRecord, facts: NodeFacts) -> Iterator[Check]:
    major = int(facts.version.split(".")[0]) if facts.version[:1].isdigit() else 0
    found = f"{facts.version}, {facts.runtime}, {'rootless' if facts.rootless else 'root'}"
    yield Check("Podman", major >= VERSION_MIN, found, f"install Podman {VERSION_MIN} or newer")
    wanted = record.workers * record.memory_bytes
    found = f"{wanted / 1e9:.1f} GB for {record.workers} workers, of {facts.memory_bytes / 1e9:.1f} GB"
    yield Check("memory", wanted < 0.9 * facts.memory_bytes, found, "fewer workers, or less memory for each")
    enough = record.workers * record.cpus <= facts.cores
    yield Check(
        "cores", enough or None, f"{record.workers * record.cpus:g} wanted, of {facts.cores}", "more is slower, not wrong"
    )


def _container(api: NodeApi, record: NodeRecord, *, lake: str, hub_id: str) -> Iterator[Check]:
    mark, folder = secrets.token_hex(8), lake_on(record, lake)
    if folder:
        path = Path(lake) / MARK
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(mark, encoding="ascii")
        path.chmod(0o644)
    code = _TRY.replace("LAKE", LAKE).replace("MARK", MARK)
    name = f"wardround-{hub_id}-{record.name}-doctor"
    try:
        ended, out = api.run_once(
            image.reference(), code, name=name, hub=hub_id, node=f"{record.name}-doctor", lake=folder, memory_bytes=TRY_BYTES
        )
    except ProcessError as error:
        yield Check("container", False, str(error), _remedy(str(error), folder))
        return
    lines = out.splitlines()
    if ended != 0 or len(lines) < 2:
        yield Check(
            "container", False, f"exit code {ended}: {out[-200:]}", "look at the node's log: journalctl, or its service's output"
        )
        return
    capabilities, no_new, uid, written, links, limit = (int(n) for n in lines[0].split())
    confined = capabilities == 0 and no_new == 1 and uid != 0 and not written and links == 0
    yield Check(
        "confined",
        confined,
        f"user {uid}, {capabilities.bit_count()} capabilities, root {'writable' if written else 'read-only'}, {links} networks",
        "the node's Podman does not do what it was asked: update it",
    )
    limited = 0 < limit <= TRY_BYTES
    yield Check(
        "limits",
        True if limited else None,
        f"memory of a container ends at {limit / 1e6:.0f} MB of {TRY_BYTES / 1e6:.0f}"
        if limited
        else "memory is not limited here",
        "a rootless Podman limits memory and processor with cgroups v2 and delegation alone; a worker still heeds its own limit",
    )
    if folder:
        seen = lines[1] == mark
        found = f"{folder} is the hub's lake" if seen else f"{folder}: {lines[1][:120]}"
        yield Check("lake", seen, found, "mount the lake's folder there, readable by user 10001, and say where with --lake")


def _remedy(words: str, folder: str) -> str:
    if "statfs" in words or "no such file" in words.lower():
        return f"there is no {folder} on the node: mount the lake there, and say where with --lake"
    if "cgroup" in words.lower() or "memory" in words.lower():
        return "the node cannot limit memory: a rootless Podman needs cgroups v2 with delegation"
    return "try the same by hand on the node: podman run --rm --network none"
