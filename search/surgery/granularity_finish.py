"""From layers with a precision to layers of codes: what has rounded to zero is booked, what runs is what is held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search.surgery.channel import Channel
from search.surgery.connectivity import Connectivity
from search.surgery.granularity_codes import quantized
from search.surgery.granularity_dynamic import MovingConvolution, MovingLayer, MovingLinear
from search.surgery.granularity_layers import CodedConvolution, CodedLayer, CodedLinear
from search.surgery.granularity_rows import decoded, runs, segments
from search.surgery.granularity_units import Grain, units
from spaces.errors import NetworkError

_NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}


@torch.no_grad()
def enter_rounded(network: nn.Module, connectivity: Connectivity) -> int:
    """Book active weights that are 0 at their level as pruned (reason ``zero``); no output changes by it.

    Returns:
        How many.
    """
    count = 0
    for name, layer in units(network).items():
        weight: Tensor = layer.weight
        grain: Grain = layer.grain
        bits = grain.held_bits()
        parts = []
        for kind, start, stop in segments(bits):
            part = weight[start:stop]
            coded = kind == "coded"
            parts.append(decoded(part, bits[start:stop]) if coded else quantized(part, bits[start], grain.half))
        count += connectivity.prune(f"{name}.weight", torch.cat(parts) == 0, "finalize", "zero")
    return count


def replace_units(network: nn.Module, taken: Mapping[str, Grain], closed: Iterable[Channel]) -> None:
    """Put layers of codes where layers had a precision; those in float32 stay what they are.

    Args:
        network: Edited in place; its layers are plain, and channels have been removed.
        taken: How fine each layer was before channels went, by name.
        closed: The channels that went.

    Raises:
        NetworkError: If more or fewer rows are left of a layer than its channels say.
    """
    closed = list(closed)
    names: dict[int, list[str]] = {}
    for name, module in network.named_modules(remove_duplicate=False):
        names.setdefault(id(module), []).append(name)
    for name, grain in taken.items():
        layer: Any = network.get_submodule(name)
        keep = torch.ones(sum(grain.counts), dtype=torch.bool)
        for weight, index in (part for channel in closed for part in channel.produced):
            if weight == f"{name}.weight" and len(index) == 1:
                keep[index[0].cpu()] = False
        bits = [level for level, stays in zip(grain.row_bits(), keep.tolist(), strict=True) if stays]
        if len(bits) != layer.weight.shape[0]:
            raise NetworkError(
                f"{name} must have {len(bits)} output channels left, but has {layer.weight.shape[0]}: "
                "use granularity.group = layer with this network"
            )
        if min(bits) < 32:
            coded = _moving(layer, grain, keep) if grain.stays_moving else _coded(layer, grain, bits)
            for each in names[id(layer)]:
                owner, _, atom = each.rpartition(".")
                setattr(network.get_submodule(owner), atom, coded)


def _coded(layer: Any, grain: Grain, bits: list[int]) -> CodedLayer:
    common: dict[str, Any] = {"rows": runs(bits), "activations": grain.activations, "half": _NAMES[grain.half]}
    built: CodedLayer
    if isinstance(layer, nn.Linear):
        built = CodedLinear(layer.in_features, layer.out_features, layer.bias is not None, **common)
    else:
        built = CodedConvolution(**_geometry(layer), **common)
    built.hold(layer.weight.detach(), layer.bias, grain.range)
    return built.train(layer.training)


def _moving(layer: Any, grain: Grain, keep: Tensor) -> CodedLayer:
    moves = grain.moves
    if moves is None:
        raise ValueError("a layer that moves must say how: set grain.moves")
    left = [int(part.sum()) for part in keep.split(list(grain.counts))]  # type: ignore[no-untyped-call]
    units = [(count, bits) for count, bits in zip(left, grain.bits, strict=True) if count]
    common: dict[str, Any] = {"activations": grain.activations, "counts": tuple(count for count, _ in units)}
    common |= {"levels": moves.levels, "thresholds": moves.thresholds, "dwell": moves.dwell}
    built: MovingLayer
    if isinstance(layer, nn.Linear):
        built = MovingLinear(layer.in_features, layer.out_features, layer.bias is not None, **common)
    else:
        built = MovingConvolution(**_geometry(layer), **common)
    built.hold(layer.weight.detach(), layer.bias, grain.range)
    built.begin([bits for _, bits in units], moves.variance)
    return built.train(layer.training)


def _geometry(layer: Any) -> dict[str, Any]:
    names = "in_channels out_channels kernel_size stride padding dilation groups padding_mode"
    return {name: getattr(layer, name) for name in names.split()} | {"bias": layer.bias is not None}
