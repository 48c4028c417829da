"""Costs against hand arithmetic, for every kind of layer that is counted."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.cost import bops, count, count_macs, macs, sparse_macs
from objectives.outcome import Outcome
from spaces.errors import NetworkError
from spaces.ledger import Ledger
from spaces.profile import CompressionProfile

BATCH = 2
rand = torch.randn

# (layer, shape of one sample, multiply-accumulates of one sample)
LAYERS = [
    (nn.Conv1d(3, 4, 3), (3, 10), 4 * 3 * 3 * 8),
    (nn.Conv2d(3, 5, 3, stride=2, padding=1), (3, 8, 8), 5 * 3 * 9 * 4 * 4),
    (nn.Conv2d(4, 8, 3, groups=2, padding=1), (4, 6, 6), 8 * 2 * 9 * 36),
    (nn.Conv2d(4, 4, 3, groups=4, dilation=2), (4, 7, 7), 4 * 9 * 3 * 3),
    (nn.Conv3d(1, 2, 2), (1, 4, 4, 4), 2 * 8 * 27),
    (nn.ConvTranspose1d(4, 6, 3), (4, 5), 4 * 6 * 3 * 5),
    (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 4 * 3 * 9 * 25),
    (nn.ConvTranspose3d(1, 2, 2), (1, 3, 3, 3), 2 * 8 * 27),
    (nn.Linear(5, 7), (5,), 5 * 7),
    (nn.Linear(5, 7, bias=False), (3, 5), 3 * 5 * 7),
    (nn.RNN(5, 7, batch_first=True), (3, 5), 3 * 7 * (5 + 7)),
    (nn.GRU(5, 7, batch_first=True), (3, 5), 3 * 3 * 7 * (5 + 7)),
    (nn.LSTM(5, 7, batch_first=True), (3, 5), 3 * 4 * 7 * (5 + 7)),
    (
        nn.LSTM(5, 7, 2, batch_first=True, bidirectional=True),
        (3, 5),
        3 * 2 * (4 * 7 * (5 + 7) + 4 * 7 * (14 + 7)),
    ),
    (nn.RNNCell(5, 7), (5,), 7 * 12),
    (nn.GRUCell(5, 7), (5,), 3 * 7 * 12),
    (nn.LSTMCell(5, 7), (5,), 4 * 7 * 12),
    # Length 6, width 8: four projections of 8 x 8 per token, then 6 x 6 inner products of width 8, twice.
    (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (6, 8), 4 * 6 * 64 + 2 * 36 * 8 + 2 * 6 * 8 * 16),
    (nn.BatchNorm2d(3), (3, 4, 4), 0),
]


class Calls(nn.Module):
    """Two inputs into any function."""

    def __init__(self, function: object) -> None:
        super().__init__()
        self.function = function

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.function(a, b)  # type: ignore[operator,no-any-return]


def outcome(network: nn.Module, *inputs: Tensor) -> Outcome:
    return Outcome(network.eval(), {}, Ledger(), CompressionProfile(), {}, inputs)


@pytest.mark.parametrize(("layer", "shape", "expected"), LAYERS, ids=lambda value: type(value).__name__)
def test_a_layer_costs_what_arithmetic_says(layer: nn.Module, shape: tuple[int, ...], expected: int) -> None:
    assert sum(count_macs(layer, (rand(BATCH, *shape),)).values()) == expected


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("need_weights", [True, False])
def test_attention_counts_projections_and_inner_products(batch_first: bool, need_weights: bool) -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=batch_first)
    x = rand(6, 6, 8)  # length and batch are both 6, so either layout has six samples

    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attn = layer

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.attn(x, x, x, need_weights=need_weights)[0]
            return y

    assert count_macs(Attends(), (x,)) == {"attn": 4 * 6 * 8 * 8 + 2 * 6 * 6 * 8}


def test_cross_attention_counts_its_own_widths() -> None:
    layer = nn.MultiheadAttention(8, 2, kdim=3, vdim=5, batch_first=True)
    inputs = (rand(2, 6, 8), rand(2, 4, 3), rand(2, 4, 5))
    # queries 6 x 8 x 8, keys 4 x 3 x 8, values 4 x 5 x 8, out 6 x 8 x 8, inner products 6 x 4 x 8 twice
    assert count_macs(layer, inputs) == {"": 384 + 96 + 160 + 384 + 2 * 192}


@pytest.mark.parametrize(
    ("function", "a", "b", "expected"),
    [
        (torch.bmm, (2, 3, 4), (2, 4, 5), 3 * 4 * 5),
        (torch.matmul, (2, 3, 4), (4, 5), 3 * 4 * 5),
        (torch.matmul, (2, 3, 4), (4,), 3 * 4),
        (lambda a, b: torch.einsum("bik,bkj->bij", a, b), (2, 3, 4), (2, 4, 5), 3 * 4 * 5),
        (lambda a, b: torch.baddbmm(a.new_zeros(1), a, b), (2, 3, 4), (2, 4, 5), 3 * 4 * 5),
        (lambda a, b: torch.addbmm(a.new_zeros(1), a, b), (2, 3, 4), (2, 4, 5), 3 * 4 * 5),
        (lambda a, b: torch.addmv(a.new_zeros(2), a, b), (2, 4), (4,), 4),
        (lambda a, b: torch.stack([torch.dot(x, b) for x in a]), (2, 4), (4,), 4),
        (lambda a, b: F.scaled_dot_product_attention(a, b, b), (2, 3, 5, 8), (2, 3, 7, 8), 2 * 3 * 5 * 7 * 8),
        (lambda a, b: F.scaled_dot_product_attention(a, b, b, is_causal=True), (2, 1, 5, 8), (2, 1, 5, 8), 400),
        (lambda a, b: F.bilinear(a, b, torch.ones(5, 3, 4)), (2, 3), (2, 4), 5 * 3 * 4),
        (torch.mul, (2, 3), (2, 3), 0),
    ],
)
def test_functional_products_count(function: object, a: tuple[int, ...], b: tuple[int, ...], expected: int) -> None:
    assert sum(count_macs(Calls(function), (rand(a), rand(b))).values()) == expected


def test_each_module_has_its_own_share_and_a_module_used_twice_has_both_uses() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
            self.last = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            y: Tensor = self.last(self.block(self.block(x)) @ torch.eye(4))
            return y

    assert count_macs(Twice(), (rand(5, 4),)) == {"block.0": 2 * 16, "": 16, "last": 12}


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_the_cost_is_per_sample_whatever_the_batch(batch: int) -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    assert macs(outcome(network, rand(batch, 1, 4, 4))) == 2 * 9 * 4 + 24


def test_zeros_are_multiplied_too_and_only_the_simulated_cost_falls() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 3))
    with torch.no_grad():
        network[0].weight[0] = 0  # type: ignore[operator]
        network[2].weight[:, :2] = 0  # type: ignore[operator]
    finished = outcome(network, rand(2, 1, 4, 4))
    assert macs(finished) == 72 + 24
    assert sparse_macs(finished) == 36 + 18


def test_sparse_cost_follows_each_recurrent_weight() -> None:
    layer = nn.LSTM(5, 7, batch_first=True)
    with torch.no_grad():
        nn.init.zeros_(layer.get_parameter("weight_hh_l0"))
    assert sparse_macs(outcome(layer, rand(2, 3, 5))) == 3 * 4 * 7 * 5


def test_inner_products_of_attention_have_no_weights_to_skip() -> None:
    layer = nn.MultiheadAttention(8, 2, batch_first=True)
    with torch.no_grad():
        layer.in_proj_weight[:8] = 0
    x = rand(2, 6, 8)
    assert sparse_macs(outcome(layer, x, x, x)) == 3 * 6 * 64 + 2 * 36 * 8


def test_a_smaller_network_costs_less() -> None:
    wide, narrow = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 3)
    x = rand(2, 3, 6, 6)
    assert macs(outcome(narrow, x)) * 2 == macs(outcome(wide, x))


@pytest.mark.parametrize(("dtype", "bits"), [(torch.float32, 32), (torch.bfloat16, 16), (torch.float64, 64)])
def test_bit_operations_are_products_of_the_operands_bits(dtype: torch.dtype, bits: int) -> None:
    network = nn.Linear(5, 7).to(dtype)
    assert bops(outcome(network, rand(2, 5, dtype=dtype))) == 35 * bits * bits


def test_counting_leaves_no_trace() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    fast = torch.backends.mha.get_fastpath_enabled()
    count(network, (rand(2, 1, 4, 4),))
    assert network.training
    assert torch.backends.mha.get_fastpath_enabled() is fast
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_what_cannot_be_counted_is_refused_rather_than_free() -> None:
    fused = Calls(lambda a, b: torch._native_multi_head_attention(a, a, a, 4, 1, b, rand(12), rand(4, 4), rand(4))[0])
    with pytest.raises(NetworkError, match="_native_multi_head_attention cannot be counted"):
        count(fused, (rand(2, 3, 4), rand(12, 4)))
    with pytest.raises(NetworkError, match="batch dimension"):
        count(nn.Linear(4, 4), ())
