"""A stream of numbers that learns by itself how new is new: the novelty ensemble (detectors/novelty.py) and a limit of its own.

It scores nothing at first, then learns how high its score goes when nothing is wrong, and from then on says what goes beyond.
Sans-I/O, bounded memory.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from wardround.watch.calibration import MARGIN
from wardround.watch.detectors.novelty import Novelty

FLOOR = 1.5  # of a score: what two kinds of evidence together reach
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class Learning:
    """Points that score nothing, that calibrate, in which one novelty speaks, and that are kept as evidence."""

    warm_up: int
    learnt: int
    quiet: int
    evidence_max: int


@dataclass(frozen=True, slots=True)
class Novel:
    """Something that was never so: its score and threshold, and the newest points, (microseconds since 1970, value)."""

    score: float
    threshold: float
    evidence: Points


class Kept(msgspec.Struct):
    """What is kept of a stream across a restart."""

    novelty: bytes
    seen: int = 0
    highest: float = 0.0  # score of the points that calibrate
    spoken_us: int = 0  # of what stands
    newest: list[tuple[float, float]] = []


class NovelStream:
    """One stream."""

    def __init__(self, learning: Learning, kept: Kept | None = None) -> None:
        """Raises ValueError where what was kept is of another version."""
        self._learning, self._kept = learning, kept or Kept(b"")
        self._novelty = Novelty(warm_up=learning.warm_up, quiet=learning.quiet)
        if kept is not None:
            self._novelty.restore(kept.novelty)

    @property
    def newest_us(self) -> int:
        """The time of the newest point; -1: there is none."""
        return int(self._kept.newest[-1][0]) if self._kept.newest else -1

    def update(self, t_us: int, value: float) -> Novel | None:
        """The next point, which is finite: what is new about it."""
        kept = self._kept
        score = self._novelty.update(t_us, value)
        kept.seen += 1
        kept.newest = [*kept.newest[1 - self._learning.evidence_max :], (float(t_us), round(value, 3))]
        if kept.seen <= self._learning.learnt:
            kept.highest = max(kept.highest, score)
            return None
        threshold = max(FLOOR, MARGIN * kept.highest)
        if score <= threshold:
            return None
        kept.spoken_us = t_us
        return Novel(score, threshold, tuple(kept.newest))

    def spoke_after(self, t_us: int) -> bool:
        """Whether it has said something after that."""
        return bool(self._kept.spoken_us) and self._kept.spoken_us > t_us

    def kept(self) -> Kept:
        """What is to be kept across a restart."""
        self._kept.novelty = self._novelty.state()
        return self._kept
