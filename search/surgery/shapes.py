"""What the nodes of a graph that is still being traced are worth on example inputs, where shapes alone say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree


def without_data(value: Any) -> Any:
    """A value whose tensors, wherever in it, have kept their shapes and types and lost their numbers."""
    return pytree.tree_map_only(Tensor, lambda tensor: tensor.detach().to("meta"), value)


class Shapes:
    """Values of nodes by need; a tensor is only its shape, so what follows from data cannot be known.

    Args:
        root: The network that is traced.
        inputs: Its example inputs.
        outputs: What each leaf module returned on them, call by call, as `without_data` leaves it.
    """

    def __init__(self, root: nn.Module, inputs: Sequence[Tensor], outputs: Mapping[str, Sequence[Any]]) -> None:
        self._root = root
        self._inputs = inputs
        self._outputs = outputs
        self._known: dict[fx.Node, Any] = {}

    def __contains__(self, node: fx.Node) -> bool:
        return node in self._known

    def __getitem__(self, node: fx.Node) -> Any:
        """The value of a node; whatever an operator raises where it needs the data is raised here."""
        needed, waiting = {node}, [node]
        while waiting:
            for source in waiting.pop().all_input_nodes:
                if source not in needed and source not in self._known:
                    needed.add(source)
                    waiting.append(source)
        inputs, calls = 0, dict[str, int]()
        with torch.no_grad(), torch.device("meta"):
            for each in node.graph.nodes:
                target = str(each.target)
                position = inputs if each.op == "placeholder" else calls.get(target, 0)
                if each in needed and each not in self._known:
                    self._known[each] = without_data(self._value(each, target, position))
                inputs += each.op == "placeholder"
                if each.op == "call_module":
                    calls[target] = position + 1
        return self._known[node]

    def _value(self, node: fx.Node, target: str, position: int) -> Any:
        if node.op == "placeholder":
            return self._inputs[position]
        if node.op == "call_module":
            return self._outputs[target][position]
        args, kwargs = fx.node.map_arg((node.args, dict(node.kwargs)), self._known.__getitem__)
        if node.target is getattr:
            return self._inputs[0].device if args[1] == "device" else getattr(*args)
        # The network sees the device of its inputs; what it then moves there stays without data.
        args, kwargs = pytree.tree_map_only(torch.device, lambda _: torch.device("meta"), (args, kwargs))
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        if callable(node.target):
            return node.target(*args, **kwargs)
        found: Any = self._root
        for atom in target.split("."):
            found = getattr(found, atom)
        return found
