"""A PyTorch network that grows operator by operator from an ONNX graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, fx, nn

from objectives.tasks.onnx_values import Value

Inputs = Sequence[Value | None]
Attributes = Mapping[str, Any]


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


def plain(function: Callable[..., Any]) -> Operator:
    """An operator that is a function of its inputs alone."""
    return lambda to, inputs, attributes, alone: [to.call(function, *(x for x in inputs if x is not None))]


def input_of(inputs: Inputs) -> Value:
    """The first input, which most operators compute with."""
    value = inputs[0]
    if value is None:
        raise ValueError("no input")
    return value


def constant_of(value: Value | None) -> Tensor:
    """A copy of a value that the file holds."""
    tensor = value.constant if value is not None else None
    if tensor is None:
        raise ValueError("weights that are computed")
    return tensor.clone()


def optional_input(inputs: Inputs, index: int) -> Value | None:
    """An input that may be left out."""
    return inputs[index] if len(inputs) > index else None
