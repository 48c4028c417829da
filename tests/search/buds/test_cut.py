"""A network in two parts computes what it did in one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from objectives.tasks.resnet import ResNet
from search.buds.cut import cut, places, watched
from spaces.errors import NetworkError
from tests.search.buds.nets import Parent, parted


@pytest.mark.parametrize("share", [0.0, 0.2, 0.5, 0.9])
def test_tail_of_stem_is_the_network(share: float) -> None:
    network, x = ResNet(8).eval(), torch.randn(3, 3, 32, 32)
    parts = cut(network, (x,), share)
    with torch.no_grad():
        assert torch.equal(parts.tail(parts.stem(x)), network(x))
    assert parts.share <= share
    assert {*parts.stem.state_dict(), *parts.tail.state_dict()} == set(network.state_dict())
    assert not set(parts.stem.state_dict()) & set(parts.tail.state_dict())


def test_blocks_end_where_all_flows_through_one_node_before_another_layer() -> None:
    parts = cut(ResNet(8).eval(), (torch.randn(2, 3, 32, 32),), 0.0)
    found = places(parts.tail, inputs=(parts.hidden,))
    # After the stem, after each of the three blocks but the last, and before the linear layer.
    assert [place.channels for place in found] == [16, 16, 32, 64]
    assert [len(place.shape) for place in found] == [4, 4, 4, 2]


def test_the_last_block_is_left_for_the_tail() -> None:
    parts = parted(0.89)
    assert any(True for _ in parts.tail.parameters())
    assert parts.share < 0.89


def test_what_is_watched_is_what_flows_there() -> None:
    parts = parted()
    found = places(parts.tail, inputs=(parts.hidden,))
    outputs, (seen,) = watched(parts.tail, [found[-1].node])(parts.hidden)
    assert torch.equal(outputs, parts.tail(parts.hidden))
    assert torch.equal(seen @ parts.tail.head.weight.T + parts.tail.head.bias, outputs)  # type: ignore[union-attr]


class Two(nn.Module):
    """Two inputs that meet at the end alone."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.a(x) + self.b(y)  # type: ignore[no-any-return]


def test_a_network_without_a_throat_is_refused() -> None:
    with pytest.raises(NetworkError, match="a place through which all flows"):
        cut(Two().eval(), (torch.randn(2, 4), torch.randn(2, 4)), 0.2)


def test_the_network_itself_is_left_alone() -> None:
    network = Parent()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    cut(network, (torch.randn(2, 2, 4, 4),), 0.3)
    assert network.training
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
