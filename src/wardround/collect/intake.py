"""The hub's gate: who sends, may it be here, is it new; then the inbox, then the receipt, then the alert path."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter

from wardround.clock import Clock
from wardround.collect.inbox import Gap, Inbox, InboxBatch
from wardround.errors import CollectError, StorageFull
from wardround.malformed import MALFORMED
from wardround.records import Consent, Observation, decode_observation, decode_observations

TRIES = 10
LOST = "lost-with-the-hub"  # between its last backup and its end
COMMIT_BYTES_MAX = 64_000_000  # in memory at once, several times over
ROWS_MAX = GAPS_MAX = 50_000  # of one batch: a dozen times what an edge sends at once
SEQ_MAX = 2**63 - 1  # SQLite's largest
BOOT_MAX, REASON_MAX = 100, 60  # characters
NAMED_MAX = 3  # sequences that a note about what was refused names
_owner = attrgetter("edge", "subject", "code")


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
        """`consent(edge, subject, code)` is what holds at this moment; `on_refused(edge, reason, detail)` keeps what was refused
        of a batch, once for each reason; `on_committed` feeds the alert path and must return at once."""
        self._inbox, self._consent, self._clock = inbox, consent, clock
        self._on_refused, self._on_committed = on_refused, on_committed
        self._resumed: set[tuple[str, str]] = set()  # lanes that a restored hub has heard of again

    def receive(
        self, edge: str, boot: str, first_seq: int, observations: Sequence[bytes], gaps: Sequence[Gap] = ()
    ) -> ForwardReceipt:
        """Take a batch: repeats are ignored, a hole stops it, everything else is durable when this returns.

        Raises:
            CollectError: it is no batch that an edge would send; nothing was taken.
            StorageFull: the hub's disk is full; nothing was taken.
        """
        gaps = _checked(boot, first_seq, len(observations), gaps)
        for _ in range(TRIES):
            watermark = self._inbox.watermark(edge, boot)
            gaps = self._with_what_was_lost(edge, boot, watermark, first_seq, gaps)
            pieces, taken_gaps, upto = _new(watermark, first_seq, len(observations), gaps)
            rows: list[bytes] = []
            taken: list[Observation] = []
            refusals: list[Refusal] = []
            for start, end in pieces:
                rows += [b""] * (start - pieces[0][0] - len(rows))
                sound, reasons = self._check(edge, observations[start - first_seq : end + 1 - first_seq], rows)
                taken += sound
                refusals += [Refusal(start + k, reason) for k, reason in reasons.items()]
            if upto == watermark:
                break
            begin = pieces[0][0] if pieces else upto
            now_us = self._clock.now_us()
            if self._inbox.put(
                edge,
                boot,
                begin,
                rows,
                taken_gaps,
                after=watermark,
                upto=upto,
                now_us=now_us,
                subjects=[o.subject for o in taken],
            ):
                break
        else:
            raise StorageFull(f"{boot} of {edge} comes from several connections at once", remedy="one edge, one connection")
        for reason, seqs in _by_reason(refusals).items():
            self._on_refused(edge, reason, f"{_in_words(seqs)} of boot {boot}")
        if taken:
            self._on_committed(taken)
        return ForwardReceipt(boot, upto, tuple(refusals))

    def _with_what_was_lost(self, edge: str, boot: str, watermark: int, first_seq: int, gaps: Sequence[Gap]) -> Sequence[Gap]:
        """In a hub that was restored from a backup an edge goes on where its receipts end, beyond what this inbox knows: what is
        between was acknowledged by the hub that is lost, and nobody has it. It is noted, once for each lane."""
        if not self._inbox.restored or (edge, boot) in self._resumed:
            return gaps
        self._resumed.add((edge, boot))
        first = min([first_seq, *(gap.first_seq for gap in gaps)])
        return [Gap(watermark + 1, first - 1, LOST), *gaps] if first > watermark + 1 else gaps

    def _check(self, edge: str, data: Sequence[bytes], rows: list[bytes]) -> tuple[list[Observation], dict[int, str]]:
        """What may be taken, and by place why the rest is refused; `rows` gets each row, empty where it is refused.

        Consent is asked once for all rows of a subject and a signal.
        """
        choices: dict[tuple[str, str], Consent] = {}

        def refused(observation: Observation) -> str:
            if not observation.whole:
                return "not-an-observation"
            if observation.edge != edge:
                return "another-edge"
            key = (observation.subject, observation.code)
            if key not in choices:
                choices[key] = self._consent(edge, *key)
            return "" if choices[key] is Consent.RAW else "no-consent"

        try:
            observations = decode_observations(data)
            runs = (o for o in observations if o.n != 1 or o.values is not None or o.offsets_us is not None)
            if all(o.whole for o in runs) and not any(map(refused, {_owner(o): o for o in observations}.values())):
                rows += data
                return observations, {}
        except MALFORMED:
            pass
        sound: list[Observation] = []
        reasons: dict[int, str] = {}
        for k, row in enumerate(data):
            try:
                observation = decode_observation(row)
                reason = refused(observation)
            except MALFORMED:
                reason = "not-an-observation"
            if reason:
                reasons[k] = reason
            else:
                sound.append(observation)
            rows.append(b"" if reason else row)
        return sound, reasons


class Committer:
    """The one writer that moves the inbox into the lake, each batch exactly once.

    The lake's commit names the number of its last batch. After a crash between that commit and `retire`, the batches are
    still here and the lake already names them: they are retired, not written again.
    """

    def __init__(
        self,
        *,
        inbox: Inbox,
        lake_version: Callable[[str], int],
        lake_append: Callable[[Sequence[InboxBatch], str, int], None],
        rows_max: int,
    ) -> None:
        """`lake_version(app)` is the last number committed, or -1; `lake_append(batches, app, number)` commits exactly once."""
        self._inbox, self._rows_max = inbox, rows_max
        self._lake_version, self._lake_append = lake_version, lake_append
        self._app = f"inbox-{inbox.inbox_id}"
        self.still = threading.Lock()  # who holds it sees inbox and lake of one moment
        self._recovered = False
        self.large = False  # the newest commit was half as large as one may be, or larger: more may wait

    def run_once(self) -> int:
        """Move some batches; how many observations they had."""
        with self.still:
            return self._move()

    def _move(self) -> int:
        if not self._recovered:
            done = self._lake_version(self._app)
            if done >= 0:
                self._inbox.retire(done)
            self._recovered = True
        batches = self._inbox.pending(self._rows_max, COMMIT_BYTES_MAX)
        if not batches:
            return 0
        self._recovered = False  # until these are through, a failure must look at the lake first
        self._lake_append(batches, self._app, batches[-1].number)
        self._inbox.retire(batches[-1].number)
        self._recovered = True
        rows, size = sum(batch.n_rows for batch in batches), sum(len(batch.data) for batch in batches)
        self.large = 2 * rows >= self._rows_max or 2 * size >= COMMIT_BYTES_MAX
        return rows


def _checked(boot: str, first_seq: int, n: int, gaps: Sequence[Gap]) -> list[Gap]:
    """The gaps of a batch in their order, once it is known that the inbox can hold what it says.

    Raises:
        CollectError: it cannot, or there is more of it than an edge sends at once.
    """
    if n > ROWS_MAX or len(gaps) > GAPS_MAX or len(boot) > BOOT_MAX:
        raise CollectError(f"{n} observations and {len(gaps)} gaps are no batch of an edge", remedy="send less at once")
    last = max([first_seq + n - 1, *(gap.last_seq for gap in gaps)])
    if min([first_seq, *(gap.first_seq for gap in gaps)]) < 0 or last > SEQ_MAX:
        raise CollectError("a sequence is beyond what can be counted", remedy="sequences begin at 1 in each boot")
    return sorted((Gap(g.first_seq, g.last_seq, g.reason[:REASON_MAX]) for g in gaps), key=lambda g: g.first_seq)


def _by_reason(refusals: Sequence[Refusal]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for refusal in refusals:
        found.setdefault(refusal.reason, []).append(refusal.seq)
    return found


def _in_words(seqs: Sequence[int]) -> str:
    """Sequences, for people: what is refused of one batch is one note, however much it is."""
    named = ", ".join(map(str, seqs[:NAMED_MAX]))
    more = f" and {len(seqs) - NAMED_MAX:,} more" if len(seqs) > NAMED_MAX else ""
    return f"{'sequence' if len(seqs) == 1 else 'sequences'} {named}{more}"


def _new(upto: int, first_seq: int, n: int, gaps: Sequence[Gap]) -> tuple[list[tuple[int, int]], list[Gap], int]:
    """What of a batch is new after `upto`: runs of sequences, first and last; the gaps between; and up to where all is known.

    `gaps` come in the order of their first sequences. Each is looked at once: a batch may have as many of them as rows.
    """
    pieces: list[tuple[int, int]] = []
    taken: list[Gap] = []
    end = first_seq + n
    for gap in [*gaps, Gap(end, end - 1, "")]:  # one that is none: up to the end of the rows
        if first_seq <= upto + 1 < min(gap.first_seq, end):
            pieces.append((upto + 1, min(gap.first_seq, end) - 1))
            upto = pieces[-1][1]
        if gap.first_seq <= upto + 1 <= gap.last_seq:
            taken.append(Gap(upto + 1, gap.last_seq, gap.reason))  # what arrived before the edge gave it up is no gap
            upto = gap.last_seq
    return pieces, taken, upto
