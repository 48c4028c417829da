"""A bud at birth is what was cut out for it; what it inherits stays, bit by bit, while only plasticity layers train."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from search.buds.find import Stages, find, look
from search.buds.graft import graft, is_plastic
from search.buds.isolate import excitement, leaving
from search.buds.train import Growing, Growth
from search.recipe import Recipe
from search.surgery.channels import groups
from spaces.budding import BuddingPolicy
from tests.search.buds.nets import Quarters, parted


def samples() -> list[tuple[Tensor, Tensor]]:
    parts, task = parted(), Quarters()
    return [(parts.stem(x).detach(), y) for x, y in task.batches("train", shuffle_seed=None)]


@pytest.mark.parametrize("rank", [1, 2, 16])
def test_a_bud_that_keeps_all_is_its_parent_at_birth(rank: int) -> None:
    parts = parted()
    assert leaving(parts.tail, parts.hidden, {}, 1.0) == leaving(parts.tail, parts.hidden, {}, 1.0, slope=0.5) == []
    bud = graft(parts.tail, parts.hidden, [], rank, seed=0)
    hidden = parts.stem(torch.randn(7, 2, 4, 4))
    assert torch.equal(bud(hidden), parts.tail(hidden))
    assert sum(is_plastic(name) for name, _ in bud.named_parameters()) == 2  # one adapter: down and up


@pytest.mark.parametrize("keep", [0.25, 0.5, 0.75])
def test_of_each_group_the_best_share_is_kept(keep: float) -> None:
    parts = parted()
    scores = excitement(parts.tail, samples(), Quarters())
    going = leaving(parts.tail, parts.hidden, scores, keep)
    for group in groups(parts.tail, (parts.hidden,)):
        gone = {channel.index for channel in going if channel.root == group.root}
        assert len(gone) == group.size - max(1, round(keep * group.size))
        kept = [scores["outer"][c.index] for c in group.channels if c.index not in gone]
        if group.root == "inner.weight":
            assert min(kept) >= max(scores["outer"][index] for index in gone)
    bud = graft(parts.tail, parts.hidden, going, 2, seed=0)
    stays = [i for i in range(8) if i not in {c.index for c in going if c.root == "inner.weight"}]
    assert torch.equal(bud.get_parameter("inner.weight"), parts.tail.get_parameter("inner.weight")[stays])


@pytest.mark.parametrize(
    ("keep", "slope", "stay"),
    [(0.5, 0.0, (10, 10, 10)), (0.5, 0.4, (6, 10, 14)), (0.5, -1.0, (20, 10, 1)), (0.8, 0.5, (8, 16, 20))],
)
def test_the_share_that_is_kept_grows_evenly_with_depth(keep: float, slope: float, stay: tuple[int, ...]) -> None:
    sizes = [20, 20, 20]
    layers = [torch.nn.Linear(a, b) for a, b in itertools.pairwise([2, *sizes, 4])]
    tail = torch.fx.symbolic_trace(
        torch.nn.Sequential(*(part for layer in layers for part in (layer, torch.nn.ReLU())))
    )
    going = leaving(tail, torch.ones(3, 2), {}, keep, slope)
    gone = [sum(channel.root == f"{2 * i}.weight" for channel in going) for i in range(3)]
    assert [size - count for size, count in zip(sizes, gone, strict=True)] == list(stay)


def test_excitement_of_a_linear_layer_is_what_arithmetic_says() -> None:
    tail = torch.fx.symbolic_trace(torch.nn.Sequential(torch.nn.Linear(2, 1, bias=False)))
    with torch.no_grad():
        tail.get_parameter("0.weight").copy_(torch.tensor([[2.0, -3.0]]))

    class Sum(Quarters):
        def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
            return outputs.sum()

    found = excitement(tail, [(torch.tensor([[1.0, 1.0], [3.0, -1.0]]), torch.zeros(2))], Sum())
    # |a * dL/da| = |1 * 2|, |3 * 2| and |1 * -3|, |-1 * -3|; times the two samples of the batch.
    assert torch.equal(found["0"], torch.tensor([8.0, 6.0]))


def growing(policy: BuddingPolicy, steps: int = 12) -> Growing:
    task, parts = Quarters(), parted()
    stages = Stages(parts)
    subtasks = find(look(parts, stages, task.batches("train", shuffle_seed=0), keep=64), policy, seed=0)
    buds = [graft(parts.tail, parts.hidden, [], policy.rank, seed=i) for i in range(subtasks.count)]
    growths = [Growth(bud, parts.hidden, policy, Recipe(), share=0.5) for bud in buds]
    return Growing(parts, stages, subtasks, growths, task, policy, Recipe(), steps=steps, seed=0)


@pytest.mark.parametrize("diverse", [False, True])
def test_inherited_values_stay_bit_by_bit_while_only_plasticity_layers_train(diverse: bool) -> None:
    loop = growing(BuddingPolicy(plastic=1.0, diverse=diverse, pruning=0.5))
    before = [{n: v.clone() for n, v in g.network.state_dict().items()} for g in loop.growths]
    loop.train(11)
    for growth, old in zip(loop.growths, before, strict=True):
        assert growth.steps >= 5
        for name, value in growth.network.state_dict().items():
            assert torch.equal(value, old[name]) != is_plastic(name), name


def test_what_is_pruned_is_inherited_exactly_counted_and_stays_off() -> None:
    loop = growing(BuddingPolicy(plastic=0.25, pruning=0.6))
    loop.train(12)
    for growth in loop.growths:
        inherited = [w for n, w in growth.connectivity.weights.items() if not is_plastic(n)]
        off = sum(int((weight == 0).sum()) for weight in inherited)
        assert off == round(0.6 * sum(weight.numel() for weight in inherited))
        assert growth.connectivity.recount() == growth.connectivity.ledger().active()
        assert growth.joint


def test_a_bud_that_is_interrupted_goes_on_as_if_it_had_not_been() -> None:
    policy = BuddingPolicy(plastic=0.3, pruning=0.3)
    whole, first, second = growing(policy), growing(policy), growing(policy)
    whole.train(12)
    first.train(7)
    second.load_state({name: value.clone() for name, value in first.state().items()})
    second.train(12)
    for a, b in zip(whole.growths, second.growths, strict=True):
        for name, value in a.network.state_dict().items():
            assert torch.equal(value, b.network.state_dict()[name]), name
