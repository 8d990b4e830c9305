"""Any PyTorch module: `learner.kind = "torch"`, `learner.module = "my_package.models:make"`.

`make(n_features, n_classes)` returns an nn.Module from scaled features, shape (n, n_features), to logits, shape (n, n_classes).
Two functions are used where they stand beside it: `loss(logits, labels)`, one value an example (cross-entropy otherwise), and
`optimiser(parameters, learning_rate)` (SGD with learner.momentum otherwise). docs/learners.md shows one.

Tensors: the module's parameters under their own names; its buffers, what BatchNorm keeps of its batches, as `running.NAME`.
These have no gradient but travel in the update: the next model's are the mean over the edges, by examples. A model that left
them at home would be scored with the first model's statistics, however well its weights are trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from wardround.errors import LearnError, StudyError
from wardround.learn.learners import Pull, Trained, own_code
from wardround.learn.learners.dp_sgd import descend, steps_of
from wardround.learn.learners.rows import (
    GRADIENT_NORM_MAX,
    Fits,
    check_finite,
    check_fit,
    checked,
    labelled,
    loss_and_accuracy,
    no_scale,
    row_order,
    scaled,
)
from wardround.learn.learners.torch_private import check_private, gradient_sums
from wardround.learn.models import RESERVED_PREFIXES, RUNNING_PREFIX, Parameters
from wardround.learn.scaling import feature_sums
from wardround.learn.study import LearnerSettings
from wardround.records import Examples

PREDICT_ROWS_MAX = 4_096
DTYPES = (torch.float16, torch.float32, torch.float64, torch.int8, torch.int16, torch.int32, torch.int64)


class TorchLearner:
    """Trains on the CPU, where the same seed and round give the same bytes on one machine and version of PyTorch."""

    def __init__(self, settings: LearnerSettings, n_features: int, n_classes: int, code: own_code.OwnCode) -> None:
        """Raises StudyError where the module does not take the features or does not give a logit for each class."""
        self._settings = settings
        self._features_n, self._classes = n_features, n_classes
        self._make, beside = own_code.load(code)
        self._loss: Callable[..., Any] = getattr(beside, "loss", _cross_entropy)
        self._optimiser: Callable[..., Any] | None = getattr(beside, "optimiser", None)
        self._module = self._made(settings.seed)
        self._try_out(settings.module)
        if settings.dp_sgd.on:
            check_private(self._module, settings.module, own_optimiser=self.own_optimiser)
        self._fits: Fits = {name: (t.shape, t.dtype) for name, t in self._tensors(self._module).items()}

    @property
    def own_optimiser(self) -> bool:
        """Whether its steps are another's than plain or momentum SGD's."""
        return self._optimiser is not None

    def initial(self, seed: int) -> Parameters:
        return self._tensors(self._made(seed))

    def statistics(self, examples: Examples) -> Parameters:
        return feature_sums(examples, self._classes)

    def train(
        self,
        parameters: Parameters,
        examples: Examples,
        *,
        seed: int,
        round: int,  # noqa: A002
        pull: Pull | None = None,
        epochs: int = 0,
    ) -> Trained:
        module = self.module(parameters)
        features, labels = labelled(examples, self._features_n, self._classes)
        if self._settings.dp_sgd.on:
            return self._train_private(module, parameters, features, labels, epochs, pull)
        order = row_order(len(labels), epochs or self._settings.epochs, seed, round)
        before = loss_and_accuracy(self._probabilities(module, parameters, features), labels, parameters["scale.class_weights"])
        with _seeded(seed, round):
            steps = self._descend(module, parameters, features, labels, order, pull)
        new = self._tensors(module)
        update = {n: new[n] - parameters[n] for n in new if not n.startswith("scale.")}
        check_finite(update)
        after = loss_and_accuracy(self._probabilities(module, parameters, features), labels, parameters["scale.class_weights"])
        metrics = {"loss_before": before[0], "loss_after": after[0], "accuracy": after[1]}
        return Trained(update, len(labels), steps, metrics)

    def _train_private(
        self,
        module: nn.Module,
        parameters: Parameters,
        features: NDArray[np.float32],
        labels: NDArray[np.int32],
        epochs: int,
        pull: Pull | None,
    ) -> Trained:
        """By dp_sgd.py."""
        weights = {n: parameters[n] for n, p in module.named_parameters() if p.requires_grad}
        x = scaled(features, parameters, self._settings.clip)
        steps = steps_of(self._settings, len(labels), epochs)
        sums = gradient_sums(self._settings, module.train(), self._loss, weights, x, labels)
        new = descend(weights, sums, steps, self._settings, pull)
        update = {n: new[n] - t if n in new else np.zeros_like(t) for n, t in parameters.items() if not n.startswith("scale.")}
        check_finite(update)
        return Trained(update, len(labels), steps.number)

    def predict(self, parameters: Parameters, features: NDArray[np.float32]) -> NDArray[np.float32]:
        return self._probabilities(self.module(parameters), parameters, checked(features, self._features_n))

    def module(self, parameters: Parameters) -> nn.Module:
        """A module of its own with these parameters, in evaluation mode.

        Raises:
            LearnError: they are not this module's.
        """
        check_fit(parameters, self._fits)
        module = copy.deepcopy(self._module).eval()
        with torch.no_grad():
            for name, tensor in _state(module).items():
                tensor.copy_(torch.from_numpy(np.array(parameters[name])))
        return module

    def _made(self, seed: int) -> nn.Module:
        with _seeded(seed, 0):
            module = self._make(self._features_n, self._classes)
        if not isinstance(module, nn.Module):
            raise StudyError(
                f"learner.module: `{self._settings.module}` returned a {type(module).__name__}", remedy="return a torch.nn.Module"
            )
        return module

    def _try_out(self, named: str) -> None:
        """Two examples through the module, and its tensors' names and dtypes."""
        rows = torch.zeros(2, self._features_n, dtype=_dtype(self._module))
        try:
            with torch.no_grad():
                found = tuple(copy.deepcopy(self._module).eval()(rows).shape)
        except Exception as exc:
            raise StudyError(
                f"learner.module: `{named}` does not take rows of {self._features_n} features: {exc}",
                remedy="its forward takes (n, n_features) and gives (n, n_classes)",
            ) from exc
        if found != (2, self._classes):
            raise StudyError(
                f"learner.module: `{named}` gives {found} for two examples, not {(2, self._classes)}",
                remedy="end in a logit for each class",
            )
        for name, tensor in self._module.state_dict().items():
            if name.startswith(RESERVED_PREFIXES):
                raise StudyError(f"learner.module: the tensor `{name}` has a reserved name", remedy="rename that attribute")
            if tensor.dtype not in DTYPES:
                raise StudyError(
                    f"learner.module: the tensor `{name}` is {tensor.dtype}", remedy="use float32, or persistent=False"
                )

    def _tensors(self, module: nn.Module) -> Parameters:
        return no_scale(self._features_n, self._classes) | {n: t.detach().numpy().copy() for n, t in _state(module).items()}

    def _descend(
        self,
        module: nn.Module,
        parameters: Parameters,
        features: NDArray[np.float32],
        labels: NDArray[np.int32],
        order: NDArray[np.int32],
        pull: Pull | None,
    ) -> int:
        """All epochs, in place; the steps taken."""
        x = torch.from_numpy(scaled(features, parameters, self._settings.clip)).to(_dtype(module))
        y, weights = torch.from_numpy(labels.astype(np.int64)), torch.from_numpy(parameters["scale.class_weights"].copy())
        trained = {n: p for n, p in module.named_parameters() if p.requires_grad}
        decayed = [p for name, p in trained.items() if name.endswith("weight") and p.ndim > 1]  # no bias, no normalisation
        forces = _Forces(trained, pull)
        optimiser = self._steps(list(trained.values()))
        module.train()
        if len(labels) == 1:  # a batch of one has no variance: BatchNorm uses what the model knows, and learns none
            for part in module.modules():
                if isinstance(part, nn.modules.batchnorm._BatchNorm):
                    part.eval()
        steps = 0
        for epoch in order:
            for rows in _batches(epoch, self._settings.batch):
                optimiser.zero_grad()
                chosen = torch.from_numpy(rows.astype(np.int64))
                losses = self._loss(module(x[chosen]), y[chosen])
                if losses.shape != chosen.shape:
                    raise LearnError(
                        f"`loss` of learner.module gives {tuple(losses.shape)} for {len(rows)} examples",
                        remedy='return one value an example: reduction="none"',
                    )
                penalty = sum((p.square().sum() for p in decayed), x.new_zeros(()))
                ((losses * weights[y[chosen]]).mean() + 0.5 * self._settings.l2 * penalty).backward()
                nn.utils.clip_grad_norm_(list(trained.values()), GRADIENT_NORM_MAX)
                forces.add()
                optimiser.step()
                steps += 1
        module.eval()
        return steps

    def _steps(self, trained: list[nn.Parameter]) -> Any:
        if not trained:
            raise LearnError("the module has no parameter that is trained", remedy="leave requires_grad on for some")
        if self._optimiser is not None:
            return self._optimiser(trained, self._settings.learning_rate)
        return torch.optim.SGD(trained, lr=self._settings.learning_rate, momentum=self._settings.momentum)

    def _probabilities(self, module: nn.Module, parameters: Parameters, features: NDArray[np.float32]) -> NDArray[np.float32]:
        parts = [np.empty((0, self._classes), np.float32)]
        with torch.no_grad():
            for start in range(0, len(features), PREDICT_ROWS_MAX):
                rows = scaled(features[start : start + PREDICT_ROWS_MAX], parameters, self._settings.clip)
                logits = module(torch.from_numpy(rows).to(_dtype(module)))
                parts.append(torch.softmax(logits.float(), dim=1).numpy())
        return np.concatenate(parts)


