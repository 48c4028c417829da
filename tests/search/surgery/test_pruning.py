"""What pruning does: exact counts at every cut, by the right score, never an empty layer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from search.surgery.connectivity import Connectivity
from search.surgery.criteria import ActivationWatch, GradientWatch
from search.surgery.finalize import finalize
from search.surgery.selection import grouped
from spaces import PruningPolicy
from spaces.errors import NetworkError
from spaces.profile import CompressionProfile, LayerOverride
from tests.nets import Blobs, mlp
from tests.search.surgery.harness import operate

TASK = Blobs()
MLP = Blobs("mlp")


def off(site: Any) -> int:
    return int(site.connectivity.size - sum(site.connectivity.active.values()))


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(["global", "uniform", "erk"]),
    st.sampled_from(["gradual", "oneshot", "iterative"]),
    st.floats(0.0, 0.99),
)
def test_the_final_sparsity_is_exact(allocation: Any, schedule: Any, sparsity: Any) -> None:
    profile = CompressionProfile.of(
        PruningPolicy.from_values({"allocation": allocation, "schedule": schedule, "sparsity": sparsity})
    )
    site, _ = operate(MLP, profile, steps=12)
    layers = len(site.connectivity.weights)
    wanted = min(round(sparsity * site.connectivity.size), site.connectivity.size - layers)
    assert off(site) == wanted
    assert all(active >= 1 for active in site.connectivity.active.values())


def test_one_shot_global_magnitude_takes_the_smallest_of_all() -> None:
    network = MLP.network()
    everything = torch.cat([w.detach().abs().flatten() for w in Connectivity(network).weights.values()])
    count = round(0.7 * everything.numel())
    threshold = everything.sort().values[count]
    site, _ = operate(MLP, CompressionProfile.of(PruningPolicy(schedule="oneshot", sparsity=0.7)), steps=1)
    before = Connectivity(network).weights
    for name, mask in site.connectivity.masks.items():
        assert torch.equal(mask, before[name].detach().abs() >= threshold)


def test_the_gradual_schedule_is_cubic() -> None:
    seen = []
    policy = PruningPolicy(sparsity=0.8, interval=0.1, last_prune=0.5)
    operate(TASK, CompressionProfile.of(policy), 20, lambda site: seen.append(off(site) / site.connectivity.size))
    cuts = policy.decision_steps(20)
    assert cuts == (0, 2, 4, 6, 8, 10)
    for number, step in enumerate(cuts):
        assert seen[step] == pytest.approx(0.8 * (1 - (1 - (number + 1) / 6) ** 3), abs=1e-3)
    assert seen[-1] == seen[10]


def test_iterative_rounds_cut_the_same_share_of_what_is_left() -> None:
    seen = []
    policy = PruningPolicy(schedule="iterative", sparsity=0.875, rounds=3, last_prune=0.5)
    operate(TASK, CompressionProfile.of(policy), 20, lambda site: seen.append(off(site) / site.connectivity.size))
    assert [seen[step] for step in policy.decision_steps(20)] == pytest.approx([0.5, 0.75, 0.875], abs=1e-3)


@pytest.mark.parametrize("pattern", ["2:4", "1:4", "4:8", "2:8"])
def test_every_group_of_the_pattern_keeps_exactly_n(pattern: Any) -> None:
    keep, of = map(int, pattern.split(":"))
    site, mechanisms = operate(TASK, CompressionProfile.of(PruningPolicy(granularity="nm", pattern=pattern)), 16)
    patterned = 0
    for mask in site.connectivity.masks.values():
        if mask.shape[1] % of == 0:
            patterned += 1
            assert (grouped(mask, of).sum(-1) == keep).all()
        else:
            assert mask.all(), "a layer that the pattern does not divide stays dense"
    finalize(site, mechanisms)
    assert site.receipts["pruning"]["governed"] == patterned
    assert site.receipts["pruning"]["left_alone"] == len(site.connectivity.weights) - patterned


@pytest.mark.parametrize("allocation", ["global", "uniform", "erk"])
def test_channels_are_counted_exactly_and_the_network_shrinks(allocation: Any) -> None:
    policy = PruningPolicy(granularity="channel", sparsity=0.5, allocation=allocation, interval=0.1)
    site, mechanisms = operate(TASK, CompressionProfile.of(policy), 16)
    assert len(site.connectivity.closed) == 8  # half of the 16 channels of two groups
    network = finalize(site, mechanisms)
    widths = [m.out_channels for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    assert sum(widths[:2]) == 8
    assert widths[0] == widths[2], "what the residual sum couples must shrink together"
    assert network.get_submodule("6").in_features == widths[0]


def test_overrides_hold_for_the_layers_they_match() -> None:
    profile = CompressionProfile.of(
        PruningPolicy(sparsity=0.9, allocation="uniform"),
        layers=[LayerOverride("3.*", "pruning", {"sparsity": 0.25})],
    )
    site, _ = operate(TASK, profile, 16)
    connectivity = site.connectivity
    for name, mask in connectivity.masks.items():
        share = 1 - float(mask.float().mean())
        assert share == pytest.approx(0.25 if name.startswith("3.") else 0.9, abs=1 / mask.numel())


@pytest.mark.parametrize(("exclude", "untouched"), [("first", [0]), ("last", [-1]), ("both", [0, -1]), ("none", [])])
def test_excluded_layers_stay_dense(exclude: Any, untouched: Any) -> None:
    site, _ = operate(
        TASK, CompressionProfile.of(PruningPolicy(sparsity=0.9, exclude=exclude, allocation="uniform")), 8
    )
    names = list(site.connectivity.masks)
    dense = [name for name, mask in site.connectivity.masks.items() if mask.all()]
    assert dense == sorted({names[i] for i in untouched}, key=names.index)


def test_excluding_everything_is_refused() -> Any:
    class OneLayer(Blobs):
        def network(self) -> Any:
            return torch.nn.Linear(8, 4)

    with pytest.raises(NetworkError, match="must leave a layer"):
        operate(OneLayer("mlp"), CompressionProfile.of(PruningPolicy(exclude="both")), 4)


def test_gradient_watch_is_the_mean_over_its_window() -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    watch = GradientWatch({"w": weight}, decisions=[5], width=2)
    for step in range(6):
        weight.grad = torch.full((3,), float(step))
        watch.after_backward(step)
    assert watch.mean()["w"].tolist() == [4.5, 4.5, 4.5]


def test_activation_norms_are_those_of_the_input_that_a_weight_multiplies() -> None:
    torch.manual_seed(0)
    network: Any = torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3, groups=2), torch.nn.Flatten(), torch.nn.Linear(6, 2))
    weights = {"0.weight": network[0].weight, "2.weight": network[2].weight}
    watch = ActivationWatch(network, weights, decisions=[0])
    x = torch.randn(5, 4, 3, 3)
    watch.before_forward(0)
    network.train()
    hidden = network[0](x)
    network(x)
    norms = watch.norms("0.weight", network[0].weight).expand_as(network[0].weight)
    by_channel = x.square().mean((0, 2, 3)).sqrt() * 2**0.5  # the convolution ran twice, the linear layer once
    assert torch.allclose(norms[0, :, 0, 0], by_channel[:2])
    assert torch.allclose(norms[5, :, 0, 0], by_channel[2:])
    linear = watch.norms("2.weight", network[2].weight).expand_as(network[2].weight)
    assert torch.allclose(linear[1], hidden.flatten(1).square().mean(0).sqrt())


def test_criteria_differ() -> None:
    """A criterion that were silently ignored would give another's masks."""
    masks = {}
    for criterion in ("magnitude", "gradient", "movement", "activation", "random"):
        profile = CompressionProfile.of(PruningPolicy(criterion=criterion, sparsity=0.5, schedule="oneshot"))
        site, _ = operate(MLP, profile, 2)
        masks[criterion] = torch.cat([mask.flatten() for mask in site.connectivity.masks.values()])
    names = list(masks)
    for i, one in enumerate(names):
        for two in names[i + 1 :]:
            assert not torch.equal(masks[one], masks[two]), (one, two)


def test_mlp_of_the_tests_has_what_the_counts_assume() -> None:
    assert sum(weight.numel() for weight in Connectivity(mlp()).weights.values()) == 8 * 16 + 16 * 16 + 16 * 4
