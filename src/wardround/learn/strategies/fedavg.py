"""Federated averaging: the next model is the mean of the participants' models, weighted by their examples.

Source: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017, arXiv:1602.05629, algorithm 1: w' = sum_k (n_k / n) w_k, here as
w' = w + sum_k (n_k / n) (w_k - w), with n over the participants of the round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from wardround.errors import UpdateRefused
from wardround.learn.models import Parameters, Tensor
from wardround.learn.strategies import WeightedUpdate

BLOCK_ELEMENTS = 32_768  # the accumulator and its scratch stay in a core's cache


class FedAvg:
    """Memory: the base, the result, and one block. Sums are float64 within a block, the result has the base's dtype.

    Updates are added in the order given. Integer tensors are rounded to the nearest value.
    """

    def fold(self, base: Parameters, updates: Sequence[WeightedUpdate]) -> Parameters:
        counted = [u for u in updates if u.examples > 0]
        total = sum(u.examples for u in counted)
        if total == 0:
            raise UpdateRefused("empty", "no update has examples to count")
        names = _names(base, counted)
        return {
            name: self._fold_tensor(name, tensor, counted, total) if name in names else tensor for name, tensor in base.items()
        }

    def _fold_tensor(self, name: str, base: Tensor, updates: list[WeightedUpdate], total: int) -> Tensor:
        folded = np.empty(base.size, base.dtype)
        flat = np.ascontiguousarray(base).reshape(-1)
        block, scratch = np.empty(BLOCK_ELEMENTS), np.empty(BLOCK_ELEMENTS)
        for start in range(0, base.size, BLOCK_ELEMENTS):
            stop = min(start + BLOCK_ELEMENTS, base.size)
            accumulator, term = block[: stop - start], scratch[: stop - start]
            accumulator[:] = flat[start:stop]
            for update in updates:
                np.multiply(update.tensors.block(name, start, stop), update.examples / total, out=term, casting="unsafe")
                accumulator += term
            folded[start:stop] = np.rint(accumulator) if base.dtype.kind in "iub" else accumulator
        return folded.reshape(base.shape)


def _names(base: Parameters, updates: Sequence[WeightedUpdate]) -> frozenset[str]:
    """The tensors that every update carries, checked against the base."""
    names = frozenset(updates[0].tensors.shapes())
    for update in updates:
        shapes = update.tensors.shapes()
        if frozenset(shapes) != names:
            raise UpdateRefused("names", "the updates of this round do not carry the same tensors")
        for name, shape in shapes.items():
            if name not in base:
                raise UpdateRefused("names", f"the base model has no tensor `{name[:60]}`")
            if tuple(shape) != base[name].shape:
                raise UpdateRefused("shape", f"tensor `{name[:60]}`: {shape}, the base model has {base[name].shape}")
            if math.prod(shape) and update.tensors.dtype(name) != base[name].dtype:
                raise UpdateRefused("dtype", f"tensor `{name[:60]}`: {update.tensors.dtype(name)}, not {base[name].dtype}")
    return names
