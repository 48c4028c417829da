"""ONNX's operators in PyTorch: one function each, in one table. What has weights becomes a module, the rest a call."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from objectives.tasks.onnx_values import Value

Inputs = Sequence[Value | None]
Attributes = Mapping[str, Any]
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORMS: Mapping[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_MAXIMA = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEANS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


class Conversion:
    """The PyTorch network while it grows.

    Args:
        root: Holds modules and constants.
        graph: The graph so far.
        opset: Of the file.
    """

    def __init__(self, root: nn.Module, graph: fx.Graph, opset: int) -> None:
        self.root, self.graph, self.opset = root, graph, opset
        self._count: dict[str, int] = {}

    def module(self, kind: str, module: nn.Module, *values: Value) -> Value:
        """Call a new module."""
        name = self._name(kind)
        self.root.add_module(name, module.eval())
        node = self.graph.call_module(name, tuple(self.argument(v) for v in values))
        runs = tuple(module(*(v.runs[i] for v in values)) for i in range(2))
        return Value((runs[0], runs[1]), node)

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Value:
        """Call a function; arguments that are values stand for what they compute."""
        node = self.graph.call_function(
            function, tuple(map(self._deep, args)), {k: self._deep(v) for k, v in kwargs.items()}
        )
        runs = [function(*(_at(a, i) for a in args), **{k: _at(v, i) for k, v in kwargs.items()}) for i in range(2)]
        return Value((runs[0], runs[1]), node)

    def argument(self, value: Value) -> Any:
        """A value in the graph: its node, or a constant stored in the network."""
        if value.node is not None:
            return value.node
        stored = value.constant
        if stored is None:
            raise ValueError("sizes of the batch used as numbers")
        if stored.dim() == 0 and not value.stored:
            return stored.item()
        name = self._name("constant")
        if stored.is_floating_point() and value.stored:
            self.root.register_parameter(name, nn.Parameter(stored.clone()))
        else:
            self.root.register_buffer(name, stored.clone())
        return self.graph.get_attr(name)

    def _deep(self, value: Any) -> Any:
        if isinstance(value, Value):
            return self.argument(value)
        return type(value)(map(self._deep, value)) if isinstance(value, list | tuple) else value

    def _name(self, kind: str) -> str:
        self._count[kind] = self._count.get(kind, 0) + 1
        return f"{kind}{self._count[kind]}"


Operator = Callable[[Conversion, Inputs, Attributes, bool], list[Value]]


def _at(value: Any, index: int) -> Any:
    if isinstance(value, Value):
        return value.runs[index]
    return type(value)(_at(v, index) for v in value) if isinstance(value, list | tuple) else value


def _plain(function: Callable[..., Any]) -> Operator:
    """An operator that is a function of its inputs alone."""
    return lambda to, inputs, attributes, alone: [to.call(function, *(x for x in inputs if x is not None))]


def _first(inputs: Inputs) -> Value:
    value = inputs[0]
    if value is None:
        raise ValueError("no input")
    return value


def _weights(value: Value | None) -> Tensor:
    tensor = value.constant if value is not None else None
    if tensor is None:
        raise ValueError("weights that are computed")
    return tensor.clone()


def _optional(inputs: Inputs, index: int) -> Value | None:
    return inputs[index] if len(inputs) > index else None


# -- layers ----------------------------------------------------------------------------------------------------------


def _padded(to: Conversion, x: Value, attributes: Attributes, dims: int, fill: float = 0.0) -> tuple[Value, list[int]]:
    """The input and the symmetric padding that a layer can do itself; an uneven one is done before it."""
    pads = list(attributes.get("pads", [0] * 2 * dims))
    mode = attributes.get("auto_pad", "NOTSET")
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        strides, dilations = attributes.get("strides", [1] * dims), attributes.get("dilations", [1] * dims)
        begin, end = [], []
        for size, kernel, stride, dilation in zip(
            x.runs[0].shape[2:], attributes["kernel_shape"], strides, dilations, strict=True
        ):
            total = max(0, (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size)
            small, large = total // 2, total - total // 2
            begin.append(small if mode == "SAME_UPPER" else large)
            end.append(large if mode == "SAME_UPPER" else small)
        pads = begin + end
    elif mode == "VALID":
        pads = [0] * 2 * dims
    begin, end = pads[:dims], pads[dims:]
    if begin == end:
        return x, begin
    widths = [width for pair in reversed(list(zip(begin, end, strict=True))) for width in pair]
    return to.call(F.pad, x, widths, "constant", fill), [0] * dims


def _convolution(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    weight, bias = _weights(inputs[1]), _optional(inputs, 2)
    dims = weight.dim() - 2
    groups = attributes.get("group", 1)
    attributes = {"kernel_shape": list(weight.shape[2:]), **attributes}
    x, padding = _padded(to, _first(inputs), attributes, dims)
    kind: Any = _CONVOLUTIONS[dims]
    layer = kind(
        weight.shape[1] * groups,
        weight.shape[0],
        tuple(weight.shape[2:]),
        stride=tuple(attributes.get("strides", [1] * dims)),
        padding=tuple(padding),
        dilation=tuple(attributes.get("dilations", [1] * dims)),
        groups=groups,
        bias=bias is not None,
    )
    return [to.module("conv", _filled(layer, weight, bias), x)]


def _transposed(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    weight, bias = _weights(inputs[1]), _optional(inputs, 2)
    dims, groups = weight.dim() - 2, attributes.get("group", 1)
    pads = attributes.get("pads", [0] * 2 * dims)
    if pads[:dims] != pads[dims:] or "output_shape" in attributes or attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise ValueError("uneven padding of a transposed convolution")
    kind: Any = _TRANSPOSED[dims]
    layer = kind(
        weight.shape[0],
        weight.shape[1] * groups,
        tuple(weight.shape[2:]),
        stride=tuple(attributes.get("strides", [1] * dims)),
        padding=tuple(pads[:dims]),
        output_padding=tuple(attributes.get("output_padding", [0] * dims)),
        dilation=tuple(attributes.get("dilations", [1] * dims)),
        groups=groups,
        bias=bias is not None,
    )
    return [to.module("conv", _filled(layer, weight, bias), _first(inputs))]


def _filled(layer: nn.Module, weight: Tensor, bias: Value | None) -> nn.Module:
    with torch.no_grad():
        layer.get_parameter("weight").copy_(weight)
        if bias is not None:
            layer.get_parameter("bias").copy_(_weights(bias).reshape(-1))
    return layer


def _linear(weight_OI: Tensor, bias: Value | None) -> nn.Module:
    layer = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=bias is not None)
    return _filled(layer, weight_OI, bias)


def _gemm(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    weight, bias = _weights(inputs[1]), _optional(inputs, 2)
    weight = weight if attributes.get("transB", 0) else weight.T
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    x = to.call(torch.t, _first(inputs)) if attributes.get("transA", 0) else _first(inputs)
    if bias is not None and (_weights(bias).numel() != weight.shape[0] or beta != 1.0):
        product = to.module("linear", _linear(alpha * weight, None), x)
        return [to.call(torch.add, product, bias, alpha=beta)]
    return [to.module("linear", _linear(alpha * weight, bias), x)]


def _matmul(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    second = inputs[1]
    stored = second.constant if second is not None else None
    if stored is not None and stored.dim() == 2 and stored.is_floating_point():
        return [to.module("linear", _linear(stored.T, None), _first(inputs))]
    return [to.call(torch.matmul, _first(inputs), second)]


def _add(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    """A vector added to a product is that layer's bias, where nothing else reads the product."""
    for x, other in (inputs, inputs[::-1]):
        if x is None or other is None or x.node is None or not alone or x.node.op != "call_module":
            continue
        layer, vector = to.root.get_submodule(str(x.node.target)), other.constant
        if not isinstance(layer, nn.Linear) or vector is None:
            continue
        unbiased = getattr(layer, "bias", None) is None
        if unbiased and vector.numel() == vector.shape[-1:].numel():
            if vector.numel() != layer.out_features or vector.dim() > x.runs[0].dim():
                continue
            layer.bias = nn.Parameter(vector.reshape(-1).clone())
            return [Value((x.runs[0] + vector, x.runs[1] + vector), x.node)]
    return [to.call(torch.add, *(x for x in inputs if x is not None))]


