"""What an edge's own process does not carry: it runs on small machines, and training has a process of its own."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("scipy", "jax", "torch", "pyarrow", "polars", "pandas", "deltalake", "sqlalchemy", "dask", "nicegui")


def test_an_edge_imports_nothing_that_training_or_the_hub_needs():
    command = f"import sys, wardround.edge; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == ""
