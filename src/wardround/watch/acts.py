"""What people ask of alerts from the command line, at a hub or at an edge: the same acts, the same answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from wardround.clock import utc
from wardround.errors import WardroundError
from wardround.watch.alerts import Silence


class MakesSilences(Protocol):
    """Keeps some alerts quiet."""

    def __call__(self, matchers: Mapping[str, str], /, *, until_us: int, who: str, reason: str) -> Silence:
        """Raises ValueError: it makes no sense, and why."""
        ...


@dataclass(frozen=True, slots=True)
class Acts:
    """What is done, each with who asks; a bool says whether there was something to do it to."""

    acknowledge: Callable[[str, str], bool]
    judge: Callable[[str, bool, str], bool]
    undo: Callable[[str, str, str], bool]
    silence: MakesSilences
    unsilence: Callable[[str], bool]
    test: Callable[[], Sequence[str]]
    settings: str  # where sinks stand: hub.toml, edge.toml
    command: str  # how its people ask: wardround alert


def answer(acts: Acts, act: str, body: Mapping[str, Any], who: str) -> str:
    """Do what somebody asks; words for who asked.

    Raises:
        WardroundError: it cannot be done, and why.
    """
    alert, reason = str(body.get("alert", "")), str(body.get("reason", ""))
    if act == "silence":
        try:
            made = acts.silence(body["matchers"], until_us=int(body["until_us"]), who=who, reason=reason)
        except ValueError as error:
            raise WardroundError(str(error), remedy=f"see `{acts.command} silence --help`") from error
        return f"{made.silence_id} holds until {utc(made.until_us):%Y-%m-%d %H:%M} UTC"
    if act == "test":
        sinks = acts.test()
        if not sinks:
            raise WardroundError(f"{acts.settings} names no sink", remedy="add [[notify]] and start it again: docs/alerts.md")
        return f"sent to {', '.join(sinks)}"
    if act == "acknowledge":
        done, words, why_not = acts.acknowledge(alert, who), f"{alert} is acknowledged by {who}", "is not open, or is taken"
        if done and body.get("actionable") is not None:
            acts.judge(alert, bool(body["actionable"]), who)
    elif act == "judge":
        needed = bool(body.get("actionable"))
        done, why_not = acts.judge(alert, needed, who), "is no alert"
        words = f"{alert} {'needed' if needed else 'did not need'} something done, says {who}"
    elif act == "undo":
        done, words, why_not = acts.undo(alert, who, reason), f"what was done about {alert} is undone", "has nothing to undo"
    else:
        alert = str(body.get("silence", ""))
        done, words, why_not = acts.unsilence(alert), f"{alert} has ended", "does not hold"
    if not done:
        raise WardroundError(f"{alert} {why_not}", remedy=f"`{acts.command} list` and `silences` show what there is")
    return words
