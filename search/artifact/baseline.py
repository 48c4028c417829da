"""The network before compression as an export remembers it: its graph without a weight, and what it is called with.

That is all that timing needs, and it holds neither the user's weights nor his data: whoever has the folder can measure
the artefact against its baseline on his own device.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from search.architecture import build_architecture, write_architecture
from search.artifact.encoding import dtype_name, dtype_named
from search.artifact.network import parsed
from search.artifact.tensors import fill, tensors, ties
from search.surgery.graph import trace
from spaces.errors import ExportError, TraceError

BASELINE = "baseline.json"
_LARGEST = 32 * 2**20
_MOST_NUMBERS = 2**28
#: Ends of an input's range; infinities and what is no number are beyond it too.
_FARTHEST = 2**62


def describe_inputs(inputs: Sequence[Tensor]) -> list[dict[str, Any]]:
    """Shapes, types and ranges of example inputs; dimension 0 is the batch."""
    found = []
    for x in inputs:
        ends = [float(x.min()), float(x.max())] if x.numel() and not x.is_complex() else [0.0, 0.0]
        found.append({"shape": list(x.shape), "dtype": dtype_name(x.dtype), "range": ends})
    return found


def drawn_inputs(data: object, seed: int = 0) -> tuple[Tensor, ...]:
    """Random inputs of the described shapes, types and ranges.

    Raises:
        ExportError: If the description breaks a rule.
    """
    if not isinstance(data, list) or not data:
        raise ExportError(f"{BASELINE} must list the inputs, but does not: export it again")
    generator = torch.Generator().manual_seed(seed)
    return tuple(_drawn(each, generator) for each in data)


def write_baseline(network: nn.Module, inputs: tuple[Tensor, ...]) -> str:
    """The baseline as JSON.

    Raises:
        ExportError: If its graph cannot be written.
        TraceError: If it has none.
    """
    traced = network if isinstance(network, fx.GraphModule) else trace(network, inputs)
    return json.dumps({"inputs": describe_inputs(inputs), "architecture": write_architecture(traced)})


def baseline_or_reason(network: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[str | None, str]:
    """The baseline as JSON, or None and why not."""
    try:
        return write_baseline(network, inputs), ""
    except (TraceError, ExportError) as error:
        return None, str(error)


def read_baseline(data: bytes) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """The baseline with random weights, in evaluation mode, and inputs that it runs on.

    Raises:
        ExportError: If the file breaks a rule.
    """
    held = parsed(data, BASELINE, _LARGEST)
    if set(held) != {"inputs", "architecture"}:
        raise ExportError(f"{BASELINE} must hold inputs and architecture, but does not: export it again")
    network = build_architecture(held["architecture"])
    tied = ties(network)
    needed = {name: tensor for name, tensor in tensors(network).items() if name not in tied}
    if sum(tensor.numel() for tensor in needed.values()) > _MOST_NUMBERS:
        raise ExportError(f"a baseline may have {_MOST_NUMBERS} numbers, but this one has more: time it by other means")
    generator = torch.Generator().manual_seed(0)
    fill(network, {name: _value(name, tensor, generator) for name, tensor in needed.items()})
    return network.eval(), drawn_inputs(held["inputs"])


def _value(name: str, like: Tensor, generator: torch.Generator) -> Tensor:
    """Weights of a usual size; variances must be positive, and indices must point somewhere."""
    if not like.dtype.is_floating_point:
        return torch.zeros(like.shape, dtype=like.dtype)
    if name.endswith("running_var"):
        return torch.ones(like.shape, dtype=like.dtype)
    return (torch.randn(like.shape, generator=generator) * 0.05).to(like.dtype)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and abs(value) <= _FARTHEST


def _drawn(data: object, generator: torch.Generator) -> Tensor:
    if not isinstance(data, Mapping) or set(data) != {"shape", "dtype", "range"}:
        raise ExportError(f"an input in {BASELINE} must be {{shape, dtype, range}}, but is not: export it again")
    shape, ends, dtype = data["shape"], data["range"], dtype_named(data["dtype"])
    sizes_fit = isinstance(shape, list) and all(type(n) is int and 0 < n <= 2**24 for n in shape) and len(shape) <= 8
    ends_fit = isinstance(ends, list) and len(ends) == 2 and all(map(_is_number, ends))
    if not sizes_fit or not ends_fit or torch.Size(shape).numel() > _MOST_NUMBERS:
        raise ExportError(f"an input in {BASELINE} must have a shape and a range, but has not: export it again")
    low, high = float(ends[0]), float(ends[1])
    if dtype.is_floating_point:
        return (low + (high - low) * torch.rand(shape, generator=generator)).to(dtype)
    if dtype == torch.bool:
        return torch.ones(shape, dtype=dtype)
    first, last = int(low), max(int(high), int(low))
    return torch.randint(first, last + 1, shape, generator=generator).to(dtype)
