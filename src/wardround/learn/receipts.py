"""What the hub has answered an edge, kept on the edge: its newest receipts, why an update did not count, and what to do.

A person at the edge sees here what the operator sees at the hub (`wardround study updates`), in the same constants.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import msgspec

from wardround.learn.blobs import Blobs
from wardround.malformed import MALFORMED

NAME = "receipts/newest.json"
KEPT_MAX = 100
WORDS_MAX = 300

_VERSION = "bring the edge to the hub's version"
_SHAPE = "the edge's model is not the study's: " + _VERSION
_BYTES = "nothing: the edge sends it again in the next round; if it goes on, look at the link and at the edge's disk"
_LATE = "nothing: the round was over; if it is so every time, this edge is slower than the round's deadline_s"
_DATA = "look at this edge's newest data: devices, units, labels"
_STATISTICS = "the edge's sums cannot be those of any data: " + _VERSION
_MASKS = "nothing of this update was given away; ask the keeper of the hub what happened in that round, and look at the audit log"
_REPLAYED = "a study that was started anew needs another name: this edge opens one sum a round of a study, and has done so"
_ROSTER = "nothing of this update was given away; ask the keeper of the roster who is in it, and if the hub has the newest"
ADVICE = {
    "signature": "run the edge with the key its certificate was issued for, or join again with a new token",
    "study": _VERSION,
    "participant": "nothing: the hub had not asked this edge in that round",
    "round": _LATE,
    "late": _LATE,
    "base": "nothing: the study went on from another model; the next order names it",
    "too-large": "ask for a larger triage.update_bytes_max in study.toml, or for a smaller model",
    "examples": "look at how many examples this edge holds; triage.examples_max in study.toml is the bound",
    "metrics": _DATA + "; the training gave no number that the strategy needs",
    "names": _SHAPE,
    "shape": _SHAPE,
    "dtype": _SHAPE,
    "trees": _SHAPE,
    "malformed": _BYTES,
    "truncated": _BYTES,
    "digest": _BYTES,
    "not-finite": _DATA + "; the training ran away, a smaller learner.learning_rate may help",
    "non-finite": _DATA,
    "patients": "1 to 4,096 patients of an edge may train where privacy.unit is `patient`: give the others to another edge",
    "clip": _VERSION,
    "own-report": _VERSION + "; what this edge says of itself is not as the hub reads it, or not signed by its key",
    "norm": _DATA + "; the update is far longer than this edge's own before",
    "impossible": _STATISTICS,
    "missing": _STATISTICS,
}


def advice(verdict: str, reason: str) -> str:
    """What to do about an answer of the hub, in words."""
    if verdict in ("accepted", "released"):
        return ""
    if verdict == "sat-out":
        return _DATA + f"; docs/runbooks.md#edge-own-screen says what `{reason}` means"
    if verdict == "aside":
        return _DATA + "; then have the operator of the hub let this edge count again (`wardround study release`)"
    if reason.startswith("masks-"):
        return {"masks-replayed": _REPLAYED, "masks-roster": _ROSTER}.get(reason, _MASKS)
    return ADVICE.get(reason, "ask the operator of the hub: `wardround study updates` has the details")


class HubAnswer(msgspec.Struct, frozen=True):
    """`verdict` is accepted, refused, aside (the update is kept, and weighs nothing), released, or sat-out (this edge's own)."""

    study: str
    round_number: int = msgspec.field(name="round")
    t_us: int
    verdict: str
    reason: str = ""
    detail: str = ""


class Receipts:
    """The newest answers, durable. Safe to use from several threads."""

    def __init__(self, blobs: Blobs, now_us: Callable[[], int]) -> None:
        self._blobs, self._now_us = blobs, now_us
        self._lock = threading.Lock()

    def note(self, study: str, round_number: int, verdict: str, reason: str = "", detail: str = "") -> None:
        """Keep an answer; the oldest goes when there are more than KEPT_MAX."""
        with self._lock:
            kept = self._read()
            if any(_same(a, study, round_number, verdict, detail) for a in _since(kept, study, verdict)):
                return  # told twice
            answer = HubAnswer(study, round_number, self._now_us(), verdict, reason[:WORDS_MAX], detail[:WORDS_MAX])
            self._blobs.write(NAME, msgspec.json.encode([*kept, answer][-KEPT_MAX:]))

    def newest(self) -> list[HubAnswer]:
        """The answers, the newest first."""
        with self._lock:
            return self._read()[::-1]

    def _read(self) -> list[HubAnswer]:
        try:
            return msgspec.json.decode(self._blobs.read(NAME), type=list[HubAnswer])
        except (FileNotFoundError, *MALFORMED):
            return []


def _since(kept: list[HubAnswer], study: str, verdict: str) -> list[HubAnswer]:
    """What could be the same answer: of an edge that is set aside, everything since it was released."""
    own = [a for a in kept if a.study == study]
    released = max((i for i, a in enumerate(own) if a.verdict == "released"), default=-1)
    return own[released + 1 :] if verdict == "aside" else own[-1:]


def _same(answer: HubAnswer, study: str, round_number: int, verdict: str, detail: str) -> bool:
    """The hub says at every attachment that an edge is set aside, with the round it says it in."""
    if (answer.study, answer.verdict, answer.detail) != (study, verdict, detail):
        return False
    return verdict == "aside" or answer.round_number == round_number
