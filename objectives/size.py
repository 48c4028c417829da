"""How large a finished network is: its parameters, its bytes on disk, and the share of connections that are off."""

from __future__ import annotations

import safetensors.torch
from torch import Tensor, nn

from objectives.bits import coded
from objectives.maskable import maskable
from objectives.outcome import Outcome


def parameters(outcome: Outcome) -> float:
    """Numbers in the finished network's parameters, zeros included, a shared parameter once.

    A weight that is held as a code is a number as well, and so is its layer's bias.
    """
    held = sum(layer.values().numel() + _bias(layer) for layer in coded(outcome.network).values())
    return float(held + sum(parameter.numel() for parameter in outcome.network.parameters()))


def size_bytes(outcome: Outcome) -> float:
    """Bytes of the safetensors file that holds the finished network's state dict: dense, zeros are stored like others.

    Buffers (running statistics) and the file's header are part of it; tensors that share memory are stored once.
    """
    return float(len(stored(outcome.network)))


def sparsity(outcome: Outcome) -> float:
    """Share of the baseline's connections that are off: ``1 - non-zeros / baseline weights``, recounted.

    Connections that left with their channel count as off, because the count is relative to the network before
    compression (``baseline["weights"]``); without that entry it is relative to the finished network itself. At most 1;
    below 0 where reconnection added more than was pruned.
    """
    before = outcome.baseline.get("weights", weights(outcome.network))
    return 1.0 - nonzeros(outcome.network) / before if before else 0.0


def weights(network: nn.Module) -> int:
    """All connections of a network, on or off: the entries of its maskable weights."""
    held = sum(layer.values().numel() for layer in coded(network).values())
    return held + sum(weight.numel() for weight in maskable(network).values())


def nonzeros(network: nn.Module) -> int:
    """Connections of a network that are on: the non-zero entries of its maskable weights."""
    held = sum(int(layer.values().count_nonzero()) for layer in coded(network).values())
    return held + sum(int(weight.count_nonzero()) for weight in maskable(network).values())


def _bias(layer: object) -> int:
    bias = getattr(layer, "bias", None)
    return bias.numel() if isinstance(bias, Tensor) else 0


def stored(network: nn.Module) -> bytes:
    """The network's state dict as the bytes of a safetensors file, tensors that are the same memory once."""
    distinct: dict[tuple[object, ...], tuple[str, Tensor]] = {}
    for name, value in network.state_dict().items():
        if isinstance(value, Tensor):
            place = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else (name,)
            distinct.setdefault(place, (name, value))
    # Cloned, because the format refuses overlapping views such as the parts of a flat buffer.
    return safetensors.torch.save({name: value.contiguous().clone() for name, value in distinct.values()})
