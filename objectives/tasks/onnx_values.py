"""What flows through an ONNX graph while it is turned into a PyTorch one.

Every value is known for two batch sizes as well, because the operators run while they are converted: what is the same
for both is a constant, and a size that grows with the batch is told from one that does not.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx

from spaces.errors import TaskError

#: The batch sizes for which a graph is run while it is converted.
BATCHES = (2, 3)
#: What a computed constant may hold.
MOST_VALUES = 2**26


@dataclass(frozen=True)
class Value:
    """One value of the graph.

    Args:
        runs: What it is for each of `BATCHES`.
        node: Where the PyTorch graph computes it; None for a value that is known without the inputs' contents.
        stored: Whether it comes from the file's weights.
    """

    runs: tuple[Tensor, Tensor]
    node: fx.Node | None = None
    stored: bool = False

    @property
    def constant(self) -> Tensor | None:
        """The value where it neither depends on the inputs nor on the batch."""
        first, second = self.runs
        alike = self.node is None and first.shape == second.shape and torch.equal(first, second)
        return first if alike else None

    def sizes(self) -> list[int]:
        """A list of sizes, -1 for one that grows with the batch.

        Raises:
            ValueError: If it is computed from the inputs' contents.
        """
        if self.node is not None:
            raise ValueError("a shape that depends on the inputs' contents")
        first, second = (run.reshape(-1).tolist() for run in self.runs)
        return [int(a) if a == b else -1 for a, b in zip(first, second, strict=True)]

    def numbers(self) -> list[Any]:
        """A constant's numbers.

        Raises:
            ValueError: If it is no constant.
        """
        value = self.constant
        if value is None:
            raise ValueError("an argument that is computed")
        numbers: list[Any] = value.reshape(-1).tolist()
        return numbers


def constant(array: NDArray[Any], *, stored: bool = False) -> Value:
    """A value that is always the same."""
    tensor = torch.from_numpy(np.array(array))
    return Value((tensor, tensor), stored=stored)


def folded(node: Any, inputs: Sequence[Value], opset: int) -> list[Value]:
    """The outputs of an operator whose inputs are all known: shapes and what is computed from them."""
    _check_size(node, inputs)
    helper = importlib.import_module("onnx.helper")
    reference = importlib.import_module("onnx.reference")
    given = [name for name in node.input if name]
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(v.runs[0].numpy().dtype), None)
        for name, v in zip(given, inputs, strict=True)
    ]
    outs = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "one", infos, outs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)])
    evaluator = reference.ReferenceEvaluator(model)
    results = [
        evaluator.run(None, {name: v.runs[i].numpy() for name, v in zip(given, inputs, strict=True)})
        for i in range(len(BATCHES))
    ]
    return [
        Value((torch.from_numpy(np.array(first)), torch.from_numpy(np.array(second))))
        for first, second in zip(*results, strict=True)
    ]


def _check_size(node: Any, inputs: Sequence[Value]) -> None:
    """Refuse what would fill the memory: a few bytes can ask for any number of values."""
    if node.op_type in ("ConstantOfShape", "Expand", "Tile"):
        sizes = [abs(int(n)) for n in inputs[-1].runs[0].reshape(-1)]
        start = inputs[0].runs[0].numel() if node.op_type == "Tile" else 1
        if math.prod(sizes, start=start) > MOST_VALUES:
            raise ValueError(f"more than {MOST_VALUES} values")
    if node.op_type == "Range":
        first, last, step = (float(value.runs[0]) for value in inputs)
        if not abs(last - first) <= MOST_VALUES * abs(step):
            raise ValueError(f"more than {MOST_VALUES} values")


def attributes(node: Any) -> dict[str, Any]:
    """An operator's attributes, texts decoded and tensors as arrays."""
    helper = importlib.import_module("onnx.helper")
    numbers = importlib.import_module("onnx.numpy_helper")
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        elif type(value).__name__ == "TensorProto":
            value = numbers.to_array(value)
        found[attribute.name] = list(value) if hasattr(value, "__len__") and not isinstance(value, str) else value
        if isinstance(value, np.ndarray):
            found[attribute.name] = value
    return found


def library() -> Any:
    """The package ``onnx``.

    Raises:
        TaskError: If it is not installed.
    """
    try:
        return importlib.import_module("onnx")
    except ModuleNotFoundError:
        raise TaskError("the task onnx needs the package onnx, but it is missing: pip install 'pleach[onnx]'") from None


Attributes = Mapping[str, Any]
