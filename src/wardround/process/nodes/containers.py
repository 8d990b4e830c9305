"""Podman's API, and nothing else of the code speaks to it: what a node is, its images, and its worker containers.

Measured against Podman 4.3.1 with podman-py 5.8: a list of ulimits replaces the node's own, so both that a rootless node
needs are given; `remove(force)` waits ten seconds for a process 1 that ignores SIGTERM, so it is killed first.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import requests
from podman import PodmanClient
from podman.errors import APIError, NotFound, PodmanError

from wardround.errors import ProcessError
from wardround.ports import LOOPBACK
from wardround.process.relays import STORE, STORE_AUTHORITIES

CALL_S = 30.0
LOAD_S = 600.0
HUB_LABEL, NODE_LABEL = "wardround.hub", "wardround.node"
WORKER_UID = 10_001  # as deploy/Containerfile makes it
LAKE = "/lake"  # where a container sees the lake
FILES = ("ca.pem", "worker.pem", "worker.key", STORE, STORE_AUTHORITIES)  # of /certs, as deploy/Containerfile makes them
LOW_PORT = 1_024
PIDS_MAX = 256
LOOP_SHARE = 1.25  # a worker's task has its cores; what speaks to the hub beside it is not to throttle it
TMP_BYTES = 256 * 1024 * 1024
OPEN_FILES, PROCESSES = 1_024, 1_000
KILLED = 137
_ULIMITS = [
    {"Name": "nofile", "Soft": OPEN_FILES, "Hard": OPEN_FILES},
    {"Name": "nproc", "Soft": PROCESSES, "Hard": PROCESSES},
]


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What a node's Podman says of itself."""

    version: str
    rootless: bool
    cores: int
    memory_bytes: int
    runtime: str


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One worker container."""

    name: str
    image: str
    hub: str
    node: str
    contact: str  # the address at which the hub reaches the worker
    link: str  # folder on the node with the sockets
    lake: str  # folder on the node, or "" when the lake is an object store
    memory_bytes: int
    cpus: float
    files: dict[str, bytes] = field(repr=False)  # by the names of FILES
    store_name: str = ""  # of an object store that is to be found on the container's own loopback
    store_port: int = 0


class NodeApi:
    """One node's Podman. Used by one thread at a time.

    Every method raises ProcessError when Podman refuses or does not answer, with what it said.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._client: Any = PodmanClient(base_url=url, timeout=CALL_S)

    def close(self) -> None:
        """Close the connection."""
        with contextlib.suppress(Exception):
            self._client.close()

    def facts(self) -> NodeFacts:
        """Who is there."""
        with _said("asking for its facts"):
            info: dict[str, Any] = self._client.info()
        host, version = info["host"], info["version"]
        return NodeFacts(
            version=str(version.get("Version", "?")),
            rootless=bool(host["security"]["rootless"]),
            cores=int(host["cpus"]),
            memory_bytes=int(host["memTotal"]),
            runtime=str(host["ociRuntime"]["name"]),
        )

    # -- images

    def has_image(self, reference: str) -> bool:
        """Whether the image is there."""
        with _said("looking for the image"):
            return bool(self._client.images.exists(reference))

    def load_image(self, archive: Iterable[bytes]) -> None:
        """Take in an image archive as it comes."""
        with _said("loading the image"), PodmanClient(base_url=self._url, timeout=LOAD_S) as client:
            pieces: Any = iter(archive)  # sent in chunks, as they come
            answer = client.api.post("/images/load", data=pieces, headers={"Content-type": "application/x-tar"}, timeout=LOAD_S)
            answer.raise_for_status()

    def prune_images(self, repository: str, keep: str) -> int:
        """Remove older images of a repository that no container uses; how many."""
        removed = 0
        with _said("looking at its images"):
            tags = [tag for image in self._client.images.list() for tag in image.tags]
        for tag in tags:
            if tag.startswith(f"{repository}:") and tag != keep:
                with contextlib.suppress(APIError, PodmanError):  # in use: another hub's, or another version's
                    self._client.images.remove(tag)
                    removed += 1
        return removed

    # -- workers

    def start_worker(self, spec: WorkerSpec) -> None:
        """Create and start a worker container; nothing of it stays when that fails."""
        secrets = self._put_secrets(spec)
        mounts: list[dict[str, Any]] = [
            {"type": "tmpfs", "source": "tmpfs", "target": "/tmp", "size": str(TMP_BYTES)},  # noqa: S108
            {"type": "bind", "source": spec.link, "target": "/link", "read_only": False},
        ]
        if spec.lake:
            mounts.append({"type": "bind", "source": spec.lake, "target": LAKE, "read_only": True})
        try:
            with _said(f"starting {spec.name}"):
                container = self._client.containers.create(
                    spec.image,
                    command=["--name", spec.name, "--contact", spec.contact, "--memory", str(_usable(spec.memory_bytes))],
                    name=spec.name,
                    labels={HUB_LABEL: spec.hub, NODE_LABEL: spec.node},
                    secrets=secrets,
                    mounts=mounts,
                    cpu_period=100_000,
                    cpu_quota=round(spec.cpus * LOOP_SHARE * 100_000),
                    **_store(spec),
                    **_confined(spec.memory_bytes),
                )
                container.start()
        except ProcessError:
            self.remove(spec.name)
            raise

    def exit_code(self, name: str) -> int | None:
        """None while a container runs; its exit code when it has ended; -1 when it is gone."""
        with _said(f"looking at {name}"):
            try:
                state = self._client.containers.get(name).attrs["State"]
            except NotFound:
                return -1
        return None if state.get("Running") else int(state.get("ExitCode", -1))

    def last_words(self, name: str, lines: int = 3) -> str:
        """The end of a container's output."""
        with _said(f"reading {name}"):
            try:
                out = b"".join(self._client.containers.get(name).logs(stdout=True, stderr=True, tail=lines))
            except NotFound:
                return ""
        return out.decode(errors="replace").strip()[-500:]

    def containers(self, hub: str, node: str) -> list[str]:
        """Names of a hub's containers on this node, ended ones as well."""
        with _said("listing containers"):
            found = self._client.containers.list(all=True, filters={"label": f"{HUB_LABEL}={hub}"})
        return sorted(c.name for c in found if c.labels.get(NODE_LABEL) == node)

    def kill(self, name: str) -> None:
        """End a container at once; one that is not there is no error."""
        with _said(f"ending {name}"), contextlib.suppress(APIError):  # NotFound is one of them
            self._client.containers.get(name).kill()

    def remove(self, name: str) -> None:
        """Remove a container and its secrets."""
        with _said(f"removing {name}"):
            with contextlib.suppress(NotFound):
                container = self._client.containers.get(name)
                with contextlib.suppress(APIError):  # it has ended already
                    container.kill()
                container.remove(force=True)
            for file in FILES:
                with contextlib.suppress(APIError):
                    self._client.secrets.remove(_secret(name, file))

    def run_once(
        self, image: str, code: str, *, name: str, hub: str, node: str, lake: str, memory_bytes: int, link: str = ""
    ) -> tuple[int, str]:
        """Run a line of Python in a container confined like a worker; its exit code and its output."""
        places = ((lake, LAKE, True), (link, "/link", False))
        mounts = [{"type": "bind", "source": s, "target": t, "read_only": ro} for s, t, ro in places if s]
        try:
            with _said("trying a container"):
                container = self._client.containers.create(
                    image,
                    entrypoint=["/usr/local/bin/python", "-c", code],
                    command=[],
                    name=name,
                    labels={HUB_LABEL: hub, NODE_LABEL: node},
                    mounts=mounts,
                    **_confined(memory_bytes),
                )
                container.start()
                code_ = int(container.wait())
                out = b"".join(container.logs(stdout=True, stderr=True)).decode(errors="replace").strip()
                return code_, out
        finally:
            self.remove(name)

    def _put_secrets(self, spec: WorkerSpec) -> list[dict[str, Any]]:
        made: list[dict[str, Any]] = []
        with _said("handing over certificates"):
            for file, data in spec.files.items():
                name = _secret(spec.name, file)
                with contextlib.suppress(APIError):
                    self._client.secrets.remove(name)
                self._client.secrets.create(name, data)
                # an absolute target that is in the image: under a read-only root nothing else can be made
                target = f"/certs/{file}"
                made.append({"source": name, "target": target, "uid": WORKER_UID, "gid": WORKER_UID, "mode": 0o400})
        return made


