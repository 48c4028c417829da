"""How many bits a finished network's numbers really have: layers that are held as codes, and what follows from them.

A layer is counted by what it says of itself (`Coded`), whatever its class; a layer of torch.nn counts by its tensors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from objectives.maskable import maskable


@runtime_checkable
class Coded(Protocol):
    """A layer whose weights are held as codes."""

    #: Mean bits of a weight.
    weight_bits: float
    #: Bits of a weight times bits of what it multiplies, on average.
    bit_products: float

    def values(self) -> Tensor:
        """What the codes stand for, of the weight's shape."""
        ...


@dataclass(frozen=True)
class LayerBits:
    """One layer's share of the averages.

    Args:
        weights: How many.
        bits: Of each, on average.
        input_bits: Of what they multiply, on average.
    """

    weights: int
    bits: float
    input_bits: float = 32.0


def coded(network: nn.Module) -> dict[str, Coded]:
    """The layers that are held as codes, by name; one that stands in several places once."""
    return {name: module for name, module in network.named_modules() if isinstance(module, Coded)}


def layer_bits(network: nn.Module) -> dict[str, LayerBits]:
    """Weights and their bits by layer: layers of codes, and the maskable weights of all others."""
    plain = {
        name.rpartition(".")[0]: LayerBits(weight.numel(), 8.0 * weight.element_size())
        for name, weight in maskable(network).items()
    }
    return plain | {
        name: LayerBits(layer.values().numel(), layer.weight_bits, layer.bit_products / layer.weight_bits)
        for name, layer in coded(network).items()
    }


def weight_bits(network: nn.Module) -> float:
    """Bits of a connection, on average over all connections, on or off; 0 where there are none."""
    layers = layer_bits(network).values()
    count = sum(layer.weights for layer in layers)
    return sum(layer.weights * layer.bits for layer in layers) / count if count else 0.0


def mean_bits(network: nn.Module, macs: Mapping[str, float]) -> float:
    """Bits of a weight, each layer weighed by its share of the multiply-accumulates; 0 where nothing is counted.

    Args:
        network: Finished.
        macs: By layer, from `objectives.cost.count`.
    """
    layers = layer_bits(network)
    shares = {name: macs[name] for name in layers if name in macs}
    total = sum(shares.values())
    return sum(share * layers[name].bits for name, share in shares.items()) / total if total else 0.0
