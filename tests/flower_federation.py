"""Flower's own deployment runtime as processes of a test: a SuperLink and its SuperNodes on loopback."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

from wardround.ports import free_port


class FlowerFederation:
    """A context: everything it has started is gone when it ends."""

    def __init__(self, folder: Path, flower_python: str, node_configs: list[str]) -> None:
        self.folder, self._bin, self._configs = folder, Path(flower_python).parent, node_configs
        self._environment = {
            **os.environ,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_HOME": str(folder / "home"),
            "PATH": f"{self._bin}:{os.environ['PATH']}",
        }
        self._processes: list[subprocess.Popen] = []

    def __enter__(self) -> FlowerFederation:
        port = free_port()
        (self.folder / "home").mkdir(parents=True)
        (self.folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "test"\n[superlink.test]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
        )
        self._start("superlink", "--insecure", "--disable-runtime-dependency-installation", "--port", str(port))
        time.sleep(5)  # it says nowhere that it listens; its nodes try again anyway
        for config in self._configs:
            node = ["--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(free_port())]
            self._start("supernode", *node, "--node-config", config)
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._processes):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def run(self, app: Path) -> None:
        command = [str(self._bin / "flwr"), "run", str(app), "test"]
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60, env=self._environment)
        assert done.returncode == 0, done.stdout + done.stderr

    def tail(self) -> str:
        logs = sorted(self.folder.glob("*.log"))
        return "\n".join(f"== {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-40:]) for log in logs)

    def _start(self, program: str, *arguments: str) -> None:
        with (self.folder / f"{program}-{len(self._processes)}.log").open("ab") as out:
            self._processes.append(
                subprocess.Popen(
                    [self._bin / f"flower-{program}", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                )
            )
