"""Sizes are recounted from the finished network."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from objectives.outcome import Outcome
from objectives.size import nonzeros, parameters, size_bytes, sparsity, stored, weights
from spaces.ledger import Ledger
from spaces.profile import CompressionProfile


def outcome(network: nn.Module, **baseline: float) -> Outcome:
    return Outcome(network, baseline, Ledger(), CompressionProfile())


def test_parameters_count_zeros_and_biases_and_shared_ones_once() -> None:
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    with torch.no_grad():
        first.weight.zero_()
    assert parameters(outcome(nn.Sequential(first, second, nn.BatchNorm1d(3)))) == 9 + 3 + 3 + 6


def test_bytes_are_those_of_the_file(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4))
    safetensors.torch.save_file(network.state_dict(), tmp_path / "network.safetensors")
    assert size_bytes(outcome(network)) == (tmp_path / "network.safetensors").stat().st_size


def test_shared_tensors_are_stored_once_and_half_numbers_take_half() -> None:
    first, second = nn.Linear(64, 64), nn.Linear(64, 64)
    alone = size_bytes(outcome(nn.Sequential(first)))
    second.weight, second.bias = first.weight, first.bias
    shared = nn.Sequential(first, second)
    assert set(safetensors.torch.load(stored(shared))) == {"0.weight", "0.bias"}
    assert size_bytes(outcome(shared)) == alone
    saved = size_bytes(outcome(nn.Sequential(first))) - size_bytes(outcome(nn.Sequential(first).bfloat16()))
    assert saved == pytest.approx(2 * (64 * 64 + 64), abs=8)


@given(off=st.integers(0, 24))
def test_sparsity_is_the_share_of_exact_zeros(off: int) -> None:
    network = nn.Linear(6, 4)
    with torch.no_grad():
        network.weight.fill_(0.5).view(-1)[:off] = 0
        network.bias.zero_()
    assert nonzeros(network) == 24 - off
    assert sparsity(outcome(network)) == pytest.approx(off / 24)
    assert sparsity(outcome(network, weights=24.0)) == pytest.approx(off / 24)


def test_connections_that_left_with_their_channel_are_off() -> None:
    before = nn.Sequential(nn.Conv2d(1, 8, 3), nn.Conv2d(8, 2, 1))
    after = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 2, 1))
    assert weights(before) == 72 + 16
    assert sparsity(outcome(after, weights=88.0)) == pytest.approx(0.5)
    assert sparsity(outcome(after)) == 0.0


def test_a_network_that_grew_is_less_than_not_sparse() -> None:
    assert sparsity(outcome(nn.Linear(3, 4), weights=10.0)) == pytest.approx(-0.2)


def test_a_network_without_connections_is_not_sparse() -> None:
    assert sparsity(outcome(nn.BatchNorm1d(3))) == 0.0
