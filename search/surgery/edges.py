"""New edges across layers: y_q + S(x_p), where nothing was. Made of plain torch modules, put into the traced graph.

An edge runs from what layer p emits (after its norm and non-linearity) to what layer q computes, before its norm, which
then bounds what the edge adds and keeps a masked channel silent. S pools or repeats where the two differ in extent, and
ends in a linear map without bias whose weights start at exactly 0: the outputs stay as they are, and its gradient, the
product of what both ends carry, is alive. So a new edge is one more weight among the maskable ones: its entries are
created, dropped, booked and counted like all others. Where both ends have the same channels the map is one number per
channel (an identity edge); elsewhere, and where only chosen pairs of units connect, it is a masked 1x1 projection.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from search.surgery.layout import Graph
from spaces.errors import NetworkError

_CONVOLUTIONS: Mapping[int, type[nn.Module]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
_POOLS: Mapping[int, type[nn.Module]] = {3: nn.AvgPool1d, 4: nn.AvgPool2d, 5: nn.AvgPool3d}
_GLOBAL_POOLS: Mapping[int, type[nn.Module]] = {
    3: nn.AdaptiveAvgPool1d,
    4: nn.AdaptiveAvgPool2d,
    5: nn.AdaptiveAvgPool3d,
}
#: The submodule that holds all edges of a network.
HOLDER = "edges"


@dataclass(frozen=True)
class Candidate:
    """A pair of layers that an edge can join.

    Args:
        source: Name of the layer whose output is read.
        target: Name of the layer to whose output it is added.
        distance: In layers, >= 1.
        source_node: The graph's node that is read.
        target_node: The node to which it is added.
        source_shape: Of what is read, dimension 0 the batch.
        target_shape: Of what it is added to.
        tokens: Whether units stand in the last dimension, as linear layers over sequences have them, not in
            dimension 1.
    """

    source: str
    target: str
    distance: int
    source_node: str
    target_node: str
    source_shape: tuple[int, ...]
    target_shape: tuple[int, ...]
    tokens: bool

    @property
    def name(self) -> str:
        """The edge's submodule: one per pair of layers."""
        return f"{HOLDER}.{_flat(self.source)}__{_flat(self.target)}"

    @property
    def channels(self) -> tuple[int, int]:
        """Units of the source and of the target."""
        dim = -1 if self.tokens else 1
        return self.source_shape[dim], self.target_shape[dim]


@dataclass(frozen=True)
class Edge:
    """An edge that stands in the graph.

    Args:
        source: The layer it starts from.
        target: The layer it ends at.
        distance: In layers.
        name: Its submodule.
        identity: Whether it is one number per channel.
        depthwise: Whether its map holds nothing but these numbers; else it is a matrix, of which they are the diagonal.
    """

    source: str
    target: str
    distance: int
    name: str
    identity: bool
    depthwise: bool

    @property
    def weight(self) -> str:
        """Name of its maskable weight."""
        return f"{self.name}.map.weight"


def candidates(graph: Graph, traced: fx.GraphModule, radius: int) -> list[Candidate]:
    """All pairs of layers at most `radius` apart that an edge can join, nearest first.

    Edges that stand already do not count as layers, and are neither source nor target.
    """
    nodes = {node.name: node for node in traced.graph.nodes}
    found = []
    layers = [layer for layer in graph.layers if not layer.startswith(f"{HOLDER}.")]
    # A layer that runs more than once has no one output.
    calls = {layer: graph.calls_of(layer)[0].node for layer in layers if len(graph.calls_of(layer)) == 1}
    outputs = {layer: output for layer, call in calls.items() if (output := _output(nodes[call], graph)) is not None}
    for source in outputs:
        for target, distance in graph.within(source, radius).items():
            if target not in outputs or distance < 1:
                continue
            start = _feature(outputs[source], graph)
            end = outputs[target]
            shapes = graph.shapes.get(start.name, ()), graph.shapes.get(end.name, ())
            tokens = {_tokens(traced, layer, shape) for layer, shape in zip((source, target), shapes, strict=True)}
            if len(tokens - {None}) > 1:
                continue
            candidate = Candidate(
                source, target, distance, start.name, end.name, *shapes, tokens=bool(tokens - {None, False})
            )
            if _bridge(candidate) is not None:
                found.append(candidate)
    return sorted(found, key=lambda c: c.distance)


def insert(traced: fx.GraphModule, candidate: Candidate, *, identity: bool, depthwise: bool = True) -> Edge:
    """Put an edge into the graph, all of its weights 0; the outputs stay as they are.

    Args:
        traced: The network; rewritten in place.
        candidate: From :func:`candidates` over the same graph.
        identity: One number per channel, which needs as many channels at both ends.
        depthwise: Whether an identity edge between convolutions may be a depthwise one. It costs least, but couples
            the channels of its ends: where channels are masked, it must be a matrix.

    Raises:
        NetworkError: If the edge stands already, or an identity edge is asked for where the channels differ.
    """
    bridge = _bridge(candidate)
    before, after = candidate.channels
    if bridge is None or (identity and before != after):
        raise NetworkError(
            f"an identity edge needs as many channels at both ends, but {candidate.source} has {before} and "
            f"{candidate.target} has {after}: use identity=False"
        )
    nodes = {node.name: node for node in traced.graph.nodes}
    if hasattr(traced, HOLDER) and hasattr(getattr(traced, HOLDER), candidate.name.partition(".")[2]):
        raise NetworkError(f"the edge {candidate.source} -> {candidate.target} stands already: remove it first")
    module = nn.Sequential()
    for name, part in bridge:
        module.add_module(name, part)
    module.add_module("map", _map(candidate, identity and depthwise))
    reference = next(traced.parameters())
    module.to(reference.device, reference.dtype)
    module.train(traced.training)
    if not hasattr(traced, HOLDER):
        traced.add_module(HOLDER, nn.Module())
    traced.get_submodule(HOLDER).add_module(candidate.name.partition(".")[2], module)
    start, end = nodes[candidate.source_node], nodes[candidate.target_node]
    with traced.graph.inserting_after(end):
        # The call stands behind the end, so that whatever it reads has been computed.
        call = traced.graph.call_module(candidate.name, (start,))
    with traced.graph.inserting_after(call):
        total = traced.graph.call_function(operator.add, (end, call))
    end.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    _rebuild(traced)
    kept = identity and depthwise and isinstance(module[-1], nn.modules.conv._ConvNd)
    return Edge(candidate.source, candidate.target, candidate.distance, candidate.name, identity, kept)


