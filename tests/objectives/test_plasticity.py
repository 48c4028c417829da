"""Rewiring pays, churn does not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from objectives.outcome import Outcome
from objectives.plasticity import churn, dormant, explored, plasticity, ratio, recovery, regrown_survival
from spaces.ledger import Event, Ledger
from spaces.profile import CompressionProfile


def outcome(survived: float, ever_pruned: float) -> Outcome:
    measured = {"survived": survived, "ever_pruned": ever_pruned}
    return Outcome(nn.Linear(1, 1), {}, Ledger(), CompressionProfile(), measured)


def mask(*bits: int) -> dict[str, Tensor]:
    return {"a": torch.tensor(bits[:2], dtype=torch.bool), "b": torch.tensor(bits[2:], dtype=torch.bool)}


def test_the_objective_is_what_came_back_and_stayed_per_connection_pruned() -> None:
    assert plasticity(outcome(30, 120)) == 0.25
    assert plasticity(outcome(0, 0)) == 0.0


@given(survived=st.integers(0, 10**9), pruned=st.integers(0, 10**9))
def test_the_objective_stays_within_0_and_1(survived: int, pruned: int) -> None:
    assert 0.0 <= plasticity(outcome(survived, pruned)) <= 1.0


def test_the_ratio_is_the_seeds_and_leaves_bookkeeping_out() -> None:
    events = (
        Event(0, "a", "pruning", "magnitude", created=0, pruned=40),
        Event(1, "a", "reconnection", "gradient", created=10, pruned=0),
        Event(2, "a", "finalize", "zero", created=0, pruned=10),
    )
    assert ratio(Ledger(events, {"a": 100})) == 0.25
    assert ratio(Ledger((), {"a": 100})) == 0.0


def test_churn_raises_the_ratio_but_not_the_objective() -> None:
    # One connection of ten, switched off and on again five times.
    events = tuple(Event(i, "a", "reconnection", "random", i % 2, 1 - i % 2) for i in range(10))
    assert ratio(Ledger(events, {"a": 10})) == 1.0
    # Another nine were pruned once: one of ten survived, however often it went and came.
    assert plasticity(outcome(1, 10)) == 0.1


def test_shares_of_masks() -> None:
    assert churn(mask(1, 1, 0, 0), mask(1, 0, 1, 0)) == 0.5
    assert churn(mask(1, 1, 0, 0), mask(1, 1, 0, 0)) == 0.0
    assert explored(mask(1, 1, 1, 0)) == 0.75
    assert regrown_survival(created=mask(1, 1, 0, 1), active=mask(1, 0, 1, 0)) == pytest.approx(1 / 3)
    assert regrown_survival(created=mask(0, 0, 0, 0), active=mask(1, 1, 1, 1)) == 0.0
    assert churn({}, {}) == explored({}) == 0.0


def test_recovery_is_what_training_won_back() -> None:
    assert recovery(after_training=0.9, after_pruning=0.4) == pytest.approx(0.5)


class Units(nn.Module):
    """Four hidden units whose activations on positive inputs are known: 1, 1, 0 and 0.001 times the input."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(1, 4, bias=False)
        self.second = nn.Linear(4, 2)
        self.beside = nn.Linear(4, 2)
        with torch.no_grad():
            self.first.weight[:, 0] = torch.tensor([1.0, 1.0, -5.0, 0.001])

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.first(x))
        y: Tensor = self.second(h) + self.beside(h)
        return y


def ones() -> Iterator[Tensor]:
    yield torch.ones(3, 1)
    yield torch.ones(2, 1)


def test_a_unit_is_dormant_where_it_hardly_ever_fires() -> None:
    # The layer's mean is 2.001 / 4 = 0.50; at 0.025 of it the units at 0 and 0.001 sleep, at 0.001 of it only one.
    network = Units().train()
    assert dormant(network, ones(), tau=0.025) == 0.5
    assert dormant(network, ones(), tau=0.001) == 0.25
    assert network.training
    assert not network.first._forward_pre_hooks


def test_dormant_channels_of_a_convolution_are_seen_after_the_non_linearity() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1), nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([1.0, -1.0]).view(2, 1, 1, 1))  # type: ignore[operator]
        network[0].bias.zero_()  # type: ignore[operator]
        network[2].weight.fill_(1.0)  # type: ignore[operator]
    # Two channels, one dead; four features behind them, all alive: the network's input is no unit.
    assert dormant(network, [torch.ones(2, 1, 2, 2)]) == pytest.approx(1 / 6)


def test_a_network_of_one_layer_has_no_units() -> None:
    assert dormant(nn.Linear(3, 2), [torch.ones(2, 3)]) == 0.0
