"""The CIFAR ResNet against the paper's figures and its shortcut against hand arithmetic."""

from __future__ import annotations

import pytest
import torch

from objectives.cost import count_macs
from objectives.maskable import maskable
from objectives.tasks.resnet import Block, ResNet
from spaces.errors import TaskError


@pytest.mark.parametrize("depth", [20, 32, 44, 56])
def test_sizes_and_costs_are_those_of_the_architecture(depth: int) -> None:
    n = (depth - 2) // 6
    # Stem; stages of 2n convolutions, the first of a later stage from half the planes; classifier.
    weights = 9 * 3 * 16 + 9 * (2 * n * 16**2 + (2 * n - 1) * (32**2 + 64**2) + 16 * 32 + 32 * 64) + 64 * 10
    network = ResNet(depth)
    assert sum(weight.numel() for weight in maskable(network).values()) == weights
    assert len(maskable(network)) == depth
    macs = 1024 * 9 * 3 * 16 + 2 * n * 1024 * 9 * 16**2
    macs += 256 * 9 * (16 * 32 + (2 * n - 1) * 32**2) + 64 * 9 * (32 * 64 + (2 * n - 1) * 64**2) + 640
    assert sum(count_macs(network, (torch.randn(2, 3, 32, 32),)).values()) == macs


def test_resnet20_has_the_published_size() -> None:
    # He et al. 2016, table 6: 0.27 million parameters; 41 million multiply-accumulates.
    assert sum(parameter.numel() for parameter in ResNet(20).parameters()) == 269_722
    assert sum(count_macs(ResNet(20), (torch.randn(1, 3, 32, 32),)).values()) == 40_551_040


def test_the_shortcut_takes_every_other_pixel_and_adds_zeros_on_either_side() -> None:
    block = Block(2, 4, 2).eval()
    with torch.no_grad():
        block.bn2.weight.zero_()
    x = torch.arange(1.0, 33.0).reshape(1, 2, 4, 4)
    y = block(x)[0]
    assert y.shape == (4, 2, 2)
    assert y[0].abs().sum() == y[3].abs().sum() == 0
    assert y[1].tolist() == [[1.0, 3.0], [9.0, 11.0]]
    assert y[2].tolist() == [[17.0, 19.0], [25.0, 27.0]]


def test_the_network_can_be_traced() -> None:
    network = ResNet(20).eval()
    traced = torch.fx.symbolic_trace(network)
    x = torch.randn(3, 3, 32, 32)
    assert torch.equal(traced(x), network(x))


@pytest.mark.parametrize("depth", [0, 2, 18, 21, 20.0, "20"])
def test_a_depth_that_does_not_exist_is_refused(depth: int) -> None:
    with pytest.raises(TaskError, match="depth must be 6n \\+ 2, but is"):
        ResNet(depth)
