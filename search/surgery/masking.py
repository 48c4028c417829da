"""Masks put to numbers, as fast as memory allows: in parts that stay in a processor's cache."""

from __future__ import annotations

import torch
from torch import Tensor

#: So many entries are worked on at a time on a processor.
PART = 1 << 17


def in_memory_order(tensor: Tensor) -> Tensor | None:
    """(entries,) a view of a tensor in the order in which it lies in memory; None where it lies with gaps."""
    strides = tensor.stride()
    order = sorted(range(tensor.ndim), key=lambda d: (-strides[d], -tensor.shape[d]))
    ordered = tensor.permute(order)
    return ordered.view(-1) if ordered.is_contiguous() else None


def alike(*tensors: Tensor) -> list[Tensor] | None:
    """Views of several tensors in the one order in which all lie in a processor's memory; None where they do not."""
    if any(t.device.type != "cpu" or t.stride() != tensors[0].stride() for t in tensors):
        return None
    flat = [in_memory_order(tensor) for tensor in tensors]
    return None if flat[0] is None else [each for each in flat if each is not None]


def keep(values: Tensor, mask: Tensor) -> None:
    """Set to 0, in place, what is not in the mask; what is no number there stays none.

    Args:
        values: Floating point.
        mask: Boolean, of the same shape.
    """
    flat = alike(values, mask)
    if flat is None:
        values.mul_(mask)
        return
    # A product with booleans converts them one by one; a copy converts many at once.
    factors = torch.empty(min(PART, values.numel()), dtype=values.dtype)
    parts = zip(torch.split(flat[0], PART), torch.split(flat[1].view(torch.uint8), PART), strict=True)
    for part, kept in parts:
        part.mul_(factors[: len(part)].copy_(kept))
