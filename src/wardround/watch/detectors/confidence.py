"""How good the model is at an edge, without labels: from how sure it is, and how often it was right when it was so sure.

Confidence-based performance estimation: from the labelled rows of all edges, how often the model is right by its confidence
(monotone, by pooling adjacent violators); from an edge's rows, how sure it is; together, the accuracy to expect there. It falls
when cases become harder. It is BLIND TO CONCEPT DRIFT: where the same inputs come to mean another thing, the model is as sure as
before and wrong (estimated 0.82, real 0.56 in our test), so a quiet sign is no proof. Losses and screens cover that.
Sources: the idea, NannyML's CBPE (2022); pooling, Ayer et al., Annals of Mathematical Statistics 26(4), 1955.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.row_counts import CONFIDENCE_BINS, CONFIDENCE_COUNTS
from wardround.watch.detectors.own_past import WARM_UP, OwnPast, Saved
from wardround.watch.detectors.seen import EdgeSeen, Found, RoundSeen, Scored, Sign

FADE = 0.95  # of the curve by round: a model that learns is right more often
LABELLED_MIN = 200.0
ROWS_MIN = 20
MIDDLES = (np.arange(CONFIDENCE_BINS) + 0.5) / CONFIDENCE_BINS
SD_MIN = 0.01  # of the estimated accuracy

Floats = NDArray[np.float64]


class _Saved(msgspec.Struct):
    own: Saved
    curve: list[list[float]]


class Confidence:
    """Of one study. Memory: a past an edge and one curve."""

    signs: Mapping[str, Sign] = MappingProxyType(
        {"confidence": Sign("confidence-low", 4.0, "z of the accuracy estimated without labels, downwards")}
    )

    def __init__(self) -> None:
        self._past, self._rounds = OwnPast(sd_min=SD_MIN), 0
        self._curve = np.zeros((CONFIDENCE_BINS, 2))  # labelled rows by confidence, and those of them that were right

    def score(self, seen: RoundSeen) -> Found:
        found: dict[str, Scored] = {}
        for edge, accuracy in self._estimates(seen).items():
            if (judged := self._past.z(edge, accuracy)) is not None:
                found[edge] = Scored(self._past.two_of_three(edge, -1.0), accuracy, judged[1])
        return {"confidence": found}

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        self._rounds += 1
        if self._rounds > WARM_UP:
            for edge, accuracy in self._estimates(seen).items():
                if edge not in leave_out:
                    self._past.learn(edge, accuracy)
        told = [c for edge, own in seen.edges.items() if edge not in leave_out and (c := _counts(own)) is not None]
        if told:
            self._curve = FADE * self._curve + np.sum(told, axis=0)[:, 1:]

    def state(self) -> bytes:
        return msgspec.msgpack.encode(_Saved(Saved(self._past.save(), self._rounds), self._curve.tolist()))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=_Saved)
        self._past.load(saved.own.past)
        self._rounds, self._curve = saved.own.rounds, np.array(saved.curve).reshape(CONFIDENCE_BINS, 2)

    def _estimates(self, seen: RoundSeen) -> dict[str, float]:
        """The accuracy to expect at each edge that said how sure the model is there."""
        if self._curve[:, 0].sum() < LABELLED_MIN:
            return {}
        right = monotone(self._curve[:, 1] + MIDDLES, self._curve[:, 0] + 1)  # one row a bin that is as right as it is sure
        said = {edge: counts for edge, own in seen.edges.items() if (counts := _counts(own)) is not None}
        return {edge: float(c[:, 0] @ right / c[:, 0].sum()) for edge, c in said.items() if c[:, 0].sum() >= ROWS_MIN}


def monotone(right: Floats, n: Floats) -> Floats:
    """The shares right / n made non-decreasing, by pooling adjacent violators; a bin without rows is its neighbour's below.

    Args:
        right: how many were right, shape (n_bins,).
        n: of how many, shape (n_bins,).
    """
    blocks: list[list[float]] = []  # right, n, bins
    for r, count in zip(right.tolist(), n.tolist(), strict=True):
        blocks.append([r, count, 1])
        while len(blocks) > 1 and _share(blocks[-2]) >= _share(blocks[-1]):
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    return np.concatenate([np.full(int(bins), _share([r, count])) for r, count, bins in blocks])


def _share(block: list[float]) -> float:
    return block[0] / block[1] if block[1] else 0.0


def _counts(own: EdgeSeen) -> Floats | None:
    """Counts as they should be; None where the edge said none, or not such ones."""
    if own.confidence is None:
        return None
    counts = np.asarray(own.confidence, np.float64)
    if counts.shape != (CONFIDENCE_BINS, CONFIDENCE_COUNTS) or not np.isfinite(counts).all() or (counts < 0).any():
        return None
    consistent = (counts[:, 1] <= counts[:, 0]).all() and (counts[:, 2] <= counts[:, 1]).all()
    return counts if consistent and counts[:, 0].sum() > 0 else None
