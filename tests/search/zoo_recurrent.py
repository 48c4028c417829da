"""The recurrent part of the zoo."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Specimen = tuple[nn.Module, tuple[Tensor, ...]]


class Recurrent(nn.Module):
    """A recurrent layer over a sequence, its last output classified."""

    def __init__(self, layer: nn.RNNBase, width: int) -> None:
        super().__init__()
        self.layer, self.head = layer, nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        outputs, _ = self.layer(x)
        logits: Tensor = self.head(outputs[:, -1])
        return logits


def lstm() -> Specimen:
    """Two bidirectional LSTM layers."""
    layer = nn.LSTM(5, 6, num_layers=2, batch_first=True, dropout=0.1, bidirectional=True)
    return Recurrent(layer, 12), (torch.randn(2, 7, 5),)


def elman() -> Specimen:
    """A plain recurrent layer."""
    return Recurrent(nn.RNN(5, 6, batch_first=True), 6), (torch.randn(2, 7, 5),)


def gru() -> Specimen:
    """A GRU layer."""
    return Recurrent(nn.GRU(5, 6, batch_first=True), 6), (torch.randn(2, 7, 5),)


class Unrolled(nn.Module):
    """A recurrent cell, stepped by a loop over the sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.GRUCell(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(x.shape[0], 6)
        for t in range(x.shape[1]):
            state = self.cell(x[:, t], state)
        logits: Tensor = self.head(state)
        return logits


def unrolled_cell() -> Specimen:
    """A GRU cell, stepped by a loop."""
    return Unrolled(), (torch.randn(2, 5, 4),)
