"""Mosquitto as the edge's broker: configured, started, adopted after a kill of the edge, and started again after one of its own.

Mosquitto acknowledges a message once it has it in memory, before the edge has: its PUBACK is no promise that survives a kill
of the broker (eclipse-mosquitto/mosquitto#1855). The receipt is. What it has accepted and the edge has not committed is kept
in the session of the collector while the edge is away.
"""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import hashlib
import os
import secrets
import shutil
import signal
import ssl
import subprocess
from collections.abc import Iterable
from pathlib import Path

import structlog

from wardround.collect.registry import Device, mosquitto_hash
from wardround.errors import PortTaken, SettingsError, StorageFull, WardroundError
from wardround.trust.certificates import write_private

log = structlog.get_logger(__name__)
PROGRAM = "mosquitto"
START_S = 10.0
STOP_S = 5.0
LOOK_S = 1.0
QUEUED_BYTES_MAX = 64_000_000  # for the collector while it is away
PACKET_BYTES_MAX = 8_000_000
_ACL = """pattern write wr/dev/%u/up/#
pattern read wr/dev/%u/down/#
user {collector}
topic read wr/dev/+/up/#
topic write wr/dev/+/down/#
"""
_CONFIG = """per_listener_settings false
listener {port} {host}
cafile {identity}/ca.pem
certfile {identity}/listener.pem
keyfile {identity}/edge.key
tls_version tlsv1.2
max_connections 500
allow_anonymous false
use_username_as_clientid true
password_file {folder}/passwords
acl_file {folder}/acl
pid_file {folder}/pid
persistence true
persistence_location {folder}/
autosave_interval 1
autosave_on_changes false
persistent_client_expiration 7d
max_inflight_messages 0
max_queued_messages 0
max_queued_bytes {queued}
max_packet_size {packet}
queue_qos0_messages false
log_dest file {folder}/log
log_type error
log_type warning
user {user}
"""


