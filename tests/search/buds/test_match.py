"""A bud is held to what its parent computes, channel by channel of those that it has."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from search.buds.cut import watched
from search.buds.graft import graft
from search.buds.match import matching, shared
from search.surgery.channels import Channel, groups
from search.surgery.connectivity import Connectivity
from tests.search.buds.nets import parted

HIDDEN = torch.randn(5, 2, 8, 8, generator=torch.Generator().manual_seed(3))


def tail() -> fx.GraphModule:
    """Three blocks of which every channel can go but those that come in."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 12), nn.ReLU()]
    return fx.symbolic_trace(nn.Sequential(*layers, nn.Linear(12, 4))).eval()


def chosen(network: fx.GraphModule, hidden: torch.Tensor, keep: float, seed: int) -> list[Channel]:
    generator = torch.Generator().manual_seed(seed)
    going: list[Channel] = []
    for group in groups(network, (hidden,)):
        order = torch.randperm(group.size, generator=generator).tolist()
        going += [group.channels[place] for place in order[max(1, round(keep * group.size)) :]]
    return going


@given(keep=st.floats(0.05, 1.0), seed=st.integers(0, 99))
def test_a_bud_at_birth_is_what_its_parent_is_without_the_channels_that_went(keep: float, seed: int) -> None:
    parent = tail()
    going = chosen(parent, HIDDEN, keep, seed)
    bud = graft(parent, HIDDEN, going, 2, seed=0)
    blocks = shared(parent, HIDDEN, bud, going)
    assert len(blocks) == 3
    masked = copy.deepcopy(parent)
    Connectivity(masked).close(going, "test", "test")
    with torch.no_grad():
        flows = watched(masked, [block.parent for block in blocks])(HIDDEN)[1]
        found = watched(bud, [block.bud for block in blocks])(HIDDEN)[1]
    wanted = [block.narrowed(x) for block, x in zip(blocks, flows, strict=True)]
    for a, b in zip(found, wanted, strict=True):
        assert torch.allclose(a, b, atol=1e-5)
    assert float(matching(found, wanted)) < 1e-8


def test_a_residual_bud_that_keeps_all_matches_its_parent_exactly() -> None:
    parts = parted()
    bud = graft(parts.tail, parts.hidden, [], 2, seed=0)
    blocks = shared(parts.tail, parts.hidden, bud, [])
    with torch.no_grad():
        wanted = watched(parts.tail, [block.parent for block in blocks])(parts.hidden)[1]
        found = watched(bud, [block.bud for block in blocks])(parts.hidden)[1]
    assert blocks
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_the_distance_is_in_units_of_the_parents_variance() -> None:
    torch.manual_seed(0)
    x = torch.randn(50, 3, 4, 4)
    off = x.var(correction=0).sqrt()
    assert float(matching([x + off], [x])) == pytest.approx(1.0)
    assert float(matching([10 * (x + off)], [10 * x])) == pytest.approx(1.0)
    assert float(matching([x + off, x], [x, x])) == pytest.approx(0.5)
    assert float(matching([], [])) == 0.0
    # What does not vary in the parent has no unit.
    assert float(matching([torch.ones(2, 3)], [torch.zeros(2, 3)])) == 0.0
    assert float(matching([torch.ones(2, 3), x + off], [torch.zeros(2, 3), x])) == pytest.approx(0.5)
