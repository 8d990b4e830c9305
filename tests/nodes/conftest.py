"""Three nodes of their own, one of them behind SSH; and a hub's home that knows them."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from wardround.demo.nodes import RehearsalNode, why_not
from wardround.ports import free_port
from wardround.process.nodes import image


def pytest_configure():
    os.environ.setdefault("CONTAINERS_CONF", str(Path(__file__).parent / "containers.conf"))


class SshServer:
    """An sshd on the loopback that lets one key in."""

    def __init__(self, folder):
        self.folder, self.port, self.process = folder, free_port(), None
        folder.mkdir(parents=True)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host")], check=True)
        (folder / "authorized").write_text("")
        (folder / "authorized").chmod(0o600)
        (folder / "sshd_config").write_text(
            f"Port {self.port}\nListenAddress 127.0.0.1\nHostKey {folder}/host\nPidFile none\nStrictModes no\nUsePAM no\n"
            f"AuthorizedKeysFile {folder}/authorized .ssh/authorized_keys\nPasswordAuthentication no\n"
            "PermitRootLogin prohibit-password\n"
        )

    def let_in(self, key):
        (self.folder / "authorized").write_text(key + "\n")

    def start(self):
        Path("/run/sshd").mkdir(exist_ok=True)
        sshd = shutil.which("sshd") or "/usr/sbin/sshd"
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [sshd, "-D", "-e", "-f", str(self.folder / "sshd_config")], stderr=log, stdin=subprocess.DEVNULL
            )
        time.sleep(0.3)
        assert self.process.poll() is None, (self.folder / "log").read_text()

    def fingerprint(self):
        done = subprocess.run(["ssh-keygen", "-lf", str(self.folder / "host.pub")], check=True, capture_output=True, text=True)
        return done.stdout.split()[1]

    def stop(self):
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)


@pytest.fixture(scope="session")
def worker_image():
    """The workers' image, built without a registry."""
    if why_not():
        pytest.skip(why_not())
    if not image.present():
        if shutil.which("mmdebstrap") is None:
            pytest.skip("mmdebstrap is not installed (apt install mmdebstrap): no base image without a registry")
        run("node", "build", "--no-registry", timeout=300)
    return image.reference()


@pytest.fixture
def three_nodes(three_services):
    """Their services, by name, each of them running: one that an unlucky test left dead is no fault of the next."""
    for node in three_services.values():
        if node.process.poll() is not None:
            node.start()
    return three_services


@pytest.fixture(scope="session")
def three_services(worker_image, tmp_path_factory):
    """The services; a test takes `three_nodes`."""
    folder = tmp_path_factory.mktemp("nodes")
    nodes = {name: RehearsalNode(name, folder / name) for name in ("one", "two", "three")}
    try:
        for node in nodes.values():
            node.start()
        yield nodes
    finally:
        for node in nodes.values():
            node.stop()


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory):
    if shutil.which("sshd") is None and not Path("/usr/sbin/sshd").exists():
        pytest.skip("sshd is not installed (apt install openssh-server)")
    server = SshServer(tmp_path_factory.mktemp("ssh") / "server")
    server.start()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def home(three_services, ssh_server, tmp_path_factory):
    """A hub's home with the three nodes added, the third over SSH."""
    made = tmp_path_factory.mktemp("hub") / "home"
    run("hub", "init", "--home", str(made))
    key = run("node", "key", "--home", str(made))
    ssh_server.let_in(key.strip())
    over_ssh = f"ssh://{getpass.getuser()}@127.0.0.1:{ssh_server.port}{three_services['three'].socket}"
    for name, url, more in (
        ("one", three_services["one"].url, []),
        ("two", three_services["two"].url, []),
        ("three", over_ssh, ["--host-key", ssh_server.fingerprint()]),
    ):
        run("node", "add", name, url, "--home", str(made), *more)
    return made


def run(*arguments, check=True, timeout=180):
    """The command line, as a person runs it; its output."""
    done = subprocess.run(
        [sys.executable, "-m", "wardround.cli.main", *arguments], capture_output=True, text=True, timeout=timeout, check=False
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout
    return done
