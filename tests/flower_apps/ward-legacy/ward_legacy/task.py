"""The data of a node: y = X w + noise, with the same w everywhere."""

import numpy as np

TRUE = np.array([1.5, -2.0, 0.5], dtype=np.float32)


def load_data(partition_id: int, rows: int = 60):
    rng = np.random.default_rng(partition_id)
    x = rng.normal(size=(rows, 3)).astype(np.float32)
    return x, x @ TRUE + rng.normal(scale=0.01, size=rows).astype(np.float32)


def train(weights, x, y, learning_rate, steps=20):
    for _ in range(steps):
        weights = weights - np.float32(learning_rate) * (x.T @ (x @ weights - y)) / np.float32(len(y))
    return weights.astype(np.float32)


def loss(weights, x, y):
    return float(np.mean((x @ weights - y) ** 2))
