"""What the coordinator does otherwise in a study with a budget: how it begins, and what it shows of a round."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from wardround.clock import Clock
from wardround.errors import StudyError
from wardround.learn.blobs import Blobs
from wardround.learn.journal import Accepted, Committed, model_name
from wardround.learn.models import Parameters, Tensor, digest, model_parts
from wardround.learn.privacy.central import Central, check_model
from wardround.learn.privacy.ledger import Ledger
from wardround.learn.study import Study
from wardround.records import EdgeId


def made_central(
    study: Study, ledger: Ledger | None, clock: Clock, blobs: Blobs, committed: Sequence[Committed]
) -> Central | None:
    """The private half of a study's rounds; None where it has none.

    Raises:
        StudyError: the study has a budget, and nothing here keeps a ledger; or the ledger does not hold.
    """
    if not study.privacy.has_budget:
        return None
    if ledger is None:
        raise StudyError(
            "privacy.mode is `clear-dp`, and no ledger is kept here", remedy="run it on Wardround's own edges and hub"
        )
    return Central(study, ledger, clock, blobs, [c.number for c in committed if c.number and c.folded])


def with_public_scale(model: Parameters, study: Study, usual: tuple[Tensor, Tensor]) -> Parameters:
    """A first model whose scaling is the study's own, or what is usual: no sums over patients.

    Args:
        usual: mean and standard deviation of each feature, shape (n_features,) each.

    Raises:
        StudyError: the study names another number of features, or a spread that is not positive.
    """
    own, features = study.privacy, len(usual[0])
    given = [np.array(values, np.float32) if values else None for values in (own.scale_mean, own.scale_std)]
    for name, values in zip(("scale_mean", "scale_std"), given, strict=True):
        if values is not None and (len(values) != features or not np.isfinite(values).all()):
            raise StudyError(
                f"privacy.{name} has {len(values)} numbers", remedy=f"give one for each of {features} features, or none"
            )
    if given[1] is not None and (given[1] <= 0).any():
        raise StudyError("privacy.scale_std holds a number that is not above 0", remedy="use 1 for a feature that never changes")
    mean, std = (own_ if own_ is not None else usual_ for own_, usual_ in zip(given, usual, strict=True))
    return {**model, "scale.mean": np.asarray(mean, np.float32), "scale.std": np.asarray(std, np.float32)}


def first_row(initial: Parameters, blobs: Blobs, now_us: int) -> Committed:
    """Round 0: the first model on disk, made of no data.

    Raises:
        StudyError: noise cannot be added to such a model.
    """
    check_model(initial)
    parts = model_parts(initial)
    name = digest(parts)
    blobs.write(model_name(name), parts)
    return Committed(0, name, "", now_us, 0.0, {}, ())


def without_facts(accepted: Mapping[EdgeId, Accepted]) -> dict[EdgeId, Accepted]:
    """What of a round's updates goes beyond the journal: that they came. Losses and counts of examples have no noise, and each
    update counts like any other."""
    return {edge: replace(update, examples=1, metrics={}) for edge, update in accepted.items()}
