"""A real PostgreSQL of the test's own: in a new folder, on a socket there, as a user without rights."""

from __future__ import annotations

import itertools
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

READY_S = 120.0
NUMBERS = itertools.count()


def programs() -> Path:
    """Debian's folder of the newest PostgreSQL; the test is skipped, with the reason, where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: float(p.parts[4]))
    if found:
        return found[-1].parent
    if (elsewhere := shutil.which("initdb")) is not None:
        return Path(elsewhere).parent
    pytest.skip("no PostgreSQL here: apt-get install postgresql")


class Postgres:
    """A running server; `stop` and `start` as often as a test likes."""

    def __init__(self, folder: Path, bin_: Path) -> None:
        self.folder, self._bin = folder, bin_
        user = next((u for u in pwd.getpwall() if u.pw_name in ("postgres", "nobody")), None) if os.getuid() == 0 else None
        self._as = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user is not None else {}
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
        self._run("initdb", "-D", "data", "-U", "wardround", "--auth", "trust", "-E", "UTF8", "--no-locale", "--no-sync")

    def start(self) -> None:
        self._run("pg_ctl", "-D", "data", "-w", "-t", f"{READY_S:.0f}", "-l", "log", "-o", f"-F -k {self.folder} -h ''", "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-D", "data", "-w", "-t", f"{READY_S:.0f}", "-m", "immediate", "stop")

    def database(self) -> str:
        """A new, empty database; its URL."""
        name = f"test{next(NUMBERS)}"
        self._run("createdb", "-h", str(self.folder), "-U", "wardround", name)
        return f"postgresql://wardround@/{name}?host={self.folder}"

    def _run(self, program: str, *arguments: str) -> None:
        environment = {"PATH": "/usr/bin:/bin", "LC_ALL": "C", "HOME": str(self.folder)}
        with (self.folder / "said").open("w+") as said:  # a file: the server keeps what its starter had
            done = subprocess.run(
                [self._bin / program, *arguments], cwd=self.folder, env=environment, stdin=subprocess.DEVNULL,
                stdout=said, stderr=said, timeout=2 * READY_S, check=False, **self._as,
            )  # fmt: skip
            said.seek(0)
            assert done.returncode == 0, f"{program}: {said.read()}"


@contextmanager
def running() -> Iterator[Postgres]:
    """One that runs, and is gone afterwards with all it had."""
    bin_ = programs()
    folder = Path(tempfile.mkdtemp(prefix="wr-pg-", dir="/tmp"))  # short, as a socket's path must be, and open to its user
    try:
        server = Postgres(folder, bin_)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
