"""The trainings of a rehearsal on Dask workers of this machine: examples lie in a folder that every worker maps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from wardround.errors import LearnError
from wardround.learn.spread import Results, Share, Spread, train_share, write_edges
from wardround.learn.study import Study
from wardround.learn.virtual_edges import Mean
from wardround.process.dask_runner import DaskRunner, Runner
from wardround.records import Examples

WORKER_BYTES = 4_000_000_000


@contextmanager
def dask_spread(
    study: Study, edges: Mapping[str, Examples], classes: int, workers: int
) -> Iterator[tuple[Spread, Mapping[str, Examples]]]:
    """Workers, until the end of the block, and the edges as they lie on disk."""
    runner = DaskRunner(workers=workers, memory_bytes=WORKER_BYTES)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as folder:
        try:
            mapped = write_edges(Path(folder), edges)
            yield spread_over(runner, workers, folder, study, classes), mapped
        finally:
            runner.close()


def spread_over(runner: Runner, ways: int, folder: str, study: Study, classes: int) -> Spread:
    """Shares over a runner; results in the order of the shares, whenever they are ready."""
    text = msgspec.json.encode(study).decode()

    def run(shares: Sequence[Share]) -> Iterator[list[Mean] | Results]:
        found: dict[tuple[str, ...], list[Mean] | Results] = {}
        for outcome in runner.map(train_share, shares, folder, text, classes):
            if outcome.error:
                raise LearnError(
                    f"round {outcome.part.number}: a worker could not train its edges: {outcome.error}",
                    remedy="rehearse with fewer workers, or with none",
                )
            found[outcome.part.edges] = outcome.result
        return iter([found[share.edges] for share in shares])

    return Spread(ways, run)
