"""From an edge's update to the vector that is masked, and from the sum of such vectors to what the hub folds."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np

from wardround.errors import LearnError, UpdateRefused
from wardround.learn.messages import Done
from wardround.learn.models import Parameters, TensorSource, decode_model, encode_model
from wardround.learn.privacy import distributed
from wardround.learn.privacy.modes import MaskSettings
from wardround.learn.privacy.ring import BLOCK, SUM_LIMBS, Scale, Words, add_vector, decode_sums, encode_sums
from wardround.learn.privacy.wire import MasksRefused

MASKED = "masked"  # the one tensor of a masked update, uint32


def limbs_of(task: str) -> int:
    """Words of an element: of a federated sum, or of an update's value."""
    return SUM_LIMBS if task == "statistics" else 1


def vector_of(done: Done, task: str, settings: MaskSettings, edges: int) -> tuple[Words, float]:
    """What a finished training is as a vector, and what its update was scaled by to fit `clip` (1: it fitted).

    Raises:
        LearnError: it cannot be masked.
    """
    tensors = decode_model(done.data)
    remedy = "look at this edge's data, or at the study"
    whole = [name for name, tensor in tensors.items() if tensor.dtype.kind != "f"]
    if whole:
        raise LearnError(f"tensor {whole[0][:60]} counts in whole numbers, which no masked update can", remedy=remedy)
    try:
        if task == "statistics":
            return encode_sums(tensors), 1.0
        if settings.noise > 0:
            values = [tensors[name] for name in sorted(tensors)]
            return distributed.encode(values, clip_norm=settings.clip_norm, noise=settings.noise, edges=edges)
        scale = Scale(edges, settings.clip, settings.weight_max)
        return scale.encode([tensors[name] for name in sorted(tensors)], done.examples)
    except ValueError as error:
        raise LearnError(f"the update cannot be masked: {error}", remedy=remedy) from error


def masked_update(words: Words, kept: bytes) -> Done:
    """A masked vector as it is announced: one example and no facts, for the hub is to learn neither."""
    return Done(encode_model({MASKED: words}), 1, {}, kept)


def words_of_sums(shape: tuple[int, int]) -> int:
    """How long the masked sums of a task with (features, classes) are."""
    return SUM_LIMBS * (3 * shape[0] + shape[1])


def words_of_update(base: TensorSource, names: Collection[str]) -> int:
    """How long a masked update of this base is."""
    return 1 + sum(math.prod(base.shapes()[name]) for name in names)


def check_masked(tensors: TensorSource, words: int) -> None:
    """Whether an upload can be a masked update. What it hides, nobody can check.

    Raises:
        UpdateRefused: "names", "shape" or "dtype".
    """
    shapes = tensors.shapes()
    if set(shapes) != {MASKED}:
        raise UpdateRefused("names", f"a masked update is one tensor, `{MASKED}`")
    if tuple(shapes[MASKED]) != (words,):
        raise UpdateRefused("shape", f"a masked update of {tuple(shapes[MASKED])} words, not of {words}")
    if tensors.dtype(MASKED) != np.uint32:
        raise UpdateRefused("dtype", f"a masked update of {tensors.dtype(MASKED)}, not of uint32")


def added(sources: Sequence[TensorSource], task: str) -> Words:
    """The sum of masked updates, read a block at a time."""
    limbs = limbs_of(task)
    size = math.prod(sources[0].shapes()[MASKED])
    total = np.zeros(size, np.uint32)
    for source in sources:
        for start in range(0, size, BLOCK):
            stop = min(start + BLOCK, size)
            add_vector(total[start:stop], source.block(MASKED, start, stop), limbs=limbs)
    return total


def sums_of(total: Words, shape: tuple[int, int]) -> Parameters:
    """The federated sums of an unmasked sum."""
    features = (shape[0],)
    return dict(decode_sums(total, {"count": features, "sum": features, "sum_squares": features, "classes": (shape[1],)}))


def mean_of(
    total: Words, settings: MaskSettings, edges: int, base: TensorSource, names: Collection[str]
) -> tuple[Parameters, int]:
    """The mean update by examples of an unmasked sum, and the examples.

    Raises:
        MasksRefused: "sum": it is none of updates.
    """
    try:
        if settings.noise > 0:
            dp = {"clip_norm": settings.clip_norm, "noise": settings.noise, "expected": settings.expected}
            return distributed.decode(total, edges=edges, base=base, names=names, **dp)
        values, weight = Scale(edges, settings.clip, settings.weight_max).decode(total)
    except ValueError as error:
        raise MasksRefused("sum", str(error)) from error
    mean: Parameters = {}
    at = 0
    shapes: Mapping[str, tuple[int, ...]] = base.shapes()
    for name in sorted(names):
        size = math.prod(shapes[name])
        mean[name] = values[at : at + size].reshape(shapes[name]).astype(base.dtype(name))
        at += size
    return mean, weight
