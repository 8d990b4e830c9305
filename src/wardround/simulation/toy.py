"""A training that costs nothing: the same update for the same edge, round and base, so that every model can be checked.

The edges' keys are real, made when they are first needed, and written nowhere.
"""

from __future__ import annotations

import random
import zlib
from dataclasses import replace
from functools import cache

import numpy as np
from cryptography.hazmat.primitives.asymmetric import ec

from wardround.learn.announcements import announcement
from wardround.learn.messages import Done, Order, Upload
from wardround.learn.models import Parameters, decode_model, encode_model
from wardround.trust.certificates import Authority, new_key
from wardround.trust.signatures import edge_signature

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


@cache
def toy_authority() -> Authority:
    """Who has issued every certificate of this process."""
    return Authority.in_memory("simulation")


@cache
def toy_identity(edge: str) -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """An edge's key and its certificate (PEM)."""
    key = new_key()
    return key, toy_authority().issue_edge(edge, key.public_key(), 1.0)


def signed(edge: str, upload: Upload) -> Upload:
    """An upload with this edge's signature, as the hub sees it on this edge's own connection."""
    key, certificate = toy_identity(edge)
    return replace(upload, signature=edge_signature(key, announcement(upload)), certificate=certificate)


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