def _batch_norm(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x = _first(inputs)
    if attributes.get("training_mode", 0):
        raise ValueError("training mode")
    scale, bias, mean, variance = map(_weights, inputs[1:5])
    momentum = 1.0 - attributes.get("momentum", 0.9)
    norm: Any = _NORMS[x.runs[0].dim()](scale.numel(), eps=attributes.get("epsilon", 1e-5), momentum=momentum)
    for name, value in {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}.items():
        getattr(norm, name).data.copy_(value)
    return [to.module("norm", norm, x)]


def _layer_norm(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, scale, bias = _first(inputs), _weights(inputs[1]), _optional(inputs, 2)
    axis = attributes.get("axis", -1) % x.runs[0].dim()
    shape = tuple(x.runs[0].shape[axis:])
    norm = nn.LayerNorm(shape, eps=attributes.get("epsilon", 1e-5), bias=bias is not None)
    norm.weight.data.copy_(scale.expand(shape))
    if bias is not None:
        norm.bias.data.copy_(_weights(bias).expand(shape))
    return [to.module("norm", norm, x)]


def _gather(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    table, indices, axis = _first(inputs), inputs[1], attributes.get("axis", 0)
    stored = table.constant
    if stored is not None and axis == 0 and stored.dim() == 2 and stored.is_floating_point() and indices is not None:
        layer = nn.Embedding(*stored.shape)
        return [to.module("embedding", _filled(layer, stored, None), indices)]
    known = indices.constant if indices is not None else None
    if known is None:
        raise ValueError("indices that are computed")
    if known.dim() == 0:
        return [to.call(torch.select, table, axis, int(known))]
    if known.dim() == 1:
        return [to.call(torch.index_select, table, axis, indices)]
    raise ValueError("indices of several dimensions")


# -- pooling and reductions --------------------------------------------------------------------------------------------


def _max_pool(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    kernel = attributes["kernel_shape"]
    x, padding = _padded(to, _first(inputs), attributes, len(kernel), fill=float("-inf"))
    return [
        to.call(
            _MAXIMA[len(kernel)],
            x,
            kernel,
            stride=attributes.get("strides", [1] * len(kernel)),
            padding=padding,
            dilation=attributes.get("dilations", [1] * len(kernel)),
            ceil_mode=bool(attributes.get("ceil_mode", 0)),
        )
    ]


def _average_pool(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    kernel, counted = attributes["kernel_shape"], bool(attributes.get("count_include_pad", 0))
    if set(attributes.get("dilations", [1])) != {1}:
        raise ValueError("dilated averages")
    x, padding = _padded(to, _first(inputs), attributes, len(kernel))
    if x is not inputs[0] and not counted:
        raise ValueError("uneven padding of an average that leaves it out")
    strides = attributes.get("strides", [1] * len(kernel))
    ceil = bool(attributes.get("ceil_mode", 0))
    return [to.module("pool", _MEANS[len(kernel)](kernel, strides, padding, ceil, counted), x)]


def _global_pool(kind: str) -> Operator:
    def convert(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
        dims = _first(inputs).runs[0].dim() - 2
        return [to.module("pool", getattr(nn, f"Adaptive{kind}Pool{dims}d")(1), _first(inputs))]

    return convert


def _reduction(function: Callable[..., Any]) -> Operator:
    def convert(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
        axes, given = attributes.get("axes"), _optional(inputs, 1)
        axes = given.numbers() if given is not None else axes
        x = _first(inputs)
        if axes is None:
            if attributes.get("noop_with_empty_axes", 0):
                return [x]
            axes = list(range(x.runs[0].dim()))
        return [to.call(function, x, dim=[int(axis) for axis in axes], keepdim=bool(attributes.get("keepdims", 1)))]

    return convert


def _softmax(function: Callable[..., Any]) -> Operator:
    def convert(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
        x = _first(inputs)
        if to.opset < 13:
            axis = attributes.get("axis", 1)
            if axis % x.runs[0].dim() != x.runs[0].dim() - 1:
                raise ValueError("a softmax over several dimensions")
            return [to.call(function, x, dim=-1)]
        return [to.call(function, x, dim=attributes.get("axis", -1))]

    return convert


# -- shapes ------------------------------------------------------------------------------------------------------------


def _reshape(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, wanted = _first(inputs), inputs[1]
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


def _flatten(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    axis, x = attributes.get("axis", 1), _first(inputs)
    axis %= x.runs[0].dim()
    if axis == 1:
        return [to.call(torch.flatten, x, 1)]
    if axis == 0:
        raise ValueError("a batch flattened with its samples")
    return [to.call(torch.flatten, to.call(torch.flatten, x, axis), 0, axis - 1)]


def _transpose(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x = _first(inputs)
    order = attributes.get("perm", list(reversed(range(x.runs[0].dim()))))
    return [to.call(torch.permute, x, order)]


def _axes(inputs: Inputs, attributes: Attributes) -> list[int] | None:
    given = _optional(inputs, 1)
    found = given.numbers() if given is not None else attributes.get("axes")
    return None if found is None else [int(axis) for axis in found]


def _squeeze(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, axes = _first(inputs), _axes(inputs, attributes)
    if axes is None:
        axes = [axis for axis, size in enumerate(x.runs[0].shape) if size == 1]
    return [to.call(torch.squeeze, x, tuple(axes))]


def _unsqueeze(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, axes = _first(inputs), _axes(inputs, attributes) or []
    rank = x.runs[0].dim() + len(axes)
    for axis in sorted(axis % rank for axis in axes):
        x = to.call(torch.unsqueeze, x, axis)
    return [x]


def _concat(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    return [to.call(torch.cat, [x for x in inputs if x is not None], attributes["axis"])]


def _slice(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x = _first(inputs)
    starts, ends = (v.numbers() for v in inputs[1:3] if v is not None)
    axes, steps = _optional(inputs, 3), _optional(inputs, 4)
    where = axes.numbers() if axes is not None else list(range(len(starts)))
    pace = steps.numbers() if steps is not None else [1] * len(starts)
    index: list[Any] = [slice(None)] * x.runs[0].dim()
    for axis, start, end, step in zip(where, starts, ends, pace, strict=True):
        if step < 1:
            raise ValueError("a slice that goes backwards")
        size = x.runs[0].shape[axis]
        index[axis] = slice(start or None, None if end >= size and end > 0 else end, None if step == 1 else step)
    return [to.call(operator.getitem, x, tuple(index))]


def _split(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, axis, sizes = _first(inputs), attributes.get("axis", 0), _optional(inputs, 1)
    parts = sizes.numbers() if sizes is not None else attributes.get("split")
    if parts is None:
        raise ValueError("a split into parts of unknown sizes")
    whole = to.call(torch.split, x, [int(part) for part in parts], axis)
    return [to.call(operator.getitem, whole, i) for i in range(len(parts))]


def _pad(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, mode = _first(inputs), attributes.get("mode", "constant")
    given, fill, axes = _optional(inputs, 1), _optional(inputs, 2), _optional(inputs, 3)
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


def _expand(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, wanted = _first(inputs), inputs[1]
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


def _cast(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 11: torch.float64}
    return [to.call(_METHODS[kinds[attributes["to"]]], _first(inputs))]


# -- non-linearities ---------------------------------------------------------------------------------------------------


def _clip(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    low, high = _optional(inputs, 1), _optional(inputs, 2)
    least = float(low.numbers()[0]) if low is not None else attributes.get("min")
    most = float(high.numbers()[0]) if high is not None else attributes.get("max")
    return [to.call(torch.clamp, _first(inputs), least, most)]


def _with(function: Callable[..., Any], **defaults: tuple[str, float]) -> Operator:
    """A function with options: PyTorch's name, ONNX's name and ONNX's default of each."""

    def convert(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
        options = {ours: attributes.get(theirs, default) for ours, (theirs, default) in defaults.items()}
        return [to.call(function, _first(inputs), **options)]

    return convert


def _prelu(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    slope = _weights(inputs[1]).reshape(-1)
    layer = nn.PReLU(slope.numel())
    layer.weight.data.copy_(slope)
    return [to.module("prelu", layer, _first(inputs))]


def _hard_sigmoid(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return [to.call(F.hardsigmoid, _first(inputs))]
    line = to.call(torch.add, to.call(torch.mul, _first(inputs), alpha), beta)
    return [to.call(torch.clamp, line, 0.0, 1.0)]


def _gelu(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    return [to.call(F.gelu, _first(inputs), approximate=attributes.get("approximate", "none"))]


def _same(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    return [_first(inputs)]


def _dropout(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    share = _optional(inputs, 1)
    p = float(share.numbers()[0]) if share is not None else attributes.get("ratio", 0.5)
    return [to.module("dropout", nn.Dropout(p), _first(inputs))]


_METHODS: Mapping[torch.dtype, Callable[..., Any]] = {
    torch.float32: torch.Tensor.float,
    torch.int32: torch.Tensor.int,
    torch.int64: torch.Tensor.long,
    torch.bool: torch.Tensor.bool,
    torch.float64: torch.Tensor.double,
}

OPERATORS: Mapping[str, Operator] = {
    "Abs": _plain(torch.abs),
    "Add": _add,
    "And": _plain(torch.logical_and),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Ceil": _plain(torch.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _convolution,
    "ConvTranspose": _transposed,
    "Cos": _plain(torch.cos),
    "Div": _plain(torch.div),
    "Dropout": _dropout,
    "Elu": _with(F.elu, alpha=("alpha", 1.0)),
    "Equal": _plain(torch.eq),
    "Erf": _plain(torch.erf),
    "Exp": _plain(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _plain(torch.floor),
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("Avg"),
    "GlobalMaxPool": _global_pool("Max"),
    "Greater": _plain(torch.gt),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _plain(F.hardswish),
    "Identity": _same,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": _with(F.leaky_relu, negative_slope=("alpha", 0.01)),
    "Less": _plain(torch.lt),
    "Log": _plain(torch.log),
    "LogSoftmax": _softmax(F.log_softmax),
    "MatMul": _matmul,
    "Max": _plain(torch.maximum),
    "MaxPool": _max_pool,
    "Min": _plain(torch.minimum),
    "Mish": _plain(F.mish),
    "Mul": _plain(torch.mul),
    "Neg": _plain(torch.neg),
    "Not": _plain(torch.logical_not),
    "Or": _plain(torch.logical_or),
    "PRelu": _prelu,
    "Pad": _pad,
    "Pow": _plain(torch.pow),
    "Reciprocal": _plain(torch.reciprocal),
    "ReduceMax": _reduction(torch.amax),
    "ReduceMean": _reduction(torch.mean),
    "ReduceMin": _reduction(torch.amin),
    "ReduceSum": _reduction(torch.sum),
    "Relu": _plain(F.relu),
    "Reshape": _reshape,
    "Round": _plain(torch.round),
    "Selu": _plain(F.selu),
    "Sigmoid": _plain(torch.sigmoid),
    "Sign": _plain(torch.sign),
    "Sin": _plain(torch.sin),
    "Slice": _slice,
    "Softmax": _softmax(F.softmax),
    "Softplus": _plain(F.softplus),
    "Softsign": _plain(F.softsign),
    "Split": _split,
    "Sqrt": _plain(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _plain(torch.sub),
    "Tanh": _plain(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _plain(torch.where),
}
