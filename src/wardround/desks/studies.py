"""What the Studies screen asks of the hub: records, journal and ledger as its read models, and the acts of people, by role."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from wardround.clock import Clock
from wardround.collect.storage import FolderStorage
from wardround.console.shared import Shared
from wardround.console.study_model import (
    Budget,
    Decision,
    GoingBack,
    ModelRow,
    PartRow,
    ScorePoint,
    StudiesView,
    StudyDetail,
    StudyRow,
)
from wardround.desks.study_personal import personal_of, with_edges
from wardround.errors import StudyError, WardroundError
from wardround.learn.answers import answers
from wardround.learn.journal import Journal
from wardround.learn.privacy.accounting import epsilon
from wardround.learn.privacy.central import Plan
from wardround.learn.privacy.ledger import NAME, read_ledger, spent
from wardround.learn.privacy.ledger import Entry as LedgerEntry
from wardround.learn.privacy.modes import PrivacySettings
from wardround.learn.releases import Entry, Stage, at, find, gone_back, previous
from wardround.learn.study import Study, parse_study
from wardround.store import ModelRecord, RoundRecord, Store, StudyRecord
from wardround.studies import Studies
from wardround.trust.roles import Act

ROUNDS_SHOWN = 24
POINTS = 400  # of the score's chart: the newest rounds, all that are read
MODELS_SHOWN = 200
ANSWERS_MAX = 5_000  # looked through for decisions, the newest first
DECISIONS_MAX = 200
REFUSALS_MAX = 10_000
STEPS = 12  # of a budget's line, spent and forecast each
KEEP_S = 3.0
DETAILS_MAX = 100  # studies whose read model is kept
REASON_CHARS = 300
ACTS = ("pause", "resume", "rollback", "quarantine", "release")
WORK = ("running", "requested", "paused")


class HubStudiesDesk:
    """Of one hub. May be called from any thread."""

    def __init__(
        self,
        home: Path,
        store: Store,
        clock: Clock,
        *,
        studies: Studies,
        check: Callable[[str, Act], None],
        record: Callable[..., None],
        request_id: Callable[[Clock], str],
    ) -> None:
        """`check(who, act)` raises NotAllowed; `record` makes an entry of the audit log."""
        self._home, self._store, self._clock, self._studies = home, store, clock, studies
        self._check, self._record, self._request_id = check, record, request_id
        self._list = Shared(self._build, clock, keep_s=KEEP_S)
        self._details: dict[str, Shared[StudyDetail | None]] = {}
        self._budgets: dict[str, tuple[tuple[int, PrivacySettings, int], Budget]] = {}

    def studies(self) -> StudiesView:
        """The newest read model, a few seconds old at most."""
        return self._list()

    def study(self, name: str) -> StudyDetail | None:
        """One study whole; None: there is none of this name."""
        if not any(s.name == name for s in self._store.studies()):
            return None
        if len(self._details) >= DETAILS_MAX:
            self._details.clear()
            self._budgets.clear()
        made = Shared(lambda: self._detail(name), self._clock, keep_s=KEEP_S, of=lambda: self._newest(name))
        return self._details.setdefault(name, made)()

    def _newest(self, name: str) -> int:
        """The newest round of a study that runs here: with another the page is made anew."""
        running = self._studies.running.get(name)
        newest = running.newest if running is not None else None
        return newest.number if newest is not None else -1

    def going_back(self, name: str, to_round: int) -> GoingBack:
        """What a rollback to the model of a round would do; -1: to the one that predicted before.

        Raises:
            StudyError: there is no such model.
        """
        entries = [Entry(r.number, r.model, Stage(r.stage), r.since_round) for r in self._store.models(name)]
        current = at(entries, Stage.CURRENT)
        target = find(entries, str(to_round)) if to_round >= 0 else previous(entries)
        if target is None:
            raise StudyError("no older model has ever predicted", remedy="choose one of the list of models")
        moves = tuple((m.number, m.stage.value) for m in gone_back(entries, target.number, ""))
        undone = sum(e.number > target.number for e in entries)
        return GoingBack(target.number, target.model, moves, undone, current.number if current is not None else -1)

    def ask(self, name: str, kind: str, who: str, reason: str, to_round: int = -1) -> str:
        """Do what is asked of a study, at once; what was done, in words.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: it cannot be done, or no reason is given.
        """
        self._check(who, Act.STUDIES)
        act, _, edge = kind.partition(":")
        if act not in ACTS or bool(edge) != (act in ("quarantine", "release")):
            raise StudyError(f"a study is not asked to {kind[:40]!r} here", remedy="see `wardround study --help`")
        if not reason.strip():
            raise StudyError("this needs a reason", remedy="say why: who comes next reads it")
        if edge and not any(e.name == edge for e in self._store.edges()):
            raise StudyError(f"there is no edge {edge[:63]!r}", remedy="`wardround hub edges` lists them")
        why = reason.strip()[:REASON_CHARS]
        self._record("change", f"study: {act}", who, study=name, edge=edge, to_round=to_round, reason=why)
        made = self._request_id(self._clock)
        try:
            return self._studies.ask(kind, name, who=who, reason=why, to_round=to_round, request_id=made)
        finally:
            self._list.forget()
            if (kept := self._details.get(name)) is not None:
                kept.forget()

    # -- the read models

    def _build(self) -> StudiesView:
        rows = [self._row(s, self._store.rounds(s.name, POINTS)) for s in self._store.studies()]
        return StudiesView(tuple(sorted(rows, key=lambda r: (r.state not in WORK, -r.changed_us, r.name))))

    def _row(self, record: StudyRecord, rounds: list[RoundRecord]) -> StudyRow:
        study = _parsed(record)
        scored: Mapping[str, Any] = next((r.facts["score"] for r in reversed(rounds) if r.facts.get("score")), {})
        return StudyRow(
            name=record.name,
            task=study.task if study is not None else "",
            state=record.state,
            detail=record.detail,
            rounds=max((r.number for r in rounds), default=0),
            count=study.rounds.count if study is not None and study.kind != "statistics" else 1,
            changed_us=max(record.changed_us, rounds[-1].committed_us if rounds else 0),
            metric=scored.get("metric", ""),
            score=scored.get("value"),
            worst=scored.get("worst"),
            worst_edge=scored.get("worst_edge", ""),
            runs_here=record.name in self._studies.running,
        )

    def _detail(self, name: str) -> StudyDetail | None:
        record = next((s for s in self._store.studies() if s.name == name), None)
        if record is None:
            return None
        rounds, study = self._store.rounds(name, POINTS), _parsed(record)
        row = self._row(record, rounds)
        models = sorted(self._store.models(name), key=lambda m: -m.number)[:MODELS_SHOWN]
        made = StudyDetail(
            row,
            scores=_scores(rounds),
            models=tuple(map(_model, models)),
            budget=self._budget(study) if study is not None else None,
            personal=personal_of(study, rounds) if study is not None else None,
        )
        folder = self._home / "studies" / name
        if not (folder / "journal.sqlite").exists():
            return made
        with contextlib.closing(Journal(FolderStorage(folder).connect)) as journal:
            edges = [e.name for e in self._store.edges() if e.revoked_us is None]
            numbers, parts = _parts(journal, rounds, edges)
            back = tuple((r.number, _back_words(r.to_round, r.who, r.reason)) for r in journal.rollbacks())
            own = with_edges(made.personal, journal)
            return replace(made, rounds=numbers, parts=parts, decisions=_decisions(journal), gone_back=back, personal=own)

    def _budget(self, study: Study) -> Budget | None:
        """What the ledger says; reckoned when it has grown, as an epsilon costs the processor far more than a look at a page."""
        own = study.privacy
        if not own.has_budget:
            return None
        try:
            entries = read_ledger(self._home / "studies" / study.name / NAME)
            key = (len(entries), own, study.rounds.count)
            if (kept := self._budgets.get(study.name)) is None or kept[0] != key:
                kept = self._budgets[study.name] = key, _reckoned(own, entries, study.rounds.count)
        except WardroundError as error:
            return Budget(own.unit, own.delta, own.target_epsilon, wrong=str(error))
        return kept[1]


def _reckoned(own: PrivacySettings, entries: Sequence[LedgerEntry], rounds: int) -> Budget:
    """What is spent so far, and what is left for the rounds to come.

    Raises:
        StudyError: no release of these settings can be reckoned.
    """
    plan = Plan.of(own)
    line = [(0.0, 0.0)]
    line += [(float(entries[n - 1].round), epsilon(spent(entries[:n]), own.delta)) for n in _steps(len(entries))]
    before, (last, _), rows = spent(entries), line[-1], len(entries)
    todo = _steps(max(0, rounds - len(entries)))
    ahead = [line[-1], *((last + n, epsilon(plan.after(before, rows, n), own.delta)) for n in todo)]
    left = plan.left(own, before, rows)
    return Budget(own.unit, own.delta, own.target_epsilon, tuple(line), tuple(ahead), left)


def _parsed(record: StudyRecord) -> Study | None:
    """The study as it is written; None where this version cannot read it."""
    try:
        return parse_study(record.toml, where=record.name)
    except WardroundError:
        return None


def _steps(count: int) -> list[int]:
    """Few numbers from 1 to the count, the last among them."""
    return sorted({max(1, round(count * k / STEPS)) for k in range(1, STEPS + 1)}) if count else []


def _scores(rounds: list[RoundRecord]) -> tuple[ScorePoint, ...]:
    points = []
    for r in rounds:
        score = r.facts.get("score")
        if score and score.get("value") is not None:
            by_edge = [v for v in score.get("by_edge", {}).values() if v is not None]
            best = max(by_edge, default=None)
            points.append(ScorePoint(r.number, score["value"], best, score.get("worst"), score.get("worst_edge", "")))
    return tuple(points[-POINTS:])


def _model(record: ModelRecord) -> ModelRow:
    score: Mapping[str, Any] = record.facts.get("score") or {}
    return ModelRow(
        round_number=record.number,
        model=record.model,
        parent=record.parent,
        stage=record.stage,
        since_round=record.since_round,
        made_us=record.made_us,
        updates=len(record.facts.get("lineage", {}).get("updates", {})),
        score=score.get("value"),
        worst=score.get("worst"),
        worst_edge=score.get("worst_edge", ""),
        reason=record.facts.get("reason", ""),
    )


def _parts(journal: Journal, rounds: list[RoundRecord], edges: Collection[str]) -> tuple[tuple[int, ...], tuple[PartRow, ...]]:
    """The numbers of the newest rounds, those that are over and the one in progress; each edge in them, who differs first."""
    went_back = {r.number for r in journal.rollbacks()}
    over = {r.number: r for r in rounds if r.number > 0 and r.number not in went_back}
    current, last = journal.current(), journal.last()
    if current is None or current.number < 1 or (last is not None and current.number <= last.number):
        current = None
    numbers = tuple(sorted({*over, *([current.number] if current is not None else [])})[-ROUNDS_SHOWN:])
    said = {(r.round_number, str(r.edge)): r.verdict for r in reversed(journal.refusals(limit=REFUSALS_MAX))}
    arrived = {str(k.update.edge) for k in journal.kept(current.number)} if current is not None else set()
    aside = {e: (until, why) for e, until, why in journal.set_aside() if last is None or until > last.number}
    folded = {n: frozenset(over[n].facts.get("folded", ())) for n in numbers if n in over}
    kept_out = {n: frozenset(over[n].facts.get("aside", ())) for n in folded}
    known = sorted({*edges, *aside, *(e for n in folded for e in folded[n] | kept_out[n])})

    def state(number: int, edge: str) -> str:
        if number in folded:
            if edge in folded[number]:
                return "accepted"
            return "aside" if edge in kept_out[number] else said.get((number, edge), "none")
        if edge in arrived:
            return "arrived"
        waited_for = current is not None and edge in current.participants
        return said.get((number, edge), "training" if waited_for else "none")

    most = {n for n in folded if 2 * len(folded[n] | kept_out[n]) > len(known)}
    parts = []
    for edge in known:
        states = tuple(state(n, edge) for n in numbers)
        missed = sum(n in most and s == "none" for n, s in zip(numbers, states, strict=True))
        parts.append(PartRow(edge, states, missed, *aside.get(edge, (0, ""))))
    parts.sort(key=lambda p: (not p.aside_until, p.as_expected, p.edge))
    return numbers, tuple(parts)


def _decisions(journal: Journal) -> tuple[Decision, ...]:
    found = [a for a in answers(journal, limit=ANSWERS_MAX) if a.verdict not in ("accepted", "waiting")]
    return tuple(
        Decision(a.round_number, a.edge, a.verdict, a.reason, a.detail, a.t_us, a.score, a.threshold)
        for a in found[:DECISIONS_MAX]
    )


def _back_words(to_round: int, who: str, reason: str) -> str:
    return f"back to the model of round {to_round}, by {who}" + (f": {reason}" if reason else "")
