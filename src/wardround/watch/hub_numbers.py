"""The hub's own numbers, minute by minute: what was never seen of one of them is a notice of low priority.

Each number is a stream of its own for the novelty ensemble (detectors/novelty.py), which has one setting for all streams. It
learns for two days, which also say how high its score goes when nothing is wrong; until then nothing is said. Sans-I/O, bounded
memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from wardround.malformed import MALFORMED
from wardround.watch.alerts import Finding
from wardround.watch.novel_stream import Kept, Learning, NovelStream

KIND = "number-unusual"
MINUTE_US = 60_000_000
LEARNING = Learning(warm_up=720, learnt=2_880, quiet=360, evidence_max=60)  # minutes
OVER_MINUTES = 60
STREAMS_MAX = 200
TITLES = {
    "samples": ("Samples arriving a second", ("devices or edges that have come or gone", "an edge that empties its spool")),
    "waiting": (
        "Observations waiting in the inbox",
        ("the lake takes nothing: a full disk, a job", "an edge that empties its spool"),
    ),
    "behind": ("Seconds that gold is behind", ("a job that fails or takes longer", "more data than the workers can take")),
    "edges": ("Edges connected", ("a network or a site is down", "edges that have joined")),
}


@dataclass(frozen=True, slots=True)
class Unusual:
    """A number that was never so: its value, score and threshold, and the newest minutes."""

    name: str
    t_us: int
    value: float
    score: float
    threshold: float
    evidence: tuple[tuple[float, float], ...]


class HubNumbers:
    """One hub's."""

    def __init__(self, state: bytes = b"") -> None:
        """`state`: of before a restart; one that cannot be read is as none."""
        self._streams: dict[str, NovelStream] = {}
        if state:
            self._restore(state)

    def minute(self, t_us: int, values: Mapping[str, float]) -> list[Unusual]:
        """What is new in the numbers of a minute."""
        found = []
        for name, value in values.items():
            stream = self._streams.get(name)
            if not math.isfinite(value) or (stream is None and len(self._streams) >= STREAMS_MAX):
                continue
            if stream is None:
                stream = self._streams[name] = NovelStream(LEARNING)
            new = stream.update(t_us, value)
            if new is not None:
                found.append(Unusual(name, t_us, value, new.score, new.threshold, new.evidence))
        return found

    def standing(self, now_us: int) -> set[str]:
        """The numbers that were new within the last hour."""
        return {name for name, stream in self._streams.items() if stream.spoke_after(now_us - OVER_MINUTES * MINUTE_US)}

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        return msgspec.msgpack.encode({name: stream.kept() for name, stream in self._streams.items()})

    def _restore(self, state: bytes) -> None:
        try:
            kept = msgspec.msgpack.decode(state, type=dict[str, Kept])
            self._streams = {name: NovelStream(LEARNING, own) for name, own in kept.items()}
        except MALFORMED:  # of another version
            self._streams = {}


def finding(found: Unusual, now_us: int) -> Finding:
    """What people are told of it. `signal` is the number's name: it tells one cause from another."""
    title, causes = TITLES.get(found.name, (found.name, ()))
    return Finding(
        kind="number-unusual",
        title=f"{title}: {found.value:,.4g} was never seen at this hub",
        priority="low",
        category="technical",
        since_us=found.t_us,
        detected_us=now_us,
        signal=found.name,
        detail=f"Novelty {found.score:.3g}, limit {found.threshold:.3g}, against everything since it began to learn.",
        evidence=found.evidence,
        evidence_unit=title.lower(),
        impact="None by itself.",
        causes=causes,
        action="Look at the Overview: did something change that was meant to? It becomes usual by itself.",
    )
