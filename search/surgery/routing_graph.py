"""Gates put into a traced graph and taken out of it again, once they always say the same."""

from __future__ import annotations

import operator
from collections.abc import Iterable

import torch
from torch import Tensor, fx, nn

from objectives.execution import computed_for, gated, gates
from objectives.maskable import maskable
from search.surgery.edges import HOLDER as EDGES
from search.surgery.routing_blocks import Block
from search.surgery.routing_gate import RoutingGate
from search.surgery.site import Site

#: The submodule that holds all gates of a network.
HOLDER = "gates"
_CONVOLUTIONS: tuple[type[nn.Module], ...] = (nn.Conv1d, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_POOLS: tuple[type[nn.Module], ...] = (nn.AvgPool1d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def gate_name(block: Block) -> str:
    """The name of a block's gate."""
    return f"{HOLDER}.{_flat(block.name)}"


def insert(traced: fx.GraphModule, block: Block, gate: RoutingGate) -> None:
    """Let a gate decide over a block: what the block adds is multiplied by what the gate says.

    A layer with shortcuts inside takes turns with its input: g F(x) + (1 - g) x.
    """
    name = gate_name(block)
    _attach(traced, name, gate)
    nodes = {node.name: node for node in traced.graph.nodes}
    entry, end = nodes[block.entry], nodes[block.end]
    with traced.graph.inserting_after(entry):
        call = traced.graph.call_module(name, (entry,))
    with traced.graph.inserting_after(end):
        product = traced.graph.call_function(operator.mul, (end, call))
    total = product
    if block.kind == "whole":
        with traced.graph.inserting_after(product):
            rest = traced.graph.call_function(operator.sub, (1.0, call))
        with traced.graph.inserting_after(rest):
            passed = traced.graph.call_function(operator.mul, (entry, rest))
        with traced.graph.inserting_after(passed):
            total = traced.graph.call_function(operator.add, (product, passed))
    end.replace_all_uses_with(total, delete_user_cb=lambda user: user not in (product, total))
    for user in total.users:
        # What was added in place is now added to a value that backward may need.
        if user.target is operator.iadd:
            user.target = operator.add
        elif user.op == "call_method" and user.target == "add_":
            user.target = "add"
    _rebuild(traced)


def add_skip(traced: fx.GraphModule, block: Block) -> str:
    """Give a plain layer a bypass that starts at 0: one weight per channel, or pooling and a 1x1 projection.

    Returns:
        The name of its weight.
    """
    name = f"{EDGES}.skip__{_flat(block.name)}"
    _attach(traced, name, _skip(block))
    nodes = {node.name: node for node in traced.graph.nodes}
    entry, end = nodes[block.entry], nodes[block.end]
    with traced.graph.inserting_after(end):
        call = traced.graph.call_module(name, (entry,))
    with traced.graph.inserting_after(call):
        total = traced.graph.call_function(operator.add, (end, call))
    end.replace_all_uses_with(total, delete_user_cb=lambda user: user is not total)
    _rebuild(traced)
    return f"{name}.map.weight"


def settle(site: Site) -> None:
    """Take out of the graph what is decided once and for all.

    An open gate leaves what it governs as it was; a block behind a shut one leaves the network with its connections.
    Gates over groups of channels stay, unless all groups are open: the channels of a group that is shut are multiplied
    by 0, not removed.
    """
    traced = site.graph
    if traced is None:
        return
    changed = False
    for name, gate in gates(traced).items():
        if not isinstance(gate, RoutingGate) or not gate.forced or -1 in gate.forced:
            continue
        if all(gate.forced):
            _open(traced, name)
        elif not gate.width:
            _shut(site, traced, name)
        else:
            continue
        changed = True
    if changed:
        _rebuild(traced)
        _relabel(site)


def _open(traced: fx.GraphModule, name: str) -> None:
    for found, call, product, inner in list(gated(traced)):
        if found != name:
            continue
        for user in list(product.users):
            # Beside a product with 1 - g stands its sum with the bypass.
            other = [each for each in user.all_input_nodes if each is not product]
            if len(other) == 1 and _passes(other[0], call):
                user.replace_all_uses_with(product)
                _erase(traced, user)
        product.replace_all_uses_with(inner)
        _erase(traced, product)
    _detach(traced, name)


def _shut(site: Site, traced: fx.GraphModule, name: str) -> None:
    gone: set[fx.Node] = set()
    for found, call, product, inner in list(gated(traced)):
        if found != name:
            continue
        gone |= {*computed_for(inner, {product}), product}
        for user in list(product.users):
            other = next(each for each in user.all_input_nodes if each is not product)
            bypass = other.args[0] if _passes(other, call) else other
            assert isinstance(bypass, fx.Node)
            user.replace_all_uses_with(bypass)
            traced.graph.erase_node(user)
            if _passes(other, call):
                _erase(traced, other)
    for node in sorted(gone, key=list(traced.graph.nodes).index, reverse=True):
        traced.graph.erase_node(node)
    _detach(traced, name)
    left = {str(node.target) for node in traced.graph.nodes if node.op in ("call_module", "get_attr")}
    before = set(maskable(traced))
    for target in {str(node.target) for node in gone if node.op in ("call_module", "get_attr")} - left:
        _delete(traced, target)
    for layer in sorted(before - set(maskable(traced))):
        if layer in site.connectivity.weights:
            site.connectivity.retire(layer, "routing", "bypassed")


def _relabel(site: Site) -> None:
    """Masked channels that have left with a block are no more; others may have lost their root."""
    connectivity = site.connectivity
    site.rewired()
    if not connectivity.closed:
        return
    now = {
        (name, position): channel
        for group in site.channel_groups()
        for channel in group.channels
        for name, index in channel.produced
        for position in index[-1].tolist()
    }
    left = {}
    for channel in connectivity.closed.values():
        parts = [(n, p) for n, index in channel.produced for p in index[-1].tolist() if n in connectivity.weights]
        if parts:
            found = now[parts[0]]
            left[found.key] = found
    connectivity.closed.clear()
    connectivity.closed.update(left)


def _passes(node: fx.Node, call: fx.Node) -> bool:
    """Whether a node is what a bypass adds: x (1 - g)."""
    rest = node.args[1] if node.target is operator.mul and len(node.args) == 2 else None
    return isinstance(rest, fx.Node) and rest.target is operator.sub and rest.args == (1.0, call)


def _erase(traced: fx.GraphModule, node: fx.Node) -> None:
    """Erase a node, and what served it alone and is no tensor's only trace: gates' calls, products, differences."""
    sources = node.all_input_nodes
    traced.graph.erase_node(node)
    for source in sources:
        if not source.users and source.target in (operator.mul, operator.sub, operator.add):
            _erase(traced, source)


def _detach(traced: fx.GraphModule, name: str) -> None:
    for node in [node for node in traced.graph.nodes if node.op == "call_module" and node.target == name]:
        for user in list(node.users):
            if not user.users:
                _erase(traced, user)
        traced.graph.erase_node(node)
    _delete(traced, name)


def _delete(traced: fx.GraphModule, target: str) -> None:
    """Remove a module or tensor, and the holders that are then empty."""
    owner, _, atom = target.rpartition(".")
    delattr(traced.get_submodule(owner), atom)
    while owner:
        module = traced.get_submodule(owner)
        if any(True for _ in module.children()) or module._parameters or module._buffers:
            return
        owner, _, atom = owner.rpartition(".")
        delattr(traced.get_submodule(owner), atom)


def _attach(traced: fx.GraphModule, name: str, module: nn.Module) -> None:
    reference = next(traced.parameters())
    module.to(reference.device, reference.dtype)
    module.train(traced.training)
    holder, _, atom = name.partition(".")
    if not hasattr(traced, holder):
        traced.add_module(holder, nn.Module())
    traced.get_submodule(holder).add_module(atom, module)


def _skip(block: Block) -> nn.Sequential:
    before, after = block.shapes
    module = nn.Sequential()
    if len(before) == 2:
        # One weight per unit: a depthwise convolution over one position.
        module.add_module("rise", nn.Unflatten(1, (-1, 1)))
    shrink = [a // b for a, b in zip(before[2:], after[2:], strict=True)]
    if any(factor > 1 for factor in shrink):
        factors: int | tuple[int, ...] = tuple(shrink) if len(shrink) > 1 else shrink[0]
        module.add_module("pool", _POOLS[len(shrink)](factors))
    groups = before[1] if before[1] == after[1] else 1
    module.add_module("map", _CONVOLUTIONS[len(shrink)](before[1], after[1], 1, groups=groups, bias=False))
    if len(before) == 2:
        module.add_module("fall", nn.Flatten())
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    return module


def skip_weights(traced: fx.GraphModule, names: Iterable[str]) -> list[Tensor]:
    """The weights of added skip connections that still stand."""
    parameters = dict(traced.named_parameters())
    return [parameters[name] for name in names if name in parameters]


def _flat(name: str) -> str:
    return name.replace("_", "__").replace(".", "_")


def _rebuild(traced: fx.GraphModule) -> None:
    traced.graph.lint()
    traced.recompile()
