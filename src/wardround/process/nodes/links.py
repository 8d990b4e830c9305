"""The way to a node: its Podman's API as a local Unix socket, and a folder on the node for the sockets of its workers.

A node on this machine is reached directly. A remote one is reached over one OpenSSH connection that we keep: it carries the
API, and for each worker one forward in each direction, so nothing on the node listens on a network and nobody needs a route
to the hub. The host key must be known beforehand (`wardround node add` shows it): it is never taken on trust later.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from wardround.errors import ProcessError, SettingsError
from wardround.ports import LOOPBACK, free_port
from wardround.process.relays import Place, Relays
from wardround.trust.certificates import write_private

COMMAND_S = 20.0
CONNECT_S = 10
ALIVE_S, ALIVE_COUNT = 5, 3  # a dead connection is noticed after their product
PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,250}")
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,250}")
_FOLDER = """\
set -e
if [ "$(id -u)" = 0 ]; then base=/run/wardround; else base="${XDG_RUNTIME_DIR:-$HOME/.cache}/wardround"; fi
umask 077; rm -rf "$base/NAME"; mkdir -p "$base/NAME"; echo "$base/NAME"
"""
_SOCKET = 'if [ "$(id -u)" = 0 ]; then echo /run/podman/podman.sock; else echo "/run/user/$(id -u)/podman/podman.sock"; fi'


@dataclass(frozen=True, slots=True)
class WorkerLink:
    """One worker's sockets: the folder on the node, and the port of our loopback at which we reach the worker."""

    folder: str
    port: int


class Link(Protocol):
    """A connection to a node. Used by one thread at a time."""

    def open(self) -> str:
        """Connect; the URL of the Podman API.

        Raises:
            ProcessError: the node cannot be reached.
        """
        ...

    def alive(self) -> bool:
        """Whether the connection still stands."""
        ...

    def open_worker(self, name: str, scheduler_port: int, store: Place | None = None) -> WorkerLink:
        """A folder with the ways of one worker; `store` is the object store it is to reach."""
        ...

    def close_worker(self, name: str) -> None:
        """Remove them."""
        ...

    def close(self) -> None:
        """Remove everything of ours."""
        ...


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """What a node's URL says."""

    scheme: str
    path: str = ""
    user: str = ""
    host: str = ""
    port: int = 0


def parse_address(url: str) -> NodeAddress:
    """Read a node's URL.

    Raises:
        SettingsError: it is none of the three kinds, or would leave the API open to others.
    """
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as exc:
        raise SettingsError(f"{url!r}: {exc}", remedy="a port is a number up to 65535") from exc
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return NodeAddress("unix", path=parts.path)
    if parts.scheme == "tcp" and parts.hostname and port:
        if parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise SettingsError(
                f"{url!r}: Podman's API over tcp has neither encryption nor a password",
                remedy=f"use ssh://USER@{parts.hostname} instead; tcp:// is for this machine alone",
            )
        return NodeAddress("tcp", host=parts.hostname, port=port)
    if parts.scheme == "ssh" and parts.hostname:
        user = parts.username or ""
        if (user and not PLAIN.fullmatch(user)) or not ADDRESS.fullmatch(parts.hostname):
            raise SettingsError(f"{url!r}: not a user and host name", remedy="write ssh://USER@HOST")
        return NodeAddress("ssh", path=parts.path.rstrip("/"), user=user, host=parts.hostname, port=port or 22)
    raise SettingsError(
        f"{url!r} is not a node's address",
        remedy="write unix:///run/podman/podman.sock, ssh://USER@HOST, or tcp://127.0.0.1:PORT",
    )


def make_link(url: str, *, name: str, hub_id: str, keys: Path, relays: Relays) -> Link:
    """The link for a URL; `keys` is the hub's folder with its SSH key and known hosts."""
    address = parse_address(url)
    if address.scheme == "ssh":
        return SshLink(address, name=f"{hub_id}-{name}", keys=keys)
    return LocalLink(url, name=f"{hub_id}-{name}", relays=relays)


