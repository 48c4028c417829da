"""The part of the zoo that is out of the ordinary: other dimensions, modes by hand, and what no graph can hold."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Specimen = tuple[nn.Module, tuple[Tensor, ...]]


def volume() -> Specimen:
    """Convolutions in three dimensions."""
    layers = (nn.Conv3d(1, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(4, 3))
    return nn.Sequential(*layers), (torch.randn(2, 1, 5, 5, 5),)


class FunctionalDropout(nn.Module):
    """Dropout written as a function, which only the module's mode switches."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.dropout2d(F.relu(self.conv(x)), 0.3, self.training)
        return F.log_softmax(self.linear(F.dropout(x.amax((2, 3)), training=self.training)), dim=1)


def functional_dropout() -> Specimen:
    """Dropout written as a function."""
    return FunctionalDropout(), (torch.randn(2, 3, 8, 8),)


class DataDependent(nn.Module):
    """Goes one of two ways by what it sees: no graph can hold that."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x).mean((2, 3))
        logits: Tensor = self.head(x if x.mean() > -1e9 else -x)
        return logits


def data_dependent() -> Specimen:
    """Goes one of two ways by the values that it sees."""
    return DataDependent(), (torch.randn(2, 3, 8, 8),)


def single_layer() -> Specimen:
    """A linear layer and nothing else."""
    return nn.Linear(8, 6), (torch.randn(3, 8),)
