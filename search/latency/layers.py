"""One layer alone: what it is, on which inputs it works inside a network, and how long that takes.

A layer's weights are drawn at random: its time depends on its shape only, on the runtimes that are timed here.
"""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from objectives.maskable import maskable
from objectives.mode import evaluating
from search.artifact.constructors import build, describe, is_known
from search.formats.onnx_file import Session
from search.latency.clock import Call
from search.latency.setting import Setting

_CONVOLUTIONS = ("torch.nn.Conv1d", "torch.nn.Conv2d", "torch.nn.Conv3d")


@dataclass(frozen=True)
class LayerCase:
    """A layer and its input.

    Args:
        layer: Class and constructor arguments, JSON with sorted keys.
        rows: Entries in dimension 0 of its input per sample of the network's batch.
        shape: Of its input without dimension 0.
        dtype: Of its input: ``float32``, ``int64`` ...
    """

    layer: str
    rows: int
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def described(self) -> dict[str, Any]:
        """Class and arguments."""
        data: dict[str, Any] = json.loads(self.layer)
        return data

    @property
    def key(self) -> str:
        """One line that stands for the case."""
        return f"{self.layer} {self.rows}x{list(self.shape)} {self.dtype}"


def layer_cases(network: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, LayerCase]:
    """Every layer with weights that runs, by qualified name, with the first input that it gets.

    Args:
        network: On the CPU; it runs once in evaluation mode.
        inputs: ``network(*inputs)`` runs; dimension 0 is the batch.
    """
    batch = next((x.shape[0] for x in inputs if x.dim()), 1)
    owners = {name.rpartition(".")[0] for name in maskable(network)}
    found: dict[str, LayerCase] = {}

    def look(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[object, ...]) -> None:
            if name in found or not args or not isinstance(args[0], Tensor) or not args[0].dim():
                return
            x = args[0]
            layer = json.dumps(described[name], sort_keys=True)
            rows = max(1, x.shape[0] // batch)
            found[name] = LayerCase(layer, rows, tuple(x.shape[1:]), str(x.dtype).removeprefix("torch."))

        return hook

    named = dict(network.named_modules())
    described = {name: describe(named[name]) for name in owners if name in named and is_known(named[name])}
    handles = [named[name].register_forward_pre_hook(look(name)) for name in described]
    try:
        with evaluating(network):
            network(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    return {name: found[name] for name in named if name in found}


def layer_call(case: LayerCase, setting: Setting) -> Call | None:
    """A call of the layer alone on a batch; None where it cannot be made for the runtime."""
    x = _input(case, setting.batch)
    if setting.runtime == "onnxruntime":
        data = _onnx(case)
        if data is None:
            return None
        session = Session(data, setting.threads)
        return functools.partial(session.run, session.feed((x,)))
    if setting.runtime != "eager":
        return None
    layer = _layer(case).to(setting.device)
    return functools.partial(_run, layer, (x.to(setting.device),) * _arguments(case))


def _run(layer: nn.Module, inputs: Sequence[Tensor]) -> object:
    with torch.inference_mode():
        return layer(*inputs)


def _arguments(case: LayerCase) -> int:
    """Attention takes queries, keys and values; every other layer one input."""
    return 3 if case.described["class"].endswith("Attention") else 1


def _input(case: LayerCase, batch: int) -> Tensor:
    shape = (case.rows * batch, *case.shape)
    generator = torch.Generator().manual_seed(0)
    dtype: torch.dtype = getattr(torch, case.dtype)
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return torch.randn(shape, generator=generator).to(dtype)


def _layer(case: LayerCase) -> nn.Module:
    layer = build(case.described).to_empty(device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for value in layer.state_dict().values():
        if isinstance(value, Tensor) and value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.05)
        elif isinstance(value, Tensor):
            value.zero_()
    return layer


def _onnx(case: LayerCase) -> bytes | None:
    """The layer as an ONNX model of one or two nodes; None for layers that are more than that."""
    helper, numbers = (importlib.import_module(f"onnx.{name}") for name in ("helper", "numpy_helper"))
    real = importlib.import_module("onnx").TensorProto.FLOAT
    described = case.described
    args, layer = described["args"], _layer(case)
    if described["class"] in _CONVOLUTIONS and args.get("padding_mode") == "zeros" and not _text(args, "padding"):
        kind, attributes = "Conv", _convolution(layer)
    elif described["class"] == "torch.nn.Linear":
        kind, attributes = "MatMul", {}
    else:
        return None
    weight = layer.get_parameter("weight").detach()
    stored = {"weight": weight.T.contiguous() if kind == "MatMul" else weight}
    bias = getattr(layer, "bias", None)
    if bias is not None:
        stored["bias"] = bias.detach()
    inputs = ["x", "weight"] + (["bias"] if kind == "Conv" and bias is not None else [])
    nodes = [helper.make_node(kind, inputs, ["y"], **attributes)]
    if kind == "MatMul" and bias is not None:
        nodes = [helper.make_node("MatMul", inputs, ["z"]), helper.make_node("Add", ["z", "bias"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("x", real, ["rows", *case.shape])],
        [helper.make_tensor_value_info("y", real, [f"y{i}" for i in range(len(case.shape) + 1)])],
        [numbers.from_array(value.numpy(), name) for name, value in stored.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def _text(args: Mapping[str, Any], name: str) -> bool:
    return isinstance(args.get(name), str)


def _convolution(layer: nn.Module) -> dict[str, Any]:
    assert isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    padding = [int(each) for each in layer.padding]
    return {
        "kernel_shape": list(layer.kernel_size),
        "strides": list(layer.stride),
        "pads": padding + padding,
        "dilations": list(layer.dilation),
        "group": layer.groups,
    }
