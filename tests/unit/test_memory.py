"""What a process holds: unused libraries stay out, and freed memory is given back."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from wardround.memory import DELTA_RS, OF_POLARS

UNUSED = """
import sys
from wardround.memory import hold_little
before = len(sys.meta_path)
hold_little()
hold_little()
assert len(sys.meta_path) == before + 1
try:
    import pandas
except ModuleNotFoundError as error:
    assert error.name == "pandas"
else:
    raise SystemExit("pandas was loaded")
import json, msgspec
"""
ALLOCATOR = """
import os
from wardround.memory import DELTA_RS, hold_little
hold_little()
os.environ[DELTA_RS[0]] += ",stats_print:true"  # as the program ends
import deltalake
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


def run(program: str, **settings: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != DELTA_RS[0]} | settings
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


def test_an_unused_library_is_not_there_and_others_are():
    run(UNUSED)


@pytest.mark.parametrize("before", [{}, {DELTA_RS[0]: OF_POLARS}], ids=["alone", "started where Polars is"])
def test_the_allocator_of_delta_rs_keeps_nothing_that_is_freed(before):
    said = " ".join(run(ALLOCATOR, **before).split())
    for option in ("opt.narenas: 1", "opt.dirty_decay_ms: 0", "opt.muzzy_decay_ms: 0"):
        assert option in said


def test_somebodys_own_setting_of_the_allocator_stands():
    assert "opt.narenas: 3" in " ".join(run(ALLOCATOR, **{DELTA_RS[0]: "narenas:3"}).split())


def test_freed_memory_is_given_back_to_the_system():
    run(FREED)


COLLECTED = """
import gc, weakref
from wardround.memory import collect_little, thaw
collect_little()
collect_little()
assert sum(f.__name__ == "_freeze" for f in gc.callbacks) == 1
class Thing: pass
kept = [Thing() for _ in range(100_000)]
gc.collect()
assert gc.get_freeze_count() > 100_000, "what outlived a collection is walked over again"
freed = weakref.ref(kept[0])
kept[0] = None
assert freed() is None, "what is set aside is not freed"
circle = kept[1]
circle.itself = circle
seen = weakref.ref(circle)
kept[1] = circle = None
gc.collect()
assert seen() is not None, "it was not set aside"
thaw()
gc.collect()
assert seen() is None, "garbage is kept for ever"
assert gc.get_freeze_count() > 90_000, "once let at everything, it walks over it from then on"
"""


def test_the_collector_leaves_alone_what_outlived_it_and_finds_the_garbage_there_when_it_is_let_at_everything():
    run(COLLECTED)
