"""What a process holds: unused libraries stay out, and freed memory is given back."""

from __future__ import annotations

import subprocess
import sys

UNUSED = """
import sys
from wardround.memory import without_unused
before = len(sys.meta_path)
without_unused()
without_unused()
assert len(sys.meta_path) == before + 1
try:
    import pandas
except ModuleNotFoundError as error:
    assert error.name == "pandas"
else:
    raise SystemExit("pandas was loaded")
import json, msgspec
"""
FREED = """
import psutil
from wardround.memory import give_back
held = lambda: psutil.Process().memory_info().rss // 1_000_000
parts = [bytes(100_000) if k % 2 else bytearray(b"x" * 100_000) for k in range(1_000)]  # too small for mappings of their own
full = held()
parts = parts[-1:]  # at the end of the heap: what lies below it stays with the process
kept = held()
if give_back():  # of another C library than glibc there is nothing to ask
    assert full - held() > 60, (full, kept, held())
"""


def run(program: str) -> None:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_an_unused_library_is_not_there_and_others_are():
    run(UNUSED)


def test_freed_memory_is_given_back_to_the_system():
    run(FREED)
