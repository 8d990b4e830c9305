"""Rolling a study back: a row of its own in the journal, whose model is an older round's. Nothing is erased.

The row takes the number of the round that was open, so a number never means two things: updates that had arrived for it are
noted as set aside, and those still under way find their order gone. The next round starts from the row's model. A strategy
whose memory is one half of a pair with what its edges keep (SCAFFOLD, FedDyn) begins both halves anew: control variates of the
model at zero, nothing remembered beside it, and edges told not to use what they kept (Order.kept_since), because the halves
of different times would bend every later step. Undoing a rollback is another rollback.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from wardround.errors import StudyError
from wardround.learn.blobs import Blobs
from wardround.learn.journal import Accepted, Committed, Journal, Rollback, memory_name, model_name
from wardround.learn.models import CONTROL_PREFIX, decode_model, digest, encode_model
from wardround.learn.study import LocalRule
from wardround.records import EdgeId, ModelDigest


@dataclass(frozen=True, slots=True)
class Asked:
    """What a rollback was asked for with: the round to go back to, by whom and why; the same `request` is carried out once."""

    to_round: int
    who: str
    reason: str
    request: str = ""


def is_paired(rule: LocalRule) -> bool:
    """Whether the hub's memory and what edges keep are halves of one thing."""
    return rule.controls or bool(rule.dynamic)


def prepare(
    journal: Journal,
    blobs: Blobs,
    asked: Asked,
    rule: LocalRule,
    *,
    number: int,
    now_us: int,
    accepted: Mapping[EdgeId, Accepted],
) -> tuple[Committed, Rollback]:
    """The rows of a rollback, once its model is on disk; `accepted` had arrived for the round that it ends.

    Raises:
        StudyError: there is nothing to go back to.
    """
    last = journal.last()
    target = next(iter(journal.committed_at(asked.to_round)), None)
    if last is None or target is None:
        raise StudyError(f"round {asked.to_round} is not over", remedy="`wardround study models` lists what there is")
    if not blobs.size(model_name(target.model)):
        raise StudyError(
            f"model {target.model[:8]} of round {target.number} is not kept any more",
            remedy="choose a newer one, and raise release.models_kept in the next study",
        )
    model = _without_pairs(blobs, target.model) if rule.controls else target.model
    done = Committed(
        number=number,
        model=model,
        base=last.model,
        t_us=now_us,
        seconds=0.0,
        folded={},
        aside=tuple(sorted(accepted)),
        staleness={str(e): number - a.based_on for e, a in accepted.items() if a.based_on != number},
    )
    return done, Rollback(number, target.number, target.model, asked.request, asked.who, asked.reason)


def _without_pairs(blobs: Blobs, name: ModelDigest) -> ModelDigest:
    """The same model with its control variates at zero, on disk."""
    model = decode_model(blobs.read(model_name(name)))
    data = encode_model({n: np.zeros_like(t) if n.startswith(CONTROL_PREFIX) else t for n, t in model.items()})
    made = digest(data)
    blobs.write(model_name(made), data)
    return made


class Retention:
    """Which models of a study stay on disk: the newest `kept`, those pinned, and those that somebody still works on."""

    def __init__(self, journal: Journal, blobs: Blobs, kept: int) -> None:
        self._journal, self._blobs, self._kept = journal, blobs, kept
        self._pinned: frozenset[str] | None = None  # None: nobody has said yet, and nothing goes

    def pin(self, models: Collection[str]) -> None:
        """From now on these stay, however old; those pinned before go if they are too old."""
        before, self._pinned = self._pinned, frozenset(models)
        if before is None:
            self._drop({c.model for c in self._journal.committed()})
        else:
            self._drop(before - self._pinned)

    def committed(self, number: int) -> None:
        """A round is over: the model that has become too old goes."""
        if self._pinned is not None and number >= self._kept:
            self._drop({c.model for c in self._journal.committed_at(number - self._kept)})

    def _drop(self, models: Collection[str]) -> None:
        last = self._journal.last()
        if last is None or not models:
            return
        newest = range(max(0, last.number - self._kept + 1), last.number + 1)
        young = {c.model for n in newest for c in self._journal.committed_at(n)}
        worked_on = {base for _, base in self._journal.owed().values()}
        open_ = self._journal.current()
        if open_ is not None:
            worked_on |= {open_.base, *(base for _, base in open_.owed.values())}
        for model in set(models) - young - worked_on - (self._pinned or frozenset()):
            self._blobs.delete(model_name(model))
            self._blobs.delete(memory_name(model))
