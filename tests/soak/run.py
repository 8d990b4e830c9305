"""The whole soak: `python -m tests.soak.run SECONDS [SEED]`. Ends with 1 when a limit is broken."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

from tests.soak.soak import Load, Soak

GROWTH_MAX = 0.05


def main(arguments: list[str]) -> int:
    """Run; 0 when every limit holds."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what runs is stopped
    seconds, seed = float(arguments[0]), int(arguments[1]) if len(arguments) > 1 else 0
    with tempfile.TemporaryDirectory(prefix="wardround-soak-", ignore_cleanup_errors=True) as home:
        outcome = Soak(Path(home), Load(seconds, seed=seed)).play(lambda words: print(words, flush=True))
    print(outcome.table(GROWTH_MAX), flush=True)
    breaches = outcome.breaches(GROWTH_MAX)
    print("\n".join(f"broken: {one}" for one in breaches) or "every limit holds", flush=True)
    return bool(breaches)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
