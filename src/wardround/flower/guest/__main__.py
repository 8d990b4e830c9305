"""The entry of a guest: `FLOWER_PYTHON .../wardround/flower/guest server|client SOCKET_FD_OR_PATH`.

Makes `wardround` importable by its files alone, without the libraries of the environment that it is installed in: the guest
may use what imports nothing but Python's own library, and Flower's environment stays as it is.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path

if __name__ == "__main__":
    root = Path(__file__).resolve().parents[2]
    sys.path = [p for p in sys.path if Path(p or ".").resolve() != root / "flower" / "guest"]
    spec = importlib.util.spec_from_file_location("wardround", root / "__init__.py", submodule_search_locations=[str(root)])
    assert spec is not None  # noqa: S101 - the file is there: it is this package's
    assert spec.loader is not None  # noqa: S101
    package = importlib.util.module_from_spec(spec)
    sys.modules["wardround"] = package
    spec.loader.exec_module(package)
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # nothing phones home
    os.environ["FLWR_DISABLE_UPDATE_CHECK"] = "1"
    guest = importlib.import_module(f"wardround.flower.guest.{sys.argv[1]}")
    sys.exit(guest.main(sys.argv[2]))
