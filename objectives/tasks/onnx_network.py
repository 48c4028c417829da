"""An ONNX file as a PyTorch network that can be pruned, trained and exported: layers are modules, the rest a graph.

Files of TensorFlow, Keras and JAX come this way too, through their own exporters to ONNX. Convolutions, products with
stored weights and norms become the modules of `torch.nn` that do the same, so everything works on them as on a network
that was written in PyTorch. An operator that is not in the table is named; nothing is guessed.
"""

from __future__ import annotations

import copy
import importlib
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn

from objectives.tasks.onnx_conversion import Conversion
from objectives.tasks.onnx_operators import OPERATORS
from objectives.tasks.onnx_values import BATCHES, MOST_VALUES, Value, attributes, constant, folded, library
from spaces.errors import TaskError

#: The operator sets whose meaning the table follows.
OPSETS = range(11, 24)
_MOST_BYTES = 2**31


def read_onnx(file: str | Path) -> fx.GraphModule:
    """The network of an ONNX file, in evaluation mode on the CPU, for batches of any size.

    Raises:
        TaskError: If the file cannot be read, or holds an operator or a form of one that is not supported; all
            unsupported operators are named at once.
    """
    onnx = library()
    path = Path(file).expanduser()
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise TaskError(f"an ONNX file may have {_MOST_BYTES} bytes, but {path} has more: store it in one smaller")
        model = onnx.load(str(path))
        onnx.checker.check_model(model)
    except OSError as error:
        raise TaskError(
            f"the ONNX file {path} must be readable, but is not ({error.strerror}): check the path"
        ) from None
    except TaskError:
        raise
    except Exception as error:  # protobuf and the checker raise what they like
        said = next(iter(str(error).splitlines()), type(error).__name__)[:200]
        raise TaskError(f"{path} must be a valid ONNX file, but is not ({said}): export it again") from None
    return convert(model, str(path))


def convert(model: Any, name: str = "the model") -> fx.GraphModule:
    """The network of a loaded ONNX model; see `read_onnx`."""
    opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
    if opset not in OPSETS:
        raise TaskError(
            f"an ONNX file must have an operator set from {OPSETS[0]} to {OPSETS[-1]}, but {name} has {opset}: convert "
            "it with onnx.version_converter"
        )
    graph = model.graph
    unknown = _unknown(graph)
    if unknown:
        raise TaskError(
            f"{name} uses ONNX operators that are not supported, {', '.join(unknown)}: export the network without them"
        )
    if len(graph.output) != 1:
        raise TaskError(f"an ONNX network must have one output, but {name} has {len(graph.output)}: cut the others off")
    try:
        return _Builder(model, opset, name).built()
    except TaskError:
        raise
    except Exception as error:  # weights, shapes and names that do not fit each other fail in as many ways as there are
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise TaskError(f"{name} must describe a network, but does not ({said}): export it again") from error


def _unknown(graph: Any) -> list[str]:
    """Operators that are not in the table and work on what depends on the inputs; all others are run here and now."""
    stored = {tensor.name for tensor in graph.initializer}
    flowing = {given.name for given in graph.input} - stored
    unknown: dict[str, None] = {}
    for node in graph.node:
        ours = node.domain in ("", "ai.onnx")
        if node.op_type == "Shape" and ours:
            continue
        if flowing.isdisjoint(node.input):
            continue
        flowing.update(node.output)
        if not ours or node.op_type not in OPERATORS:
            unknown[node.op_type if ours else f"{node.domain}::{node.op_type}"] = None
    return list(unknown)


