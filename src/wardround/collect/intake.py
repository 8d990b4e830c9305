"""The hub's gate: who sends, may it be here, is it new; then the inbox, then the receipt, then the alert path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from wardround.clock import Clock
from wardround.collect.inbox import Gap, Inbox, InboxRow
from wardround.records import Consent, Observation, decode_observation


@dataclass(frozen=True, slots=True)
class Refusal:
    """One observation the hub did not take; its sequence is used up all the same."""

    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class ForwardReceipt:
    """Everything of this boot up to `committed_seq` is on the hub's disk."""

    boot: str
    committed_seq: int
    refusals: tuple[Refusal, ...] = ()


class Intake:
    """Takes batches of one edge at a time; different edges may come from different threads."""

    def __init__(
        self,
        *,
        inbox: Inbox,
        consent: Callable[[str, str, str], Consent],
        clock: Clock,
        on_refused: Callable[[str, str, str], None],
        on_committed: Callable[[Sequence[Observation]], None],
    ) -> None:
        """`consent(edge, subject, code)` is what holds at this moment; `on_refused(edge, reason, detail)` keeps the refusal;
        `on_committed` feeds the alert path and must return at once."""
        self._inbox, self._consent, self._clock = inbox, consent, clock
        self._on_refused, self._on_committed = on_refused, on_committed

    def receive(
        self, edge: str, boot: str, first_seq: int, observations: Sequence[bytes], gaps: Sequence[Gap] = ()
    ) -> ForwardReceipt:
        """Take a batch: repeats are ignored, a hole stops it, everything else is durable when this returns.

        Raises:
            StorageFull: the hub's disk is full; nothing was taken.
        """
        watermark = upto = self._inbox.watermark(edge, boot)
        taken_gaps: list[Gap] = []
        rows: list[tuple[int, bytes]] = []
        taken: list[Observation] = []
        refusals: list[Refusal] = []
        for seq, data in enumerate(observations, first_seq):
            upto = _over_gaps(upto, gaps, taken_gaps)
            if seq <= upto:
                continue
            if seq != upto + 1:
                break
            upto = seq
            observation, reason = self._check(edge, data)
            if observation is None:
                refusals.append(Refusal(seq, reason))
                continue
            rows.append((seq, data))
            taken.append(observation)
        upto = _over_gaps(upto, gaps, taken_gaps)
        if upto > watermark:
            self._inbox.put(edge, boot, upto, rows, taken_gaps, self._clock.now_us())
        for refusal in refusals:
            self._on_refused(edge, refusal.reason, f"sequence {refusal.seq} of boot {boot}")
        if taken:
            self._on_committed(taken)
        return ForwardReceipt(boot, upto, tuple(refusals))

    def _check(self, edge: str, data: bytes) -> tuple[Observation | None, str]:
        try:
            observation = decode_observation(data)
        except msgspec.MsgspecError:
            return None, "not-an-observation"
        if observation.edge != edge:
            return None, "another-edge"
        if self._consent(edge, observation.subject, observation.code) is not Consent.RAW:
            return None, "no-consent"
        return observation, ""


class Committer:
    """The one writer that moves the inbox into the lake, each row exactly once.

    The lake's commit names the number of its last row. After a crash between that commit and `retire`, the rows are still
    here and the lake already names them: they are retired, not written again.
    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        lake_version: Callable[[str], int],
        lake_append: Callable[[Sequence[InboxRow], str, int], None],
        rows_max: int,
    ) -> None:
        """`lake_version(app)` is the last number committed, or -1; `lake_append(rows, app, number)` commits exactly once."""
        self._inbox, self._rows_max = inbox, rows_max
        self._lake_version, self._lake_append = lake_version, lake_append
        self._app = f"inbox-{inbox.inbox_id}"
        self._recovered = False

    def run_once(self) -> int:
        """Move one batch; how many rows it had."""
        if not self._recovered:
            done = self._lake_version(self._app)
            if done >= 0:
                self._inbox.retire(done)
            self._recovered = True
        rows = self._inbox.pending(self._rows_max)
        if not rows:
            return 0
        self._recovered = False  # until this batch is through, a failure must look at the lake first
        self._lake_append(rows, self._app, rows[-1].number)
        self._inbox.retire(rows[-1].number)
        self._recovered = True
        return len(rows)


def _over_gaps(upto: int, gaps: Sequence[Gap], taken: list[Gap]) -> int:
    """Step over what the edge says will never come."""
    for gap in sorted(gaps, key=lambda g: g.first_seq):
        if gap.first_seq <= upto + 1 <= gap.last_seq:
            taken.append(Gap(upto + 1, gap.last_seq, gap.reason))  # what arrived before the edge gave it up is no gap
            upto = gap.last_seq
    return upto
