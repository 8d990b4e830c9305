"""What a hub's own process does not carry: what it would hold for nothing counts a thousand edges less."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("pandas", "scipy.signal", "scipy.stats", "scipy.optimize", "jax", "torch", "matplotlib", "wfdb", "distributed")


def test_a_hub_imports_nothing_that_only_workers_and_commands_need():
    """As `wardround hub run` does. Dask comes with the first job."""
    command = (
        "import sys, wardround.cli.main; from wardround.memory import hold_little; hold_little(); "
        f"import wardround.hub, pyarrow; pyarrow.array([1]); print(*[m for m in {HEAVY} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
