"""Which parts of a traced network an input may bypass: blocks beside a shortcut, plain layers, and inner channels.

A block is everything that is computed for one summand alone and begins at one place, where the sum's other summand
begins as well. A plain layer has no such sum: a skip connection must be added before it can be bypassed.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from objectives.cost import unfused
from objectives.execution import computed_for
from objectives.flops import FORMULAS
from objectives.maskable import maskable
from objectives.mode import evaluating
from search.surgery.layout import Graph

Kind = Literal["residual", "plain", "whole"]
_ADDS = (operator.add, operator.iadd, torch.add)
_BY_CHANNEL = (nn.modules.conv._ConvNd, nn.modules.batchnorm._BatchNorm)
#: A layer of torch.nn that has shortcuts inside: it is bypassed as it is.
_WHOLE = (nn.TransformerEncoderLayer,)
#: What an added skip connection may cost of the layer that it goes around.
_CHEAP = 0.5


@dataclass(frozen=True)
class Block:
    """One thing that a gate can govern.

    Args:
        name: Of the modules that it is made of, as far as they share one.
        kind: ``residual`` it has a shortcut of its own; ``plain`` it needs one; ``whole`` a module with shortcuts
            inside, whose input is its bypass.
        entry: Name of the node that a gate reads.
        end: Name of the node that is multiplied.
        total: Name of the sum to which it is added; the end itself where there is none.
        macs: What it costs, per sample.
        last: Whether its channels stand in the last dimension.
        shapes: Of the entry and of the end.
    """

    name: str
    kind: Kind
    entry: str
    end: str
    total: str
    macs: float
    last: bool
    shapes: tuple[tuple[int, ...], tuple[int, ...]]


def blocks(traced: fx.GraphModule, example_inputs: tuple[Tensor, ...]) -> list[Block]:
    """All blocks of a network, in its order; none inside of another one."""
    found: list[tuple[Block, set[str]]] = []
    look = _Look(traced, example_inputs)
    for block, nodes in sorted(look.residual(), key=lambda pair: len(pair[1])):
        if not any(nodes & others for _, others in found):
            found.append((block, nodes))
    taken = {name for _, nodes in found for name in nodes}
    found += [(block, nodes) for block, nodes in look.single() if not nodes & taken]
    order = [node.name for node in traced.graph.nodes]
    ordered = sorted((block for block, _ in found), key=lambda block: order.index(block.end))
    return _named_apart(ordered)


def inner_channels(traced: fx.GraphModule, example_inputs: tuple[Tensor, ...]) -> list[Block]:
    """Inside of every residual block, the channels between its layers, of which some can be left out.

    The end of such a block is what a layer emits, behind norm and non-linearity, and only one layer reads it.
    """
    look = _Look(traced, example_inputs)
    outer = {block.name: nodes for block, nodes in look.residual()}
    found: dict[str, Block] = {}
    for block, nodes in look.residual():
        if any(other < nodes for other in outer.values()):
            continue
        for inner in look.between(block, nodes):
            found.setdefault(inner.end, inner)
    order = [node.name for node in traced.graph.nodes]
    return _named_apart(sorted(found.values(), key=lambda inner: order.index(inner.end)))


def node_macs(traced: fx.GraphModule, example_inputs: tuple[Tensor, ...]) -> dict[str, float]:
    """Multiply-accumulates per sample by node, of those that multiply.

    Args:
        traced: On the CPU.
        example_inputs: ``traced(*example_inputs)`` runs.
    """
    counter = FlopCounterMode(display=False, custom_mapping=dict(FORMULAS))
    interpreter = _Counting(traced, counter)
    with evaluating(traced), torch.random.fork_rng(devices=[]), unfused(), counter:
        interpreter.run(*(x.clone() for x in example_inputs))
    batch = example_inputs[0].shape[0]
    return {name: flops / 2 / batch for name, flops in interpreter.flops.items() if flops}


class _Counting(fx.Interpreter):
    def __init__(self, traced: fx.GraphModule, counter: FlopCounterMode) -> None:
        super().__init__(traced)
        self._counter = counter
        self.flops: dict[str, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        before = self._counter.get_total_flops()
        result = super().run_node(n)
        self.flops[n.name] = self._counter.get_total_flops() - before
        return result


class _Look:
    """What blocks are found by: shapes with two numbers of samples, and the cost of every node."""

    def __init__(self, traced: fx.GraphModule, example_inputs: tuple[Tensor, ...]) -> None:
        self.traced = traced
        self.nodes = list(traced.graph.nodes)
        self.named = {node.name: node for node in self.nodes}
        self.order = {node: i for i, node in enumerate(self.nodes)}
        self.graph = Graph(traced, example_inputs)
        longer = tuple(torch.cat([x, x[:1]]) if x.dim() else x for x in example_inputs)
        self.longer = Graph(traced, longer).shapes
        self.samples = example_inputs[0].shape[0]
        self.layers = {name.rpartition(".")[0] for name in maskable(traced)}
        self.macs = node_macs(traced, example_inputs)

    def residual(self) -> Iterator[tuple[Block, set[str]]]:
        for total in self.nodes:
            operands = [each for each in total.args if isinstance(each, fx.Node)]
            is_sum = total.target in _ADDS or (total.op == "call_method" and total.target in ("add", "add_"))
            if not is_sum or len(operands) != 2 or operands[0] is operands[1] or len(total.args) != 2:
                continue
            ends = sorted(operands, key=lambda end: self._cost(computed_for(end, {total})), reverse=True)
            if (found := self._beside(ends[0], ends[1], total)) is not None:
                yield found

    def _beside(self, end: fx.Node, other: fx.Node, total: fx.Node) -> tuple[Block, set[str]] | None:
        """The block that ends in `end`, if its entry is where the other summand begins."""
        nodes = computed_for(end, {total})
        if not self._has_layer(nodes) or not self._by_sample(end) or self._shape(end) != self._shape(other):
            return None
        if self._shape(total) != self._shape(end) or not self._keeps(total, other):
            return None
        beside = computed_for(other, {total})
        common = set(self._read(nodes)) & ({other} | set(self._read(beside)))
        common = {node for node in common if self._by_sample(node)}
        if not common:
            return None
        entry = max(common, key=lambda node: self.order[node])
        return self._block("residual", entry, end, total, nodes), {node.name for node in nodes}

    def single(self) -> Iterator[tuple[Block, set[str]]]:
        """Layers that stand for themselves: what they read, and what they emit behind norm and non-linearity."""
        for layer in self.graph.layers:
            calls = self.graph.calls_of(layer)
            node = self.named[calls[0].node]
            if len(calls) != 1 or not node.args or not isinstance(node.args[0], fx.Node):
                continue
            entry, end = node.args[0], self._emitted(node)
            if entry.op == "placeholder" or any(user.op == "output" for user in end.users):
                continue
            if not self._by_sample(entry) or not self._by_sample(end):
                continue
            nodes = self._path(node, end)
            whole = isinstance(self.traced.get_submodule(layer), _WHOLE)
            if whole and self._shape(entry) == self._shape(end):
                yield self._block("whole", entry, end, end, nodes), {each.name for each in nodes}
            elif len(node.all_input_nodes) == 1 and self._skippable(entry, end, nodes):
                yield self._block("plain", entry, end, end, nodes), {each.name for each in nodes}

    def between(self, block: Block, nodes: set[str]) -> Iterator[Block]:
        for node in (each for each in self.nodes if each.name in nodes and self._is_layer(each)):
            end = self._emitted(node)
            (user,) = end.users if len(end.users) == 1 else (end,)
            if end.name == block.end or user.name not in nodes or not self._is_layer(user):
                continue
            reader = self.traced.get_submodule(str(user.target))
            plain = isinstance(reader, nn.Linear) or (
                isinstance(reader, nn.modules.conv._ConvNd) and reader.groups == 1 and not reader.transposed
            )
            if plain and self._by_sample(end) and len(self._shape(end)) >= 2:
                path = [*self._path(node, end), user]
                entry = self.named[block.entry]
                inner = self._block("residual", entry, end, end, path)
                yield inner

    # -- single questions -------------------------------------------------------------------------------------------

    def _block(self, kind: Kind, entry: fx.Node, end: fx.Node, total: fx.Node, nodes: list[fx.Node]) -> Block:
        inside = [node for node in nodes if self._is_layer(node)]
        last = not any(isinstance(self._module(node), _BY_CHANNEL) for node in nodes)
        shapes = self._shape(entry), self._shape(end)
        name = _shared([str(node.target) for node in inside])
        return Block(name, kind, entry.name, end.name, total.name, self._cost(nodes), last, shapes)

    def _skippable(self, entry: fx.Node, end: fx.Node, nodes: list[fx.Node]) -> bool:
        """Whether a skip connection can be added that costs little beside the layer."""
        before, after = self._shape(entry), self._shape(end)
        if len(before) != len(after) or (len(before) > 2 and not self._convolves(nodes)):
            return False
        shrink = [a / b for a, b in zip(before[2:], after[2:], strict=True)]
        if not all(ratio >= 1 and ratio == int(ratio) for ratio in shrink):
            return False
        extent = float(torch.Size(after[2:]).numel())
        cost = extent * (after[1] if before[1] == after[1] else before[1] * after[1])
        return cost <= _CHEAP * self._cost(nodes)

    def _convolves(self, nodes: list[fx.Node]) -> bool:
        return any(isinstance(self._module(node), nn.modules.conv._ConvNd) for node in nodes)

    def _emitted(self, node: fx.Node) -> fx.Node:
        """Behind the norm and the non-linearity that only it feeds and that keep its shape."""
        while len(node.users) == 1:
            (user,) = node.users
            unary = user.op in ("call_module", "call_function", "call_method") and user.all_input_nodes == [node]
            if not unary or self._is_layer(user) or self._shape(user) != self._shape(node):
                return node
            node = user
        return node

    def _path(self, first: fx.Node, end: fx.Node) -> list[fx.Node]:
        path = [first]
        while path[-1] is not end:
            path.append(next(iter(path[-1].users)))
        return path

    def _read(self, nodes: list[fx.Node]) -> list[fx.Node]:
        """What some nodes read of others: tensors that the network computes."""
        inside = set(nodes)
        read = dict.fromkeys(each for node in nodes for each in node.all_input_nodes if each not in inside)
        return [node for node in read if node.op != "get_attr" and self._shape(node)]

    def _keeps(self, total: fx.Node, other: fx.Node) -> bool:
        """Whether the sum leaves its summands as they are for whoever reads them later."""
        in_place = total.target is operator.iadd or total.target == "add_"
        if not in_place or total.args[0] is not other:
            return True
        return all(self.order[user] <= self.order[total] for user in other.users)

    def _by_sample(self, node: fx.Node) -> bool:
        before, after = self._shape(node), self.longer.get(node.name, ())
        return len(before) > 1 and before[0] == self.samples and after[:1] == (self.samples + 1,)

    def _shape(self, node: fx.Node) -> tuple[int, ...]:
        return self.graph.shapes.get(node.name, ())

    def _cost(self, nodes: Iterable[fx.Node]) -> float:
        return sum(self.macs.get(node.name, 0.0) for node in nodes)

    def _has_layer(self, nodes: Iterable[fx.Node]) -> bool:
        return any(self._is_layer(node) for node in nodes)

    def _is_layer(self, node: fx.Node) -> bool:
        call = self.graph.calls.get(node.name)
        return call is not None and call.maskable

    def _module(self, node: fx.Node) -> nn.Module | None:
        return self.traced.get_submodule(str(node.target)) if node.op == "call_module" else None


def _shared(modules: list[str]) -> str:
    """What the names of some modules begin with, whole atoms only; of one module its name."""
    atoms = [name.split(".") for name in dict.fromkeys(modules)]
    if len(atoms) == 1:
        return modules[0]
    kept = []
    for level in zip(*atoms, strict=False):
        if len(set(level)) > 1:
            break
        kept.append(level[0])
    return ".".join(kept) or modules[0]


def _named_apart(found: list[Block]) -> list[Block]:
    seen: dict[str, int] = {}
    apart = []
    for block in found:
        seen[block.name] = seen.get(block.name, 0) + 1
        name = block.name if seen[block.name] == 1 else f"{block.name}_{seen[block.name]}"
        apart.append(Block(**{**vars(block), "name": name}))
    return apart