def remove(traced: fx.GraphModule, edge: Edge) -> None:
    """Take an edge out of the graph, which is then what it was before the edge was put in.

    Raises:
        NetworkError: If no such edge stands.
    """
    calls = [n for n in traced.graph.nodes if n.op == "call_module" and n.target == edge.name]
    if not calls:
        raise NetworkError(f"there is no edge {edge.source} -> {edge.target}: add it first")
    (call,) = calls
    (total,) = call.users
    total.replace_all_uses_with(total.args[0])
    traced.graph.erase_node(total)
    traced.graph.erase_node(call)
    holder = traced.get_submodule(HOLDER)
    delattr(holder, edge.name.partition(".")[2])
    if not list(holder.children()):
        delattr(traced, HOLDER)
    _rebuild(traced)


def adapted(candidate: Candidate, x: Tensor) -> Tensor:
    """What an edge's map would read: the source's values with the extent of the target, units where they were."""
    for _, part in _bridge(candidate) or ():
        x = part(x)
    return x


def whole(edge: Edge, weight: Tensor) -> Tensor:
    """Which entries of a whole edge's map are connections: all, or the diagonal where an identity edge is a matrix."""
    if edge.identity and not edge.depthwise:
        return torch.eye(weight.shape[0], dtype=torch.bool, device=weight.device).view(weight.shape)
    return torch.ones_like(weight, dtype=torch.bool)


# -- what joins two shapes -------------------------------------------------------------------------------------------


def _bridge(candidate: Candidate) -> list[tuple[str, nn.Module]] | None:
    """Modules that give the source's values the target's extent; None where there is no plain way."""
    source, target = candidate.source_shape, candidate.target_shape
    if len(source) < 2 or len(target) < 2:
        return None
    if candidate.tokens:
        return [] if source[:-1] == target[:-1] else None
    if len(target) == 2 and len(source) in _GLOBAL_POOLS:
        return [("pool", _GLOBAL_POOLS[len(source)](1)), ("flatten", nn.Flatten())]
    if len(source) != len(target):
        return None
    if source[2:] == target[2:]:
        return []
    shrink = [a / b for a, b in zip(source[2:], target[2:], strict=True)]
    if all(ratio >= 1 and ratio == int(ratio) for ratio in shrink):
        factors = tuple(int(ratio) for ratio in shrink)
        return [("pool", _POOLS[len(source)](factors[0] if len(factors) == 1 else factors))]
    if all(ratio <= 1 and 1 / ratio == int(1 / ratio) for ratio in shrink):
        return [("repeat", nn.Upsample(scale_factor=tuple(1 / ratio for ratio in shrink)))]
    return None


def _map(candidate: Candidate, depthwise: bool) -> nn.Module:
    before, after = candidate.channels
    convolution = None if candidate.tokens else _CONVOLUTIONS.get(len(candidate.target_shape))
    module: nn.Module
    if convolution is None:
        module = nn.Linear(before, after, bias=False)
    else:
        module = convolution(before, after, 1, groups=before if depthwise else 1, bias=False)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module


# -- where it is tied in ---------------------------------------------------------------------------------------------


def _output(node: fx.Node, graph: Graph) -> fx.Node | None:
    """What a layer computes: its node, or the first of several tensors (attention gives its weights as well)."""
    if node.name not in graph.several:
        return node
    first = [user for user in node.users if user.target is operator.getitem and user.args[1] == 0]
    return first[0] if len(first) == 1 else None


def _feature(node: fx.Node, graph: Graph) -> fx.Node:
    """What a layer emits: behind the norm and the non-linearity that only it feeds and that keep its shape."""
    while len(node.users) == 1:
        (user,) = node.users
        call = graph.calls.get(user.name)
        unary = user.op in ("call_module", "call_function", "call_method") and user.all_input_nodes == [node]
        if not unary or (call is not None and call.maskable) or graph.shapes.get(user.name) != graph.shapes[node.name]:
            return node
        node = user
    return node


def _tokens(traced: fx.GraphModule, layer: str, shape: Sequence[int]) -> bool | None:
    """Whether a layer's units stand last; None where dimension 1 is the last."""
    if len(shape) <= 2:
        return None
    return not isinstance(traced.get_submodule(layer), nn.modules.conv._ConvNd)


def _flat(name: str) -> str:
    return name.replace("_", "__").replace(".", "_")


def _rebuild(traced: fx.GraphModule) -> None:
    traced.graph.lint()
    traced.recompile()
