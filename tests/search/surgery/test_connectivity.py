"""The books balance whatever is asked for, in whatever order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from search.recipe import Recipe
from search.surgery import channels
from search.surgery.connectivity import Connectivity
from search.surgery.optimizer import TrainingOptimizer
from spaces.errors import NetworkError
from tests.nets import mlp, tiny_cnn

INPUTS = (torch.linspace(-1, 1, 4 * 64).reshape(4, 1, 8, 8),)

moves = st.lists(
    st.tuples(st.sampled_from(["prune", "create", "close", "open"]), st.integers(0, 10**6)), min_size=1, max_size=12
)


def apply(connectivity: Connectivity, groups: tuple[channels.ChannelGroup, ...], move: str, seed: int) -> None:
    """One random operation."""
    generator = torch.Generator().manual_seed(seed)
    names = list(connectivity.weights)
    name = names[seed % len(names)]
    where = torch.rand(connectivity.weights[name].shape, generator=generator) < 0.4
    group = groups[seed % len(groups)]
    some = [group.channels[i] for i in torch.randperm(group.size, generator=generator)[: group.size // 2].tolist()]
    if move == "prune":
        connectivity.prune(name, where, "test", "random")
    elif move == "create":
        connectivity.create(name, where, "test", "random")
    elif move == "close":
        connectivity.close(some, "test", "random")
    else:
        connectivity.open(some, "test", "random")


@settings(max_examples=40, deadline=None)
@given(moves)
def test_ledger_equals_recount_after_any_sequence_of_operations(sequence: Any) -> None:
    network = tiny_cnn().eval()
    connectivity = Connectivity(network)
    groups = channels.groups(network, INPUTS)
    with torch.no_grad():
        for iteration, (move, seed) in enumerate(sequence):
            connectivity.iteration = iteration
            before = network(*INPUTS)
            apply(connectivity, groups, move, seed)
            if move in ("create", "open"):
                # I: creating never changes an output, whatever was pruned before.
                torch.testing.assert_close(network(*INPUTS), before, rtol=0, atol=0)
            assert connectivity.recount() == dict(connectivity.active) == connectivity.ledger().active()
            assert all(not weight[~connectivity.masks[n]].any() for n, weight in connectivity.weights.items())
    ledger = connectivity.ledger()
    assert sum(ledger.active().values()) == connectivity.size - ledger.pruned() + ledger.created()
    assert connectivity.survived() <= ledger.created()
    assert connectivity.ever_pruned() <= ledger.pruned()


@settings(max_examples=20, deadline=None)
@given(moves)
def test_state_round_trip_and_copy(sequence: Any) -> None:
    network = tiny_cnn().eval()
    connectivity = Connectivity(network)
    groups = channels.groups(network, INPUTS)
    for move, seed in sequence:
        apply(connectivity, groups, move, seed)
    twin = connectivity.copy_onto(tiny_cnn())
    assert twin.ledger() == connectivity.ledger()
    assert twin.survived() == connectivity.survived()
    assert set(twin.closed) == set(connectivity.closed)
    state, again = connectivity.state(), twin.state()
    assert state.keys() == again.keys()
    assert all(torch.equal(state[name], again[name]) for name in state)


def test_hand_count_of_a_small_story() -> None:
    network = mlp(width=4, inputs=2, classes=2)  # weights 4x2, 4x4, 2x4: 8 + 16 + 8 = 32
    connectivity = Connectivity(network)
    first = torch.zeros(4, 2, dtype=torch.bool)
    first[0] = True
    assert connectivity.prune("0.weight", first, "pruning", "magnitude") == 2
    assert connectivity.prune("0.weight", first, "pruning", "magnitude") == 0
    connectivity.iteration = 1
    assert connectivity.create("0.weight", first, "reconnection", "gradient") == 2
    assert connectivity.prune("0.weight", first[:, :1] & torch.tensor([[True, False]]), "pruning", "magnitude") == 1
    ledger = connectivity.ledger()
    assert (ledger.created(), ledger.pruned()) == (2, 3)
    assert connectivity.active["0.weight"] == 7
    assert (connectivity.survived(), connectivity.ever_pruned()) == (1, 2)


def test_closed_channel_is_silent_and_comes_back_without_a_change() -> None:
    network = tiny_cnn().eval()
    connectivity = Connectivity(network)
    group = next(g for g in channels.groups(network, INPUTS) if g.root == "3.conv1.weight")
    with torch.no_grad():
        connectivity.close(group.channels[:3], "pruning", "magnitude")
        block: Any = network.get_submodule("3")
        inner = block.bn1(block.conv1(torch.randn(2, 8, 8, 8)))
        assert not inner[:, :3].any(), "a zeroed convolution before BatchNorm must not emit a constant"
        before = network(*INPUTS)
        connectivity.open(group.channels[:3], "reconnection", "random")
        assert torch.equal(network(*INPUTS), before)
    assert not block.conv2.weight[:, :3].any()
    assert connectivity.masks["3.conv2.weight"].all()
    network.train()
    network(*INPUTS).square().sum().backward()
    assert block.conv2.weight.grad[:, :3].abs().sum() > 0, "the gradient of a revived channel must be alive"


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_what_is_off_stays_exactly_zero_through_training(optimizer: Any) -> None:
    network = tiny_cnn()
    connectivity = Connectivity(network)
    training = TrainingOptimizer.from_recipe(network.parameters(), Recipe(optimizer=optimizer, weight_decay=0.1))
    connectivity.optimizer = training
    groups = channels.groups(network, INPUTS)
    for step in range(8):
        training.zero_grad()
        network(*INPUTS).square().sum().backward()
        if step == 3:  # after momentum has built up
            for name, weight in connectivity.weights.items():
                connectivity.prune(name, weight.abs() < 0.1, "pruning", "magnitude")
            connectivity.close(groups[0].channels[:2], "pruning", "magnitude")
        connectivity.mask_gradients()
        training.step(0.05)
        assert all(not weight[~connectivity.masks[n]].any() for n, weight in connectivity.weights.items())
        for channel in connectivity.closed.values():
            for name, index in channel.held:
                assert not network.get_parameter(name)[index[0]].any()


def test_network_without_connections_is_refused() -> None:
    with pytest.raises(NetworkError, match="nothing to compress"):
        Connectivity(nn.Sequential(nn.ReLU(), nn.BatchNorm1d(3)))
