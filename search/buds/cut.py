"""Where a network can be cut in two: the stem that all buds share, and the tail that each bud has of its own.

A place to cut is a node of the graph through which everything flows: nothing before it is read after it. Between two
such places lies a block.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from objectives.cost import count_macs
from objectives.maskable import CONVOLUTIONS, maskable
from search.surgery.graph import trace
from spaces.errors import NetworkError

Inputs = tuple[Tensor, ...]
#: What the tail's only input is called.
HIDDEN = "hidden"


@dataclass(frozen=True)
class Place:
    """The end of a block.

    Args:
        node: Its name in the graph.
        shape: Of what flows there, (batch, ...).
        dim: The dimension of its channels: 1, or the last where what comes next is a linear layer.
    """

    node: str
    shape: tuple[int, ...]
    dim: int

    @property
    def channels(self) -> int:
        """How many channels flow there."""
        return self.shape[self.dim]


@dataclass(frozen=True)
class Cut:
    """A network in two parts: ``tail(stem(inputs))`` computes what it did.

    Args:
        stem: Computed once per request; hands its input on where nothing is shared.
        tail: What buds are grown from.
        hidden: What the stem gives for the example inputs.
        share: Of the network's multiply-accumulates, the stem's.
    """

    stem: fx.GraphModule
    tail: fx.GraphModule
    hidden: Tensor
    share: float


def cut(network: nn.Module, example_inputs: Inputs, share: float) -> Cut:
    """Cut a network at the last block's end before which at most `share` of its multiply-accumulates lie.

    Args:
        network: In evaluation mode; it is left as it is.
        example_inputs: ``network(*example_inputs)`` runs; dimension 0 is the batch.
        share: In [0, 1). A network whose input cannot be cut at (several inputs, or integers) is cut after its first
            block at the earliest.

    Raises:
        TraceError: If the network cannot be traced.
        NetworkError: If there is no place to cut it.
    """
    traced = trace(copy.deepcopy(network).eval(), example_inputs)
    values = recorded(traced, example_inputs)
    found = places(traced, values)
    # The last block must be left for the tail: a bud without weights of its own is none.
    candidates = [*([_input(traced, values)] if _is_cuttable(traced, values) else []), *found][: max(1, len(found))]
    if not candidates:
        raise NetworkError(
            "a network that buds must have a place through which all flows between two of its layers, but has none: "
            "wrap its parts so that one hands a single tensor to the next"
        )
    costs = count_macs(traced, example_inputs)
    before = [_macs_until(traced, costs, place.node) / max(1, sum(costs.values())) for place in candidates]
    index = max((i for i, part in enumerate(before) if part <= share), default=0)
    stem, tail = _halves(traced, candidates[index].node)
    hidden = values[candidates[index].node]
    return Cut(stem, tail, hidden, before[index])


def places(traced: fx.GraphModule, values: Mapping[str, Any] | None = None, inputs: Inputs = ()) -> list[Place]:
    """The ends of a traced network's blocks, in order, but for the input and the output.

    A block holds at least one layer with weights and whatever follows it without; after its end another such layer
    comes.
    """
    values = values if values is not None else recorded(traced, inputs)
    found: list[Place] = []
    throats = set(_throats(traced.graph))
    pending: fx.Node | None = None
    weighted = ends = False  # layers since the last block's end; whether `pending` comes after such a one
    for node in traced.graph.nodes:
        layer = _layer(traced, node)
        if layer is not None:
            if pending is not None and ends:
                value = values[pending.name]
                if _flows(value):
                    found.append(Place(pending.name, tuple(value.shape), _dim(layer, value)))
                weighted = False
            pending, weighted = None, True
        if node in throats:
            pending, ends = node, weighted
    return found


def watched(traced: fx.GraphModule, names: Sequence[str]) -> fx.GraphModule:
    """The same network, its weights shared, that gives ``(output, (what flows at each of these nodes))``."""
    graph = fx.Graph()
    known: dict[fx.Node, fx.Node] = {}
    for node in traced.graph.nodes:
        if node.op == "output":
            by_name = {before.name: after for before, after in known.items()}
            graph.output((known[node.args[0]], tuple(by_name[name] for name in names)))
        else:
            known[node] = graph.node_copy(node, lambda n: known[n])
    return fx.GraphModule(traced, graph)


def recorded(traced: fx.GraphModule, inputs: Inputs) -> dict[str, Any]:
    """What every node gives for these inputs, by name."""
    return _Recorder(traced).record(inputs)


class _Recorder(fx.Interpreter):
    def record(self, inputs: Inputs) -> dict[str, Any]:
        self.values: dict[str, Any] = {}
        from_training = self.module.training
        self.module.eval()
        self.run(*inputs)
        self.module.train(from_training)
        return self.values

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.values[n.name] = result.detach() if isinstance(result, Tensor) else result
        return result


def _throats(graph: fx.Graph) -> list[fx.Node]:
    """The nodes through which everything flows: at their place nothing else is still to be read."""
    nodes = [node for node in graph.nodes if node.op not in ("get_attr", "output")]
    order = {node: i for i, node in enumerate(graph.nodes)}
    reach = {node: max((order[user] for user in node.users), default=order[node]) for node in nodes}
    inputs = sum(node.op == "placeholder" for node in nodes)
    found: list[fx.Node] = []
    furthest = -1  # the last reader of anything that came before
    for index, node in enumerate(nodes):
        if furthest <= order[node] and index >= inputs - 1 and node.users:
            found.append(node)
        furthest = max(furthest, reach[node])
    return found


def _halves(traced: fx.GraphModule, name: str) -> tuple[fx.GraphModule, fx.GraphModule]:
    first, second = fx.Graph(), fx.Graph()
    before: dict[fx.Node, fx.Node] = {}
    after: dict[fx.Node, fx.Node] = {}
    passed = False
    for node in traced.graph.nodes:
        if passed or node.op == "get_attr":
            after[node] = second.node_copy(node, lambda n: after[n])
        if not passed:
            before[node] = first.node_copy(node, lambda n: before[n])
        if node.name == name:
            first.output(before[node])
            after[node], passed = second.placeholder(HIDDEN), True
    for graph in (first, second):
        for node in reversed(graph.nodes):
            if node.op == "get_attr" and not node.users:
                graph.erase_node(node)
    stem, tail = fx.GraphModule(traced, first, "Stem"), fx.GraphModule(traced, second, "Tail")
    return stem.eval(), tail.eval()


def _macs_until(traced: fx.GraphModule, costs: Mapping[str, int], name: str) -> int:
    total = 0
    for node in traced.graph.nodes:
        if node.op == "call_module":
            target = str(node.target)
            total += sum(cost for layer, cost in costs.items() if layer == target or layer.startswith(f"{target}."))
        if node.name == name:
            break
    return total


def _layer(traced: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module with connections that a node calls."""
    if node.op != "call_module":
        return None
    module = traced.get_submodule(str(node.target))
    return module if maskable(module) else None


def _dim(following: nn.Module, value: Tensor) -> int:
    return 1 if value.ndim == 2 or isinstance(following, CONVOLUTIONS) else value.ndim - 1


def _flows(value: object) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim >= 2


def _is_cuttable(traced: fx.GraphModule, values: Mapping[str, Any]) -> bool:
    inputs = [node for node in traced.graph.nodes if node.op == "placeholder"]
    return len(inputs) == 1 and _flows(values[inputs[0].name])


def _input(traced: fx.GraphModule, values: Mapping[str, Any]) -> Place:
    node = next(node for node in traced.graph.nodes if node.op == "placeholder")
    return Place(node.name, tuple(values[node.name].shape), 1)
