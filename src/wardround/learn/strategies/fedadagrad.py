"""FedAdagrad: the hub's steps shrink where the updates have been large.

Source: Reddi et al., Adaptive Federated Optimization, ICLR 2021, arXiv:2003.00295, algorithm 2:
v_t = v_{t-1} + Delta_t^2.
"""

from __future__ import annotations

import numpy as np

from wardround.learn.strategies.adaptive import Adaptive
from wardround.learn.strategies.blocks import Floats


class FedAdagrad(Adaptive):
    """`strategy.server_learning_rate` is the paper's eta, `adaptivity` its tau."""

    def second(self, v: Floats, delta: Floats) -> Floats:
        return np.asarray(v + np.square(delta))
