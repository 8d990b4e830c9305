"""What the edges of a round said with their updates, for the watch; from the journal, so that a restart loses none of it."""

from __future__ import annotations

from collections.abc import Mapping

from wardround.learn.journal import Accepted, Journal, OpenRound
from wardround.learn.messages import Reported
from wardround.learn.triage import ON_TRIAL
from wardround.records import EdgeId


def reported(
    journal: Journal, open_: OpenRound, accepted: Mapping[EdgeId, Accepted], aside: Mapping[EdgeId, str]
) -> dict[str, Reported]:
    """By edge; nothing of the rounds that do not train. `aside`: why it is not in the model.

    How long an answer took is known of orders of this round alone: one that is older in a buffered study, or that an earlier
    attempt at the round brought in, has no seconds.
    """
    if open_.task != "train":
        return {}
    said = journal.said(open_.number)
    found: dict[str, Reported] = {}
    for edge, update in accepted.items():
        t_us, rows = said.get(edge, (0, b""))
        known = update.based_on == open_.number and t_us > open_.opened_us
        seconds = (t_us - open_.opened_us) / 1e6 if known else None
        found[edge] = Reported(update.examples, update.metrics, edge in aside, seconds, rows, aside.get(edge) == ON_TRIAL)
    return found
