"""A hub whose own step can be struck: `python -m struck_hub hub run --home HOME`. All else is the product's.

While HOME/strike says a number above 0 a round's step goes a hundred times too far, and backwards, and the number goes down by
one.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

from wardround.cli.main import run
from wardround.learn.interference import overshot
from wardround.learn.making import Making
from wardround.learn.triage import load

FACTOR = -100.0


def struck(home: Path) -> None:
    """From now on this process strikes when it is told to."""
    folded, file = Making._folded, home / "strike"

    def folds(self, open_, accepted, late):
        done = folded(self, open_, accepted, late)
        left = int(file.read_text()) if file.exists() else 0
        if open_.task != "train" or left <= 0:
            return done
        file.write_text(str(left - 1))
        with self._models.tensors(open_.base) as base:
            return replace(done, model=overshot(load(base), done.model, FACTOR))

    Making._folded = folds


if __name__ == "__main__":
    struck(Path(sys.argv[sys.argv.index("--home") + 1]))
    run()
