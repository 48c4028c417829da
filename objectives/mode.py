"""Measuring leaves no trace: evaluation mode without gradients, and every module's own mode back afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def evaluating(network: nn.Module) -> Iterator[nn.Module]:
    """Run a block in evaluation mode and without gradients.

    Modes are kept per module, so that a part that was frozen in evaluation mode inside a training network stays so.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with torch.no_grad():
            yield network
    finally:
        for module, training in modes:
            module.training = training
