"""The arithmetic of codes: what holds for all weights, and small cases by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from search.surgery import granularity_codes as codes
from search.surgery.granularity_finish import replace_units
from search.surgery.granularity_kernels import available, execution_of
from search.surgery.granularity_rows import checked, coded, packed, runs, unpacked
from search.surgery.granularity_units import Grain
from spaces.errors import ExportError

finite = st.floats(-1e4, 1e4, width=32)
matrices = (
    st.integers(1, 5)
    .flatmap(lambda inner: st.lists(st.lists(finite, min_size=inner, max_size=inner), min_size=1, max_size=4))
    .map(torch.tensor)
)


def test_codes_of_a_row_by_hand() -> None:
    weight = torch.tensor([[127.0, -127.0, 8.0, 7.0, -8.0, -9.0, 40.0, 0.0]])
    scale = codes.scales(weight)
    whole = codes.encode(weight, scale)
    assert scale.tolist() == [1.0]
    assert whole.tolist() == [[127, -127, 8, 7, -8, -9, 40, 0]]
    assert codes.nested(whole, 4).tolist() == [[7, -8, 1, 0, 0, -1, 3, 0]]
    assert codes.nested(whole, 2).tolist() == [[1, -2, 0, 0, 0, 0, 1, 0]]
    assert codes.decode(codes.nested(whole, 4), scale, 4).tolist() == [[112, -128, 16, 0, 0, -16, 48, 0]]


def test_nested_int4_is_the_shift_for_every_code() -> None:
    whole = torch.arange(-127, 128, dtype=torch.int8)
    expected = [max(-8, min(7, (q + 8) >> 4)) for q in range(-127, 128)]
    assert codes.nested(whole, 4).tolist() == expected


@settings(max_examples=150, deadline=None)
@given(matrices)
def test_no_weight_gets_nearer_with_fewer_bits(weight: torch.Tensor) -> None:
    weight = weight.double()
    error = {bits: (codes.quantized(weight, bits, torch.bfloat16) - weight).abs() for bits in (32, 8, 4, 2)}
    tiny = 1e-9 * weight.abs().max()
    assert not error[32].any()
    assert (error[8] <= error[4] + tiny).all()
    assert (error[8] <= error[2] + tiny).all()
    step = codes.rows(codes.scales(weight), weight)
    assert (error[8] <= step * 0.5 + tiny).all()
    # Half a step of the level, half of one of 8 bits for rounding twice, and what 7 leaves of the range.
    assert (error[4] <= step * (8 + 0.5 + 7) + tiny).all()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_error_falls_as_bits_rise(seed: int) -> None:
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(seed))
    errors = [float((codes.quantized(weight, bits, torch.float16) - weight).square().sum()) for bits in (2, 4, 8, 16)]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 4 * errors[1] > 16 * errors[2] > 0


@settings(max_examples=50, deadline=None)
@given(matrices, st.sampled_from([8, 4, 2]))
def test_zero_stays_zero_and_signs_stay(weight: torch.Tensor, bits: int) -> None:
    rounded = codes.quantized(weight, bits, torch.bfloat16)
    assert not rounded[weight == 0].any()
    assert (rounded * weight >= 0).all()


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.sampled_from([8, 4, 2]), st.integers(0, 99))
def test_packing_is_undone(rows: int, inner: int, bits: int, seed: int) -> None:
    half = 1 << (bits - 1)
    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(-half, half, (rows, inner), generator=generator, dtype=torch.int8)
    held = packed(values, bits)
    assert held.numel() * 8 >= values.numel() * bits
    assert held.shape[1] == -(-inner * bits // 8)
    assert torch.equal(unpacked(held, bits, inner), values)


def test_rows_at_levels_of_their_own() -> None:
    weight = torch.tensor([[127.0, 40.0], [127.0, 40.0]])
    whole, scale = coded(weight, [8, 4])
    assert whole.tolist() == [[127, 40], [7, 3]]
    assert scale.tolist() == [1.0, 16.0]


def test_an_input_has_a_range_per_sample() -> None:
    x = torch.tensor([[[[1.0, -2.0]]], [[[100.0, 50.0]]]])
    scale = codes.input_scale(x, 3)
    assert scale.flatten().tolist() == pytest.approx([2 / 127, 100 / 127])
    assert codes.encode_input(x, scale).flatten().tolist() == [64, -127, 127, 64]


def test_gradients_go_straight_through_and_stop_where_the_range_cuts() -> None:
    x = torch.tensor([0.4, 3.0, -3.0], requires_grad=True)
    codes.straight_through_input(x, torch.tensor(1 / 127)).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert x.grad.tolist() == [1.0, 0.0, 0.0]


LAYERS: dict[str, Any] = {
    "linear": (lambda: nn.Linear(48, 20), (70, 48)),
    "tokens": (lambda: nn.Linear(48, 20, bias=False), (3, 5, 48)),
    "stride": (lambda: nn.Conv2d(16, 24, 3, padding=1, stride=2), (70, 16, 9, 8)),
    "groups": (lambda: nn.Conv2d(16, 24, 3, padding=1, groups=4, bias=False), (3, 16, 9, 8)),
}


@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("name", LAYERS)
def test_a_kernel_gives_bit_for_bit_what_float32_gives(name: str, bits: int) -> None:
    make, shape = LAYERS[name]
    torch.manual_seed(0)
    network = nn.Sequential(make()).requires_grad_(False)
    rows = network[0].weight.shape[0]  # type: ignore[index]
    replace_units(network, {"0": Grain((int(rows),), [bits], "dynamic", torch.bfloat16)}, [])
    layer: Any = network[0]
    kind = "matrix" if isinstance(make(), nn.Linear) else "convolution"
    if kind not in available():
        assert execution_of(layer) == "simulated"
        pytest.skip(f"this processor has no {kind} kernel for int8")
    x = torch.randn(shape)
    simulated = network(x)
    assert execution_of(layer) == "simulated"
    layer.kernel_from = 1
    assert execution_of(layer).startswith("int8")
    assert torch.equal(network(x), simulated)


@pytest.mark.parametrize("rows", [((8, 3),), ((8, 2), (5, 2)), "8", ((8, 0), (4, 4)), ((8, 2.0), (4, 2))])
def test_rows_from_a_file_are_checked(rows: Any) -> None:
    with pytest.raises(ExportError, match="bits of all of its 4 rows"):
        checked(rows, 4)


def test_runs_of_rows() -> None:
    assert runs([8, 8, 4, 8]) == ((8, 2), (4, 1), (8, 1))
    assert checked([[8, 2], [4, 1], [8, 1]], 4) == ((8, 2), (4, 1), (8, 1))
