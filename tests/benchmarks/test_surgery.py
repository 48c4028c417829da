"""The benchmark of cycles counts cycles in which something happens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn

from tests.benchmarks.step_overhead import Noise
from tests.benchmarks.surgery import CYCLES, measure


def small_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 10),
    )


@pytest.mark.parametrize(("kind", "cycle"), CYCLES.items())
def test_a_timed_cycle_drops_and_creates(kind: str, cycle: Mapping[str, Any]) -> None:
    torch.manual_seed(0)
    row = measure(Noise(small_network(), 8, (3, 8, 8)), cycle, cycles=1)
    assert row["dropped"] > 0
    assert row["created"] > 0
    assert row["step_ms"] > 0
    assert (row["edges"] > 0) == kind.startswith("edges")
    assert row["weights"] == 3 * 8 * 9 + 8 * 8 * 9 + 8 * 10
