"""FedAdam: the hub's steps adapt to the recent size of the updates.

Source: Reddi et al., Adaptive Federated Optimization, ICLR 2021, arXiv:2003.00295, algorithm 2:
v_t = beta_2 v_{t-1} + (1 - beta_2) Delta_t^2.
"""

from __future__ import annotations

import numpy as np

from wardround.learn.strategies.adaptive import Adaptive
from wardround.learn.strategies.blocks import Floats


class FedAdam(Adaptive):
    """`strategy.server_learning_rate` is the paper's eta, `adaptivity` its tau, `beta1` and `beta2` its betas."""

    def second(self, v: Floats, delta: Floats) -> Floats:
        return np.asarray(self.settings.beta2 * v + (1 - self.settings.beta2) * np.square(delta))