class Mosquitto:
    """One edge's broker, a process of its own; its files are in the edge's home, `mosquitto/`."""

    def __init__(self, *, home: Path, host: str, port: int, collector: str) -> None:
        self._folder = home / "mosquitto"
        self._identity = home / "identity"
        self._host, self._port, self._collector = host, port, collector
        self._process: subprocess.Popen[bytes] | None = None
        self._passwords = b""
        self._admitted = False
        self.starts = 0

    @property
    def collector_secret(self) -> str:
        """What the collector signs in with: made once, mode 0600."""
        path = self._folder / "collector.secret"
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            write_private(path, secrets.token_urlsafe(24).encode())
        return path.read_text().strip()

    async def start(self) -> None:
        """Start it, or take over the one that a killed edge left; it listens when this returns.

        Devices may connect once they are admitted: what they sent before the collector has subscribed would be nobody's.

        Raises:
            SettingsError: it is not installed.
            PortTaken: another program listens there.
            WardroundError: it ended, or did not listen in time.
        """
        program = shutil.which(PROGRAM, path=os.environ.get("PATH", "") + ":/usr/sbin")
        if program is None:
            raise SettingsError(
                'mqtt.broker is "mosquitto", which is not installed',
                remedy='install it (Debian: apt-get install mosquitto), or set mqtt.broker = "embedded"',
            )
        config = self._folder / "conf"
        text = _CONFIG.format(
            host=self._host,
            port=self._port,
            identity=self._identity.resolve(),
            folder=self._folder.resolve(),
            queued=QUEUED_BYTES_MAX,
            packet=PACKET_BYTES_MAX,
            user=getpass.getuser(),
        )
        left = self._left_running()
        if left and config.exists() and config.read_text() != text:
            os.kill(left, signal.SIGTERM)
            await self._wait_gone(left)
            left = 0
        _write(config, text.encode())
        _write(self._folder / "acl", _ACL.format(collector=self._collector).encode())
        if left:  # the collector's session is there, and so are the devices
            os.kill(left, signal.SIGHUP)
            log.info("mosquitto goes on", pid=left)
            return
        self._admitted = False
        self._write_passwords([])
        self._process = _spawn(program, config)
        self.starts += 1
        await self._wait_listening()

    async def watch(self) -> None:
        """Until cancelled: start it again when it ends.

        A start that fails is tried again at the next look: the port may not be given back yet, the disk be full, or the new one
        be killed as well. Meanwhile the edge forwards, trains and hears other devices.

        Raises:
            SettingsError: it is not installed any more.
        """
        while True:
            await asyncio.sleep(LOOK_S)
            if not self._left_running():
                log.warning("mosquitto has ended: it is started again")
                try:
                    await self.start()
                except SettingsError:
                    raise
                except WardroundError as error:
                    log.error("mosquitto did not start", reason=str(error))

    def admit(self, devices: Iterable[Device]) -> None:
        """The collector has subscribed: these devices may connect."""
        self._admitted = True
        self.know(devices)

    def know(self, devices: Iterable[Device]) -> None:
        """Take devices over that were registered since."""
        if not self._admitted:
            return
        try:
            changed = self._write_passwords(devices)
        except StorageFull as error:  # the next look will do
            log.error("devices not admitted", reason=str(error))
            return
        if changed and (running := self._left_running()):
            os.kill(running, signal.SIGHUP)

    def renew(self) -> None:
        """Take the renewed certificate into use; sessions that are open go on."""
        if running := self._left_running():
            os.kill(running, signal.SIGHUP)

    async def stop(self) -> None:
        """Stop it: what it holds is on its disk then."""
        running = self._left_running()
        if running:
            os.kill(running, signal.SIGTERM)
            await self._wait_gone(running)

    def _write_passwords(self, devices: Iterable[Device]) -> bool:
        """Whether they have changed. A salt is kept, so that the same devices give the same file."""
        lines = [f"{d.device_id}:{d.mosquitto_hash}" for d in devices if d.mosquitto_hash and not d.revoked]
        secret = self.collector_secret
        salt = hashlib.sha256(secret.encode()).digest()[:12]
        lines.append(f"{self._collector}:{mosquitto_hash(secret, salt)}")
        text = ("\n".join(lines) + "\n").encode()
        if text == self._passwords:
            return False
        _write(self._folder / "passwords", text)
        self._passwords = text
        return True

    def _left_running(self) -> int:
        """The process id of the Mosquitto that runs with this home's configuration; 0 when there is none."""
        if self._process is not None and self._process.poll() is None:
            return self._process.pid
        try:
            number = int((self._folder / "pid").read_text())
            words = Path(f"/proc/{number}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return 0
        return number if str(self._folder / "conf").encode() in words else 0

    async def _wait_gone(self, number: int) -> None:
        until = asyncio.get_running_loop().time() + STOP_S
        while self._left_running() == number:
            if asyncio.get_running_loop().time() > until:
                os.kill(number, signal.SIGKILL)
                return
            await asyncio.sleep(0.02)

    async def _wait_listening(self) -> None:
        loop = asyncio.get_running_loop()
        until = loop.time() + START_S
        context = ssl.create_default_context(cafile=str(self._identity / "ca.pem"))
        while loop.time() < until:
            if self._process is not None and self._process.poll() is not None:
                said = self._log_tail()
                if "in use" in said:
                    raise PortTaken(self._host, self._port, setting="mqtt.port")
                raise WardroundError(f"mosquitto ended at once: {said}", remedy=f"read {self._folder / 'log'}")
            with contextlib.suppress(OSError, ssl.SSLError):
                _reader, writer = await asyncio.open_connection(self._host, self._port, ssl=context)
                writer.close()
                return
            await asyncio.sleep(0.02)
        raise WardroundError(f"mosquitto did not listen within {START_S:.0f} s", remedy=f"read {self._folder / 'log'}")

    def _log_tail(self) -> str:
        with contextlib.suppress(OSError):
            return " ".join((self._folder / "log").read_text(errors="replace").splitlines()[-3:])
        return "it wrote no log"


def _write(path: Path, data: bytes) -> None:
    """A private file, left alone where it says so already: an edge must start again on a full disk.

    Raises:
        StorageFull: the disk is full.
    """
    if path.exists() and path.read_bytes() == data:
        return
    try:
        write_private(path, data)
    except OSError as exc:
        raise StorageFull(f"{path} cannot be written: {exc.strerror}", remedy="free the edge's disk") from exc


def _spawn(program: str, config: Path) -> subprocess.Popen[bytes]:
    nothing = subprocess.DEVNULL
    return subprocess.Popen([program, "-c", str(config)], stdin=nothing, stdout=nothing, stderr=nothing)  # noqa: S603 - Debian's