def _confined(memory_bytes: int) -> dict[str, Any]:
    return {
        "read_only": True,
        "cap_drop": ["ALL"],
        "no_new_privileges": True,  # podman-py drops the same word under security_opt
        "network_mode": "none",
        "mem_limit": memory_bytes,
        "memswap_limit": memory_bytes,
        "pids_limit": PIDS_MAX,
        "ulimits": _ULIMITS,
    }


def _usable(memory_bytes: int) -> int:
    """What Dask may fill before it stops taking tasks: the container's limit also holds /tmp and the interpreter."""
    return round(memory_bytes * 0.9)


def _store(spec: WorkerSpec) -> dict[str, Any]:
    """The object store's name leads to the container's own loopback, where the worker may open a port as low as the store's."""
    found: dict[str, Any] = {"extra_hosts": {spec.store_name: LOOPBACK}} if spec.store_name else {}
    if 0 < spec.store_port < LOW_PORT:
        found["sysctls"] = {"net.ipv4.ip_unprivileged_port_start": str(spec.store_port)}  # of its own network alone
    return found


def _secret(container: str, file: str) -> str:
    return f"{container}-{file.replace('.', '-')}"


@contextlib.contextmanager
def _said(doing: str) -> Iterator[None]:
    """Podman's refusals, in our words."""
    try:
        yield
    except NotFound:
        raise
    except APIError as exc:
        words = str(exc.explanation or exc).strip()
        if "no space left" in words.lower():
            raise ProcessError(f"the node's disk is full, while {doing}", remedy="free 1.5 GB there, for the image") from exc
        remedy = "see `wardround node doctor NAME`"
        raise ProcessError(f"Podman refused while {doing}: {words[:300]}", remedy=remedy) from exc
    except (PodmanError, requests.RequestException, OSError, KeyError, ValueError) as exc:
        raise ProcessError(f"no answer from Podman while {doing}: {str(exc)[:200]}", remedy="is its service running?") from exc
