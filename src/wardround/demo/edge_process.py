"""`python -m wardround.demo.edge_process HOME...`: ordinary edges, but one that may be told to lie.

A file `poison` in an edge's home names a round; after it, and after a few honest updates of this process, the edge's updates are
turned round and made eight times as large before they are kept and sent: what a broken or hostile edge could do. A file
`poisoned` says since when. So the first lie belongs to a round and not to a moment: on a slow machine too it is told while the
study runs, and to a hub that knows this edge. The product has no such switch.
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
HONEST_MIN = 5  # updates; the screen says nothing of an edge before it knows four


def poisoner(home: Path) -> Alter:
    """Changes the updates of this edge from the round on that its file names."""
    honest = 0

    def alter(order: Order, done: Done) -> Done:
        nonlocal honest
        if order.task != "train":
            return done
        told = home / "poison"
        if honest < HONEST_MIN or not told.exists() or order.round_number <= int(told.read_text()):
            honest += 1
            return done
        if not (home / "poisoned").exists():
            (home / "poisoned").touch()
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
