"""True skipping: a finalized network whose blocks run for the samples that want them, and for no other.

In the finalized network a shut gate multiplies by 0 what has been computed all the same, which training and the export
formats need. Here the same network is packed for PyTorch.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from objectives.execution import computed_for, gated
from objectives.maskable import maskable
from objectives.mode import evaluating
from search.surgery import channels
from search.surgery.layout import Graph
from search.surgery.routed import RoutedBlock, RoutedChannels
from search.surgery.routing_gate import RoutingGate
from spaces.errors import NetworkError

#: The submodule that holds all packed blocks.
HOLDER = "routed"


def packed(network: nn.Module, example_inputs: tuple[Tensor, ...]) -> nn.Module:
    """The same network with its blocks packed, in evaluation mode.

    Args:
        network: Finalized, with its graph; it is left as it is.
        example_inputs: ``network(*example_inputs)`` runs; dimension 0 is the batch.

    Returns:
        A network of its own that computes what `network` does. A gate whose block cannot be packed (what it adds is
        read by others too) stays masked.

    Raises:
        NetworkError: If it has no graph.
    """
    if not isinstance(network, fx.GraphModule):
        raise NetworkError("packing needs a network with its graph, but this one has none: use a finalized network")
    traced = copy.deepcopy(network).eval()
    traced.add_module(HOLDER, nn.Module())
    batches = _Samples(traced, example_inputs)
    for name, call, product, inner in list(gated(traced)):
        gate = traced.get_submodule(name)
        assert isinstance(gate, RoutingGate)
        target = f"{HOLDER}.{name.rpartition('.')[2]}"
        if gate.width:
            _pack_channels(traced, target, gate, call, product, inner, example_inputs)
        else:
            _pack_block(traced, target, gate, call, product, inner, batches)
    for module in traced.modules():
        if isinstance(module, RoutedBlock | RoutedChannels):
            module.ran = module.seen = 0
    traced.graph.lint()
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


class _Samples:
    """Which nodes give tensors, and in which of them dimension 0 is the batch."""

    def __init__(self, traced: fx.GraphModule, inputs: tuple[Tensor, ...]) -> None:
        longer = tuple(torch.cat([x, x[:1]]) if x.dim() else x for x in inputs)
        self._one, self._more = dict(Graph(traced, inputs).shapes), dict(Graph(traced, longer).shapes)

    def replaced(self, old: fx.Node, new: fx.Node) -> None:
        """Another node gives from now on what one gave."""
        for shapes in (self._one, self._more):
            shapes[new.name] = shapes[old.name]

    def is_tensor(self, node: fx.Node) -> bool:
        return node.name in self._one

    def by_sample(self, node: fx.Node) -> bool:
        return self._one.get(node.name, ())[:1] != self._more.get(node.name, ())[:1]


def _pack_block(
    traced: fx.GraphModule,
    target: str,
    gate: RoutingGate,
    call: fx.Node,
    product: fx.Node,
    inner: fx.Node,
    batches: _Samples,
) -> None:
    nodes = computed_for(inner, {product})
    users = list(product.users)
    if len(users) != 1 or users[0].target not in (operator.add, torch.add, "add") or inner not in nodes:
        return
    total = users[0]
    others = [each for each in total.all_input_nodes if each is not product]
    if len(others) != 1 or not isinstance(entry := call.args[0], fx.Node):
        return
    other = others[0]
    replaces = _complement(other, call)
    bypass = other.args[0] if replaces else other
    assert isinstance(bypass, fx.Node)
    body, read = _body(traced, nodes, inner, batches)
    after = next(iter(total.users)) if len(total.users) == 1 else total
    rectifies = after is not total and _rectifies(traced, after)
    last = after if rectifies else total
    module = RoutedBlock(
        gate,
        body,
        [batches.by_sample(each) for each in read],
        replaces=replaces,
        owns=_owned(traced, bypass, {total, product, call, other, *nodes}),
        rectifies=rectifies,
        rectified=_rectified(traced, bypass),
    )
    traced.get_submodule(HOLDER).add_module(target.partition(".")[2], module.eval())
    with traced.graph.inserting_before(total):
        routed = traced.graph.call_module(target, (entry, bypass, *read))
    last.replace_all_uses_with(routed)
    batches.replaced(last, routed)
    _erase(traced, [last, total, product, *reversed(nodes), *([other, other.args[1]] if replaces else []), call])


def _pack_channels(
    traced: fx.GraphModule,
    target: str,
    gate: RoutingGate,
    call: fx.Node,
    product: fx.Node,
    inner: fx.Node,
    inputs: tuple[Tensor, ...],
) -> None:
    layers = {name.rpartition(".")[0] for name in maskable(traced)}
    nodes = computed_for(inner, {product}, layers)
    users = list(product.users)
    if len(users) != 1 or str(users[0].target) not in layers or len(nodes[0].all_input_nodes) != 1:
        return
    reader, read, entry = users[0], nodes[0].all_input_nodes[0], call.args[0]
    assert isinstance(entry, fx.Node)
    graph = fx.Graph()
    known = {read: graph.placeholder("x")}
    for node in nodes:
        known[node] = graph.node_copy(node, known.__getitem__)
    known[reader] = graph.node_copy(reader, lambda node: known[inner] if node is product else known[node])
    graph.output(known[reader])
    root = {str(n.target): traced.get_submodule(str(n.target)) for n in (*nodes, reader) if n.op == "call_module"}
    whole = copy.deepcopy(fx.GraphModule(root, graph)).eval()
    bare = copy.deepcopy(whole)
    second: Any = bare.get_submodule(str(reader.target))
    held = second.bias
    second.bias = None
    bias = None
    if isinstance(held, Tensor):
        bias = held.detach() if gate.last else held.detach().view(-1, *[1] * (gate.ndim - 2))
    sample = _value(traced, read, inputs)
    try:
        parts = [_only(bare, str(nodes[0].target), gate.member == unit, sample) for unit in range(gate.units)]
    except KeyError:
        return
    module = RoutedChannels(gate, whole, parts, bias)
    traced.get_submodule(HOLDER).add_module(target.partition(".")[2], module.eval())
    with traced.graph.inserting_before(reader):
        routed = traced.graph.call_module(target, (entry, read))
    reader.replace_all_uses_with(routed)
    _erase(traced, [reader, product, *reversed(nodes), call])


def _only(pair: fx.GraphModule, first: str, keep: Tensor, sample: Tensor) -> nn.Module:
    """Two layers with some of the channels between them."""
    part = copy.deepcopy(pair)
    found = {c.index: c for g in channels.groups(part, (sample,)) for c in g.channels if c.root == f"{first}.weight"}
    leaving = [found[index] for index in (~keep).nonzero()[:, 0].tolist()]
    channels.remove(part, leaving, (sample,))
    return part


def _body(
    traced: fx.GraphModule, nodes: Sequence[fx.Node], end: fx.Node, batches: _Samples
) -> tuple[nn.Module, list[fx.Node]]:
    """Some nodes as a module of their own, and the nodes of the outer graph that it reads."""
    inside, graph = set(nodes), fx.Graph()
    read: dict[fx.Node, fx.Node] = {}
    wanted: dict[fx.Node, None] = {}

    def need(node: fx.Node) -> None:
        for source in node.all_input_nodes:
            if source in inside:
                continue
            if source.op != "get_attr" and batches.is_tensor(source):
                read.setdefault(source, source)
            elif source not in wanted:
                # Sizes and such are computed anew from the batch that runs.
                need(source)
                wanted[source] = None

    for node in nodes:
        need(node)
    known = {node: graph.placeholder(f"x_{i}") for i, node in enumerate(read)}
    for node in (*wanted, *nodes):
        known[node] = graph.node_copy(node, known.__getitem__)
    graph.output(known[end])
    root: dict[str, object] = {}
    for node in (*wanted, *nodes):
        if node.op == "call_module":
            root[str(node.target)] = traced.get_submodule(str(node.target))
        elif node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            root[str(node.target)] = getattr(traced.get_submodule(owner), name)
    return fx.GraphModule(root, graph).eval(), list(read)


def _complement(node: fx.Node, call: fx.Node) -> bool:
    rest = node.args[1] if node.target is operator.mul and len(node.args) == 2 else None
    return isinstance(rest, fx.Node) and rest.target is operator.sub and rest.args == (1.0, call)


def _rectifies(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a ReLU of its one input."""
    if node.op == "call_module":
        return type(traced.get_submodule(str(node.target))) is nn.ReLU
    return node.target in (F.relu, torch.relu, torch.relu_, F.relu_, "relu", "relu_")


