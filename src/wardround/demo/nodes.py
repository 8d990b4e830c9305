"""Nodes for a rehearsal: Podman services on this machine, each with a store and an API of its own, as on machines apart."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from wardround.errors import WardroundError

READY_S = 15.0
ASK_S = 60.0
# What a machine without systemd, with mixed cgroups, and without the right to raise limits needs; any other has it anyway.
# Locks are files of each node: in shared memory, all nodes of one machine would have the same, and a lock whose holder is killed
# is given back there by kernels that know robust futexes alone.
CONTAINERS_CONF = """\
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1000:1000"]
log_driver = "k8s-file"
[engine]
runtime = "runc"
lock_type = "file"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


def why_not() -> str:
    """Why no node can be made here; empty when one can."""
    missing = [name for name in ("podman", "runc") if shutil.which(name) is None]
    if missing:
        return f"{' and '.join(missing)} not installed (apt install podman runc)"
    return "" if os.getuid() == 0 else "Podman services with a store of their own need root"


@dataclass
class RehearsalNode:
    """One Podman service: its store, its socket, its process."""

    name: str
    folder: Path
    images: str = ""  # a store whose images it also sees, so that nothing need be copied
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    short: Path = field(default_factory=lambda: Path(tempfile.mkdtemp(prefix="wr-")))  # Podman and sockets want short paths

    @property
    def socket(self) -> Path:
        """Where its API is."""
        return self.short / "podman.sock"

    @property
    def url(self) -> str:
        """Its address."""
        return f"unix://{self.socket}"

    def start(self) -> None:
        """Start the service, and wait for its socket.

        Raises:
            WardroundError: it does not come up.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.socket.unlink(missing_ok=True)
        with (self.folder / "service.log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603
                [*self._podman(), "system", "service", "--time=0", self.url],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment(self.folder),
                cwd=self.folder,  # where a container's monitor leaves a file when memory runs out
                start_new_session=True,
            )
        until = time.monotonic() + READY_S
        while not self.socket.exists():
            if self.process.poll() is not None or time.monotonic() > until:
                words = (self.folder / "service.log").read_text(errors="replace").strip()[-300:]
                raise WardroundError(f"node {self.name} does not come up: {words}", remedy="try `podman info`")
            time.sleep(0.05)

    def processes(self) -> Iterator[psutil.Process]:
        """The service, and every container of it with its monitor: found by the folder they name, and their children."""
        for process in psutil.process_iter(["cmdline"]):
            line = process.info["cmdline"] or []
            if any(str(self.folder) in part for part in line):
                with contextlib.suppress(psutil.NoSuchProcess):
                    yield from process.children(recursive=True)
                yield process

    def power_cut(self) -> None:
        """SIGKILL to everything at once: no one has time for a last word."""
        for process in list(self.processes()):
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait(10)

    def containers(self) -> list[str]:
        """Names of its containers, ended ones as well."""
        done = self._ask("ps", "--all", "--format", "{{.Names}}")
        return done.stdout.decode().split()

    def stop(self) -> None:
        """End it and everything in it, and remove its store."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._ask("rm", "--all", "--force", "--time", "0")
        self.power_cut()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._ask("system", "reset", "--force") if not self.images else None
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.rmtree(self.short, ignore_errors=True)

    def _ask(self, *words: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(  # noqa: S603
            [*self._podman(), *words], check=False, capture_output=True, timeout=ASK_S, env=environment(self.folder)
        )

    def _podman(self) -> list[str]:
        places = {"root": "store", "runroot": "run", "network-config-dir": "net", "tmpdir": "tmp"}
        where = {flag: (self.short if flag == "runroot" else self.folder) / place for flag, place in places.items()}
        flags = [part for flag, path in where.items() for part in (f"--{flag}", str(path))]
        more = ["--storage-opt", f"overlay.imagestore={self.images}"] if self.images else []
        return ["podman", *flags, *more]


def environment(folder: Path) -> dict[str, str]:
    """The environment of a service, with containers.conf unless the machine's owner has set one."""
    if "CONTAINERS_CONF" in os.environ:
        return dict(os.environ)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "containers.conf"
    path.write_text(CONTAINERS_CONF)
    return {**os.environ, "CONTAINERS_CONF": str(path)}


def image_store() -> str:
    """The folder of this machine's own images."""
    command = ["podman", "info", "--format", "{{.Store.GraphRoot}}"]
    done = subprocess.run(command, check=False, capture_output=True, timeout=ASK_S)  # noqa: S603
    return done.stdout.decode().strip()
