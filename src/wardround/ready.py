"""How a program says that its listeners are open: a file in its home, so that whoever started it need not guess."""

from __future__ import annotations

import json
from pathlib import Path


def write_ready(home: Path, facts: dict[str, object]) -> None:
    """`ready.json`, written whole and then renamed, so that a reader never sees half of it."""
    partial = home / "ready.partial"
    partial.write_text(json.dumps(facts))
    partial.replace(home / "ready.json")
