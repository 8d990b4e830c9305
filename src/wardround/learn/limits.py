"""What a training worker may take of its machine: set in the worker itself, before a learner is loaded.

Memory by RLIMIT_DATA, for each process; processors by affinity, which BLAS, OpenMP and XLA size their threads by; and a lower
priority always, so that devices' receipts come first. Below one core a share cannot be held without cgroups: the worker gets one
core at low priority, and a service manager's CPUQuota= for the whole edge holds the rest.
"""

from __future__ import annotations

import contextlib
import math
import os
import resource
import signal
import threading
import time
from dataclasses import dataclass

NICE = 10
LOOK_S = 1.0
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one training worker."""

    memory_bytes_max: int
    cpu_share: float = 1.0  # of the cores this edge may use


def cores_for(share: float, available: int) -> int:
    """Whole cores, at least one."""
    return min(available, max(1, math.floor(share * available + 1e-9)))


def apply_limits(limits: Limits) -> None:
    """Hold this process, and what it starts, to the limits. What a platform refuses is left out: the deadline still stands."""
    with contextlib.suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (limits.memory_bytes_max, limits.memory_bytes_max))
    with contextlib.suppress(OSError):
        os.nice(NICE)
    allowed = sorted(os.sched_getaffinity(0))
    cores = cores_for(limits.cpu_share, len(allowed))
    with contextlib.suppress(OSError):
        os.sched_setaffinity(0, allowed[-cores:])  # the last ones: interrupts and the edge itself tend to be on the first
    for name in THREADS:
        os.environ[name] = str(cores)


def lead_group() -> None:
    """Make this process the head of a group, so that whatever it starts can be ended with it."""
    with contextlib.suppress(OSError):
        os.setpgid(0, 0)


def end_with(parent: int) -> None:
    """End this process and its group once `parent` is gone, also in the middle of a training that never ends."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_S)
        end_group(os.getpid())

    threading.Thread(target=watch, name="parent", daemon=True).start()


def end_group(leader: int) -> None:
    """Kill a worker and whatever it has started, also when it is dead itself and they are not."""
    try:
        os.killpg(leader, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):  # it has not made its group yet
        with contextlib.suppress(ProcessLookupError):
            os.kill(leader, signal.SIGKILL)
