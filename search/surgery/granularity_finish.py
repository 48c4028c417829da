"""From layers with a precision to layers of codes: what has rounded to zero is booked, what runs is what is held."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from search.surgery.channel import Channel
from search.surgery.connectivity import Connectivity
from search.surgery.granularity_codes import quantized
from search.surgery.granularity_layers import CodedConvolution, CodedLayer, CodedLinear, runs
from search.surgery.granularity_units import Grain, decoded, segments, units
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
        bits = grain.row_bits()
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
            coded = _coded(layer, grain, bits)
            for each in names[id(layer)]:
                owner, _, atom = each.rpartition(".")
                setattr(network.get_submodule(owner), atom, coded)


def _coded(layer: Any, grain: Grain, bits: list[int]) -> CodedLayer:
    common = (runs(bits), grain.activations, _NAMES[grain.half])
    built: CodedLayer
    if isinstance(layer, nn.Linear):
        built = CodedLinear(layer.in_features, layer.out_features, layer.bias is not None, *common)
    else:
        built = CodedConvolution(
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            *common,
        )
    built.hold(layer.weight.detach(), layer.bias, grain.range)
    return built.train(layer.training)
