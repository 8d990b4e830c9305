"""Small networks for sensors, as pure functions: shapes of their tensors, their first values, and what they make of features.

A network's input is (rows, n_features). Where a network looks along time, a row is `channels` runs of equal length, one after the
other: all of channel 0, then all of channel 1, ... Weights start as in He et al. 2015 (arXiv:1502.01852), the last layer at
zero, so that a first model has no opinion.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from wardround.errors import StudyError
from wardround.learn.models import Parameters
from wardround.learn.study import LearnerSettings

Weights = dict[str, Array]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Net:
    """One family: `shapes(settings, features, classes)`; `logits(weights, x, channels)`, (rows, features) to (rows, classes)."""

    shapes: Callable[[LearnerSettings, int, int], Shapes]
    logits: Callable[[Weights, Array, int], Array]


def initial(shapes: Shapes, seed: int) -> Parameters:
    """First values: He for weights, zero for biases and for the last layer (`head`, or the highest `layer`)."""
    rng = np.random.default_rng(seed)
    last = max((name for name in shapes if name.endswith(".weight")), key=_order)
    made: Parameters = {}
    for name, shape in shapes.items():
        spread = 0.0 if name == last or not name.endswith(".weight") else np.sqrt(2.0 / np.prod(shape[:-1]))
        made[name] = (rng.standard_normal(shape) * spread).astype(np.float32) if spread else np.zeros(shape, np.float32)
    return made


def _order(name: str) -> tuple[bool, int]:
    digits = "".join(c for c in name if c.isdigit())
    return name.startswith("head"), int(digits or 0)


# -- dense layers; none: logistic regression


def _mlp_shapes(settings: LearnerSettings, features: int, classes: int) -> Shapes:
    shapes: Shapes = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise((features, *settings.hidden, classes))):
        shapes[f"layer{i}.weight"], shapes[f"layer{i}.bias"] = (inputs, outputs), (outputs,)
    return shapes


def _mlp_logits(weights: Weights, x: Array, _channels: int) -> Array:
    layers = len(weights) // 2
    for i in range(layers):
        x = x @ weights[f"layer{i}.weight"] + weights[f"layer{i}.bias"]
        if i < layers - 1:
            x = jax.nn.relu(x)
    return x


# -- along time


def _along_time(x: Array, channels: int) -> Array:
    """(rows, features) to (rows, steps, channels)."""
    return jnp.swapaxes(x.reshape(len(x), channels, -1), 1, 2)


def _conv_shapes(settings: LearnerSettings, _features: int, classes: int) -> Shapes:
    """Blocks of convolutions with `hidden` channels and kernels of `kernel` steps, then a dense head."""
    shapes: Shapes = {}
    for i, (inputs, outputs) in enumerate(itertools.pairwise((settings.channels, *settings.hidden))):
        shapes[f"conv{i}.weight"], shapes[f"conv{i}.bias"] = (settings.kernel, inputs, outputs), (outputs,)
    return shapes | _head_shapes(settings.hidden[-1], classes)


def _head_shapes(inputs: int, classes: int) -> Shapes:
    return {"head.weight": (inputs, classes), "head.bias": (classes,)}


def _head(weights: Weights, x: Array) -> Array:
    return x @ weights["head.weight"] + weights["head.bias"]


def _convolve(x: Array, weight: Array, *, dilation: int, left: int, right: int) -> Array:
    layout = ("NWC", "WIO", "NWC")
    return jax.lax.conv_general_dilated(x, weight, (1,), [(left, right)], rhs_dilation=(dilation,), dimension_numbers=layout)


def _cnn_logits(weights: Weights, x: Array, channels: int) -> Array:
    """Convolution, ReLU and pooling by two in each block; the mean over what is left (Lin et al. 2014, arXiv:1312.4400)."""
    x = _along_time(x, channels)
    for i in range(sum(name.startswith("conv") for name in weights) // 2):
        weight, bias = weights[f"conv{i}.weight"], weights[f"conv{i}.bias"]
        x = jax.nn.relu(_convolve(x, weight, dilation=1, left=(len(weight) - 1) // 2, right=len(weight) // 2) + bias)
        if x.shape[1] > 1:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 2, 1), (1, 2, 1), "VALID")
    return _head(weights, x.mean(axis=1))


def _tcn_logits(weights: Weights, x: Array, channels: int) -> Array:
    """Causal convolutions whose reach doubles with each block, with a way around where the channels agree; the last step decides.

    Source: Bai, Kolter, Koltun, An Empirical Evaluation of Generic Convolutional and Recurrent Networks, 2018, arXiv:1803.01271.
    """
    x = _along_time(x, channels)
    for i in range(sum(name.startswith("conv") for name in weights) // 2):
        weight, dilation = weights[f"conv{i}.weight"], 2**i
        reach = (len(weight) - 1) * dilation
        y = jax.nn.relu(_convolve(x, weight, dilation=dilation, left=reach, right=0) + weights[f"conv{i}.bias"])
        x = x + y if x.shape == y.shape else y
    return _head(weights, x[:, -1])


def _gru_shapes(settings: LearnerSettings, _features: int, classes: int) -> Shapes:
    units = settings.hidden[-1]
    return {
        "gru.input.weight": (settings.channels, 3 * units),
        "gru.state.weight": (units, 3 * units),
        "gru.bias": (3 * units,),
        **_head_shapes(units, classes),
    }


def _gru_logits(weights: Weights, x: Array, channels: int) -> Array:
    """Gated recurrent units (Cho et al. 2014, arXiv:1406.1078) over the steps; the last state decides."""
    inputs = jnp.swapaxes(_along_time(x, channels), 0, 1) @ weights["gru.input.weight"] + weights["gru.bias"]
    units = weights["gru.state.weight"].shape[0]

    def step(state: Array, given: Array) -> tuple[Array, None]:
        own = state @ weights["gru.state.weight"]
        update = jax.nn.sigmoid(given[:, :units] + own[:, :units])
        reset = jax.nn.sigmoid(given[:, units : 2 * units] + own[:, units : 2 * units])
        fresh = jnp.tanh(given[:, 2 * units :] + reset * own[:, 2 * units :])
        return update * state + (1 - update) * fresh, None

    state, _ = jax.lax.scan(step, jnp.zeros((x.shape[0], units)), inputs)
    return _head(weights, state)


NETS: Mapping[str, Net] = MappingProxyType(
    {
        "mlp": Net(_mlp_shapes, _mlp_logits),
        "cnn": Net(_conv_shapes, _cnn_logits),
        "tcn": Net(_conv_shapes, _tcn_logits),
        "gru": Net(_gru_shapes, _gru_logits),
    }
)


def net_of(settings: LearnerSettings, features: int) -> Net:
    """The network of a study.

    Raises:
        StudyError: the features do not divide into its channels, or it has no layer along time.
    """
    if settings.kind != "mlp":
        if features % settings.channels:
            raise StudyError(
                f"{features} features do not divide into {settings.channels} channels", remedy="correct learner.channels"
            )
        if not settings.hidden:
            raise StudyError(f"a {settings.kind} without learner.hidden has no layer", remedy="name the units of one at least")
    return NETS[settings.kind]
