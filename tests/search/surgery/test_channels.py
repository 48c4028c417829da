"""Removing channels is masking them, whatever the network; what cannot be removed is not offered, never an error."""

from __future__ import annotations

import copy
import random
import time
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.tasks.resnet import ResNet
from search.surgery import channels
from search.surgery.connectivity import Connectivity
from search.surgery.finalize import plain
from search.surgery.network import prepared
from search.surgery.surgeon import Surgeon
from spaces.errors import NetworkError
from tests.search.random_networks import STACKS
from tests.search.surgery.networks import LAYERS, Mixed
from tests.search.zoo import ZOO, bred

X = (torch.linspace(-1, 1, 2 * 2 * 64).reshape(2, 2, 8, 8),)


def sizes(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, int]:
    """Channels per group, by the group's root."""
    return {group.root: group.size for group in channels.groups(prepared(network.eval(), inputs)[0], inputs)}


def some(groups: Any, seed: int) -> list[channels.Channel]:
    """Random channels, of each group at most all but one."""
    choice = random.Random(seed)
    return [c for g in groups for c in choice.sample(g.channels, choice.randint(0, g.size - 1))]


def removal_is_masking(network: nn.Module, inputs: tuple[Tensor, ...], seed: int) -> nn.Module:
    """Remove random channels from a traced copy; the network without them is returned."""
    traced, _ = prepared(network.eval(), inputs)
    masked = copy.deepcopy(traced)
    leaving = some(channels.groups(traced, inputs), seed)
    connectivity = Connectivity(masked)
    connectivity.close(leaving, "test", "test")
    removed = copy.deepcopy(masked)
    channels.remove(removed, leaving, inputs)
    for batch in (inputs, tuple(torch.cat([x, x[:1]]) for x in inputs)):
        with torch.no_grad():
            expected = masked(*batch)
            scale = float(expected.abs().max()) + 1e-6
            torch.testing.assert_close(removed(*batch), expected, rtol=1e-4, atol=1e-4 * scale)
    assert not leaving or sum(p.numel() for p in removed.parameters()) < sum(p.numel() for p in masked.parameters())
    return removed


# -- laws --------------------------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(STACKS, st.integers(0, 99))
def test_removal_is_masking_in_any_stack(stack: Any, seed: int) -> None:
    removal_is_masking(stack, X, seed)


@settings(max_examples=60)
@given(st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5), st.integers(0, 99))
def test_removal_is_masking_where_channels_are_grouped_split_joined_and_shuffled(kinds: Any, seed: int) -> None:
    removal_is_masking(Mixed(kinds, seed), X, seed)


@pytest.mark.parametrize("name", ZOO)
def test_removal_is_masking_in_the_zoo_and_silent(name: str, capfd: Any) -> None:
    network, inputs = bred(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for seed in range(2):
            removal_is_masking(network, inputs, seed)
    assert capfd.readouterr() == ("", "")


def test_the_network_that_is_looked_at_stays_as_it_is() -> None:
    network, inputs = bred("resnet_option_a")
    network.train()
    network.get_parameter("conv1.weight").requires_grad_(False)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    rng = torch.get_rng_state()
    channels.groups(network, inputs)
    assert network.training
    assert not network.get_parameter("conv1.weight").requires_grad
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)


def test_what_is_removed_keeps_what_parameters_are() -> None:
    network, inputs = bred("plain")
    network.get_parameter("0.0.weight").requires_grad_(False)
    traced, _ = prepared(network, inputs)
    channels.remove(traced, [g.channels[0] for g in channels.groups(traced, inputs)], inputs)
    assert not traced.get_parameter("0.0.weight").requires_grad
    assert all(isinstance(p, nn.Parameter) for p in traced.parameters())
    assert traced.get_submodule("0.1").num_features == 7
    assert traced.get_buffer("0.1.running_mean").shape == (7,)


# -- which channels there are, by hand ---------------------------------------------------------------------------------


