"""Linear layers that skip their zeros: weights as compressed rows (CSR) on the CPU, in PyTorch.

A wide layer of which nine in ten weights are off runs faster so; a small or a denser one does not. Which it is on the
machine at hand is measured, layer by layer and batch by batch.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from search.latency.clock import paired
from search.latency.layers import layer_cases
from search.latency.runtimes import threads_of_torch

#: Fewer zeros or weights have nowhere been seen to win.
LEAST_ZEROS, LEAST_WEIGHTS = 0.8, 2**14
#: Seconds for which a layer is timed in both forms.
SECONDS = 0.1
#: Less than this is within what repeated measurements differ by.
FASTER = 1.05


class CsrLinear(nn.Module):
    """A linear layer whose weight is stored and multiplied as compressed rows; for inference on the CPU.

    Args:
        linear: What it computes.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        with warnings.catch_warnings():  # PyTorch says of all CSR tensors that they are in beta state
            warnings.simplefilter("ignore", UserWarning)
            self.register_buffer("weight", linear.weight.detach().to_sparse_csr())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., I) to (..., O)."""
        rows = x.reshape(-1, self.in_features)
        if len(rows) == 1:
            y = torch.mv(self.weight, rows[0])
            y = (y if self.bias is None else y + self.bias).unsqueeze(0)
        else:
            y = torch.mm(self.weight, rows.t()).t().contiguous()
            y = y if self.bias is None else y.add_(self.bias)
        return y.reshape(*x.shape[:-1], self.out_features)


def with_csr(network: nn.Module, layers: Collection[str]) -> nn.Module:
    """A copy of the network in evaluation mode in which the named linear layers skip their zeros."""
    copied = copy.deepcopy(network).eval()
    for name in layers:
        parent, _, attribute = name.rpartition(".")
        layer = copied.get_submodule(name)
        assert type(layer) is nn.Linear
        setattr(copied.get_submodule(parent), attribute, CsrLinear(layer))
    return copied


def csr_gains(
    network: nn.Module, inputs: tuple[Tensor, ...], batches: Sequence[int], *, threads: int = 1
) -> dict[str, dict[int, float]]:
    """How many times as fast each linear layer runs when it skips its zeros: ``{layer: {batch: speed-up}}``.

    Only layers and batches for which it is faster; nothing for a network without wide layers full of zeros.

    Args:
        network: In evaluation mode, on the CPU.
        inputs: ``network(*inputs)`` runs.
        batches: Samples per call.
        threads: Of a call.
    """
    wide = {name: m for name, m in network.named_modules() if type(m) is nn.Linear and _worth_a_look(m)}
    cases = layer_cases(network, inputs) if wide else {}
    found: dict[str, dict[int, float]] = {}
    for name in wide.keys() & cases.keys():
        case = cases[name]
        if case.dtype != "float32":
            continue
        for batch in batches:
            x = torch.randn(case.rows * batch, *case.shape, generator=torch.Generator().manual_seed(0))
            with threads_of_torch(threads), torch.inference_mode():
                speedup = _speedup(wide[name], CsrLinear(wide[name]), x, threads)
            if speedup > FASTER:
                found.setdefault(name, {})[batch] = speedup
    return dict(sorted(found.items()))


def faster_at(gains: Mapping[str, Mapping[int, float]], batch: int) -> tuple[str, ...]:
    """The layers that are faster as compressed rows at a batch."""
    return tuple(name for name, by_batch in gains.items() if batch in by_batch)


def _speedup(dense: nn.Module, sparse: nn.Module, x: Tensor, threads: int) -> float:
    return paired([lambda: dense(x), lambda: sparse(x)], seconds=SECONDS, threads=threads, least=7)[1].speedup


def _worth_a_look(linear: nn.Linear) -> bool:
    weight = linear.weight
    zeros = weight.numel() - int(torch.count_nonzero(weight))
    return weight.numel() >= LEAST_WEIGHTS and weight.device.type == "cpu" and zeros >= LEAST_ZEROS * weight.numel()
