"""A virtual machine with two simulated radios: Debian's own kernel and programs, emulated, so that no host needs radios or KVM.

Its station's radio (`wlan1`) is where the tests' commands run. The access point's (`wlan0`) belongs into a namespace of its own,
bridged with the wire `eth0`. On that wire the host is `HOST`: what listens on the host's loopback is there at that address.
`hwsim0` hears the air.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST, NETWORK = "10.66.0.2", "10.66.0.0/24"
WHEELS = Path(sysconfig.get_path("purelib")).resolve()
MEMORY_MB = 1_536
BOOT_S = 120.0
PYTHON = "3.11"  # of the Debian that make-image takes


def why_not() -> str:
    """What is missing to run the machine here; empty when nothing is."""
    if os.geteuid() != 0:
        return "making the machine's disk needs root"
    for program, package in (("qemu-system-x86_64", "qemu-system-x86"), ("mmdebstrap", "mmdebstrap"), ("mkfs.ext4", "e2fsprogs")):
        if shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin") is None:
            return f"{program} is not installed: apt install {package}"
    if f"{sys.version_info.major}.{sys.version_info.minor}" != PYTHON:
        return f"the machine has Python {PYTHON} and takes the wheels from here, which are for another: make a .venv with it"
    if not WHEELS.is_relative_to(ROOT):
        return f"the machine sees this repository alone, and the wheels are in {WHEELS}: use the .venv that make sets up"
    return ""


@dataclass
class Done:
    """A command of the machine that has ended; no code: not within its time."""

    code: int | None
    out: str
    err: str


class Machine:
    """One virtual machine, from start to stop."""

    def __init__(self, folder: Path) -> None:
        self.shared = folder / "shared"
        self.shared.mkdir(parents=True)
        self._console = folder / "console.log"
        self._socket = folder / "port"
        self._process: subprocess.Popen[bytes] | None = None
        self._port: socket.socket | None = None
        self._waiting = b""

    def start(self, image: Path) -> None:
        """Boot, and wait until the machine answers."""
        environment = {"PYTHONPATH": f"/repository/src:/repository/{WHEELS.relative_to(ROOT)}", "PYTHONDONTWRITEBYTECODE": "1"}
        (self.shared / "environment.json").write_text(json.dumps(environment))
        export = "local,security_model=none,multidevs=remap"
        arguments = [
            *("-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", str(MEMORY_MB)),
            *("-nodefaults", "-display", "none", "-no-reboot", "-serial", f"file:{self._console}"),
            *("-kernel", str(image / "vmlinuz"), "-initrd", str(image / "first.gz")),
            *("-append", "console=ttyS0 quiet panic=-1 mitigations=off random.trust_cpu=on"),
            *("-drive", f"file={image / 'disk'},if=virtio,format=raw,snapshot=on"),
            *("-device", "virtio-rng-pci"),
            *("-netdev", f"user,id=wire,net={NETWORK},host={HOST}", "-device", "virtio-net-pci,netdev=wire"),
            *("-virtfs", f"{export},path={ROOT},mount_tag=repository,readonly=on,id=repository"),
            *("-virtfs", f"{export},path={self.shared},mount_tag=shared,id=shared"),
            *("-device", "virtio-serial-pci", "-chardev", f"socket,id=port,path={self._socket},server=on,wait=off"),
            *("-device", "virtserialport,chardev=port,name=tests"),
        ]
        self._process = subprocess.Popen(
            ["qemu-system-x86_64", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        until = time.monotonic() + BOOT_S
        self._port = socket.socket(socket.AF_UNIX)
        while True:
            try:
                self._port.connect(str(self._socket))
                break
            except OSError:
                if self._process.poll() is not None:
                    raise AssertionError(f"the machine did not start: {self._process.stderr.read().decode()}") from None
                assert time.monotonic() < until, "the machine's port did not open"
                time.sleep(0.05)
        assert self._line(BOOT_S) == {"ready": True}

    def stop(self) -> None:
        """Switch it off, as a power cut does; its disk is thrown away."""
        if self._port is not None:
            self._port.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process.stderr.close()

    def run(self, *arguments: str, within_s: float = 30.0) -> Done:
        """A command, to its end."""
        return Done(**self._ask({"run": list(arguments), "within_s": within_s}, within_s + 15))

    def do(self, *arguments: str, within_s: float = 30.0) -> str:
        """A command that must succeed; its output."""
        done = self.run(*arguments, within_s=within_s)
        assert done.code == 0, f"{' '.join(arguments)}: {done}"
        return done.out

    def start_program(self, log: str, *arguments: str) -> Program:
        """A program that goes on; its output goes to a file of the shared folder."""
        path = self.shared / log
        path.write_bytes(b"")
        return Program(self, self._ask({"start": list(arguments), "log": log}, 20)["number"], path)

    def end_program(self, number: int) -> int:
        """End it; its code."""
        return self._ask({"stop": number}, 40)["code"]

    def _ask(self, request: dict[str, object], within_s: float) -> dict:
        self._port.sendall(json.dumps(request).encode() + b"\n")
        answer = self._line(within_s)
        assert "failed" not in answer, f"{request}: {answer['failed']}"
        return answer

    def _line(self, within_s: float) -> dict:
        self._port.settimeout(within_s)
        try:
            while b"\n" not in self._waiting:
                more = self._port.recv(1 << 20)
                assert more, self._console.read_text(errors="replace")[-3000:]
                self._waiting += more
        except TimeoutError:
            raise AssertionError(f"no answer within {within_s} s: {self._console.read_text(errors='replace')[-3000:]}") from None
        line, _, self._waiting = self._waiting.partition(b"\n")
        return json.loads(line)


@dataclass
class Program:
    """A program that runs in the machine."""

    machine: Machine
    number: int
    log: Path

    def said(self) -> str:
        """What it has said so far."""
        return self.log.read_text(errors="replace")

    def wait_for(self, *words: str, within_s: float = 60.0) -> str:
        """The first of the words that it says."""
        until = time.monotonic() + within_s
        while time.monotonic() < until:
            for word in words:
                if word in self.said():
                    return word
            time.sleep(0.1)
        raise AssertionError(f"{self.log.name} said none of {words} within {within_s} s:\n{self.said()[-4000:]}")

    def stop(self) -> int:
        """End it; its code."""
        return self.machine.end_program(self.number)