class _Builder:
    """Walks the graph once."""

    def __init__(self, model: Any, opset: int, name: str) -> None:
        self._graph, self._opset, self._name = model.graph, opset, name
        self._values: dict[str, Value] = {}
        self._uses = Counter(used for node in self._graph.node for used in node.input)
        self._conversion = Conversion(nn.Module(), fx.Graph(), opset)

    def built(self) -> fx.GraphModule:
        to_array = importlib.import_module("onnx.numpy_helper").to_array
        for tensor in self._graph.initializer:
            self._values[tensor.name] = constant(to_array(tensor), stored=True)
        for given in self._graph.input:
            if given.name not in self._values:
                self._values[given.name] = self._input(given)
        for node in self._graph.node:
            self._convert(node)
        result = self._values[self._graph.output[0].name]
        if result.node is None:
            raise TaskError(f"the output of {self._name} must depend on its inputs, but does not: check the file")
        self._conversion.graph.output(result.node)
        network = fx.GraphModule(self._conversion.root, self._conversion.graph).eval()
        self._check(network)
        return network

    def _input(self, given: Any) -> Value:
        sizes = [d.dim_value if d.HasField("dim_value") else 0 for d in given.type.tensor_type.shape.dim]
        if not sizes or any(size <= 0 for size in sizes[1:]):
            raise TaskError(
                f"the inputs of {self._name} must have sizes but for the batch in dimension 0, but {given.name} has "
                f"{sizes}: export it with fixed sizes"
            )
        if math.prod(sizes[1:]) > MOST_VALUES:
            raise TaskError(
                f"a sample of {self._name} may have {MOST_VALUES} values, but {given.name} has {sizes[1:]}: check it"
            )
        dtype = _dtype(given.type.tensor_type.elem_type)
        generator = torch.Generator().manual_seed(0)
        runs = []
        for batch in BATCHES:
            shape = (batch, *sizes[1:])
            x = torch.randn(shape, generator=generator)
            runs.append(x.to(dtype) if dtype.is_floating_point else torch.zeros(shape, dtype=dtype))
        node = self._conversion.graph.placeholder(_identifier(given.name))
        return Value((runs[0], runs[1]), node)

    def _convert(self, node: Any) -> None:
        inputs = [self._values[name] if name else None for name in node.input]
        given = [value for value in inputs if value is not None]
        where = f"{node.op_type} {node.name or node.output[0]} of {self._name}"
        try:
            if node.op_type == "Shape":
                outputs = self._shape(given[0], attributes(node))
            elif all(value.node is None for value in given):
                outputs = folded(node, given, self._opset)
            else:
                alone = all(
                    self._uses[name] == 1 for name in node.input if name and self._values[name].node is not None
                )
                with torch.no_grad():
                    outputs = OPERATORS[node.op_type](self._conversion, inputs, attributes(node), alone)
        except TaskError:
            raise
        # An operator's form may be wrong in as many ways as it can be written.
        except Exception as error:
            said = " ".join(str(error).split())[:200] or type(error).__name__
            raise TaskError(
                f"{where} is of a form that is not supported ({said}): export the network without it"
            ) from error
        for name, value in zip(node.output, outputs, strict=False):
            self._values[name] = value

    def _shape(self, value: Value, attributes_: dict[str, Any]) -> list[Value]:
        first, last = attributes_.get("start", 0), attributes_.get("end")
        runs = [torch.tensor(list(run.shape)[first:last], dtype=torch.int64) for run in value.runs]
        return [Value((runs[0], runs[1]))]

    def _check(self, network: fx.GraphModule) -> None:
        """What was run piece by piece must come out of the whole."""
        places = [self._values[i.name] for i in self._graph.input if self._values[i.name].node is not None]
        expected = self._values[self._graph.output[0].name]
        for index in range(len(BATCHES)):
            with torch.no_grad():
                found: Tensor = network(*(copy.copy(value.runs[index]) for value in places))
            if not torch.allclose(found, expected.runs[index], atol=1e-4, rtol=1e-3, equal_nan=True):
                raise TaskError(f"{self._name} must compute the same as a PyTorch network, but does not: report it")


def _dtype(kind: int) -> torch.dtype:
    """PyTorch's name for ONNX's type of numbers."""
    found = importlib.import_module("onnx.helper").tensor_dtype_to_np_dtype(kind)
    return torch.from_numpy(np.zeros(1, dtype=found)).dtype


def _identifier(name: str) -> str:
    cleaned = "".join(c if c.isalnum() else "_" for c in name)
    return cleaned if cleaned[:1].isalpha() else f"x_{cleaned}"
