"""ONNX's operators that have weights, windows or sums: what has weights becomes a module, the rest a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from objectives.tasks.onnx_conversion import (
    Attributes,
    Conversion,
    Inputs,
    Operator,
    constant_of,
    input_of,
    optional_input,
)
from objectives.tasks.onnx_values import Value

_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORMS: Mapping[int, type[nn.Module]] = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_MAXIMA = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEANS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


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


def convolution(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    weight, bias = constant_of(inputs[1]), optional_input(inputs, 2)
    dims = weight.dim() - 2
    groups = attributes.get("group", 1)
    attributes = {"kernel_shape": list(weight.shape[2:]), **attributes}
    x, padding = _padded(to, input_of(inputs), attributes, dims)
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


def transposed(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    weight, bias = constant_of(inputs[1]), optional_input(inputs, 2)
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
    return [to.module("conv", _filled(layer, weight, bias), input_of(inputs))]


def _filled(layer: nn.Module, weight: Tensor, bias: Value | None) -> nn.Module:
    with torch.no_grad():
        layer.get_parameter("weight").copy_(weight)
        if bias is not None:
            layer.get_parameter("bias").copy_(constant_of(bias).reshape(-1))
    return layer


def _linear(weight_OI: Tensor, bias: Value | None) -> nn.Module:
    layer = nn.Linear(weight_OI.shape[1], weight_OI.shape[0], bias=bias is not None)
    return _filled(layer, weight_OI, bias)


def gemm(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    weight, bias = constant_of(inputs[1]), optional_input(inputs, 2)
    weight = weight if attributes.get("transB", 0) else weight.T
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    x = to.call(torch.t, input_of(inputs)) if attributes.get("transA", 0) else input_of(inputs)
    if bias is not None and (constant_of(bias).numel() != weight.shape[0] or beta != 1.0):
        product = to.module("linear", _linear(alpha * weight, None), x)
        return [to.call(torch.add, product, bias, alpha=beta)]
    return [to.module("linear", _linear(alpha * weight, bias), x)]


def matmul(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    second = inputs[1]
    stored = second.constant if second is not None else None
    if stored is not None and stored.dim() == 2 and stored.is_floating_point():
        return [to.module("linear", _linear(stored.T, None), input_of(inputs))]
    return [to.call(torch.matmul, input_of(inputs), second)]


def add(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
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


def batch_norm(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x = input_of(inputs)
    if attributes.get("training_mode", 0):
        raise ValueError("training mode")
    scale, bias, mean, variance = map(constant_of, inputs[1:5])
    momentum = 1.0 - attributes.get("momentum", 0.9)
    norm: Any = _NORMS[x.runs[0].dim()](scale.numel(), eps=attributes.get("epsilon", 1e-5), momentum=momentum)
    for name, value in {"weight": scale, "bias": bias, "running_mean": mean, "running_var": variance}.items():
        getattr(norm, name).data.copy_(value)
    return [to.module("norm", norm, x)]


def layer_norm(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    x, scale, bias = input_of(inputs), constant_of(inputs[1]), optional_input(inputs, 2)
    axis = attributes.get("axis", -1) % x.runs[0].dim()
    shape = tuple(x.runs[0].shape[axis:])
    norm = nn.LayerNorm(shape, eps=attributes.get("epsilon", 1e-5), bias=bias is not None)
    norm.weight.data.copy_(scale.expand(shape))
    if bias is not None:
        norm.bias.data.copy_(constant_of(bias).expand(shape))
    return [to.module("norm", norm, x)]


def gather(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    table, indices, axis = input_of(inputs), inputs[1], attributes.get("axis", 0)
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


def max_pool(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    kernel = attributes["kernel_shape"]
    x, padding = _padded(to, input_of(inputs), attributes, len(kernel), fill=float("-inf"))
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


def average_pool(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    kernel, counted = attributes["kernel_shape"], bool(attributes.get("count_include_pad", 0))
    if set(attributes.get("dilations", [1])) != {1}:
        raise ValueError("dilated averages")
    x, padding = _padded(to, input_of(inputs), attributes, len(kernel))
    if x is not inputs[0] and not counted:
        raise ValueError("uneven padding of an average that leaves it out")
    strides = attributes.get("strides", [1] * len(kernel))
    ceil = bool(attributes.get("ceil_mode", 0))
    return [to.module("pool", _MEANS[len(kernel)](kernel, strides, padding, ceil, counted), x)]


def global_pool(kind: str) -> Operator:
    def convert(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
        dims = input_of(inputs).runs[0].dim() - 2
        return [to.module("pool", getattr(nn, f"Adaptive{kind}Pool{dims}d")(1), input_of(inputs))]

    return convert


def reduction(function: Callable[..., Any]) -> Operator:
    def convert(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
        axes, given = attributes.get("axes"), optional_input(inputs, 1)
        axes = given.numbers() if given is not None else axes
        x = input_of(inputs)
        if axes is None:
            if attributes.get("noop_with_empty_axes", 0):
                return [x]
            axes = list(range(x.runs[0].dim()))
        return [to.call(function, x, dim=[int(axis) for axis in axes], keepdim=bool(attributes.get("keepdims", 1)))]

    return convert


def softmax(function: Callable[..., Any]) -> Operator:
    def convert(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
        x = input_of(inputs)
        if to.opset < 13:
            axis = attributes.get("axis", 1)
            if axis % x.runs[0].dim() != x.runs[0].dim() - 1:
                raise ValueError("a softmax over several dimensions")
            return [to.call(function, x, dim=-1)]
        return [to.call(function, x, dim=attributes.get("axis", -1))]

    return convert
