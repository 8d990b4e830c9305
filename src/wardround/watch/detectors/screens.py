"""The screens of a study as one: each update is sketched once, each detector judges the sketches, one verdict says so.

Implements learn.triage.Screen, which it does not import: the roots hand it over.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import msgspec

from wardround.malformed import MALFORMED
from wardround.watch.detectors import own_history, twins
from wardround.watch.detectors.own_history import OwnHistory
from wardround.watch.detectors.peers import Peers
from wardround.watch.detectors.trial import Trial
from wardround.watch.detectors.twins import Twins
from wardround.watch.detectors.updates import Sketcher, Tensors, Verdict


class _Saved(msgspec.Struct):
    own_history: bytes
    twins: bytes
    peers: bytes = b""
    trial: bytes = b""


class Screens:
    """Twins first, then peers: what they refuse teaches the edge's own history nothing."""

    def __init__(
        self,
        seed: str,
        *,
        threshold: float = own_history.THRESHOLD,
        rounds_min: int = own_history.ROUNDS_MIN,
        twin_threshold: float = twins.THRESHOLD,
        trial_rounds: int = 0,
    ) -> None:
        """`seed` is the hub's own secret; `trial_rounds` as trial.py has it, 0: no edge is tried."""
        self._sketcher = Sketcher(seed)
        self._own_history = OwnHistory(seed, threshold=threshold, rounds_min=rounds_min)
        self._twins = Twins(seed, threshold=twin_threshold)
        self.step_norm: float | None = None  # of the newest step; of a large model an estimate, as all that sketches say
        self._peers, self._trial = Peers(), Trial(trial_rounds)

    def judge_round(self, round_number: int, updates: Mapping[str, Tensors], aside: Collection[str] = ()) -> dict[str, Verdict]:
        """A verdict for each edge: the refusal if there is one, of twins before peers before own history before the trial; else
        own history's. What those of `aside` send, who are set aside already, becomes no edge's own history."""
        sketched = {edge: self._sketcher.sketch(update) for edge, update in updates.items()}
        beside = self._peers.judge(round_number, sketched) | {
            edge: verdict for edge, verdict in self._twins.judge(round_number, sketched).items() if not verdict.accepted
        }
        refused = {edge: verdict for edge, verdict in beside.items() if not verdict.accepted}
        verdicts = self._own_history.judge(round_number, sketched, {*refused, *aside}) | refused
        refused_by_any = {edge for edge, verdict in verdicts.items() if not verdict.accepted}
        on_trial = self._trial.judge(round_number, sketched, refused_by_any)
        return verdicts | {edge: verdict for edge, verdict in on_trial.items() if edge not in refused_by_any}

    def admit(self, edge: str) -> None:
        """Somebody has decided that an edge counts, whatever its trial."""
        self._trial.admit(edge)

    def stepped(self, step: Tensors) -> None:
        """What the round's updates were folded to."""
        sketched = self._sketcher.sketch(step)
        self.step_norm = sketched.norm
        self._twins.stepped(sketched)
        self._own_history.moved(sketched)
        self._peers.stepped(sketched)

    def state(self) -> bytes:
        """What is to be kept across a restart."""
        return msgspec.msgpack.encode(
            _Saved(self._own_history.state(), self._twins.state(), self._peers.state(), self._trial.state())
        )

    def restore(self, state: bytes) -> None:
        """Take up a kept state. What an older version kept is of sketches made in another way: history begins anew."""
        try:
            saved = msgspec.msgpack.decode(state, type=_Saved)
        except MALFORMED:
            return
        self._own_history.restore(saved.own_history)
        self._twins.restore(saved.twins)
        if saved.peers:
            self._peers.restore(saved.peers)
        self._trial.restore(saved.trial)
