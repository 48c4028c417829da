"""ONNX's operators that move and cast numbers and compute none."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F

from objectives.tasks.onnx_conversion import Attributes, Conversion, Inputs, input_of, optional_input
from objectives.tasks.onnx_values import Value

_METHODS: Mapping[torch.dtype, Callable[..., Any]] = {
    torch.float32: torch.Tensor.float,
    torch.int32: torch.Tensor.int,
    torch.int64: torch.Tensor.long,
    torch.bool: torch.Tensor.bool,
    torch.float64: torch.Tensor.double,
}


def reshape(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, wanted = input_of(inputs), inputs[1]
    if wanted is None:
        raise ValueError("no shape")
    sizes = wanted.sizes()
    before, after = (list(run.shape) for run in x.runs)
    if not attributes.get("allowzero", 0):
        grows = [-1 if a != b else a for a, b in zip(before, after, strict=True)]
        sizes = [grows[i] if size == 0 else size for i, size in enumerate(sizes)]
    # A file for one batch size has it as a number: the first one then stands for any.
    if -1 not in sizes and torch.Size(sizes).numel() != x.runs[0].numel():
        sizes = [-1, *sizes[1:]]
    if sizes.count(-1) > 1:
        # One follows from the other where the batch comes first and stays there.
        batch = to.call(getattr, x, "shape")
        first = to.call(operator.getitem, batch, 0)
        known = [first if i == 0 and size == -1 else size for i, size in enumerate(sizes)]
        return [to.call(torch.reshape, x, known)]
    return [to.call(torch.reshape, x, sizes)]


def flatten(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    axis, x = attributes.get("axis", 1), input_of(inputs)
    axis %= x.runs[0].dim()
    if axis == 1:
        return [to.call(torch.flatten, x, 1)]
    if axis == 0:
        raise ValueError("a batch flattened with its samples")
    return [to.call(torch.flatten, to.call(torch.flatten, x, axis), 0, axis - 1)]


def transpose(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x = input_of(inputs)
    order = attributes.get("perm", list(reversed(range(x.runs[0].dim()))))
    return [to.call(torch.permute, x, order)]


def _axes(inputs: Inputs, attributes: Attributes) -> list[int] | None:
    given = optional_input(inputs, 1)
    found = given.numbers() if given is not None else attributes.get("axes")
    return None if found is None else [int(axis) for axis in found]


def squeeze(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, axes = input_of(inputs), _axes(inputs, attributes)
    if axes is None:
        axes = [axis for axis, size in enumerate(x.runs[0].shape) if size == 1]
    return [to.call(torch.squeeze, x, tuple(axes))]


def unsqueeze(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, axes = input_of(inputs), _axes(inputs, attributes) or []
    rank = x.runs[0].dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = to.call(torch.unsqueeze, x, axis)
    return [x]


def concat(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    return [to.call(torch.cat, [x for x in inputs if x is not None], attributes["axis"])]


def sliced(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x = input_of(inputs)
    starts, ends = (v.numbers() for v in inputs[1:3] if v is not None)
    axes, steps = optional_input(inputs, 3), optional_input(inputs, 4)
    where = axes.numbers() if axes is not None else list(range(len(starts)))
    pace = steps.numbers() if steps is not None else [1] * len(starts)
    index: list[Any] = [slice(None)] * x.runs[0].dim()
    for axis, start, end, step in zip(where, starts, ends, pace, strict=True):
        if step < 1:
            raise ValueError("a slice that goes backwards")
        size = x.runs[0].shape[axis]
        index[axis] = slice(start or None, None if end >= size and end > 0 else end, None if step == 1 else step)
    return [to.call(operator.getitem, x, tuple(index))]


def split(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, axis, sizes = input_of(inputs), attributes.get("axis", 0), optional_input(inputs, 1)
    parts = sizes.numbers() if sizes is not None else attributes.get("split")
    if parts is None:
        raise ValueError("a split into parts of unknown sizes")
    whole = to.call(torch.split, x, [int(part) for part in parts], axis)
    return [to.call(operator.getitem, whole, i) for i in range(len(parts))]


def pad(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, mode = input_of(inputs), attributes.get("mode", "constant")
    given, fill, axes = optional_input(inputs, 1), optional_input(inputs, 2), optional_input(inputs, 3)
    widths = [int(w) for w in (given.numbers() if given is not None else attributes["pads"])]
    rank = x.runs[0].dim()
    where = [int(a) % rank for a in axes.numbers()] if axes is not None else list(range(rank))
    pairs = dict.fromkeys(range(rank), (0, 0))
    pairs |= {axis: (widths[i], widths[i + len(where)]) for i, axis in enumerate(where)}
    flat = [width for axis in reversed(range(rank)) for width in pairs[axis]]
    while len(flat) > 2 and flat[-2:] == [0, 0]:
        flat = flat[:-2]
    value = float(fill.numbers()[0]) if fill is not None else 0.0
    names = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}
    return [to.call(F.pad, x, flat, names[mode], *([value] if mode == "constant" else []))]


def expand(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, wanted = input_of(inputs), inputs[1]
    if wanted is None:
        raise ValueError("no shape")
    runs = [
        torch.broadcast_shapes(run.shape, tuple(int(n) for n in shape))  # type: ignore[no-untyped-call]
        for run, shape in zip(x.runs, wanted.runs, strict=True)
    ]
    rank = len(runs[0]) - x.runs[0].dim()
    sizes = [b if b == c else -1 for b, c in zip(*runs, strict=True)]
    if any(size == -1 and i < rank for i, size in enumerate(sizes)):
        raise ValueError("an expansion to the size of the batch")
    return [to.call(torch.broadcast_to, x, sizes)]


def cast(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
    return [to.call(_METHODS[kinds[attributes["to"]]], input_of(inputs))]
