"""PyTorch modules that tests bring, as a user would."""

import torch
from torch import nn


def plain(n_features: int, n_classes: int) -> nn.Module:
    return nn.Sequential(nn.Linear(n_features, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, n_classes))


def normed(n_features: int, n_classes: int) -> nn.Module:
    """BatchNorm along the channels of a convolution and of a layer, and dropout."""
    return nn.Sequential(
        nn.Unflatten(1, (2, n_features // 2)),
        nn.Conv1d(2, 8, 3, padding=1),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * (n_features // 2), 16),
        nn.BatchNorm1d(16),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Linear(16, n_classes),
    )


class Named(nn.Module):
    """A net whose normalisation has a name that strategy.private knows; weights float64."""

    def __init__(self, n_features: int, n_classes: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm1d(n_features)
        self.out = nn.Linear(n_features, n_classes)
        self.double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.bn1(x))


def not_a_module(n_features: int, n_classes: int) -> str:
    return f"{n_features} {n_classes}"


def one_logit(n_features: int, n_classes: int) -> nn.Module:
    return nn.Linear(n_features, 1)


def shifted(n_features: int, n_classes: int) -> nn.Module:
    """What a layer before it adds, only BatchNorm's statistics take away again."""
    first = nn.Linear(n_features, 16)
    with torch.no_grad():
        first.bias.add_(20.0)
    return nn.Sequential(first, nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, n_classes))
