"""What an edge's own process does not carry: it runs on small machines, and training has a process of its own."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "scipy.signal",
    "scipy.stats",
    "jax",
    "torch",
    "pyarrow",
    "polars",
    "pandas",
    "deltalake",
    "sqlalchemy",
    "dask",
    "nicegui",
)


def test_an_edge_imports_nothing_that_training_or_the_hub_needs():
    """As `wardround edge run` does. Of SciPy the name alone: its parts are loaded when they are used."""
    command = f"import sys, wardround.cli.main, wardround.edge; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
