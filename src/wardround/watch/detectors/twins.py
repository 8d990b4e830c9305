"""Twins and free riders: updates that are somebody else's work, or the hub's own last step sent back.

An edge whose update points the way of a peer's of the same round, or of the last global step, in two of its last three rounds has
not trained on data of its own. How much two honest edges agree depends on their data and on how far training is. So the threshold
is above what honest edges were seen to reach (0.73 in simulation, 0.87 between two hospitals of 145), and closer to one where the
edges of a round agree anyway: a pair has to be four times closer than is usual, and beyond the spread of the round's pairs. Which
of two twins is the copy cannot be seen: both are named.

That is not enough where edges come in groups, as the wards of one kind do: within a group updates are as close as copies are, and
the round's pairs are mostly of different groups. But each of them has data of its own, and the same data (or nearly) in its next
round: what is between two honest updates points the same way again. What is between two copies is nothing, or noise that is new
each time. So two that are close are twins only if their difference does not come again.
Sources: Fung, Yoon, Beschastnikh, The Limitations of Federated Learning in Sybil Settings (FoolsGold), RAID 2020,
arXiv:1808.04866, whose idea twins are; Fraboni, Vidal, Lorenzi, Free-rider Attacks on Model Aggregation in Federated Learning,
AISTATS 2021, arXiv:2006.11901, for what free riders send.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec
import numpy as np
from numpy.typing import NDArray

from wardround.watch.detectors.updates import DIMENSIONS, Sketched, Vector, Verdict

THRESHOLD = 0.92
CLOSER = 4.0  # than is usual in the round, in 1 - cosine
FEW = 5  # updates: with fewer, what is usual is not known, and only a copy is a twin
COPY = 0.98
CHANCE_SD = 5.0
SPREAD_SD = 6.0  # beyond the median cosine of the round's pairs, in Fisher's z
MAD_SD = 1.4826  # of a normal distribution's standard deviation to its median absolute deviation
Z_CLIP = 0.999999
SEEN, NEEDED = 3, 2  # rounds of an edge that are looked at, and those that must speak
EXACT = 0.9999  # a copy as it is, at a hundredth of noise and less: there is no difference that could come again
# The cosine of a difference to an earlier one, of those that come again. It is a half where one of the two has changed.
AGAIN, AGAIN_CHANCES, AGAIN_MAX = 0.3, 3.5, 0.95
PASTS_MAX = 8  # earlier rounds in which two are looked for that answered both
ROWS_MIN, ROWS_MAX = 16, 256  # updates compared with all others at a time: at most 256 x edges cosines in memory
PRODUCT = 250_000  # multiplications at a time: beyond 262,144 OpenBLAS wakes its threads, which spin
USUAL_SHIFTS = 8  # neighbours of each update, in a secret order, whose cosines say what is usual


class _Saved(msgspec.Struct):
    step: bytes  # direction of the last global step; empty: none yet
    seen: dict[str, list[tuple[int, bool]]]  # by edge, newest last: round, and whether it spoke
    close: dict[str, list[tuple[int, bytes]]] = {}  # by edge that spoke: round, and the direction of its update, float32


class Twins:
    """The twins of one study. Memory: one sketch an update while a round is judged, then three numbers an edge, and three
    sketches of one that is close to another."""

    def __init__(self, seed: str, *, threshold: float = THRESHOLD) -> None:
        self._seed, self._threshold = seed, threshold
        self._step: Vector | None = None
        self._seen: dict[str, list[tuple[int, bool]]] = {}
        self._close: dict[str, list[tuple[int, bytes]]] = {}

    def judge(self, round_number: int, updates: Mapping[str, Sketched]) -> dict[str, Verdict]:
        """A verdict for each edge. The score is the largest cosine; the threshold is the round's."""
        edges = [e for e in sorted(updates) if updates[e].norm > 0]  # what points nowhere resembles nobody
        verdicts = {e: Verdict(accepted=True, reason="", score=0.0, threshold=self._threshold) for e in updates}
        if not edges:
            return verdicts
        rows = np.array([updates[e].direction for e in edges])
        chance = max(u.chance for u in updates.values())
        limit = self._limit(self._pairs(rows, round_number), len(edges), chance)
        closest = _closest(rows)
        signs = [("twins-peer", closest, limit)]
        if self._step is not None:
            cosines = rows @ self._step
            signs.append(("twins-stale", cosines, self._limit(cosines, len(edges), chance)))
        near = [place for place, cosine in enumerate(closest) if cosine > limit]
        own = self._with_data_of_their_own(round_number, [edges[place] for place in near], rows[near], limit, chance)
        self._forget(set(edges).difference(edges[place] for place in near))
        for place, edge in enumerate(edges):
            scores = [(reason, float(cosines[place]), threshold) for reason, cosines, threshold in signs]
            spoke = [sign for sign in scores if sign[1] > sign[2]]
            before = [s for s in self._seen.get(edge, []) if s[0] != round_number]  # a round may be judged again
            seen = self._seen[edge] = [*before[-(SEEN - 1) :], (round_number, bool(spoke))]
            often = sum(each for _, each in seen) >= NEEDED
            twin = [sign for sign in spoke if often and not (sign[0] == "twins-peer" and edge in own)]
            reason, score, threshold = max(twin or scores, key=lambda s: s[1] - s[2])
            verdicts[edge] = Verdict(not twin, reason if twin else "", round(score, 3), round(threshold, 3))
        return verdicts

    def stepped(self, step: Sketched) -> None:
        """The round's global step: what a free rider would send in the next one."""
        self._step = step.direction if step.norm > 0 else None

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        return msgspec.msgpack.encode(_Saved(b"" if self._step is None else self._step.tobytes(), self._seen, self._close))

    def restore(self, state: bytes) -> None:
        """Take up a kept state."""
        saved = msgspec.msgpack.decode(state, type=_Saved)
        self._step = np.frombuffer(saved.step, np.float64) if len(saved.step) == 8 * DIMENSIONS else None
        self._seen, self._close = saved.seen, saved.close

    def _with_data_of_their_own(
        self, round_number: int, names: list[str], now: NDArray[np.float64], limit: float, chance: float
    ) -> set[str]:
        """Of edges that are close to others those whose differences from all of these come again; keeps what they sent."""
        before = {e: [s for s in self._close.get(e, []) if s[0] != round_number] for e in names}
        cosines = now @ now.T
        np.fill_diagonal(cosines, -1.0)
        twins = cosines > limit  # who is neither a copy nor ever seen beside the other before is a twin of nobody yet
        copies, met, again = twins & (cosines >= EXACT), np.zeros_like(twins), np.zeros_like(twins)
        for number in sorted({n for kept in before.values() for n, _ in kept}, reverse=True)[:PASTS_MAX]:
            both = [place for place, e in enumerate(names) if any(n == number for n, _ in before[e])]
            past = np.array([_direction(dict(before[names[place]])[number]) for place in both])
            chosen = np.ix_(both, both)
            met[chosen] = True
            again[chosen] |= _cosines_of_differences(now[both], past) > min(AGAIN_MAX, max(AGAIN, AGAIN_CHANCES * chance))
        twins = copies | (twins & met & ~again)
        twins &= _about_as_close_as_the_closest(1.0 - cosines, twins)
        for place, e in enumerate(names):
            self._close[e] = [*before[e][-(SEEN - 1) :], (round_number, now[place].astype(np.float32).tobytes())]
        return {e for e, others in zip(names, twins, strict=True) if not np.any(others)}

    def _forget(self, edges: set[str]) -> None:
        """What was sent by those that have not been close to anybody lately."""
        for e in edges & set(self._close):
            if not any(spoke for _, spoke in self._seen.get(e, [])):
                del self._close[e]

    def _limit(self, cosines: NDArray[np.float64], edges: int, chance: float) -> float:
        """What a cosine has to exceed, from those that are usual in the round; in Fisher's z they are about normal."""
        if len(cosines) < 2:
            return 1.0
        usual = float(np.median(cosines))
        z = np.arctanh(np.clip(cosines, -Z_CLIP, Z_CLIP))
        spread = MAD_SD * float(np.median(np.abs(z - np.median(z))))
        beyond = min(COPY, float(np.tanh(np.median(z) + SPREAD_SD * spread)))
        closer = 1.0 - (1.0 - usual) / CLOSER
        return max(self._threshold, closer, beyond, min(COPY, CHANCE_SD * chance), COPY if edges < FEW else 0.0)

    def _pairs(self, rows: NDArray[np.float64], round_number: int) -> NDArray[np.float64]:
        """Cosines of some pairs: of each update and its neighbours in an order that no edge knows. Two are no sample."""
        if len(rows) < 3:
            return np.empty(0)
        secret = hashlib.sha256(f"{self._seed}/{round_number}".encode()).digest()[:8]
        mixed = rows[np.random.default_rng(int.from_bytes(secret, "big")).permutation(len(rows))]
        shifts = range(1, min(USUAL_SHIFTS, len(rows) - 1) + 1)
        return np.concatenate([np.einsum("ij,ij->i", mixed, np.roll(mixed, shift, axis=0)) for shift in shifts])


