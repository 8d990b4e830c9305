"""A node whose Podman belongs to an ordinary user: it does the same work, and what it cannot limit is said."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import psutil
import pytest

from nodes_under_test import JOB, Home, again, differences, ecg, rows
from wardround.clock import SystemClock
from wardround.hub import known
from wardround.process.dask_runner import HereRunner
from wardround.process.jobs import Jobs
from wardround.process.lake import Lake
from wardround.process.tables import BRONZE, observation_rows

USER = "wardround-test"
pytestmark = pytest.mark.timeout(400)


class RootlessNode:
    """A Podman service of an ordinary user, with a home and a run folder of its own on a short path."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="wrl-"))
        account = pwd.getpwnam(USER)
        self.ids = (account.pw_uid, account.pw_gid)
        for name in ("home", "run", "lake"):
            (self.folder / name).mkdir()
            os.chown(self.folder / name, *self.ids)
        self.folder.chmod(0o755)
        conf = self.folder / "containers.conf"
        conf.write_text((Path(__file__).parent / "containers.conf").read_text())
        places = {"HOME": self.folder / "home", "XDG_RUNTIME_DIR": self.folder / "run", "CONTAINERS_CONF": conf}
        self.environment = {"PATH": os.environ["PATH"]} | {name: str(path) for name, path in places.items()}
        self.socket = self.folder / "run" / "podman.sock"
        self.process = None

    def start(self):
        with (self.folder / "log").open("wb") as log:
            self.process = self._as_user(["podman", "system", "service", "--time=0", f"unix://{self.socket}"], log)
        until = time.monotonic() + 20
        while not self.socket.exists():
            assert self.process.poll() is None, (self.folder / "log").read_text()
            assert time.monotonic() < until, (self.folder / "log").read_text()
            time.sleep(0.1)

    def let_in(self, key):
        """This key may come in over SSH as the user."""
        folder = Path(pwd.getpwnam(USER).pw_dir) / ".ssh"
        folder.mkdir(mode=0o700)
        (folder / "authorized_keys").write_text(key + "\n")
        for path in (folder, folder / "authorized_keys"):
            os.chown(path, *self.ids)

    def _as_user(self, command, log):
        uid, gid = self.ids
        return subprocess.Popen(
            command, env=self.environment, cwd=self.folder / "home", user=uid, group=gid, extra_groups=[], stdout=log, stderr=log
        )

    def stop(self):
        self._as_user(["podman", "rm", "--all", "--force", "--time", "0"], subprocess.DEVNULL).wait(60)
        _user, first, count = next(line.split(":") for line in Path("/etc/subuid").read_text().split() if line.startswith(USER))
        own = {self.ids[0], *range(int(first), int(first) + int(count))}
        for process in psutil.process_iter(["uids"]):
            if process.info["uids"] is not None and process.info["uids"].real in own:
                process.kill()
        if self.process is not None:
            self.process.wait(10)
        shutil.rmtree(self.folder, ignore_errors=True)


@pytest.fixture
def rootless(worker_image):
    if os.getuid() != 0 or shutil.which("newuidmap") is None:
        pytest.skip("an ordinary user with a Podman of their own needs root and newuidmap (apt install uidmap)")
    subprocess.run(["userdel", "--force", "--remove", USER], check=False, capture_output=True)  # left by a run that was killed
    # The password "*" fits nothing; unlike none at all, it does not lock the account for SSH.
    added = subprocess.run(
        ["useradd", "--create-home", "--password", "*", USER], check=False, capture_output=True, text=True, timeout=60
    )
    assert added.returncode == 0, added.stderr
    node = RootlessNode()
    try:
        node.start()
        yield node
    finally:
        node.stop()
        subprocess.run(["userdel", "--force", "--remove", USER], check=False, capture_output=True)


def test_a_rootless_node_over_ssh_does_the_same_work(rootless, ssh_server, tmp_path, command):
    home = tmp_path / "hub"
    assert command("hub", "init", "--home", str(home)).returncode == 0
    key = command("node", "key", "--home", str(home)).stdout.strip()
    rootless.let_in(key)
    lake_folder = rootless.folder / "lake"
    settings = home / "hub.toml"
    settings.write_text(settings.read_text().replace("[processing]", "") + f'\n[processing]\nlake = "{lake_folder}"\n')
    url = f"ssh://{USER}@127.0.0.1:{ssh_server.port}{rootless.socket}"
    added = command("node", "add", "plain", url, "--home", str(home), "--host-key", ssh_server.fingerprint(), timeout=300)
    assert added.returncode == 0, added.stdout + added.stderr
    told = json.loads(command("node", "doctor", "plain", "--home", str(home), "--json").stdout)
    checks = {c["what"]: c for c in told}
    assert "rootless" in checks["Podman"]["found"]
    assert checks["confined"]["good"], checks
    assert checks["lake"]["good"], checks
    assert checks["limits"]["good"] in (True, None)
    if checks["limits"]["good"] is None:
        assert "not limited here" in checks["limits"]["found"]
        assert "cgroups v2" in checks["limits"]["remedy"]
    lake, here = Lake(lake_folder), Lake(tmp_path / "lake")
    for i in range(4):
        for each in (lake, here):
            each.append(BRONZE, observation_rows([(ecg(f"s{i}", i, seconds=300), "b", i, 0)]), app="inbox", version=i + 1)
    Jobs(here, HereRunner(), SystemClock(), tmp_path / "staging", known()).run(JOB)
    opened = Home(home)
    try:
        opened.ready(workers=1)
        report = again(opened)
        assert (report.failed, report.place) == ((), "1 node, 1 worker"), opened.said
        assert differences(rows(lake), rows(here)) == []
    finally:
        opened.close()
