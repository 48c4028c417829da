"""Channels that go are merged into the nearest that stays where they are alike, and into none where they are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from search.surgery.channels import groups, merge
from search.surgery.connectivity import Connectivity


def network(filters: list[list[float]]) -> nn.Module:
    """Four inputs, a hidden unit per filter, three outputs."""
    torch.manual_seed(0)
    hidden = nn.Linear(4, len(filters), bias=False)
    hidden.weight.data = torch.tensor(filters)
    return nn.Sequential(hidden, nn.ReLU(), nn.Linear(len(filters), 3)).eval()


def closed(net: nn.Module, leaving: int, *, merged: bool) -> torch.Tensor:
    """The outputs with a hidden unit closed, merged or not."""
    inputs = (torch.randn(2, 4),)
    connectivity = Connectivity(net)
    (group,) = groups(net, inputs)
    channel = group.channels[leaving]
    if merged:
        merge(net, [channel], [group], connectivity)
    connectivity.close([channel], "pruning", "magnitude")
    torch.manual_seed(1)
    outputs: torch.Tensor = net(torch.randn(16, 4))
    return outputs.detach()


def outputs_of(net: nn.Module) -> torch.Tensor:
    torch.manual_seed(1)
    with torch.no_grad():
        outputs: torch.Tensor = net(torch.randn(16, 4))
    return outputs


@pytest.mark.parametrize("times", [0.25, 1.0, 8.0])
def test_a_multiple_of_another_merges_without_loss(times: float) -> None:
    first = [1.0, -2.0, 0.5, 3.0]
    filters = [first, [times * x for x in first], [0.0, 1.0, -1.0, 0.0]]
    before = outputs_of(network(filters))
    torch.testing.assert_close(closed(network(filters), 1, merged=True), before, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(closed(network(filters), 1, merged=False), before, atol=1e-2)


@pytest.mark.parametrize(
    "other",
    [[0.0, 0.0, 0.0, 1.0], [-1.0, 0.0, 0.0, 0.0], [1e-6, 1e-5, 0.0, 0.0]],
    ids=["unlike", "opposite", "nearly silent"],
)
def test_what_is_like_no_other_goes_without_a_trace(other: list[float]) -> None:
    filters = [[1.0, 0.0, 0.0, 0.0], other]
    assert torch.equal(closed(network(filters), 0, merged=True), closed(network(filters), 0, merged=False))