def _rectified(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether what a node gives is never negative: a ReLU gave it, or it is part of that, with zeros around it."""
    module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    if isinstance(module, RoutedBlock):
        return module.rectifies
    if _rectifies(traced, node):
        return True
    source = node.args[0] if node.args else None
    zeros = node.target is F.pad and (*node.args[2:], *node.kwargs.values()) in ((), ("constant",), ("constant", 0))
    if (zeros or node.target is operator.getitem) and isinstance(source, fx.Node):
        return _rectified(traced, source)
    return False


def _owned(traced: fx.GraphModule, node: fx.Node, users: set[fx.Node]) -> bool:
    """Whether a node gives memory of its own that only these read."""
    module = traced.get_submodule(str(node.target)) if node.op == "call_module" else None
    fresh = node.target in (operator.add, torch.add, "add", F.relu, torch.relu, "relu", F.pad)
    fresh = fresh and not (node.kwargs.get("inplace") or (node.target is F.relu and len(node.args) > 1))
    fresh = fresh or isinstance(module, RoutedBlock) or (type(module) is nn.ReLU and not module.inplace)
    return bool(fresh) and set(node.users) <= users


def _value(traced: fx.GraphModule, wanted: fx.Node, inputs: tuple[Tensor, ...]) -> Tensor:
    class _Until(fx.Interpreter):
        def run_node(self, n: fx.Node) -> object:
            result = super().run_node(n)
            if n is wanted:
                self.found = result.clone()
            return result

    run = _Until(traced)
    with evaluating(traced):
        run.run(*inputs)
    value: Tensor = run.found
    return value


def _erase(traced: fx.GraphModule, nodes: Sequence[object]) -> None:
    for node in nodes:
        if isinstance(node, fx.Node) and not node.users and node in traced.graph.nodes:
            traced.graph.erase_node(node)
