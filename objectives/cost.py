"""What running a finished network costs: multiply-accumulates per sample, dense, sparse (simulated) and by bits.

Counted while the network runs, by PyTorch's own FLOP counter on the operations that are really dispatched, so layers,
functional calls and attention's inner products count alike. Counted are convolutions, matrix products, recurrent
layers and attention; elementwise operations, norms, pooling and biases are not, as is usual in the field. A causal
mask is not deducted: the kernels that are counted compute the whole square.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from objectives.bits import coded
from objectives.execution import shares, uses
from objectives.flops import FORMULAS
from objectives.maskable import maskable
from objectives.mode import evaluating
from objectives.outcome import Outcome
from spaces.errors import NetworkError


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs per sample, without the layers inside it.

    Args:
        macs: Multiply-accumulates that run.
        sparse_macs: Those left if every multiplication by a zero weight were skipped; simulated, no kernel does it.
        bops: Multiply-accumulates times the bits of both operands (1,024 each in float32).
    """

    macs: float
    sparse_macs: float
    bops: float


def macs(outcome: Outcome) -> float:
    """Multiply-accumulates per sample of the finished network.

    Zeros inside a weight are multiplied like any other number, so unstructured sparsity does not lower this figure;
    removed channels and dropped blocks do. Where samples may bypass work it is the mean over those of the validation
    split.
    """
    return sum(layer.macs for layer in count(outcome.network, outcome.inputs, outcome.measured).values())


def sparse_macs(outcome: Outcome) -> float:
    """Multiply-accumulates per sample if zero weights were skipped: simulated, never a speed-up."""
    return sum(layer.sparse_macs for layer in count(outcome.network, outcome.inputs, outcome.measured).values())


def bops(outcome: Outcome) -> float:
    """Bit operations per sample: multiply-accumulates times weight bits times activation bits, summed over layers.

    The bits are those of the tensors that are really multiplied (32 times 32 in a float32 network); in a layer that is
    held as codes, those of its codes and of its input's, whichever kernel multiplies them on this machine.
    """
    return sum(layer.bops for layer in count(outcome.network, outcome.inputs, outcome.measured).values())


def count_macs(network: nn.Module, inputs: tuple[object, ...]) -> dict[str, int]:
    """Multiply-accumulates per sample by layer, rounded where the work does not divide by the batch; see `count`."""
    return {name: round(layer.macs) for name, layer in count(network, inputs).items()}


def count(
    network: nn.Module, inputs: tuple[object, ...], measured: Mapping[str, float] | None = None
) -> dict[str, LayerCost]:
    """Run a network once and count.

    Args:
        network: On the CPU; runs in evaluation mode without gradients, and gets its modes back.
        inputs: ``network(*inputs)`` runs; dimension 0 of the first tensor is the batch.
        measured: For which share of samples each gate is open, as `objectives.execution.watched` gives it: work that
            a gate governs counts by that share. None: everything counts in full.

    Returns:
        Cost per sample of every module that multiplies, by qualified name; ``""`` is the network itself (functional
        calls of a traced network). A module that is used twice has one entry, with both uses.

    Raises:
        NetworkError: If there is no batch, or an operation runs whose work cannot be counted.
    """
    batch = next((value.shape[0] for value in inputs if isinstance(value, Tensor) and value.dim() > 0), 0)
    if batch < 1:
        raise NetworkError("counting needs example inputs with a batch dimension, but got none: pass example_inputs()")
    codes = {
        name: (int(v.count_nonzero()) / max(1, v.numel()), layer.bit_products)
        for name, layer, v in ((name, layer, layer.values()) for name, layer in coded(network).items())
    }
    tally = _Tally({w.untyped_storage().data_ptr() for w in maskable(network).values()}, codes)
    executed: dict[str, float] = {}
    if measured is not None and isinstance(network, fx.GraphModule):
        executed = shares(network, uses(network, measured))
    with evaluating(network), unfused(), tally.counter, tally, _followed(network, tally):
        if isinstance(network, fx.GraphModule) and executed:
            _NodeByNode(network, tally, executed).run(*inputs)
        else:
            network(*inputs)
    return {
        name: LayerCost(cost[0] / batch, cost[1] / batch, cost[2] / batch)
        for name, cost in tally.costs.items()
        if cost[0]
    }


class _Tally(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Books what the FLOP counter adds for each operation under the module that is running."""

    def __init__(self, weights: set[int], codes: Mapping[str, tuple[float, float]]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
        self.costs: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0, 0.0])
        self.running = [""]
        self.executed = 1.0
        self._weights = weights
        # Of layers that are held as codes: the share of non-zeros, and bits times bits.
        self._codes = codes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        before = self.counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        added = (self.counter.get_total_flops() - before) / 2 * self.executed
        if added:
            tensors = [value for value in args if isinstance(value, Tensor)]
            cost = self.costs[self.running[-1]]
            density, bits = self._codes.get(self.running[-1]) or (self._density(tensors), _bits(tensors))
            cost[0] += added
            cost[1] += added * density
            cost[2] += added * bits
        return result

    def _density(self, tensors: list[Tensor]) -> float:
        """Share of non-zeros of the operands that are weights; every entry of a weight is used equally often."""
        # By storage, because a linear layer multiplies by a transposed view of its weight.
        weights = [value for value in tensors if value.untyped_storage().data_ptr() in self._weights]
        total = sum(weight.numel() for weight in weights)
        return sum(int(weight.count_nonzero()) for weight in weights) / total if total else 1.0


class _NodeByNode(fx.Interpreter):
    """Runs a traced network and tells the tally which share of each node is executed."""

    def __init__(self, network: fx.GraphModule, tally: _Tally, executed: Mapping[str, float]) -> None:
        super().__init__(network)
        self._tally, self._executed = tally, executed

    def run_node(self, n: fx.Node) -> Any:
        self._tally.executed = self._executed.get(n.name, 1.0)
        return super().run_node(n)


def _bits(tensors: list[Tensor]) -> int:
    """Bits of one operand times bits of the other: the two largest operands, because a bias may come along."""
    operands = sorted(tensors, key=lambda value: value.dim(), reverse=True)[:2]
    return math.prod(8 * value.element_size() for value in operands)


@contextmanager
def unfused() -> Iterator[None]:
    """Attention's fused inference path is one opaque operation; the plain path does the same work in countable ones."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


@contextmanager
def _followed(network: nn.Module, tally: _Tally) -> Iterator[None]:
    """Tell the tally which module runs."""

    def entering(name: str) -> Callable[..., None]:
        return lambda *_: tally.running.append(name)

    def leaving(*_: object) -> None:
        tally.running.pop()

    handles = []
    try:
        for name, module in network.named_modules():
            handles.append(module.register_forward_pre_hook(entering(name)))
            handles.append(module.register_forward_hook(leaving))
        yield
    finally:
        for handle in handles:
            handle.remove()
