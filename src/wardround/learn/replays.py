"""Updates that were set aside and that an operator calls innocent: their bytes are kept for a while, judged again, folded late.

The screen is a suspicion, not a proof: what it sets aside stays on the hub's disk for `triage.aside_rounds` rounds and within
`triage.aside_bytes_max` bytes a study, the oldest going first. A replay passes the hard rules of triage once more (the operator
overrules the screen alone) and is folded into the next round like any late update: it moves today's model by what it would have
moved an older one, with the weight that the strategy gives to what is so many rounds late. It counts once: the journal's row is
settled in one transaction with the round that it counts in.
"""

from __future__ import annotations

from wardround.errors import StudyError, UpdateRefused
from wardround.learn.blobs import Blobs
from wardround.learn.journal import Journal, Kept, Replay, update_name
from wardround.learn.rollbacks import Asked
from wardround.learn.study import Study, TriageSettings
from wardround.learn.study_checks import PLAIN_SGD_STRATEGIES
from wardround.records import EdgeId


def check_allowed(study: Study) -> None:
    """Whether a study can take late updates at all.

    Raises:
        StudyError: it names the setting that forbids it.
    """
    if study.kind != "model":
        raise StudyError(f"{study.name} is a study of kind `{study.kind}`: it has one round", remedy="start another one")
    if study.strategy.name in PLAIN_SGD_STRATEGIES:
        raise StudyError(
            f"strategy.name is `{study.strategy.name}`: its corrections assume one base for all, and a late update has another",
            remedy="leave the update aside, and let the edge count again with `wardround study release`",
        )
    if study.privacy.mode != "clear":
        raise StudyError(
            f"privacy.mode is `{study.privacy.mode}`: an update is released once, in its own round",
            remedy="leave the update aside, and let the edge count again with `wardround study release`",
        )


def find(journal: Journal, blobs: Blobs, study: Study, edge: EdgeId, round_number: int, next_number: int) -> Kept:
    """The update of an edge that was set aside in a round, if it may be replayed into round `next_number`.

    Raises:
        StudyError: there is none; it is in a model; it is too old; or its bytes are gone.
    """
    where = f"the update of {edge} in round {round_number}"
    kept = next(iter(journal.kept(round_number, edge)), None)
    see = "`wardround study updates` lists what was set aside"
    if kept is None or round_number == 0:
        raise StudyError(f"there is no update of {edge} in round {round_number} to replay", remedy=see)
    if kept.replay is not None:
        into = (
            "waits for the end of the next round" if kept.replay.into_round < 0 else f"counts in round {kept.replay.into_round}"
        )
        raise StudyError(f"{where} is replayed already: it {into}", remedy="nothing is left to do")
    if kept.judged is None or not kept.judged.reason:
        raise StudyError(f"{where} was not set aside", remedy=see)
    if any(r.number >= kept.update.based_on for r in journal.rollbacks()):
        raise StudyError(
            f"{where} is based on a model that the study has gone back from since",
            remedy="let the edge count again with `wardround study release`; its next update is of the present model",
        )
    late = next_number - kept.update.based_on
    if late > study.triage.aside_rounds:
        raise StudyError(
            f"{where} is based on a model {late} rounds old, and triage.aside_rounds is {study.triage.aside_rounds}",
            remedy="let the edge count again with `wardround study release`; raise the setting in the next study",
        )
    if not blobs.size(update_name(round_number, edge)):
        raise StudyError(
            f"the bytes of {where} are not kept any more",
            remedy="replay sooner, or raise triage.aside_bytes_max in the next study",
        )
    return kept


def refused_again(where: str, error: UpdateRefused) -> StudyError:
    """Triage's hard rules hold for a replay as for any update."""
    return StudyError(f"{where} is refused ({error.reason}): {error}", remedy="leave it aside")


def new_replay(kept: Kept, asked: Asked, now_us: int) -> Replay:
    """The journal's row of a replay that waits for the end of the next round."""
    update = kept.update
    return Replay(
        update.edge, update.based_on, kept.round_number, -1, update.examples, asked.who, asked.reason, asked.request, now_us
    )


class Asides:
    """The bytes of updates that were set aside: which of them stay."""

    def __init__(self, journal: Journal, blobs: Blobs, settings: TriageSettings) -> None:
        self._journal, self._blobs, self._settings = journal, blobs, settings
        self._oldest = 0  # no bytes of an older round are left

    def keeps(self, round_number: int) -> set[EdgeId]:
        """Whose bytes of that round are not to go with the others."""
        return {edge for number, edge in self._journal.asides(round_number) if number == round_number}

    def prune(self, last_number: int) -> None:
        """Let go what is too old to be replayed, and the oldest of what is more than the disk is given."""
        total = 0
        for number, edge in self._journal.asides(self._oldest):
            total += self._blobs.size(update_name(number, edge))
            if number <= last_number - self._settings.aside_rounds:
                self._blobs.delete(f"updates/{number}")
            elif total > self._settings.aside_bytes_max:
                self._blobs.delete(update_name(number, edge))
        self._oldest = max(0, last_number - self._settings.aside_rounds)


def late_updates(journal: Journal, blobs: Blobs) -> list[tuple[Replay, Kept]]:
    """The replays that wait and whose bytes are there, in order: what the round that ends now folds beside its own."""
    found = []
    for replay in journal.replays(waiting=True):
        kept = next(iter(journal.kept(replay.from_round, replay.edge)), None)
        if kept is not None and blobs.size(update_name(replay.from_round, replay.edge)):
            found.append((replay, kept))
    return found
