"""What FedAdagrad, FedAdam and FedYogi share: the mean update as a gradient for an adaptive optimiser at the hub.

Source: Reddi, Charles, Zaheer, Garrett, Rush, Konecny, Kumar, McMahan, Adaptive Federated Optimization, ICLR 2021,
arXiv:2003.00295, algorithm 2: m_t = beta_1 m_{t-1} + (1 - beta_1) Delta_t; x_{t+1} = x_t + eta m_t / (sqrt(v_t) + tau), with
v_t of each. v_0 = tau^2, as the algorithm has it; no bias correction, as it has none.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import numpy as np

from wardround.learn.models import Parameters
from wardround.learn.strategies import Fold, Folded
from wardround.learn.strategies.blocks import Block, Floats, Values, by_examples, counted, move
from wardround.learn.strategies.fedavg import FedAvg

RATE = 0.1  # eta unless the study says


class Adaptive(FedAvg, ABC):
    """Memory: `first.NAME` and `second.NAME`, flat, in the base's dtype (float64 for integer tensors)."""

    @abstractmethod
    def second(self, v: Floats, delta: Floats) -> Floats:
        """v_t from v_{t-1} and Delta_t."""

    def fold(self, given: Fold) -> Folded:
        updates = counted(given)
        weights = by_examples(updates)
        own = self.settings
        rate = own.server_learning_rate or RATE
        shapes = {n: math.prod(s) for n, s in updates[0].tensors.shapes().items() if n in given.base.shapes()}
        first = {n: _kept(given.memory, f"first.{n}", size, given, n, 0.0) for n, size in shapes.items()}
        second = {n: _kept(given.memory, f"second.{n}", size, given, n, own.adaptivity**2) for n, size in shapes.items()}

        def step(block: Block) -> Values:
            delta = block.weighted(weights)
            m, v = block.of(first), block.of(second)
            m[:] = own.beta1 * m + (1 - own.beta1) * delta
            v[:] = self.second(v.astype(np.float64), delta)
            return np.asarray(rate * m / (np.sqrt(v) + own.adaptivity))

        model = move(given.base, updates, step)
        kept = {**{f"first.{n}": t for n, t in first.items()}, **{f"second.{n}": t for n, t in second.items()}}
        return Folded(model, kept)


def _kept(memory: Parameters, key: str, size: int, given: Fold, name: str, start: float) -> Values:
    """What an earlier fold remembered, or its start."""
    dtype = given.base.dtype(name)
    held = memory.get(key)
    if held is not None and held.size == size:
        return np.array(held).reshape(-1)
    return np.full(size, start, dtype if dtype.kind == "f" else np.float64)
