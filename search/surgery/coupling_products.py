"""Labels in products of matrices, and in attention, which is two of them: what is summed over is used up."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from search.surgery.labels import Layers, Marked, varying
from search.surgery.meeting import across, argument, met, opaque

if TYPE_CHECKING:
    from search.surgery.coupling import Coupling


def product(flow: Coupling, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Any:
    one, other = args[0], argument(args, kwargs, 1, "other", argument(args, kwargs, 1, "mat2", None))
    if not isinstance(one, Marked) or not isinstance(other, Marked) or min(one.value.ndim, other.value.ndim) < 2:
        return opaque(flow, args, kwargs, result)
    left, read = _operand(flow, one, result.ndim, -2)
    right, also_read = _operand(flow, other, result.ndim, -1)
    shape = result.shape
    inner = (one.value.shape[-1],)
    # What is summed over is used up, if it is labelled on both sides.
    met(flow, [Marked(torch.empty(inner), read), Marked(torch.empty(inner), also_read)], torch.Size(inner))
    batch = torch.Size([*shape[:-2], 1, 1])
    sides = [
        Marked(torch.empty([*side.value.shape[:-2], 1, 1], device="meta"), tuple(by_batch))
        for side, (by_batch, _) in ((one, left), (other, right))
    ]
    layers = [layer.expand(shape) for layer in met(flow, sides, batch)]
    return flow.mark(result, [*layers, *(free.expand(shape) for free in (*left[1], *right[1]))])


def _operand(flow: Coupling, x: Marked, ndim: int, free: int) -> tuple[tuple[list[Tensor], list[Tensor]], Layers]:
    """The layers of one factor: by batch, (..., 1, 1); along its free dimension; and along the one that is summed."""
    by_batch, along_free, along_inner = [], [], []
    inner, free = ndim - (1 if free == -2 else 2), ndim + free
    for layer in x.layers:
        layer = layer.expand([*[1] * (ndim - layer.ndim), *layer.shape])
        matrix = [dim for dim in varying(layer) if dim >= ndim - 2]
        batch = [dim for dim in varying(layer) if dim < ndim - 2]
        if matrix and batch:
            flow.ambiguous = True
            layer = flow.classes.unite_along(layer, matrix if flow.whole else batch)
            matrix, batch = ([], batch) if flow.whole else (matrix, [])
        if len(matrix) > 1:
            flow.classes.fix(layer)
        elif batch:
            by_batch.append(layer[..., :1, :1])
        elif matrix == [inner]:
            along_inner.append(layer.movedim(inner, 0).flatten(1)[:, 0])
        elif matrix:
            for dim in range(ndim):
                layer = layer if dim == free else layer.narrow(dim, 0, 1)
            along_free.append(layer)
    return (by_batch, along_free), tuple(along_inner)


def attention(flow: Coupling, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Any:
    query, key, value = (argument(args, kwargs, i, name, None) for i, name in enumerate(("query", "key", "value")))
    if query.value.ndim < 4:
        return opaque(flow, args, kwargs, result)
    if kwargs.get("enable_gqa"):
        # Several heads of queries read one of keys and values.
        times = query.value.shape[-3] // key.value.shape[-3]
        key, value = (
            Marked(x.value.repeat_interleave(times, -3), tuple(each.repeat_interleave(times, -3) for each in x.layers))
            for x in (key, value)
        )
    turned = Marked(key.value.mT, tuple(layer.mT for layer in key.layers))
    scores: Any = product(flow, (query, turned), {}, query.value @ turned.value)
    mask = argument(args, kwargs, 3, "attn_mask", None)
    inputs = [scores] + ([mask] if isinstance(mask, Marked) else [])
    weights = flow.mark(scores.value, met(flow, inputs, scores.value.shape))
    weights = Marked(weights.value, across(flow, weights, [weights.value.ndim - 1]))
    return product(flow, (weights, value), {}, result)
