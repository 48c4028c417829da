"""Layers that hold their weights as codes, written out in plain operations for formats that know nothing of codes.

What comes out is the same: the weights are what the codes stand for, and inputs are rounded as the layer rounds them.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from search.surgery import granularity_codes as codes
from search.surgery.granularity_dynamic import MovingLayer
from search.surgery.granularity_layers import CodedLayer


class WrittenOut(nn.Module):
    """A layer of codes as the sums that it computes.

    Args:
        layer: What it stands for.
        rounding: Whether inputs are rounded; without, only the weights are those of the codes.
    """

    order: Tensor | None

    def __init__(self, layer: CodedLayer, *, rounding: bool) -> None:
        super().__init__()
        working = layer._unpacked()
        self.layer, self.rounding = layer, rounding and layer.activations != "none"
        whole = working.weight.float() * codes.rows(working.scale, working.weight) if len(working.weight) else None
        for name, part in {"of_codes": whole, "of_half": working.half, "of_full": working.full}.items():
            self.register_buffer(name, None if part is None else part.float().clone())
        self.register_buffer("order", working.order)
        self.half_type = torch.float32 if working.half is None else working.half.dtype

    def forward(self, x: Tensor) -> Tensor:
        """What the layer computes."""
        parts, dim = [], -self.layer.sample_dims
        of_codes, of_half, of_full = (self._buffers[name] for name in ("of_codes", "of_half", "of_full"))
        if of_codes is not None:
            parts.append(self.layer.compute(self._rounded(x), of_codes, None))
        if of_half is not None:
            parts.append(self.layer.compute(x.to(self.half_type).to(x.dtype) if self.rounding else x, of_half, None))
        if of_full is not None:
            parts.append(self.layer.compute(x, of_full, None))
        result = parts[0] if len(parts) == 1 else torch.cat(parts, dim)
        if self.order is not None:
            result = result.index_select(result.dim() + dim, self.order)
        bias = self.layer.bias
        return result if bias is None else result + codes.along(bias, result, dim)

    def _rounded(self, x: Tensor) -> Tensor:
        if not self.rounding:
            return x
        scale = self.layer.x_scale(x)
        return codes.encode_input(x, scale) * scale


def lowered(network: nn.Module, *, rounding: bool = True) -> nn.Module:
    """The network, or a copy in which layers of codes are written out; those that go on choosing are left alone."""
    held = {name: m for name, m in network.named_modules() if isinstance(m, CodedLayer)}
    done = {f"{name}.layer" for name, module in network.named_modules() if isinstance(module, WrittenOut)}
    held = {name: m for name, m in held.items() if name not in done and not isinstance(m, MovingLayer)}
    if not held:
        return network
    copied = copy.deepcopy(network)
    for name in held:
        parent, _, attribute = name.rpartition(".")
        layer = copied.get_submodule(name)
        assert isinstance(layer, CodedLayer)
        setattr(copied.get_submodule(parent), attribute, WrittenOut(layer, rounding=rounding).eval())
    return copied.eval()


def rounds(network: nn.Module) -> bool:
    """Whether any layer rounds its inputs."""
    return any(isinstance(m, CodedLayer) and m.activations != "none" for m in network.modules())
