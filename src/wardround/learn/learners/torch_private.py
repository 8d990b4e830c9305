"""DP-SGD of a user's PyTorch module: the gradients of single examples in one vectorised call (torch.func).

Opacus is not asked for: what is needed of it is the clipped sum, which torch.func gives for any module without hooks or layers
of Opacus's own. The tests hold that sum against a loop over the examples, bench/gradients_by_example.py against Opacus.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.func import functional_call, grad, vmap

from wardround.errors import StudyError
from wardround.learn.learners.dp_sgd import GRID, MARGIN, Rows, Sums, chunk_rows
from wardround.learn.models import Parameters
from wardround.learn.study import LearnerSettings


def check_private(module: nn.Module, named: str, *, own_optimiser: bool) -> None:
    """Whether each example has a gradient of its own in this module.

    Raises:
        StudyError: it looks at other examples, or keeps what they were.
    """
    asked = f"learner.dp_sgd is asked for, and `{named}`"
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            raise StudyError(
                f"{asked} has {type(part).__name__} `{name}`: it normalises over a batch, and no example has a "
                "gradient of its own",
                remedy="use GroupNorm or LayerNorm, or leave it out",
            )
    kept = [name for name, _ in module.named_buffers()]
    if kept:
        raise StudyError(
            f"{asked} keeps `{kept[0]}` beside its parameters: what follows the examples there would have no noise",
            remedy="make it a constant of the function, or a parameter",
        )
    if own_optimiser:
        raise StudyError(
            f"{asked} has an optimiser of its own: the noisy steps are those of SGD with learner.momentum",
            remedy="leave `optimiser` out of that file",
        )


def gradient_sums(
    settings: LearnerSettings,
    module: nn.Module,
    loss: Callable[..., Any],
    weights: Parameters,
    x: NDArray[np.float32],
    labels: NDArray[np.int32],
) -> Sums:
    """The `sums` of dp_sgd.descend, over these scaled examples. `module` is in training mode; `weights` names what is trained."""
    size, given, wanted = chunk_rows(weights, settings.batch), torch.from_numpy(x), torch.from_numpy(labels.astype(np.int64))
    fixed = {name: p.detach() for name, p in module.named_parameters() if name not in weights}

    def one(trained: dict[str, Any], row: Any, label: Any) -> Any:
        logits = functional_call(module, {**fixed, **trained}, (row.unsqueeze(0),))
        return loss(logits, label.unsqueeze(0)).sum()

    each = vmap(grad(one), in_dims=(None, 0, 0), randomness="different")

    def sums(now: Parameters, rows: Rows) -> Mapping[str, NDArray[np.int64]]:
        total = {name: np.zeros(w.size, np.int64) for name, w in now.items()}
        trained = {name: torch.from_numpy(w) for name, w in now.items()}
        for start in range(0, len(rows), size):
            chosen = torch.from_numpy(rows[start : start + size])
            made = each(trained, given[chosen], wanted[chosen])
            exact = {name: g.flatten(1).double() for name, g in made.items()}
            norms = torch.stack([torch.linalg.vector_norm(g, dim=1) for g in exact.values()]).square().sum(0).sqrt()
            overflows = ~norms.isfinite()  # such an example counts as nothing
            by = (GRID * MARGIN / norms.clamp(min=settings.dp_sgd.clip))[:, None]
            for name, g in exact.items():
                steps = g.mul_(by).trunc_()  # in place: what costs here is memory, not arithmetic
                if overflows.any():
                    steps[overflows] = 0.0
                total[name] += steps.sum(0).to(torch.int64).numpy()  # whole numbers below 2^53: no sum of doubles rounds
        return total

    return sums
