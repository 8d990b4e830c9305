"""A rehearsal's trainings in other processes: examples in a folder that all of them map, shares of a round that travel.

For fleets that do not fit into one process's memory, or one core's patience. The folder is written once; each process maps it and
reads the rows of the edges that it trains. What runs a share elsewhere is handed in by the root (Dask workers in the product).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import numpy as np

from wardround.learn.local import Local
from wardround.learn.models import Parameters
from wardround.learn.strategies import make_strategy
from wardround.learn.study import Study
from wardround.records import Examples

if TYPE_CHECKING:
    from wardround.learn.virtual_edges import Mean, VirtualEdges

ARRAYS = ("features", "labels")


@dataclass(frozen=True, slots=True)
class Share:
    """Some edges of a round, to be trained together."""

    number: int
    edges: tuple[str, ...]
    model: Parameters
    means: bool  # whether their mean update does, or each is wanted
    kept: Mapping[str, Parameters] = field(default_factory=dict)  # of those edges


Results = list[tuple[str, Local | str]]  # or the words of a failure


@dataclass(frozen=True, slots=True)
class Spread:
    """Where shares are trained. `run` gives the result of each share, in their order; any number may be at work at a time."""

    ways: int  # shares that a round is cut into
    run: Callable[[Sequence[Share]], Iterator[list[Mean] | Results]]


def write_edges(folder: Path, edges: Mapping[str, Examples]) -> FolderEdges:
    """Write the labelled examples of all edges, one edge after the other, and map them. Memory: one edge's examples."""
    folder.mkdir(parents=True, exist_ok=True)
    names = list(edges)
    counts = [int((e.labels >= 0).sum()) for e in edges.values()]
    first = next(iter(edges.values()))
    shape = (sum(counts), first.features.shape[1])
    features = np.lib.format.open_memmap(folder / "features.npy", "w+", np.float32, shape)
    labels = np.lib.format.open_memmap(folder / "labels.npy", "w+", np.int32, shape[:1])
    at = 0
    for examples, n in zip(edges.values(), counts, strict=True):
        here = examples.labels >= 0
        features[at : at + n], labels[at : at + n] = examples.features[here], examples.labels[here]
        at += n
    features.flush()
    labels.flush()
    facts = {"names": names, "counts": counts, "features": list(first.feature_names)}
    (folder / "edges.json").write_text(json.dumps(facts), encoding="utf-8")
    return FolderEdges(folder)


class FolderEdges(Mapping[str, Examples]):
    """The edges of a folder; an edge's examples are views of the files, and take no memory of their own."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "edges.json").read_text(encoding="utf-8"))
        firsts = np.cumsum([0, *facts["counts"]])
        self._rows = {n: (int(a), int(b)) for n, a, b in zip(facts["names"], firsts, firsts[1:], strict=False)}
        self._names = tuple(facts["features"])
        self._features, self._labels = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in ARRAYS)

    def __getitem__(self, edge: str) -> Examples:
        first, last = self._rows[edge]
        n = last - first
        return Examples(
            features=self._features[first:last],
            labels=self._labels[first:last],
            subjects=np.full(n, edge),
            t_us=np.zeros(n, np.int64),
            feature_names=self._names,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)


_opened: dict[tuple[str, str], VirtualEdges] = {}  # of this process


def train_share(share: Share, folder: str, study: str, classes: int) -> list[Mean] | Results:
    """Train a share where the folder can be mapped; `study` is JSON. Called by its name in a worker, which keeps what it opens.

    Raises:
        LearnError: as VirtualEdges.means.
    """
    from wardround.learn.virtual_edges import VirtualEdges  # noqa: PLC0415 - JAX, which a worker loads once

    key = (folder, study)
    if key not in _opened:
        _opened.clear()
        given = msgspec.json.decode(study, type=Study)
        strategy = make_strategy(given.strategy, given.learner)
        _opened[key] = VirtualEdges(given, FolderEdges(Path(folder)), classes=classes, strategy=strategy)
    edges = _opened[key]
    if share.means:
        return edges.means(share.model, share.edges, share.number)
    edges.kept = dict(share.kept)
    return list(edges.trained(share.model, share.edges, share.number))