class LocalLink:
    """A Podman of this machine."""

    def __init__(self, url: str, *, name: str, relays: Relays) -> None:
        self._url, self._name, self._relays = url, name, relays
        self._folder: Path | None = None
        self._workers: set[str] = set()

    def open(self) -> str:
        address = parse_address(self._url)
        if address.scheme == "unix" and not Path(address.path).exists():
            raise ProcessError(
                f"no Podman service at {address.path}",
                remedy="start one: `systemctl enable --now podman.socket`, or `podman system service --time=0 URL`",
            )
        folder = runtime_folder() / self._name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True, mode=0o700)
        self._folder = folder
        return self._url

    def alive(self) -> bool:
        return self._folder is not None

    def open_worker(self, name: str, scheduler_port: int, store: Place | None = None) -> WorkerLink:
        if self._folder is None:
            raise ProcessError("the link to the node is closed")
        folder = self._folder / name
        folder.mkdir(mode=0o777)
        folder.chmod(0o777)  # whatever the umask: the container's user makes its socket there; the parent is ours alone
        self._workers.add(name)
        return WorkerLink(str(folder), self._relays.open(name, folder, scheduler_port, store))

    def close_worker(self, name: str) -> None:
        self._relays.close(name)
        self._workers.discard(name)
        if self._folder is not None:
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def close(self) -> None:
        for name in list(self._workers):
            self.close_worker(name)
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
        self._folder = None


class SshLink:
    """A Podman behind SSH. One connection, watched; closing it takes every forward with it."""

    def __init__(self, address: NodeAddress, *, name: str, keys: Path) -> None:
        self._address, self._name, self._keys = address, name, keys
        self._master: subprocess.Popen[bytes] | None = None
        self._here: Path | None = None  # our end's sockets
        self._there = ""  # the folder on the node
        self._forwards: dict[str, list[tuple[str, str]]] = {}  # by worker

    def open(self) -> str:
        self.close()
        self._here = Path(tempfile.mkdtemp(prefix="wr-", dir=runtime_folder()))
        with (self._here / "log").open("wb") as log_file:
            self._master = subprocess.Popen(  # noqa: S603 - arguments are checked by parse_address
                [*self._ssh(), "-M", "-N", *self._target()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log_file,
                start_new_session=True,
            )
        until = time.monotonic() + CONNECT_S + 5
        while not self._control.exists():
            if self._master.poll() is not None or time.monotonic() > until:
                words = self._last_words()
                self.close()
                raise ProcessError(f"{self._where}: {words}", remedy=_remedy(words))
            time.sleep(0.05)
        remote = self._address.path or self._run(_SOCKET)
        self._there = self._run(_FOLDER.replace("NAME", self._name))
        api = self._here / "podman.sock"
        self._control_master("forward", "-L", f"{api}:{remote}")
        return f"unix://{api}"

    def alive(self) -> bool:
        return self._master is not None and self._master.poll() is None

    def open_worker(self, name: str, scheduler_port: int, store: Place | None = None) -> WorkerLink:
        folder = f"{self._there}/{name}"
        self._run(f"umask 0; mkdir -p '{folder}' && chmod 777 '{folder}'")
        port = free_port()
        inward = ("-R", f"{folder}/scheduler.sock:{LOOPBACK}:{scheduler_port}")
        outward = ("-L", f"{LOOPBACK}:{port}:{folder}/worker.sock")
        self._forwards[name] = [inward, outward]
        if store is not None:
            host, store_port = store
            self._forwards[name].append(("-R", f"{folder}/store.sock:{host}:{store_port}"))
        for way, what in self._forwards[name]:
            self._control_master("forward", way, what)
        self._run(f"chmod 666 '{folder}'/s*.sock")  # the container's user is another one than ours
        return WorkerLink(folder, port)

    def close_worker(self, name: str) -> None:
        for way, what in self._forwards.pop(name, []):
            with contextlib.suppress(ProcessError):  # it was not made, or the connection is gone and took it along
                self._control_master("cancel", way, what)
        with contextlib.suppress(ProcessError):
            self._run(f"rm -rf '{self._there}/{name}'")

    def close(self) -> None:
        if self._master is not None:
            if self._there and self.alive():
                with contextlib.suppress(ProcessError):
                    self._run(f"rm -rf '{self._there}'")
            self._master.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._master.wait(5)
            if self._master.poll() is None:
                self._master.kill()
                self._master.wait(5)
        self._master = None
        self._there = ""
        self._forwards.clear()
        if self._here is not None:
            shutil.rmtree(self._here, ignore_errors=True)
        self._here = None

    @property
    def _control(self) -> Path:
        if self._here is None:
            raise ProcessError("the link to the node is closed")
        return self._here / "ctl"

    @property
    def _where(self) -> str:
        return f"ssh to {self._address.host}"

    def _target(self) -> list[str]:
        user = f"{self._address.user}@" if self._address.user else ""
        return ["-p", str(self._address.port), "--", f"{user}{self._address.host}"]

    def _ssh(self) -> list[str]:
        options = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": str(self._keys / "known_hosts"),
            "GlobalKnownHostsFile": "/dev/null",
            "IdentitiesOnly": "yes",
            "ConnectTimeout": str(CONNECT_S),
            "ServerAliveInterval": str(ALIVE_S),
            "ServerAliveCountMax": str(ALIVE_COUNT),
            "StreamLocalBindUnlink": "yes",
            "LogLevel": "ERROR",
        }
        pairs = [part for key, value in options.items() for part in ("-o", f"{key}={value}")]
        return ["ssh", "-F", "none", "-S", str(self._control), "-i", str(self._keys / "id_ed25519"), *pairs]

    def _run(self, script: str) -> str:
        return self._command([*self._ssh(), *self._target(), script])

    def _control_master(self, order: str, way: str, what: str) -> None:
        self._command([*self._ssh(), "-O", order, way, what, *self._target()])

    def _command(self, arguments: list[str]) -> str:
        try:
            done = subprocess.run(  # noqa: S603
                arguments, check=False, capture_output=True, timeout=COMMAND_S, stdin=subprocess.DEVNULL, text=True
            )
        except subprocess.TimeoutExpired as exc:
            raise ProcessError(
                f"{self._where}: no answer in {COMMAND_S:.0f} s", remedy="look at the node and its network"
            ) from exc
        if done.returncode:
            words = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            raise ProcessError(f"{self._where}: {words}", remedy=_remedy(words))
        return done.stdout.strip()

    def _last_words(self) -> str:
        if self._here is None or self._master is None:
            return "no connection"
        if self._master.poll() is None:
            return f"no connection in {CONNECT_S} s"
        lines = (self._here / "log").read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"ssh ended with {self._master.returncode}"


