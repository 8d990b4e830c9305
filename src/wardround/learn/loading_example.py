"""Predict with an exported Wardround model: NumPy and safetensors alone, nothing of Wardround.

    pip install numpy safetensors
    python predict.py features.csv        one row of features a line, in the order of card.json; probabilities come out

or from Python:  from predict import Model;  Model("this/folder").predict(features)
Research software: no medical device, no basis for a decision about a patient. card.json and card.md say what it was made of.
"""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load

Array = np.ndarray[Any, np.dtype[Any]]


class Model:
    """An exported folder: model.safetensors and card.json."""

    def __init__(self, folder: str | Path = ".") -> None:
        self.card = json.loads((Path(folder) / "card.json").read_text(encoding="utf-8"))
        data = (Path(folder) / "model.safetensors").read_bytes()
        if hashlib.sha256(data).hexdigest() != self.card["file_sha256"]:
            raise SystemExit("model.safetensors is not the file that card.json describes")
        self.tensors = load(data)

    def predict(self, features: Array, *, calibrated: bool = False) -> Array:
        """Probabilities, shape (rows, classes), of features, shape (rows, features); missing ones are NaN.

        With `calibrated` they are scaled by the temperature that was found on held-back examples.
        """
        own = self.card["learner"]
        t = self.tensors
        x = np.asarray(features, np.float32)
        if own["kind"] != "xgboost":  # trees ask for order alone
            scaled = (x - t["scale.mean"]) / t["scale.std"]
            x = np.clip(np.nan_to_num(scaled, nan=0.0, posinf=0.0, neginf=0.0), -own["clip"], own["clip"])
        logits = NETS[own["kind"]](t, x, own["channels"])
        if calibrated:
            logits = logits / self.card["calibration"]["temperature"]
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def mlp(t: dict[str, Array], x: Array, _channels: int) -> Array:
    layers = sum(name.startswith("layer") for name in t) // 2
    for i in range(layers):
        x = x @ t[f"layer{i}.weight"] + t[f"layer{i}.bias"]
        if i < layers - 1:
            x = np.maximum(x, 0.0)
    return x


def along_time(x: Array, channels: int) -> Array:
    """(rows, features) to (rows, steps, channels)."""
    return np.swapaxes(x.reshape(len(x), channels, -1), 1, 2)


def convolve(x: Array, weight: Array, dilation: int, left: int, right: int) -> Array:
    """(rows, steps, inputs) with kernels (width, inputs, outputs)."""
    padded = np.pad(x, ((0, 0), (left, right), (0, 0)))
    steps = padded.shape[1] - (len(weight) - 1) * dilation
    taps = [padded[:, k * dilation : k * dilation + steps] @ weight[k] for k in range(len(weight))]
    return np.asarray(np.sum(taps, axis=0))


def cnn(t: dict[str, Array], x: Array, channels: int) -> Array:
    x = along_time(x, channels)
    for i in range(sum(name.startswith("conv") for name in t) // 2):
        weight = t[f"conv{i}.weight"]
        x = np.maximum(convolve(x, weight, 1, (len(weight) - 1) // 2, len(weight) // 2) + t[f"conv{i}.bias"], 0.0)
        if x.shape[1] > 1:
            even = x[:, : x.shape[1] // 2 * 2]
            x = np.maximum(even[:, ::2], even[:, 1::2])
    return np.asarray(x.mean(axis=1) @ t["head.weight"] + t["head.bias"])


def tcn(t: dict[str, Array], x: Array, channels: int) -> Array:
    x = along_time(x, channels)
    for i in range(sum(name.startswith("conv") for name in t) // 2):
        weight, dilation = t[f"conv{i}.weight"], 2**i
        y = np.maximum(convolve(x, weight, dilation, (len(weight) - 1) * dilation, 0) + t[f"conv{i}.bias"], 0.0)
        x = x + y if x.shape == y.shape else y
    return np.asarray(x[:, -1] @ t["head.weight"] + t["head.bias"])


def gru(t: dict[str, Array], x: Array, channels: int) -> Array:
    inputs = along_time(x, channels) @ t["gru.input.weight"] + t["gru.bias"]
    units = t["gru.state.weight"].shape[0]
    state = np.zeros((len(x), units), np.float32)
    for k in range(inputs.shape[1]):
        given, own = inputs[:, k], state @ t["gru.state.weight"]
        update, reset = (
            1 / (1 + np.exp(-(given[:, i * units : (i + 1) * units] + own[:, i * units : (i + 1) * units]))) for i in (0, 1)
        )
        fresh = np.tanh(given[:, 2 * units :] + reset * own[:, 2 * units :])
        state = update * state + (1 - update) * fresh
    return np.asarray(state @ t["head.weight"] + t["head.bias"])


def linear(t: dict[str, Array], x: Array, _channels: int) -> Array:
    """scikit-learn's: one score for two classes, else each class against the rest."""
    scores = x.astype(np.float64) @ t["coef"].T + t["intercept"]
    if scores.shape[1] == 1:
        return np.concatenate([np.zeros_like(scores), scores], axis=1)
    return np.asarray(-np.logaddexp(0.0, -scores))


def trees(t: dict[str, Array], x: Array, _channels: int) -> Array:
    """XGBoost's: a row goes left where its feature is below the threshold; the leaves it ends in add up."""
    x = np.where(np.isinf(x), np.float32(np.nan), x)
    outputs = len(t["scale.class_weights"])
    outputs = 1 if outputs == 2 else outputs
    total = np.zeros((len(x), outputs))
    root, every = 0, np.arange(len(x))
    for size, output in zip(t["trees.size"], t["trees.output"], strict=True):
        node = np.full(len(x), root)
        while ((feature := t["trees.feature"][node]) >= 0).any():
            value = x[every, np.maximum(feature, 0)]
            below = np.where(np.isnan(value), t["trees.missing_left"][node] != 0, value < t["trees.value"][node])
            child = np.where(below, t["trees.left"][node], t["trees.right"][node])
            node = np.where(feature >= 0, root + child, node)
        total[:, output] += t["trees.value"][node]
        root += size
    return np.concatenate([np.zeros_like(total), total], axis=1) if outputs == 1 else total


NETS = {"mlp": mlp, "cnn": cnn, "tcn": tcn, "gru": gru, "sklearn": linear, "xgboost": trees}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: python predict.py features.csv")
    model = Model(Path(__file__).parent)
    rows = np.loadtxt(sys.argv[1], delimiter=",", ndmin=2)
    table = [model.card["classes"], *([f"{p:.6f}" for p in row] for row in model.predict(rows))]
    sys.stdout.write("".join(",".join(line) + "\n" for line in table))
