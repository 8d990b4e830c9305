"""The worker's image: built once on the hub from deploy/Containerfile, and named by what is in it.

The name holds a digest of the Containerfile, the lock file and our own code, so a node never runs other code than the hub:
after an upgrade the name is another one, and the nodes get the new image.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import wardround
from wardround.errors import ProcessError

REPOSITORY = "localhost/wardround-worker"
BASE = "docker.io/library/python:3.11-slim-bookworm"
BUILD_S = 900.0
CHUNK = 1024 * 1024
SOURCES = (  # of our own code, what a worker needs and no more: relative to the package
    *("__init__.py", "clock.py", "errors.py", "ports.py", "records.py", "sketches.py"),
    *(
        f"process/{name}.py"
        for name in ("__init__", "catalogue", "lake", "lake_files", "relays", "search", "tables", "work", "worker")
    ),
    "process/transforms/*.py",
)
Say = Callable[[str], None]


def deploy_folder() -> Path:
    """Where the Containerfile is: beside the code when installed, at the top of a checkout."""
    package = Path(wardround.__file__).parent
    for folder in (package / "deploy", package.parent.parent / "deploy"):
        if (folder / "Containerfile").exists():
            return folder
    raise ProcessError("deploy/Containerfile is not here", remedy="install Wardround again, or work from a checkout")


@cache
def reference() -> str:
    """The image's name for this very code."""
    digest = hashlib.sha256()
    for path in (*(deploy_folder() / name for name in ("Containerfile", "worker.lock")), *sources()):
        digest.update(f"{path.name}\0".encode())
        digest.update(path.read_bytes())
    return f"{REPOSITORY}:{digest.hexdigest()[:12]}"


def sources() -> list[Path]:
    """Our own files that go into the image."""
    package = Path(wardround.__file__).parent
    return [path for pattern in SOURCES for path in sorted(package.glob(pattern))]


def present() -> bool:
    """Whether this machine's Podman has the image."""
    if shutil.which("podman") is None:
        return False
    with contextlib.suppress(subprocess.TimeoutExpired):
        return subprocess.run(["podman", "image", "exists", reference()], check=False, timeout=30).returncode == 0  # noqa: S603, S607
    return False


def build(*, base: str = BASE, network: bool = True, say: Say = lambda _words: None) -> str:
    """Build the image with this machine's Podman; its name. Old ones stay: their nodes may still run them.

    Args:
        base: the image to start from: anything with Python 3.11, or a base made by deploy/worker-base.
        network: False fetches the libraries beforehand with this Python's pip, and builds without a network.

    Raises:
        ProcessError: Podman is not here, or the build failed, with its last words.
    """
    if shutil.which("podman") is None:
        raise ProcessError("Podman is not installed on this machine", remedy="`apt install podman`, or see docs/operations.md")
    name = reference()
    with tempfile.TemporaryDirectory(prefix="wardround-image-") as made:
        context = Path(made)
        for file in ("Containerfile", "worker.lock"):
            shutil.copy(deploy_folder() / file, context / file)
        copy_sources(context / "wardround")
        if not network:
            say("fetching the worker's libraries")
            _pip(context)
        say(f"building {name}")
        arguments = ["podman", "build", "--quiet", "--timestamp", "0", "--build-arg", f"BASE={base}", "--tag", name]
        _run([*arguments, *([] if network else ["--network", "none"]), str(context)], "podman build")
    return name


def copy_sources(folder: Path) -> None:
    """Put our own files of the image into a folder."""
    package = Path(wardround.__file__).parent
    for path in sources():
        target = folder / path.relative_to(package)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def build_any(say: Say = lambda _words: None) -> str:
    """Build from a base made of this machine's Debian packages where that can be done, else from the registry's."""
    if shutil.which("mmdebstrap") is None or os.getuid() != 0:
        return build(say=say)
    say("making a base of Debian's Python")
    base = _run([str(deploy_folder() / "worker-base")], "worker-base").strip()
    return build(base=base, network=False, say=say)


def _pip(context: Path) -> None:
    lock, libs = str(context / "worker.lock"), str(context / "libs")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--no-compile"]
    _run([sys.executable, "-m", "pip", "install", *options, "--target", libs, "-r", lock], "pip")


def _run(arguments: list[str], what: str) -> str:
    try:
        done = subprocess.run(arguments, check=False, capture_output=True, text=True, timeout=BUILD_S)  # noqa: S603
    except subprocess.TimeoutExpired as exc:
        raise ProcessError(
            f"{what} did not end in {BUILD_S / 60:.0f} minutes", remedy="look at the network and the disk"
        ) from exc
    if done.returncode:
        words = " / ".join(line.strip() for line in done.stderr.strip().splitlines()[-3:])
        raise ProcessError(f"{what} failed: {words[-600:]}", remedy="docs/operations.md has the usual causes")
    return done.stdout


def archive(say_bytes: Callable[[int], None] = lambda _n: None) -> Iterator[bytes]:
    """The image as an archive, in pieces, from this machine's Podman; `say_bytes` gets the bytes so far.

    Raises:
        ProcessError: it is not here, or Podman ends in the middle.
    """
    if not present():
        raise ProcessError(f"the image {reference()} is not built", remedy="`wardround node build`")
    command = ["podman", "save", "--quiet", reference()]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # noqa: S603
    sent = 0
    try:
        while process.stdout is not None and (piece := process.stdout.read(CHUNK)):
            sent += len(piece)
            yield piece
            say_bytes(sent)
        if process.wait(30):
            raise ProcessError("`podman save` failed", remedy=f"try `podman save {reference()}` by hand")
    finally:
        process.kill()
        process.wait(30)
