"""Responses in words: on the alert, in lists, and before one is undone."""

from __future__ import annotations

from dataclasses import dataclass

from wardround.watch.alerts import Response
from wardround.watch.respond import NOT_BACK, Act, Entry, HeldBack, State

UNDO = "response:"  # what stands before a response's id in the undo command of an alert
NAMES = {
    Act.ROLLBACK: "a rollback",
    Act.QUARANTINE: "a quarantine",
    Act.RETRAIN: "retraining",
    Act.RECALIBRATE: "a new calibration",
    Act.PAUSE: "a pause",
}


@dataclass(frozen=True, slots=True)
class UndoWords:
    """What a person reads before they undo a response."""

    title: str
    words: str
    keep: str
    consequences: tuple[str, ...]


def what(entry: Entry) -> str:
    """What is, was or would be done, as one phrase."""
    tried = entry.state is State.DRY_RUN
    if entry.act is Act.QUARANTINE:
        return f"{'would set' if tried else 'set'} {entry.edge} aside in {entry.study} from round {entry.made_round}, weight 0"
    if entry.act is Act.ROLLBACK:
        return f"{'would go' if tried else 'went'} back to the model of round {entry.to_round} of {entry.study}"
    if entry.act is Act.PAUSE:
        went = "but could not go" if NOT_BACK in entry.answer else "and went" if not tried else "and go"
        back = f" {went} back to the model of round {entry.to_round}" if entry.from_round else ""
        return f"{'would pause' if tried else 'paused'} {entry.study}{back}"
    if entry.act is Act.RETRAIN:
        return f"{'would give' if tried else 'gave'} {entry.study} {entry.rounds} more rounds"
    return f"{'would let' if tried else 'let'} the detectors of {entry.study} learn anew what is usual"


def until(entry: Entry) -> str:
    """How long it holds."""
    if entry.act is Act.QUARANTINE:
        return f"until round {entry.until_round}"
    if entry.act is Act.PAUSE:
        return "until somebody resumes it"
    return ""


def on_alert(entry: Entry) -> Response:
    """What stands on the alert. What goes on by itself needs no person; the rest bounds the harm until one looks."""
    if entry.state is State.DRY_RUN:
        return Response(what=f"{what(entry)} (dry run: nothing was done)", person_too=True, until=until(entry))
    if entry.state is State.FAILED:
        return Response(what=f"{NAMES[entry.act]} failed: {entry.answer}", person_too=True)
    over = entry.state in (State.OVER, State.UNDONE)
    return Response(
        what=what(entry),
        person_too=over or entry.act in (Act.ROLLBACK, Act.PAUSE),
        undo=f"{UNDO}{entry.response_id}" if not over else "",
        until=f"{until(entry)}, which is over" if entry.state is State.OVER else until(entry),
    )


def held_back(held: HeldBack) -> Response:
    """What stands on the alert when a limit forbids a response, or none is needed."""
    if held.covered:
        return Response(what=held.why)
    return Response(what=f"no {NAMES[held.act].removeprefix('a ')}: {held.why}", person_too=True)


def before_undo(entry: Entry, next_round: int) -> UndoWords:
    """What undoing it would do."""
    kept = "Your name and reason are kept with the alert."
    if entry.act is Act.QUARANTINE:
        return UndoWords(
            f"Let {entry.edge} count again from round {next_round}?",
            f"Let {entry.edge} count again",
            "Keep it set aside",
            (f"Its next update enters the model of {entry.study}. Rounds that are over do not change.", _NOT_AGAIN, kept),
        )
    if entry.act is Act.ROLLBACK:
        return UndoWords(
            f"Go on from the model of round {entry.from_round} of {entry.study}?",
            f"Go on from round {entry.from_round}",
            f"Stay with round {entry.to_round}",
            (f"That model predicts again, and round {next_round} trains on from it.", _NOT_AGAIN, kept),
        )
    if entry.act is Act.PAUSE:
        base = f", from the model of round {entry.to_round}" if entry.from_round else ""
        words = (f"A new round begins as soon as enough edges are there{base}.", _NOT_AGAIN, kept)
        return UndoWords(f"Resume {entry.study}?", f"Resume {entry.study}", "Keep it paused", words)
    if entry.act is Act.RETRAIN:
        return UndoWords(
            f"Take back the {entry.rounds} more rounds of {entry.study}?",
            "Take them back",
            "Keep them",
            ("Rounds that are over do not change; no further one of these begins.", _NOT_AGAIN, kept),
        )
    return UndoWords(
        f"Give the detectors of {entry.study} their thresholds back?",
        "Give them back",
        "Let them learn anew",
        ("What they have learnt since is forgotten.", _NOT_AGAIN, kept),
    )


_NOT_AGAIN = "Wardround does not do it again while its limit looks back."
