"""A newcomer's machine: a clean container where Podman and root are there, else a new environment on this machine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
CONTAINERS = ROOT / "tests" / "nodes" / "containers.conf"
UID = 1000  # of the person in scripts/newcomer-base
KEPT = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
EXPORT = re.compile(r"^export .*$", re.MULTILINE)


def podman(*arguments: str, timeout_s: float = 120.0, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Podman, as the tests of nodes run it."""
    return subprocess.run(
        ["podman", *arguments], env=environment(), input=stdin, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def environment() -> dict[str, str]:
    """Of this process, with how Podman runs where there is no systemd."""
    return {"CONTAINERS_CONF": str(CONTAINERS)} | dict(os.environ)


def why_no_container() -> str:
    """Empty where one can be had."""
    if os.getuid() != 0:
        return "this user is not root"
    for name in ("podman", "mmdebstrap"):
        if shutil.which(name) is None:
            return f"there is no {name}"
    there = podman("info")
    return "" if there.returncode == 0 else f"Podman does not run: {there.stderr.strip()[-200:]}"


@dataclass
class Container:
    """Two runs over one folder: the installation, which may reach package registries, and all after it, which reaches nothing."""

    folder: Path  # becomes the person's home, and is where they type
    image: str = ""
    how: str = ""
    wheels: Path | None = None
    mounts: list[str] = field(default_factory=list)

    def prepare(self) -> None:
        """The image, Wardround's source as a newcomer has it, and a way to the libraries."""
        made = subprocess.run(
            [str(ROOT / "scripts" / "newcomer-base")], env=environment(), capture_output=True, text=True, timeout=600, check=False
        )
        assert made.returncode == 0, made.stderr
        self.image = made.stdout.strip()
        source = self.folder.with_name("source")
        source.mkdir()
        archive = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, timeout=60, check=True)
        for name in filter(None, archive.stdout.decode().split("\0")):
            if (ROOT / name).is_file():  # as it is here, uncommitted changes and all
                (source / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, source / name)
        self.mounts = ["--volume", f"{source}:/source:ro"]
        os.chown(self.folder, UID, UID)
        probe = "python3 -m pip download --quiet --no-deps --dest /tmp/probe h11"
        if self._run(probe, network="host", timeout_s=300).returncode == 0:
            self.how = "in a container that fetches the libraries itself"
            return
        self.wheels = self.folder.with_name("wheels")
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--dest", str(self.wheels)]
        for asked in (["--require-hashes", "-r", str(ROOT / "requirements.lock")], ["hatchling>=1.26"]):
            subprocess.run([*download, *asked], capture_output=True, timeout=900, check=True)
        self.mounts += ["--volume", f"{self.wheels}:/wheels:ro"]
        self.how = "in a container without a way to package registries: this machine handed it the libraries as wheels"

    def type(self, install: str, study: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Both halves of the page; the second in a container that has no network at all."""
        installed = self._run(install, network="none" if self.wheels else "host", timeout_s=timeout_s)
        if installed.returncode:
            return installed
        again = "\n".join(EXPORT.findall(install))  # a new terminal
        return self._run(f"{again}\n{study}", network="none", timeout_s=timeout_s)

    def _run(self, typed: str, *, network: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        name = f"wr-newcomer-{uuid.uuid4().hex[:12]}"
        asked = ["--env", "HOME=/home/newcomer", "--env", "WARDROUND_SOURCE=/source", "--env", "LANG=C.UTF-8"]
        if self.wheels:
            asked += ["--env", "PIP_NO_INDEX=1", "--env", "PIP_FIND_LINKS=/wheels"]
        else:
            for variable in KEPT:
                asked += ["--env", variable] if variable in os.environ else []
            authorities = os.environ.get("PIP_CERT") or os.environ.get("SSL_CERT_FILE")
            if authorities:  # of a proxy that this machine is behind
                asked += ["--volume", f"{authorities}:/authorities.pem:ro", "--env", "PIP_CERT=/authorities.pem"]
        command = ["run", "--rm", "--name", name, "--network", network, "--user", f"{UID}:{UID}", *asked, *self.mounts]
        command += ["--volume", f"{self.folder}:/home/newcomer", "--workdir", "/home/newcomer", self.image]
        try:
            return podman(*command, "/bin/bash", "-eu", "-o", "pipefail", "-c", typed, timeout_s=timeout_s)
        finally:
            podman("rm", "--force", "--ignore", name)


@dataclass
class Environment:
    """A new virtual environment on this machine, or, to be quick, the one that the tests run in."""

    folder: Path
    installed: bool
    how: str = "in a new environment on this machine"

    def prepare(self) -> None:
        """Nothing to do."""

    def type(self, install: str, study: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """The whole page."""
        path = "/usr/local/bin:/usr/bin:/bin"
        if self.installed:
            install, path = "", f"{Path(sys.executable).parent}:{path}"
        kept = {
            name: text for name, text in os.environ.items() if name.startswith(("PIP_", "LC_", "SSL_", "http")) or name == "LANG"
        }
        env = kept | {"HOME": str(self.folder), "PATH": path, "WARDROUND_SOURCE": str(ROOT)}
        return subprocess.run(
            ["bash", "-eu", "-o", "pipefail", "-c", f"{install}\n{study}"],
            cwd=self.folder, env=env, capture_output=True, text=True, timeout=timeout_s, check=False,
        )  # fmt: skip


def machine(folder: Path, *, whole: bool) -> Container | Environment:
    """Where the page is typed."""
    if not whole:
        return Environment(folder, installed=True)
    why = why_no_container()
    return Environment(folder, installed=False, how=f"in a new environment on this machine: {why}") if why else Container(folder)
