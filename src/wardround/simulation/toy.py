"""A training that costs nothing: the same update for the same edge, round and base, so that every model can be checked."""

from __future__ import annotations

import random
import zlib
from dataclasses import replace

import numpy as np

from wardround.learn.messages import Done, Order
from wardround.learn.models import Parameters, decode_model, encode_model

FEATURES, CLASSES = 6, 3


def toy_model(seed: int) -> Parameters:
    """The first model."""
    rng = np.random.default_rng(seed)
    return {"w": rng.normal(size=(FEATURES, CLASSES)).astype(np.float32), "b": np.zeros(CLASSES, np.float32)}


def toy_training(edge: str, order: Order, model: bytes, kept: bytes) -> Done:
    """A step towards this edge's own target: the same for the same edge, round and base. It keeps the number of its updates."""
    own = zlib.crc32(edge.encode())
    examples = 50 + own % 50
    if order.task == "statistics":
        ones = np.ones(FEATURES)
        sums = {"count": examples * ones, "sum": 0.0 * ones, "sum_squares": examples * ones}
        return Done(encode_model({**sums, "classes": np.full(CLASSES, float(examples))}), examples)
    base = decode_model(model)
    rng = np.random.default_rng([own, order.round_number])
    update = {name: (0.1 * (rng.normal(size=base[name].shape) - base[name])).astype(np.float32) for name in ("w", "b")}
    before = float(decode_model(kept)["updates"]) if kept else 0.0
    facts = {"loss": float(order.round_number), "kept": before}
    return Done(encode_model(update), examples, facts, encode_model({"updates": np.array(before + 1)}))


def spoil(done: Done, chance: random.Random) -> Done:
    """An update that triage must refuse: not a number, a wrong shape or type, too few tensors, bytes that are no update."""
    parameters = dict(decode_model(done.data))
    kind = chance.choice(("nan", "shape", "dtype", "names", "bytes", "examples"))
    if kind == "nan":
        parameters["w"] = np.full_like(parameters["w"], np.nan)
    elif kind == "shape":
        parameters["w"] = parameters["w"][1:]
    elif kind == "dtype":
        parameters["w"] = parameters["w"].astype(np.float64)
    elif kind == "names":
        del parameters["b"]
    elif kind == "bytes":
        return replace(done, data=done.data[: len(done.data) // 2])
    else:
        return replace(done, examples=done.examples * 1_000_000_000)
    return replace(done, data=encode_model(parameters))
