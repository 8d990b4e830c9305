"""Federated averaging: the next model is the mean of the participants' models, weighted by their examples.

Source: McMahan, Moore, Ramage, Hampson, Aguera y Arcas, Communication-Efficient Learning of Deep Networks from
Decentralized Data, AISTATS 2017, arXiv:1602.05629, algorithm 1: w' = sum_k (n_k / n) w_k, here as
w' = w + sum_k (n_k / n) (w_k - w), with n over the participants of the round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wardround.learn.models import Parameters, Tensor
from wardround.learn.strategies import WeightedUpdate
from wardround.learn.strategies.blocks import BLOCK_ELEMENTS, carried, counted


class FedAvg:
    """Memory: the base, the result, and one block. Sums are float64 within a block, the result has the base's dtype.

    Updates are added in the order given. Integer tensors are rounded to the nearest value.
    """

    def fold(self, base: Parameters, updates: Sequence[WeightedUpdate]) -> Parameters:
        taken = counted(updates)
        total = sum(u.examples for u in taken)
        names = carried(base, taken)
        return {name: self._fold_tensor(name, tensor, taken, total) if name in names else tensor for name, tensor in base.items()}

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
