"""From the text of a study to one that the hub is asked to run: what the command line and the console check before."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from wardround.clock import Clock
from wardround.collect.signals import load_signals
from wardround.console.study_model import StartingStudy
from wardround.errors import StudyError
from wardround.learn.learners import check_learner
from wardround.learn.privacy.maskable import check_maskable
from wardround.learn.study import Study, parse_study
from wardround.learn.study_checks import check as check_study
from wardround.learn.study_example import example_study
from wardround.process.transforms import TASKS
from wardround.store import Store, StudyRecord
from wardround.trust.roles import Act
from wardround.watch.advisory import check_advisory

TEXT_MAX = 60_000  # characters: a study's text goes through the open page's connection at once
SEES = {
    "clear": "The hub sees each edge's update, and no row of a patient.",
    "blind": "The hub sees the sum of a round's updates, not one of them.",
    "blind-groups": "The hub sees the sums of groups of edges, not one update.",
    "clear-dp": "The hub sees each edge's update; noise hides each unit in the model.",
    "blind-dp": "The hub sees the sum alone, and noise hides each unit in the model.",
}

DOES = {"off": "does nothing", "dry-run": "only says what it would do", "act": "acts by itself"}


def check_learner_here(study: Study) -> None:
    """Whether this machine has the learner's library, and the user's own code does what a learner must.

    Raises:
        StudyError: it has not, or does not.
    """
    if study.kind == "model":
        shape = len(TASKS[study.task].feature_names), len(TASKS[study.task].classes)
        check_advisory(study.watch.advisory)
        check_learner(study, *shape)
        check_maskable(study, *shape)


def put_new_study(store: Store, text: str, study: Study, now_us: int) -> None:
    """Ask the hub to run a study that holds.

    Raises:
        StudyError: one of this name is there already.
    """
    if not store.add_study(StudyRecord(study.name, text, "requested", "", now_us, now_us)):
        raise _taken(study)


def _taken(study: Study) -> StudyError:
    return StudyError(f"a study called {study.name!r} is there already", remedy="give this one another name")


class StudyStarting:
    """What the screen of a new study asks of the hub. May be called from any thread."""

    def __init__(self, store: Store, clock: Clock, *, check: Callable[[str, Act], None], record: Callable[..., None]) -> None:
        """`check(who, act)` raises NotAllowed; `record` makes an entry of the audit log."""
        self._store, self._clock, self._check, self._record = store, clock, check, record

    def tasks(self) -> tuple[tuple[str, str], ...]:
        """What a study can learn: name and title."""
        return tuple((task.name, task.title) for task in TASKS.values())

    def draft(self, task: str, name: str) -> str:
        """The commented text of a study to start from.

        Raises:
            StudyError: there is no such task.
        """
        if task not in TASKS:
            raise StudyError(f"there is no task {task[:40]!r}", remedy=f"choose one of: {', '.join(sorted(TASKS))}")
        return example_study(name, task, TASKS)

    def look(self, who: str, text: str) -> StartingStudy:
        """What this study would do.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: it does not hold, and why.
        """
        self._check(who, Act.STUDIES)
        study = self._holds(text)
        self._check_new(study)
        edges = sum(e.revoked_us is None for e in self._store.edges())
        return StartingStudy(study.name, _words(study, edges))

    def start(self, who: str, text: str) -> str:
        """Ask the hub to run it, which it does within a second; the study's name.

        Raises:
            NotAllowed: the person's role does not cover it.
            WardroundError: it does not hold, and why.
        """
        self._check(who, Act.STUDIES)
        study = self._holds(text)
        self._check_new(study)
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        self._record("change", "study started at the console", who, study=study.name, sha256=sha256)
        put_new_study(self._store, text, study, self._clock.now_us())
        return study.name

    def _check_new(self, study: Study) -> None:
        if self._store.study(study.name) is not None:
            raise _taken(study)

    def _holds(self, text: str) -> Study:
        if len(text) > TEXT_MAX:
            raise StudyError(f"it has more than {TEXT_MAX:,} characters", remedy="start it with `wardround study start`")
        study = parse_study(text, where="the study")
        if study.learner.module:
            raise StudyError(
                "learner.module names code of your own", remedy="start it at the hub's machine, with `wardround study start`"
            )
        edges = [e.name for e in self._store.edges() if e.revoked_us is None]
        check_study(study, TASKS, edges=edges or None, signals=load_signals().names())
        check_learner_here(study)
        return study


def _words(study: Study, edges: int) -> tuple[str, ...]:
    """What it would do, a sentence each."""
    rounds, sees = study.rounds, SEES.get(study.privacy.mode, f"Privacy: {study.privacy.mode}.")
    if study.kind == "statistics":
        return (f"One round of sums over {edges:,} edges that are joined now; it trains nothing.", sees)
    held = study.score
    score = f"{held.held_back:.0%} of subjects, by chance" if held.held_back else ""
    named = len(held.held_back_subjects) + len(held.held_back_edges)
    back = " and ".join(part for part in (score, f"{named:,} named" if named else "") if part) or "nobody"
    acts = study.respond
    return (
        f"{rounds.count:,} rounds of {TASKS[study.task].title.lower()}, each with {rounds.edges_min:,} edges or more; "
        f"{edges:,} are joined now.",
        f"Held back from training, to score every model: {back}.",
        sees,
        f"Where an alert asks to set an edge aside, the hub {DOES[acts.quarantine.mode]}; to go back, it "
        f"{DOES[acts.rollback.mode]}.",
        "It can be paused at any time, and go back to any model it has kept.",
    )
