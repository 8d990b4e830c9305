"""Processing's address, and what can be asked for there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from wardround.console import processing
from wardround.console.looking import Facts, Looking, Reply, Screen
from wardround.console.model import Overview
from wardround.console.processing_model import ProcessingView
from wardround.console.reading import Reading

AGAIN_S = 3.0


class ProcessingDesk(Protocol):
    """What this screen asks of the hub. Everything may raise NotAllowed."""

    def view(self, who: str) -> ProcessingView:
        """The whole screen."""

    def ask(self, who: str, kind: str, job: str) -> str:
        """Ask for a job; the run's id. Raises WardroundError."""


class ProcessingPages:
    """Processing over one console."""

    def __init__(self, desk: ProcessingDesk, overview: Callable[[], Overview]) -> None:
        self._desk, self._overview = desk, overview
        self._views: Reading[ProcessingView] = Reading(again_s=AGAIN_S)

    def screens(self) -> tuple[Screen, ...]:
        """The one screen."""
        acts = {"run-job": self._run, "retry-job": self._retry}
        return (Screen("/processing", "Processing", processing.frame, self._sections, acts),)

    def _sections(self, looking: Looking) -> dict[str, str]:
        page = self._views.look(looking.held, lambda: self._desk.view(looking.name))
        return processing.sections(self._overview(), page.value, looking)

    def _run(self, facts: Facts, looking: Looking) -> Reply:
        job = facts.get("job", "")
        self._desk.ask(looking.name, "run", job)
        return Reply(toast=f"{job} runs next.")

    def _retry(self, facts: Facts, looking: Looking) -> Reply:
        job = facts.get("job", "")
        self._desk.ask(looking.name, "retry", job)
        return Reply(toast=f"{job} tries its failed parts again.")
