"""What a process holds: unused libraries stay out, and freed memory can be given back."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from wardround.memory import give_back, without_unused
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
assert give_back() in (True, False)
"""


def test_an_unused_library_is_not_there_and_others_are():
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=60)
