"""The virtual machine's main program: it runs what the tests ask for over a virtio port, one request a line.

`{"run": [...], "within_s": 20}` is answered when the command has ended, with its code and output. `{"start": [...], "log": NAME}`
is answered at once, with the process's number; its output goes to that file of the shared folder. `{"stop": NUMBER}` ends it.
"""

from __future__ import annotations

import json
import os
import pathlib
import signal
import subprocess
import time
import uuid

SHARED = pathlib.Path("/shared")
GRACE_S = 15.0
OUTPUT_MAX = 200_000  # characters of a command's output: its end


def prepare() -> None:
    """What an init does on a small machine, as far as it is needed."""
    os.environ.update(PATH="/usr/sbin:/usr/bin:/sbin:/bin", HOME="/root", LANG="C.UTF-8")
    os.environ.update(json.loads((SHARED / "environment.json").read_text()))
    for kind, place in (("tmpfs", "/run"), ("tmpfs", "/tmp")):
        subprocess.run(["mount", "-t", kind, "none", place], check=True)
    for folder in ("/dev/shm", "/run/dbus", "/run/lock"):
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "none", "/dev/shm"], check=True)
    pathlib.Path("/etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")  # the message bus asks for one
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def find_port() -> str:
    """The device of the virtio port, which is there once its module has looked."""
    for _ in range(100):
        found = sorted(pathlib.Path("/dev").glob("vport*"))
        if found:
            return str(found[0])
        time.sleep(0.1)
    raise SystemExit("no virtio port")


class Commands:
    """What is running."""

    def __init__(self) -> None:
        self._running: dict[int, subprocess.Popen[bytes]] = {}

    def answer(self, request: dict[str, object]) -> dict[str, object]:
        """One request carried out."""
        if "run" in request:
            return self.run(request["run"], request["within_s"])
        if "start" in request:
            return self.start(request["start"], request["log"])
        if "stop" in request:
            return self.stop(request["stop"])
        raise ValueError(f"not a request: {request}")

    def run(self, arguments: list[str], within_s: float) -> dict[str, object]:
        try:
            done = subprocess.run(
                arguments,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=within_s,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            return {"code": None, "out": str(exc.stdout), "err": f"not done within {within_s} s: {exc.stderr!s}"}
        return {"code": done.returncode, "out": done.stdout[-OUTPUT_MAX:], "err": done.stderr[-OUTPUT_MAX:]}

    def start(self, arguments: list[str], log: str) -> dict[str, object]:
        with (SHARED / log).open("ab") as out:
            process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT)
        self._running[process.pid] = process
        return {"number": process.pid}

    def stop(self, number: int) -> dict[str, object]:
        process = self._running.pop(number)
        process.send_signal(signal.SIGTERM)
        try:
            code = process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        return {"code": code}


def say(port: int, answer: dict[str, object]) -> None:
    """One line; a port takes 32 KiB at a time."""
    left = json.dumps(answer).encode() + b"\n"
    while left:
        left = left[os.write(port, left) :]


def main() -> None:
    """Answer until the machine is switched off."""
    prepare()
    commands = Commands()
    port = os.open(find_port(), os.O_RDWR)
    say(port, {"ready": True})
    waiting = b""
    while True:
        waiting += os.read(port, 65_536)
        *lines, waiting = waiting.split(b"\n")
        for line in lines:
            try:
                answer = commands.answer(json.loads(line))
            except Exception as exc:  # the test is told, the machine goes on
                answer = {"failed": repr(exc)}
            say(port, answer)


if __name__ == "__main__":
    main()
