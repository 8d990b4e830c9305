"""What a process need not hold: libraries that others would load, and freed memory that an allocator keeps."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import itertools
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

UNUSED = ("pandas",)
OF_POLARS = "dirty_decay_ms:500,muzzy_decay_ms:1000"
GIVE_BACK_S = 60.0
YOUNG = 5_000  # objects that are made before the collector of garbage looks at them; 700 by itself
THAW = 5  # times of giving back, after which the collector is let at everything again
DELTA_RS = ("_RJEM_MALLOC_CONF", "narenas:1,dirty_decay_ms:0,muzzy_decay_ms:0")  # jemalloc's, read when the library is loaded


class _Unused:
    """A finder that knows of no unused library. PyArrow loads pandas where it is installed, for tables that nobody makes here."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if name in UNUSED:
            raise ModuleNotFoundError(f"{name} is not loaded by this program", name=name)
        return None


def hold_little() -> None:
    """Let nothing of this process, or of those it starts, keep what it has no use for; call it before PyArrow is imported.

    Pandas is not loaded (45 MB). The allocator of delta-rs gives back what is freed: as it comes it keeps a pool for each of its
    threads, and gives back none that rests. After 400 commits a process holds 240 MB so, and 410 MB else, for a tenth more CPU
    time (bench/lake_commits.py, on two cores).
    Somebody's own setting of it stands; what Polars sets wherever it is imported, in programs that start a hub too, is nobody's.
    """
    name, own = DELTA_RS
    if os.environ.get(name, OF_POLARS) == OF_POLARS:
        os.environ[name] = own
    if _Unused not in sys.meta_path:
        sys.meta_path.insert(0, _Unused)


def collect_little() -> None:
    """Let the collector of garbage leave alone what has outlived a collection; call it when a long run has made what it keeps.

    What hangs together in circles is found by walking over every object there is. With 4,500 edges attached that took 40 % of all
    that the hub's process worked, and stopped all its threads for more than a second each time. What a whole collection leaves is
    set aside (`gc.freeze`) and freed as ever once nothing refers to it; what becomes garbage in circles there waits for `thaw`.
    """
    gc.set_threshold(YOUNG, *gc.get_threshold()[1:])
    if _freeze not in gc.callbacks:
        gc.callbacks.append(_freeze)
    gc.freeze()


def _freeze(phase: str, info: dict[str, int]) -> None:
    if phase == "stop" and info["generation"] == 2:
        gc.freeze()


def thaw() -> None:
    """Let the next whole collection walk over everything."""
    gc.unfreeze()


def give_back() -> bool:
    """Give freed memory back to the system, whether there was any; glibc alone can. It may take some milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return bool(trim(ctypes.c_size_t(0))) if trim is not None else False


async def run_giving_back() -> None:
    """Once a minute, until cancelled: what a large job or a thousand uploads have passed through would stay with the process."""
    for minute in itertools.count(1):
        await asyncio.sleep(GIVE_BACK_S)
        if minute % THAW == 0:
            thaw()
        await asyncio.to_thread(give_back)
