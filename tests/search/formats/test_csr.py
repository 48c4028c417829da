"""Linear layers that skip their zeros: the same numbers, and only where they are measured to be faster."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from search.artifact.execution import execution_rows
from search.formats.csr import CsrLinear, csr_gains, faster_at, with_csr
from search.latency.bench import CSR, bench


def sparse(inputs: int, outputs: int, zeros: float, bias: bool = True) -> nn.Linear:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(inputs, outputs, bias=bias)
    with torch.no_grad():
        layer.weight.mul_(torch.rand(outputs, inputs, generator=generator) >= zeros)
    return layer.eval()


@pytest.mark.parametrize("zeros", [0.0, 0.9, 1.0])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (7, 48), (48,), (2, 3, 48), (0, 48)])
def test_it_computes_the_same(zeros: float, bias: bool, shape: tuple[int, ...]) -> None:
    layer = sparse(48, 20, zeros, bias)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected, found = layer(x), CsrLinear(layer)(x)
    assert found.shape == expected.shape
    assert found.is_contiguous()
    assert torch.allclose(found, expected, atol=1e-5)


def network(zeros: float) -> nn.Module:
    return nn.Sequential(sparse(1024, 2048, zeros), nn.ReLU(), nn.Linear(2048, 8)).eval()


INPUTS: tuple[Tensor, ...] = (torch.randn(2, 1024, generator=torch.Generator().manual_seed(0)),)


def test_a_wide_layer_of_zeros_is_measured_as_faster_and_said_to_be() -> None:
    held, dense = network(0.99), network(0.0)
    before = copy.deepcopy(held.state_dict())
    found = bench(dense, held, INPUTS, batches=(64,), runtimes=("eager",), seconds=0.2)
    assert set(found.csr) == {"0"}
    assert found.csr["0"][64] > 1.5
    assert [row.what for row in found.rows] == ["model.safetensors", CSR]
    assert found.rows[1].speedup > 1.2
    assert found.to_dict()["csr"]["0"].keys() == {"64"}
    first, last = execution_rows(held, dense, {}, found.csr)
    assert first["runs"][-1].startswith("csr in PyTorch at batch 64, ")
    assert last["runs"] == ["dense"]
    assert all(torch.equal(value, before[name]) for name, value in held.state_dict().items()), "left as it was"
    with torch.inference_mode():
        assert torch.allclose(with_csr(held, faster_at(found.csr, 64))(*INPUTS), held(*INPUTS), atol=1e-4)


def test_a_dense_or_a_small_layer_is_not_even_tried() -> None:
    assert csr_gains(network(0.5), INPUTS, (1, 64)) == {}
    assert csr_gains(nn.Sequential(sparse(32, 32, 0.99)), (torch.randn(2, 32),), (1,)) == {}
    assert faster_at({"a": {64: 2.0}, "b": {1: 2.0}}, 64) == ("a",)
