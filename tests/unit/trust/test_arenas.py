"""A hub's threads share few pools of memory."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from wardround.trust.channel import ARENAS

PROGRAM = """
import ctypes, sys, threading
from wardround.trust.channel import ARENAS, few_arenas
if sys.argv[1] == "few":
    few_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
together = threading.Barrier(8)
def take():
    together.wait(10)
    libc.malloc(1000)
    together.wait(10)
threads = [threading.Thread(target=take) for _ in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="pools are glibc's")
def test_threads_share_the_pools_they_are_given():
    def pools(which: str) -> int:
        # Dask leaves a limit of its own in the environment of whoever starts its workers, this test's process as well.
        plain = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
        command = [sys.executable, "-c", PROGRAM, which]
        ended = subprocess.run(command, env=plain, capture_output=True, text=True, timeout=60, check=True)
        return ended.stdout.count("<heap nr=")

    assert pools("many") > ARENAS
    assert pools("few") == ARENAS