def _remedy(words: str) -> str:
    if "Permission denied" in words:
        return "put the hub's key into the node's ~/.ssh/authorized_keys: `wardround node key` prints it"
    if "Host key verification failed" in words or "host key" in words.lower():
        return "the host's key is not the one that was taken when the node was added; if that is right, add the node again"
    return "look at the node, its network and its sshd"


def runtime_folder() -> Path:
    """A short path for sockets that only this user sees (a socket's path holds 107 bytes).

    Raises:
        ProcessError: somebody else owns it.
    """
    if os.getuid() == 0:
        folder = Path("/run/wardround")
    elif "XDG_RUNTIME_DIR" in os.environ:
        folder = Path(os.environ["XDG_RUNTIME_DIR"]) / "wardround"
    else:
        folder = Path(tempfile.gettempdir()) / f"wardround-{os.getuid()}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if folder.stat().st_uid != os.getuid() or folder.stat().st_mode & 0o077:
        raise ProcessError(f"{folder} is not ours alone", remedy=f"remove it, or chmod 700 {folder}")
    return folder


def make_ssh_key(folder: Path) -> str:
    """The hub's SSH key, made when it is not there; the line for a node's authorized_keys."""
    path = folder / "id_ed25519"
    if not path.exists():
        key = ed25519.Ed25519PrivateKey.generate()
        pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption())
        line = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        write_private(folder / "id_ed25519.pub", line + b" wardround-hub\n", 0o644)
        write_private(path, pem)
    return (folder / "id_ed25519.pub").read_text(encoding="ascii").strip()


def host_keys(address: NodeAddress) -> list[str]:
    """The lines for known_hosts that a host shows now: to be compared with what its owner says.

    Raises:
        ProcessError: no answer.
    """
    done = subprocess.run(  # noqa: S603
        ["ssh-keyscan", "-T", str(CONNECT_S), "-t", "ed25519", "-p", str(address.port), "--", address.host],  # noqa: S607
        check=False,
        capture_output=True,
        timeout=COMMAND_S,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line and not line.startswith("#")]
    if not lines:
        raise ProcessError(
            f"no SSH host key from {address.host} port {address.port}", remedy="look at the node, its network and its sshd"
        )
    return lines


def fingerprint(host_key: str) -> str:
    """The way OpenSSH shows a host key: `SHA256:...`."""
    blob = base64.b64decode(host_key.split()[2])
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")