class _Forces:
    """Pull, added to the clipped gradient: it is the strategy's, not the data's."""

    def __init__(self, trained: dict[str, nn.Parameter], pull: Pull | None) -> None:
        self._trained = trained if pull is not None else {}
        self._strength = pull.strength if pull is not None else 0.0
        towards, slope = (pull.towards, pull.slope) if pull is not None else (None, None)
        self._towards = {
            n: p.detach().clone() if towards is None else torch.from_numpy(np.array(towards[n])) for n, p in self._trained.items()
        }
        self._slope = {} if slope is None else {n: torch.from_numpy(np.array(slope[n])) for n in self._trained}

    def add(self) -> None:
        with torch.no_grad():
            for name, p in self._trained.items():
                if p.grad is None:  # a part of the module that this batch did not use
                    p.grad = torch.zeros_like(p)
                p.grad += self._strength * (p - self._towards[name])
                if self._slope:
                    p.grad += self._slope[name]


def _state(module: nn.Module) -> dict[str, torch.Tensor]:
    """The module's tensors under the names that a model gives them: those without a gradient are `running.`."""
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    return {n if n in parameters else RUNNING_PREFIX + n: t for n, t in module.state_dict().items()}


def _batches(epoch: NDArray[np.int32], size: int) -> list[NDArray[np.int32]]:
    """An epoch's rows in mini-batches; a last one of a single row joins the one before, as BatchNorm needs two."""
    parts = [epoch[start : start + size] for start in range(0, len(epoch), size)]
    if len(parts) > 1 and len(parts[-1]) == 1:
        parts[-2:] = [np.concatenate(parts[-2:])]
    return parts


def _cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(logits, labels, reduction="none")


def _dtype(module: nn.Module) -> torch.dtype:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)


@contextmanager
def _seeded(seed: int, round_number: int) -> Iterator[None]:
    """PyTorch's random numbers from seed and round, and afterwards as they were."""
    state = np.random.SeedSequence([seed, round_number]).generate_state(1, np.uint32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(state[0]))
        yield
