"""ONNX's operators in PyTorch: one function each, in one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from objectives.tasks.onnx_conversion import (
    Attributes,
    Conversion,
    Inputs,
    Operator,
    constant_of,
    input_of,
    optional_input,
    plain,
)
from objectives.tasks.onnx_layers import (
    add,
    average_pool,
    batch_norm,
    convolution,
    gather,
    gemm,
    global_pool,
    layer_norm,
    matmul,
    max_pool,
    reduction,
    softmax,
    transposed,
)
from objectives.tasks.onnx_shapes import (
    cast,
    concat,
    expand,
    flatten,
    pad,
    reshape,
    sliced,
    split,
    squeeze,
    transpose,
    unsqueeze,
)
from objectives.tasks.onnx_values import Value


def _clip(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    low, high = optional_input(inputs, 1), optional_input(inputs, 2)
    least = float(low.numbers()[0]) if low is not None else attributes.get("min")
    most = float(high.numbers()[0]) if high is not None else attributes.get("max")
    return [to.call(torch.clamp, input_of(inputs), least, most)]


def _with(function: Callable[..., Any], **defaults: tuple[str, float]) -> Operator:
    """A function with options: PyTorch's name, ONNX's name and ONNX's default of each."""

    def convert(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
        options = {ours: attributes.get(theirs, default) for ours, (theirs, default) in defaults.items()}
        return [to.call(function, input_of(inputs), **options)]

    return convert


def _prelu(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    slope = constant_of(inputs[1]).reshape(-1)
    layer = nn.PReLU(slope.numel())
    layer.weight.data.copy_(slope)
    return [to.module("prelu", layer, input_of(inputs))]


def _hard_sigmoid(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    if abs(alpha - 1 / 6) < 1e-6 and beta == 0.5:
        return [to.call(F.hardsigmoid, input_of(inputs))]
    line = to.call(torch.add, to.call(torch.mul, input_of(inputs), alpha), beta)
    return [to.call(torch.clamp, line, 0.0, 1.0)]


def _gelu(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    return [to.call(F.gelu, input_of(inputs), approximate=attributes.get("approximate", "none"))]


def _same(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    return [input_of(inputs)]


def _dropout(to: Conversion, inputs: Inputs, attributes: Attributes, alone: bool) -> list[Value]:
    share = optional_input(inputs, 1)
    p = float(share.numbers()[0]) if share is not None else attributes.get("ratio", 0.5)
    return [to.module("dropout", nn.Dropout(p), input_of(inputs))]


OPERATORS: Mapping[str, Operator] = {
    "Abs": plain(torch.abs),
    "Add": add,
    "And": plain(torch.logical_and),
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "Ceil": plain(torch.ceil),
    "Clip": _clip,
    "Concat": concat,
    "Conv": convolution,
    "ConvTranspose": transposed,
    "Cos": plain(torch.cos),
    "Div": plain(torch.div),
    "Dropout": _dropout,
    "Elu": _with(F.elu, alpha=("alpha", 1.0)),
    "Equal": plain(torch.eq),
    "Erf": plain(torch.erf),
    "Exp": plain(torch.exp),
    "Expand": expand,
    "Flatten": flatten,
    "Floor": plain(torch.floor),
    "Gather": gather,
    "Gelu": _gelu,
    "Gemm": gemm,
    "GlobalAveragePool": global_pool("Avg"),
    "GlobalMaxPool": global_pool("Max"),
    "Greater": plain(torch.gt),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": plain(F.hardswish),
    "Identity": _same,
    "LayerNormalization": layer_norm,
    "LeakyRelu": _with(F.leaky_relu, negative_slope=("alpha", 0.01)),
    "Less": plain(torch.lt),
    "Log": plain(torch.log),
    "LogSoftmax": softmax(F.log_softmax),
    "MatMul": matmul,
    "Max": plain(torch.maximum),
    "MaxPool": max_pool,
    "Min": plain(torch.minimum),
    "Mish": plain(F.mish),
    "Mul": plain(torch.mul),
    "Neg": plain(torch.neg),
    "Not": plain(torch.logical_not),
    "Or": plain(torch.logical_or),
    "PRelu": _prelu,
    "Pad": pad,
    "Pow": plain(torch.pow),
    "Reciprocal": plain(torch.reciprocal),
    "ReduceMax": reduction(torch.amax),
    "ReduceMean": reduction(torch.mean),
    "ReduceMin": reduction(torch.amin),
    "ReduceSum": reduction(torch.sum),
    "Relu": plain(F.relu),
    "Reshape": reshape,
    "Round": plain(torch.round),
    "Selu": plain(F.selu),
    "Sigmoid": plain(torch.sigmoid),
    "Sign": plain(torch.sign),
    "Sin": plain(torch.sin),
    "Slice": sliced,
    "Softmax": softmax(F.softmax),
    "Softplus": plain(F.softplus),
    "Softsign": plain(F.softsign),
    "Split": split,
    "Sqrt": plain(torch.sqrt),
    "Squeeze": squeeze,
    "Sub": plain(torch.sub),
    "Tanh": plain(torch.tanh),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Where": plain(torch.where),
}