def test_a_padded_shortcut_lets_the_whole_stream_go() -> None:
    """Three stages of 16, 32 and 64 planes: what a stage adds is padding at either side of the one before it."""
    found = sizes(ResNet(8), (torch.randn(2, 3, 32, 32),))
    assert found == {
        "conv1.weight": 16,
        "layer1.0.conv1.weight": 16,
        "layer2.0.conv1.weight": 32,
        "layer2.0.conv2.weight": 16,
        "layer3.0.conv1.weight": 64,
        "layer3.0.conv2.weight": 32,
    }
    traced, _ = prepared(ResNet(8).eval(), (torch.randn(2, 3, 32, 32),))
    stream = channels.groups(traced, (torch.randn(2, 3, 32, 32),))[0]
    assert [(name, index[-1].tolist()) for name, index in stream.channels[5].produced] == [
        ("conv1.weight", [5]),
        ("layer1.0.conv2.weight", [5]),
        ("layer2.0.conv2.weight", [5 + 8]),
        ("layer3.0.conv2.weight", [5 + 8 + 16]),
    ]


def test_groups_of_a_convolution_go_whole_and_else_alike() -> None:
    inner = (nn.Conv2d(2, 12, 1), nn.ReLU(), nn.Conv2d(12, 8, 3, groups=4), nn.ReLU(), nn.Conv2d(8, 3, 1))
    network = nn.Sequential(*inner, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    assert sizes(network, X) == {"0.weight": 4, "4.weight": 3}
    removed = removal_is_masking(network, X, seed=3)
    left: Any = removed.get_submodule("2")
    assert left.groups == left.weight.shape[0] // 2 < 4
    assert (left.in_channels, left.out_channels) == (left.groups * 3, left.groups * 2)
    # Fed by the network's input, whose channels stay, every group can only lose as much.
    first = nn.Sequential(nn.Conv2d(2, 8, 3, groups=2), nn.ReLU(), nn.Conv2d(8, 2, 1))
    assert sizes(first, X) == {"0.weight": 4}


def test_depthwise_channels_go_with_those_they_read() -> None:
    assert sizes(*bred("inverted_bottleneck")) == {
        "0.0.weight": 6,
        "1.conv.0.weight": 18,
        "2.conv.0.weight": 18,
        "2.conv.6.weight": 8,
    }


class Halves(nn.Module):
    """Two halves that go different ways."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.other = nn.Conv2d(2, 8, 1), nn.Conv2d(4, 5, 1), nn.Conv2d(4, 6, 1)
        self.head = nn.Conv2d(11, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, other = self.stem(x).chunk(2, 1)
        out: Tensor = self.head(torch.cat([F.relu(self.one(one)), self.other(other).tanh()], 1))
        return out


def test_both_ways_of_a_split_lose_channels_of_their_own() -> None:
    traced, _ = prepared(Halves().eval(), X)
    found = [(group.root, [c.index for c in group.channels]) for group in channels.groups(traced, X)]
    assert found == [
        ("stem.weight", [0, 1, 2, 3]),
        ("stem.weight", [4, 5, 6, 7]),
        ("one.weight", [0, 1, 2, 3, 4]),
        ("other.weight", [0, 1, 2, 3, 4, 5]),
    ]
    assert len({group.name for group in channels.groups(traced, X)}) == 4
    for seed in range(4):
        removal_is_masking(Halves(), X, seed)


class Gated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(2, 8, 1), nn.Conv2d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(F.glu(self.stem(x), 1))
        return out


def test_a_gate_goes_with_what_it_gates() -> None:
    traced, _ = prepared(Gated().eval(), X)
    (group,) = channels.groups(traced, X)
    assert [index[-1].tolist() for c in group.channels for _, index in c.produced] == [[0, 4], [1, 5], [2, 6], [3, 7]]


@pytest.mark.parametrize("name", ["vit_by_hand", "vit_fused", "vit_multihead", "language_model", "torch_encoder"])
def test_heads_go_with_their_queries_keys_values_and_columns(name: str) -> None:
    network, inputs = bred(name)
    traced, _ = prepared(network, inputs)
    heads = [g for g in channels.groups(traced, inputs) if "qkv" in g.root or "in_proj" in g.root]
    assert heads
    for group in heads:
        assert group.size == 2
        (produced,), (consumed,) = group.channels[1].produced, group.channels[1].consumed
        width = len(consumed[1][-1])
        assert consumed[1][-1].tolist() == list(range(width, 2 * width))
        assert produced[1][-1].tolist() == [part * 2 * width + i for part in range(3) for i in range(width, 2 * width)]


def test_a_single_head_loses_columns_of_all_three() -> None:
    from tests.search.zoo_sequences import Attention, VisionTransformer

    network = VisionTransformer(lambda width, heads: Attention(width, 1))
    inputs = (torch.randn(2, 3, 8, 8),)
    assert sizes(network, inputs)["blocks.0.attention.qkv.weight"] == 16


# -- what is not offered -----------------------------------------------------------------------------------------------


class Averaged(nn.Module):
    """Removing a channel changes the mean over channels, masking it does not: only the experiment can tell."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.head = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.one(x))
        out: Tensor = self.head(F.relu(self.two(x - x.sum(1, keepdim=True) / x.shape[1])))
        return out


def test_the_experiment_refuses_what_the_rules_let_through() -> None:
    from search.surgery.coupling import Coupling
    from search.surgery.units import coupled

    traced: Any = prepared(Averaged().eval(), X)[0]
    coupling = Coupling(traced, whole=True)
    with torch.no_grad():
        candidates = [group.root for group in coupled(traced, coupling, coupling.follow(X))]
    assert "one.weight" in candidates
    assert [group.root for group in channels.groups(traced, X)] == ["two.weight"]


def test_a_mean_over_channels_keeps_them_by_rule() -> None:
    """As norms do that are written by hand; no experiment is spent on them."""
    from search.surgery.coupling import Coupling
    from search.surgery.units import coupled

    class Normed(Averaged):
        def forward(self, x: Tensor) -> Tensor:
            x = F.relu(self.one(x))
            out: Tensor = self.head(F.relu(self.two(x * x.square().mean(1, keepdim=True).add(1e-6).rsqrt())))
            return out

    traced: Any = prepared(Normed().eval(), X)[0]
    coupling = Coupling(traced, whole=True)
    with torch.no_grad():
        candidates = [group.root for group in coupled(traced, coupling, coupling.follow(X))]
    assert candidates == ["two.weight"]


def test_normed_streams_and_recurrent_units_stay() -> None:
    assert sizes(*bred("convnext")).keys() == {"1.wide.weight", "2.wide.weight"}
    for name in ("lstm", "gru", "unrolled_cell"):
        assert sizes(*bred(name)) == {}
    # Of a GroupNorm whole groups can go: they are normed apart.
    assert sizes(*bred("group_norm"))["0.0.weight"] == 4
    one = nn.Sequential(nn.Conv2d(2, 8, 1), nn.GroupNorm(1, 8), nn.Conv2d(8, 3, 1))
    assert sizes(one, X) == {}


def test_a_failing_group_does_not_take_others_with_it() -> None:
    network = nn.Sequential(Averaged(), nn.ReLU(), nn.Conv2d(2, 9, 1), nn.ReLU(), nn.Conv2d(9, 1, 1))
    assert set(sizes(network, X)) == {"0.two.weight", "0.head.weight", "2.weight"}


def test_why_channels_stay_is_said_by_name() -> None:
    for name, layer, reason in (
        ("tied_weights", "head.weight", "there is no weight"),
        ("lstm", "layer.weight_hh_l0", "recurrent layer"),
        ("plain", "4.weight", "reach the network's output"),
    ):
        surgeon = Surgeon(*bred(name))
        with pytest.raises(NetworkError, match=reason):
            surgeon.mask_channels(layer, [0])
    shared = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    shared[2].weight = shared[0].weight
    inputs = (torch.randn(2, 4),)
    with pytest.raises(NetworkError, match=r"tied to 2\.weight, which must keep its shape"):
        Surgeon(shared, inputs).mask_channels("0.weight", [0])
    assert sizes(shared, inputs) == {}


def test_a_channel_can_be_named_by_any_layer_that_computes_it() -> None:
    network, inputs = bred("resnet_option_a")
    surgeon = Surgeon(network, inputs)
    surgeon.mask_channels("layer2.0.conv2.weight", [2])  # planes 2 to 5 are those of the stage before
    (closed,) = surgeon.site.connectivity.closed
    assert closed == ("conv1.weight", 0)
    surgeon.mask_channels("layer1.0.conv2.weight", [0])
    assert len(surgeon.site.connectivity.closed) == 1


# -- where there is no graph -------------------------------------------------------------------------------------------


class Untraceable(nn.Module):
    """Asks for the values of its data."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 3))
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.head = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.head(self.inner(x if x.sum() > -1e9 else -x).mean((2, 3)))
        out: Tensor = self.attention(*[x.unsqueeze(1).repeat(1, 3, 1)] * 3)[0]
        return out


def test_without_a_graph_channels_and_heads_go_all_the_same(capfd: Any) -> None:
    network = Untraceable().eval()
    traced, why = prepared(network, X)
    assert traced is network
    assert "depends on the values of the data" in why
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = {group.root: group.size for group in channels.groups(network, X)}
    assert found == {"inner.0.weight": 6, "inner.3.weight": 5, "attention.in_proj_weight": 2}
    for seed in range(3):
        removal_is_masking(network, X, seed)
    assert capfd.readouterr() == ("", "")


def test_a_network_that_can_be_traced_needs_not_be() -> None:
    network, inputs = bred("plain")
    leaving = [group.channels[-1] for group in channels.groups(network, inputs)]
    masked, removed = copy.deepcopy(network), copy.deepcopy(network)
    Connectivity(masked).close(leaving, "test", "test")
    channels.remove(removed, leaving, inputs)
    torch.testing.assert_close(removed(*inputs), masked(*inputs), rtol=1e-4, atol=1e-5)


# -- time --------------------------------------------------------------------------------------------------------------


def test_groups_are_found_once() -> None:
    inputs = (torch.randn(2, 3, 32, 32),)
    began = time.perf_counter()
    traced, _ = prepared(ResNet(20).eval(), inputs)
    found = channels.groups(traced, inputs)
    assert time.perf_counter() - began < 2
    began = time.perf_counter()
    assert channels.groups(copy.deepcopy(traced), inputs) is found
    assert time.perf_counter() - began < 0.1 + 0.4  # the copy takes its part
    began = time.perf_counter()
    assert channels.groups(traced, inputs) is found
    assert time.perf_counter() - began < 0.1


def test_another_architecture_is_another_question() -> None:
    """Same classes, same weights, another way through them."""

    class Way(nn.Module):
        def __init__(self, normed: bool) -> None:
            super().__init__()
            self.normed = normed
            self.one, self.two = nn.Conv2d(2, 8, 1), nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.one(x)
            out: Tensor = self.two(x / x.norm(dim=1, keepdim=True).detach().mean() if self.normed else x)
            return out

    assert sizes(Way(False), X) == {"one.weight": 8}
    assert [group.root for group in channels.groups(Way(False).eval(), X)] == ["one.weight"]


def test_finalizing_removes_what_is_masked() -> None:
    network, inputs = bred("grouped")
    surgeon = Surgeon(network, inputs)
    for group in surgeon.site.channel_groups():
        surgeon.site.connectivity.close(group.channels[1:], "test", "test")
    with torch.no_grad():
        expected = surgeon.network(*inputs)
        finished = plain(surgeon.site)
        torch.testing.assert_close(finished(*inputs), expected, rtol=1e-4, atol=1e-5)
    nonzeros = sum(int(p.count_nonzero()) for n, p in finished.named_parameters() if p.ndim > 1)
    assert nonzeros == sum(surgeon.site.connectivity.recount().values())
