"""Makes one graph of two traces, so that what depends on ``self.training`` survives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

Constant = bool | int | float | str | None
#: Where in a node's arguments: ``("args", 1)``, ``("kwargs", "training")``, deeper into tuples and lists.
Path = tuple[Any, ...]

#: Dropout written as a function becomes the module that does the same.
_DROPOUTS: Mapping[Callable[..., Any], type[nn.Module]] = {
    F.dropout: nn.Dropout,
    F.dropout1d: nn.Dropout1d,
    F.dropout2d: nn.Dropout2d,
    F.dropout3d: nn.Dropout3d,
    F.alpha_dropout: nn.AlphaDropout,
    F.feature_alpha_dropout: nn.FeatureAlphaDropout,
}


class ByMode(nn.Module):
    """A constant that differs between training and evaluation; ``forward()`` gives the one of the module's mode.

    Args:
        in_training: bool, number, str or None.
        in_evaluation: The same.
    """

    def __init__(self, in_training: Constant, in_evaluation: Constant) -> None:
        super().__init__()
        self.in_training = in_training
        self.in_evaluation = in_evaluation

    def forward(self) -> Constant:
        """The constant of the mode that the module is in."""
        return self.in_training if self.training else self.in_evaluation

    def extra_repr(self) -> str:
        return f"in_training={self.in_training!r}, in_evaluation={self.in_evaluation!r}"


@dataclass(frozen=True)
class Traced:
    """A graph and the constant tensors that it reads, by the name it reads them under."""

    graph: fx.Graph
    constants: Mapping[str, Tensor] = field(default_factory=dict)


class DifferenceError(Exception):
    """Two traces differ in more than constants.

    Args:
        node: The first node of the first trace that the second has not.
        other: What stands there instead.
    """

    def __init__(self, node: fx.Node, other: fx.Node) -> None:
        super().__init__(f"{node.format_node()} against {other.format_node()}")
        self.node, self.other = node, other


def same(first: Traced, second: Traced) -> None:
    """Check that two traces are equal, constants included.

    Raises:
        DifferenceError: If they are not.
    """
    for node, other, differing in _pairs(first, second):
        if differing:
            raise DifferenceError(node, other)


def by_mode(training: Traced, evaluation: Traced) -> dict[fx.Node, dict[Path, ByMode]]:
    """What differs between the two modes: for nodes of the evaluation graph, the constants at paths in their arguments.

    Raises:
        DifferenceError: If they differ in more than constants.
    """
    found: dict[fx.Node, dict[Path, ByMode]] = {}
    for node, other, differing in _pairs(evaluation, training):
        for path, (in_evaluation, in_training) in differing.items():
            if not isinstance(in_evaluation, Constant) or not isinstance(in_training, Constant):
                raise DifferenceError(node, other)
            found.setdefault(node, {})[path] = ByMode(in_training, in_evaluation)
    return found


def install(graph: fx.Graph, differing: Mapping[fx.Node, Mapping[Path, ByMode]], root: nn.Module, child: str) -> None:
    """Put modules where constants differ by mode.

    Args:
        graph: Edited in place.
        differing: What `by_mode` gave.
        root: Gets the new modules, in a child of its own if there are any.
        child: Its name.
    """
    modules = nn.Module()
    for node, constants in differing.items():
        dropout = _as_dropout(node, constants)
        if dropout is not None:
            modules.add_module(node.name, dropout)
            call = _call(graph, node, f"{child}.{node.name}", (_argument(node, 0, "input"),))
            node.replace_all_uses_with(call)
            graph.erase_node(node)
            continue
        for path, module in constants.items():
            name = "_".join(map(str, (node.name, *path[1:])))
            modules.add_module(name, module)
            call = _call(graph, node, f"{child}.{name}", ())
            if path[0] == "args":
                node.args = _put(node.args, path[1:], call)
            else:
                node.kwargs = _put(node.kwargs, path[1:], call)
    if modules._modules:
        root.add_module(child, modules.train(root.training))


def _call(graph: fx.Graph, before: fx.Node, target: str, args: tuple[Any, ...]) -> fx.Node:
    with graph.inserting_before(before):
        call = graph.call_module(target, args)
    call.meta = dict(before.meta)
    return call


def _as_dropout(node: fx.Node, constants: Mapping[Path, ByMode]) -> nn.Module | None:
    kind = _DROPOUTS.get(node.target) if callable(node.target) else None
    if kind is None or len(constants) != 1:
        return None
    (module,) = constants.values()
    if (module.in_training, module.in_evaluation) != (True, False):
        return None
    p, inplace = _argument(node, 1, "p", 0.5), _argument(node, 3, "inplace", False)
    return kind(p, inplace) if isinstance(p, float | int) else None


def _argument(node: fx.Node, position: int, name: str, default: Any = None) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _put(value: Any, path: Path, new: fx.Node) -> Any:
    if not path:
        return new
    if isinstance(value, Mapping):
        return {key: _put(each, path[1:], new) if key == path[0] else each for key, each in value.items()}
    parts = [_put(each, path[1:], new) if i == path[0] else each for i, each in enumerate(value)]
    return tuple(parts) if isinstance(value, tuple) else parts


Differences = dict[Path, tuple[Any, Any]]


def _pairs(first: Traced, second: Traced) -> list[tuple[fx.Node, fx.Node, Differences]]:
    """Both graphs' nodes side by side, with the arguments in which they differ."""
    ours, theirs = list(first.graph.nodes), list(second.graph.nodes)
    match: dict[fx.Node, fx.Node] = {}
    pairs: list[tuple[fx.Node, fx.Node, Differences]] = []
    for node, other in zip(ours, theirs, strict=False):
        if node.op != other.op or not _same_target(node, other, first, second):
            raise DifferenceError(node, other)
        differences: Differences = {}
        try:
            _compare(node.args, other.args, ("args",), match, differences)
            _compare(dict(node.kwargs), dict(other.kwargs), ("kwargs",), match, differences)
        except _StructureError:
            raise DifferenceError(node, other) from None
        match[node] = other
        pairs.append((node, other, differences))
    # Both end with their output, so that graphs of different lengths differ earlier on.
    return pairs


class _StructureError(Exception):
    """Arguments of different structure."""


def _compare(ours: Any, theirs: Any, path: Path, match: Mapping[fx.Node, fx.Node], out: Differences) -> None:
    if isinstance(ours, fx.Node) or isinstance(theirs, fx.Node):
        if not isinstance(ours, fx.Node) or match.get(ours) is not theirs:
            raise _StructureError
    elif isinstance(ours, tuple | list) and isinstance(theirs, tuple | list):
        if len(ours) != len(theirs):
            raise _StructureError
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            _compare(a, b, (*path, i), match, out)
    elif isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        if list(ours) != list(theirs):
            raise _StructureError
        for key in ours:
            _compare(ours[key], theirs[key], (*path, key), match, out)
    elif isinstance(ours, slice) and isinstance(theirs, slice):
        parts = (ours.start, ours.stop, ours.step), (theirs.start, theirs.stop, theirs.step)
        inside: Differences = {}
        _compare(*parts, path, match, inside)
        if inside:
            raise _StructureError
    elif type(ours) is not type(theirs) or ours != theirs:
        out[path] = (ours, theirs)


def _same_target(node: fx.Node, other: fx.Node, first: Traced, second: Traced) -> bool:
    a, b = first.constants.get(str(node.target)), second.constants.get(str(other.target))
    if node.op != "get_attr" or a is None or b is None:
        return bool(node.target == other.target)
    return a.shape == b.shape and a.dtype == b.dtype and torch.equal(a, b)
