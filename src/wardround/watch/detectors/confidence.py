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
from wardround.watch.detectors.seen import Found, RoundSeen, Scored, Sign

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
        self._told: tuple[list[str], Floats] = ([], np.empty((0, CONFIDENCE_BINS, CONFIDENCE_COUNTS)))  # of the round
        self._estimated: dict[str, float] = {}
        self._curve = np.zeros((CONFIDENCE_BINS, 2))  # labelled rows by confidence, and those of them that were right

    def score(self, seen: RoundSeen) -> Found:
        self._take(seen)
        found: dict[str, Scored] = {}
        for edge, accuracy in self._estimated.items():
            if (judged := self._past.z(edge, accuracy)) is not None:
                found[edge] = Scored(self._past.two_of_three(edge, -1.0), accuracy, judged[1])
        return {"confidence": found}

    def learn(self, seen: RoundSeen, leave_out: Collection[str]) -> None:
        del seen  # `score` has taken it
        self._rounds += 1
        if self._rounds > WARM_UP:
            for edge, accuracy in self._estimated.items():
                if edge not in leave_out:
                    self._past.learn(edge, accuracy)
        edges, counts = self._told
        teaching = [i for i, edge in enumerate(edges) if edge not in leave_out]
        if teaching:
            self._curve = FADE * self._curve + counts[teaching].sum(axis=0)[:, 1:]

    def state(self) -> bytes:
        return msgspec.msgpack.encode(_Saved(Saved(self._past.save(), self._rounds), self._curve.tolist()))

    def restore(self, state: bytes) -> None:
        saved = msgspec.msgpack.decode(state, type=_Saved)
        self._past.load(saved.own.past)
        self._rounds, self._curve = saved.own.rounds, np.array(saved.curve).reshape(CONFIDENCE_BINS, 2)

    def _take(self, seen: RoundSeen) -> None:
        """The round's counts that are as they should be, and the accuracy to expect at each of their edges."""
        shape = (CONFIDENCE_BINS, CONFIDENCE_COUNTS)
        told = [(edge, own.confidence) for edge, own in seen.edges.items() if own.confidence is not None]
        edges = [edge for edge, counts in told if counts.shape == shape]
        stacked = np.array([c for _, c in told if c.shape == shape], np.float64).reshape(-1, *shape)
        rows, labelled, right = stacked[..., 0], stacked[..., 1], stacked[..., 2]
        good = ((right >= 0) & (right <= labelled) & (labelled <= rows) & np.isfinite(rows)).all(axis=1) & (rows.sum(axis=1) > 0)
        counts = stacked[good]
        self._told = [edge for edge, fine in zip(edges, good.tolist(), strict=True) if fine], counts
        self._estimated = {}
        if self._curve[:, 0].sum() < LABELLED_MIN or not len(counts):
            return
        curve = monotone(self._curve[:, 1] + MIDDLES, self._curve[:, 0] + 1)  # one row a bin that is as right as it is sure
        totals = counts[..., 0].sum(axis=1)
        accuracies = (counts[..., 0] @ curve / totals).tolist()
        of = zip(self._told[0], accuracies, totals.tolist(), strict=True)
        self._estimated = {edge: accuracy for edge, accuracy, total in of if total >= ROWS_MIN}


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
