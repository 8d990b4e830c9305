"""What a process need not hold: libraries that others would load, and freed memory that the allocator keeps."""

from __future__ import annotations

import asyncio
import ctypes
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

UNUSED = ("pandas",)
GIVE_BACK_S = 60.0


class _Unused:
    """A finder that knows of no unused library. PyArrow loads pandas where it is installed, for tables that nobody makes here."""

    @staticmethod
    def find_spec(name: str, _path: Sequence[str] | None = None, _target: ModuleType | None = None) -> ModuleSpec | None:
        if name in UNUSED:
            raise ModuleNotFoundError(f"{name} is not loaded by this program", name=name)
        return None


def without_unused() -> None:
    """Let nothing of this process load what it has no use for (45 MB); call it before PyArrow is imported."""
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
