"""More rounds than a study was written with: given when its data have drifted, taken back by whoever undoes that.

study.toml is never changed: what was asked for beyond it is a fact of the journal, one entry a request, so that the same request
counts once however often it is made.
"""

from __future__ import annotations

import msgspec

from wardround.errors import StudyError
from wardround.learn.journal import Journal
from wardround.learn.study import Study
from wardround.learn.study_checks import TREES_MAX

KEY = "extensions"
ROUNDS_MAX = 1_000_000
REQUESTS_MAX = 10_000


class Extensions:
    """What one study was given beyond its own rounds."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._given: dict[str, int] = msgspec.json.decode(journal.noted(KEY) or "{}", type=dict[str, int])

    @property
    def rounds(self) -> int:
        """How many in all."""
        return sum(self._given.values())

    def known(self, request: str) -> bool:
        """Whether a request has been answered before."""
        return request in self._given

    def add(self, study: Study, rounds: int, request: str) -> None:
        """Give more, once for each request.

        Raises:
            StudyError: it makes no model, or would grow beyond what can be.
        """
        if request in self._given:
            return
        if study.kind != "model":
            raise StudyError("a study of kind `statistics` has one round", remedy="start another one")
        total = study.rounds.count + self.rounds + rounds
        trees = total * study.learner.trees * max(study.rounds.edges_min, study.rounds.edges_max)
        if rounds < 1 or total > ROUNDS_MAX or len(self._given) >= REQUESTS_MAX:
            raise StudyError(f"{study.name} would have {total} rounds", remedy=f"ask for 1 to {ROUNDS_MAX - total + rounds}")
        if study.learner.kind == "xgboost" and trees > TREES_MAX:
            raise StudyError(f"{study.name} would grow {trees} trees", remedy="start another study")
        self._keep({**self._given, request: rounds})

    def withdraw(self, request: str) -> None:
        """Take back what a request gave; nothing when it gave nothing."""
        if self._given.get(request):
            self._keep({**self._given, request: 0})  # it stays known, so that the same request never counts again

    def _keep(self, given: dict[str, int]) -> None:
        self._journal.note(KEY, msgspec.json.encode(given).decode())
        self._given = given