def _closest(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The largest cosine of each row to any other one, shape (n,); -1 where there is no other."""
    best = np.full(len(rows), -1.0)
    together = min(ROWS_MAX, max(ROWS_MIN, PRODUCT // max(1, rows.size)))
    for start in range(0, len(rows), together):
        cosines = rows[start : start + together] @ rows.T
        np.fill_diagonal(cosines[:, start:], -1.0)
        best[start : start + together] = cosines.max(axis=1)
    return best


def _direction(kept: bytes) -> Vector:
    return np.frombuffer(kept, np.float32).astype(np.float64)


def _about_as_close_as_the_closest(apart: NDArray[np.float64], twins: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Who took another's update is closer to that one than to those who were beside either before: they have no part in it."""
    closest = np.where(twins, apart, np.inf).min(axis=1, initial=np.inf)
    within: NDArray[np.bool_] = apart <= CLOSER * np.minimum(closest[:, None], closest[None, :]) + (1.0 - EXACT)
    return within


def _cosines_of_differences(now: NDArray[np.float64], past: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each pair of directions its difference in two rounds: their cosine, shape (n, n)."""
    across = now @ past.T
    own = np.diag(across)
    products = own[:, None] + own[None, :] - across - across.T
    lengths = np.maximum(0.0, (2 - 2 * (now @ now.T)) * (2 - 2 * (past @ past.T)))
    return products / np.sqrt(np.maximum(lengths, 1e-12))
