"""A bud is held to what its parent computes, channel by channel of those that it has."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import fx, nn

from search.buds.cut import watched
from search.buds.find import Stages, find, look
from search.buds.graft import graft
from search.buds.isolate import leaving
from search.buds.loss import Rows, bud_loss
from search.buds.match import matching, shared
from search.buds.train import Growing, Growth
from search.finetune import distillation
from search.recipe import Recipe
from search.surgery.channels import Channel, groups
from search.surgery.connectivity import Connectivity
from spaces.budding import BuddingPolicy
from tests.search.buds.nets import Quarters, parted

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


def test_a_block_that_a_norm_reads_is_held_whole() -> None:
    layers = [nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)]
    parent, x = fx.symbolic_trace(nn.Sequential(*layers)).eval(), torch.randn(5, 3)
    going = chosen(parent, x, 0.5, seed=0)
    blocks = shared(parent, x, graft(parent, x, going, 2, seed=0), going)
    assert [len(block.kept) for block in blocks] == [6, 4]


def trained(matching: float, steps: int = 24) -> Growing:
    """Buds with half of the inner channels, so late in training that a batch waits for its rest."""
    parts, task = parted(), Quarters(samples=200)
    policy = BuddingPolicy(matching=matching, plastic=0.0, pruning=0.0, rank=2)
    subtasks = find(look(parts, Stages(parts), task.batches("train", shuffle_seed=0), keep=64), policy, seed=0)
    going, growths = leaving(parts.tail, parts.hidden, {}, 0.5), []
    for index in range(subtasks.count):
        bud = graft(parts.tail, parts.hidden, going, 2, seed=index)
        held = shared(parts.tail, parts.hidden, bud, going) if matching else ()
        growths.append(Growth(bud, parts.hidden, policy, Recipe(learning_rate=0.005), share=0.5, held=held))
    stages = Stages(parts, [block.parent for block in growths[0].held])
    loop = Growing(parts, stages, subtasks, growths, task, policy, Recipe(learning_rate=0.005), steps=steps, seed=0)
    loop.train(steps - 1)
    return loop


def test_what_a_sample_is_held_to_is_what_the_parent_computes_for_it() -> None:
    seen = 0
    for growth in trained(10.0).growths:
        if growth.waiting is not None:
            flows = watched(parted().tail, [block.parent for block in growth.held])(growth.waiting.hidden)[1]
            for block, wanted, x in zip(growth.held, growth.waiting.blocks, flows, strict=True):
                torch.testing.assert_close(wanted, block.narrowed(x))
            seen += len(growth.waiting)
    assert seen > 0


def test_a_bud_that_is_held_comes_nearer_to_its_parent() -> None:
    @torch.no_grad()
    def apart(loop: Growing) -> float:
        parts, total = parted(), 0.0
        for growth in loop.growths:
            blocks = shared(parts.tail, parts.hidden, growth.network, leaving(parts.tail, parts.hidden, {}, 0.5))
            x = torch.cat([parts.stem(x) for x, _ in Quarters().batches("validation", shuffle_seed=None)])
            found = watched(growth.network.eval(), [block.bud for block in blocks])(x)[1]
            wanted = watched(parts.tail, [block.parent for block in blocks])(x)[1]
            total += float(matching(found, [b.narrowed(y) for b, y in zip(blocks, wanted, strict=True)]))
        return total

    assert apart(trained(10.0)) < 0.5 * apart(trained(0.0))


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


@pytest.mark.parametrize(("heard", "weight"), [(0.0, 1.0), (0.5, 1.0), (3.0, 3.0)])
def test_on_samples_of_others_a_bud_hears_its_parent_alone(heard: float, weight: float) -> None:
    torch.manual_seed(0)
    outputs, taught, flows, wanted = (torch.randn(6, 4) for _ in range(4))
    rows = Rows(outputs, torch.zeros(6, dtype=torch.long), taught, taught, torch.zeros(6, dtype=torch.bool), (wanted,))
    policy = BuddingPolicy(distillation=heard, matching=2.0)
    loss = bud_loss(Quarters(), policy, outputs, taught, rows, 2.0, [flows])
    expected = weight * distillation(outputs, taught, 2.0) + 2.0 * matching([flows], [wanted])
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)
