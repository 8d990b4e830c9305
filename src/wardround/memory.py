"""What a process need not hold: libraries that others would load, and freed memory that an allocator keeps."""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

UNUSED = ("pandas",)
OF_POLARS = "dirty_decay_ms:500,muzzy_decay_ms:1000"
GIVE_BACK_S = 60.0
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


def give_back() -> bool:
    """Give freed memory back to the system, whether there was any; glibc alone can. It may take some milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return bool(trim(ctypes.c_size_t(0))) if trim is not None else False


async def run_giving_back() -> None:
    """Once a minute, until cancelled: what a large job or a thousand uploads have passed through would stay with the process."""
    while True:
        await asyncio.sleep(GIVE_BACK_S)
        await asyncio.to_thread(give_back)
