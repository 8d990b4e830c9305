"""Clipped sums of the gradients of single examples, which DP-SGD rests on: ours (torch.func) beside Opacus's, in one process.

    python bench/gradients_by_example.py [--json]        needs `pip install opacus` (0.3 MB) beside PyTorch

Both take the same module and the same rows in batches, clip every example's gradient to the same length and add up; neither adds
noise. Ours cuts each towards zero on a grid of whole numbers, as its noise is exact; Opacus keeps floats. What is compared is the
sum, and CPU time of this process with one thread of PyTorch, best of five. Exits 1 where sums differ by more than rounding.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from wardround.learn.learners.dp_sgd import GRID
from wardround.learn.learners.torch_private import gradient_sums
from wardround.learn.study import DpSgdSettings, LearnerSettings

BATCH, BATCHES, CLIP = 64, 20, 1.0
APART_MAX = 1e-5  # of the clip, for each example of a batch


def modules() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """By name: a module, and the shape of a row."""
    conv = nn.Sequential(
        nn.Unflatten(1, (1, 256)), nn.Conv1d(1, 16, 7, 2), nn.GroupNorm(4, 16), nn.ReLU(), nn.Flatten(), nn.Linear(16 * 125, 6)
    )
    return {
        "48-32-2": (nn.Sequential(nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 2)), (48,)),
        "561-256-6": (nn.Sequential(nn.Linear(561, 256), nn.ReLU(), nn.Linear(256, 6)), (561,)),
        "convolution of 256 samples": (conv, (256,)),
    }


def opacus_sums(module: nn.Module, x: Any, labels: Any) -> Any:
    """A function from a batch's rows to the clipped sum, as Opacus's optimiser makes it."""
    from opacus import GradSampleModule

    wrapped = GradSampleModule(module, loss_reduction="sum")

    def sums(rows: Any) -> dict[str, Any]:
        wrapped.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(wrapped(x[rows]), labels[rows], reduction="sum").backward()
        parts = {name: p.grad_sample for name, p in module.named_parameters()}
        norms = torch.stack([g.flatten(1).norm(dim=1) for g in parts.values()], 1).norm(dim=1)
        by = (CLIP / (norms + 1e-6)).clamp(max=1.0)
        return {name: torch.einsum("i,i...->...", by, g).detach().numpy() for name, g in parts.items()}

    return sums


def best(work: Any) -> float:
    """CPU seconds of this process, the least of five."""
    found = []
    for _ in range(5):
        begun = time.process_time()
        work()
        found.append(time.process_time() - begun)
    return min(found)


def measured(name: str, module: nn.Module, shape: tuple[int, ...]) -> dict[str, Any]:
    """One module's row."""
    rng = np.random.default_rng(0)
    x, labels = rng.normal(size=(BATCH * BATCHES, *shape)).astype(np.float32), rng.integers(0, 2, BATCH * BATCHES)
    settings = LearnerSettings(batch=BATCH, dp_sgd=DpSgdSettings(noise=1.0, clip=CLIP))
    weights = {n: p.detach().numpy().copy() for n, p in module.named_parameters()}
    ours = gradient_sums(settings, module, nn.functional.cross_entropy, weights, x, labels.astype(np.int32))
    batches = [np.arange(i * BATCH, (i + 1) * BATCH, dtype=np.int64) for i in range(BATCHES)]
    mine = ours(weights, batches[0])
    ours_s = best(lambda: [ours(weights, rows) for rows in batches])
    theirs = opacus_sums(module, torch.from_numpy(x), torch.from_numpy(labels))
    other = theirs(torch.from_numpy(batches[0]))
    opacus_s = best(lambda: [theirs(torch.from_numpy(rows)) for rows in batches])
    apart = max(float(np.abs(mine[n] / GRID * CLIP - other[n].ravel()).max()) for n in weights) / CLIP / BATCH
    return {
        "module": name,
        "weights": sum(w.size for w in weights.values()),
        "ours_ms": 1e3 * ours_s / BATCHES,
        "opacus_ms": 1e3 * opacus_s / BATCHES,
        "ratio": ours_s / opacus_s,
        "apart": apart,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    found = [measured(name, *own) for name, own in modules().items()]
    if given.json:
        print(json.dumps(found, indent=2))
    else:
        for row in found:
            print(
                f"{row['module']:28} {row['weights']:8,} weights, a batch of {BATCH}: ours {row['ours_ms']:6.2f} ms of CPU, "
                f"Opacus {row['opacus_ms']:6.2f}: {row['ratio']:.2f} times; sums apart by {row['apart']:.1e} of a clip an example"
            )
    return 0 if all(row["apart"] < APART_MAX for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
