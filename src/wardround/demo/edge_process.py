"""`python -m wardround.demo.edge_process HOME...`: ordinary edges, but one that may be told to lie.

While a file `poison` lies in an edge's home, its updates are turned round and made eight times as large before they are kept
and sent: what a broken or hostile edge could do. The product has no such switch.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from pathlib import Path

from wardround.edge import Alter, EdgeHome, run_edges
from wardround.learn.messages import Done, Order
from wardround.learn.models import decode_model, encode_model
from wardround.log_lines import write_log_lines

FACTOR = -8.0


def poisoner(home: Path) -> Alter:
    """Changes the update of this edge while the file is there."""

    def alter(order: Order, done: Done) -> Done:
        if order.task != "train" or not (home / "poison").exists():
            return done
        poisoned = {name: (tensor * FACTOR).astype(tensor.dtype) for name, tensor in decode_model(done.data).items()}
        return replace(done, data=encode_model(poisoned))

    return alter


def main(homes: list[Path]) -> None:
    """Run these edges in this process."""
    alter = {EdgeHome.open(home).settings.name: poisoner(home) for home in homes}
    asyncio.run(run_edges(homes, alter))


if __name__ == "__main__":
    write_log_lines()
    main([Path(argument) for argument in sys.argv[1:]])
