"""What became of every order's answer, for people: one row an update or a refusal, as the journal holds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from wardround.learn.announcements import Announcement
from wardround.learn.journal import Journal, Kept, Refusal
from wardround.learn.reputation import ROUNDS, Experience, Reputation, reputations

LIMIT = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """`verdict` is waiting (its round is open), accepted (in the fold), aside, replayed, refused, late, failed, or sat-out
    (the edge's own screens have found something in an update that masks hide).

    `claimed` is what the edge says its update was trained on, `counted` what it weighs; both in examples. `based_on` is the round
    of its order. `certificate` is the serial of the one whose key signed it, empty where nothing was signed.
    """

    round_number: int
    edge: str
    verdict: str
    reason: str
    detail: str
    t_us: int
    sha256: str
    based_on: int
    norm: float | None = None
    claimed: int | None = None
    counted: int = 0
    score: float | None = None
    threshold: float | None = None
    certificate: str = ""
    wrong: str | None = None  # with what is kept, if it was checked: see announcements.py


def answers(
    journal: Journal,
    *,
    round_number: int | None = None,
    edge: str = "",
    limit: int = LIMIT,
    check: Callable[[Kept], str] | None = None,
) -> list[Answer]:
    """The newest answers of a study, the newest round first; `check(kept)` says what is wrong with a kept update."""
    kept = journal.kept(round_number, edge, limit)
    refused = journal.refusals(round_number, edge, limit)
    last = journal.last()
    done = -1 if last is None else last.number
    found = [_kept(k, journal, done, None if check is None else check(k)) for k in kept] + [_refused(r) for r in refused]
    found.sort(key=lambda a: (-a.round_number, a.edge, -a.t_us))
    return found if limit < 0 else found[:limit]


def standing(journal: Journal) -> dict[str, Reputation]:
    """The reputation of each edge that has answered lately, as the next round opens."""
    last = journal.last()
    now = 0 if last is None else last.number + 1
    return reputations((Experience(*row) for row in journal.experiences(now - ROUNDS)), now)


def _kept(kept: Kept, journal: Journal, done: int, wrong: str | None) -> Answer:
    update, signed, judged = kept.update, kept.signed, kept.judged
    if kept.replay is not None:
        into = kept.replay.into_round
        verdict, reason = "replayed", judged.reason if judged is not None else ""
        detail = f"counts in round {into}" if into >= 0 else "waits for the end of the next round"
    elif kept.round_number > done:
        verdict, reason, detail = "waiting", "", "its round is open"
    elif judged is not None:
        verdict, reason, detail = "aside" if judged.reason else "accepted", judged.reason, judged.detail
    else:  # committed before judgements were kept
        aside = update.edge in journal.committed_at(kept.round_number)[0].aside
        verdict, reason, detail = "aside" if aside else "accepted", "", ""
    screened = judged is not None and judged.threshold > 0
    return Answer(
        round_number=kept.round_number,
        edge=update.edge,
        verdict=verdict,
        reason=reason,
        detail=detail,
        t_us=signed.t_us if signed is not None else 0,
        sha256=update.sha256,
        based_on=update.based_on,
        norm=update.norm,
        claimed=msgspec.json.decode(signed.announcement, type=Announcement).examples if signed is not None else None,
        counted=update.examples,
        score=judged.score if judged is not None and screened else None,
        threshold=judged.threshold if judged is not None and screened else None,
        certificate=signed.serial if signed is not None else "",
        wrong=wrong,
    )


def _refused(refusal: Refusal) -> Answer:
    return Answer(
        round_number=refusal.round_number,
        edge=refusal.edge,
        verdict=refusal.verdict,
        reason=refusal.reason,
        detail=refusal.detail,
        t_us=refusal.t_us,
        sha256=refusal.sha256,
        based_on=refusal.round_number,
        claimed=refusal.examples or None,
    )
