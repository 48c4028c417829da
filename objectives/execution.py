"""What is really executed where samples may bypass work: which nodes a gate governs, and for what share of samples.

A gate is a module that says, sample by sample, what runs. In a traced network its output multiplies what a block (or
a layer's channels) computes: all that is computed for that product alone runs only where the gate is not 0.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, fx, nn

from objectives.maskable import maskable

#: Before the name of a gate, the figure that says for which share of its work it is open.
USE = "routing/use/"


class Gate(nn.Module):
    """A module that decides for each sample what runs: its evaluation outputs are 0 or 1.

    Attributes:
        claim: The mean of its outputs that is to be assumed where none is measured; None where there is nothing to
            assume. A tensor, so that it is no part of what the network is.
        width: How many channels it opens and shuts one by one; 0 where all that it governs goes as one.
    """

    width: int = 0
    claim: Tensor | None = None


def place(figure: str) -> str:
    """What a gate governs, as a reader names it (``layer1.0``), from its figure (``routing/use/gates.layer1_0``)."""
    flat = figure.removeprefix(USE).partition(".")[2]
    return flat.replace("__", "\0").replace("_", ".").replace("\0", "_")


def gates(network: nn.Module) -> dict[str, Gate]:
    """The gates of a network by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, Gate)}


def uses(network: nn.Module, measured: Mapping[str, float]) -> dict[str, float]:
    """By gate, the mean of its outputs: as it claims, else as it was measured, else 1."""
    found = {}
    for name, gate in gates(network).items():
        known = measured.get(f"{USE}{name}", 1.0)
        found[name] = float(gate.claim) if gate.claim is not None else known
    return found


@contextmanager
def watched(network: nn.Module) -> Iterator[dict[str, float]]:
    """Measure for which share of the samples that come by in the block each gate is open.

    Yields:
        A mapping that is filled when the block ends, under ``routing/use/<gate>``.
    """
    totals: dict[str, list[Tensor | int]] = {}
    figures: dict[str, float] = {}

    def listening(name: str) -> object:
        def listen(_module: nn.Module, _args: object, output: Tensor) -> None:
            # Kept on the device: fetching a number would make an accelerator wait for every batch.
            total, count = totals.get(name, [0, 0])
            totals[name] = [total + output.detach().float().sum(), count + output.numel()]

        return listen

    handles = [gate.register_forward_hook(listening(name)) for name, gate in gates(network).items()]  # type: ignore[arg-type]
    try:
        yield figures
    finally:
        for handle in handles:
            handle.remove()
        figures |= {f"{USE}{name}": float(total) / int(count) for name, (total, count) in totals.items() if count}


def governed(traced: fx.GraphModule) -> dict[str, list[fx.Node]]:
    """By gate, the nodes that run only where it is open, in the order in which they run."""
    found: dict[str, list[fx.Node]] = {}
    layers = {name.rpartition(".")[0] for name in maskable(traced)}
    for name, node, product, inner in gated(traced):
        gate = traced.get_submodule(name)
        assert isinstance(gate, Gate)
        if gate.width:
            nodes = [*computed_for(inner, {product}, layers), *_readers(product, layers)]
        else:
            nodes = computed_for(inner, {product})
        found.setdefault(name, [])
        found[name] += [each for each in nodes if each is not node]
    return found


def gated(traced: fx.GraphModule) -> Iterator[tuple[str, fx.Node, fx.Node, fx.Node]]:
    """Every gate that stands in a graph: its name, its call, the product that it enters, and what else enters that."""
    for node in traced.graph.nodes:
        if node.op != "call_module" or not isinstance(traced.get_submodule(str(node.target)), Gate):
            continue
        for user in node.users:
            if user.target is operator.mul and user.args[1] is node:
                inner = user.args[0]
                assert isinstance(inner, fx.Node)
                yield str(node.target), node, user, inner


def computed_for(end: fx.Node, users: Iterable[fx.Node], layers: Iterable[str] = ()) -> list[fx.Node]:
    """The nodes whose values serve `end` alone, itself included, in the order in which they run.

    Args:
        end: Whose users must all be among `users`, else nothing is computed for it alone.
        users: Where it is used.
        layers: Modules beyond which nothing is looked for: one of them is the first of its path.
    """
    served, first, found = set(users), set(layers), list[fx.Node]()
    inside: set[fx.Node] = set()
    for node in reversed(end.graph.nodes):
        if node.op in ("placeholder", "output"):
            continue
        if node is end:
            belongs = set(node.users) <= served
        else:
            belongs = bool(node.users) and all(user in inside and not _is(user, first) for user in node.users)
        if belongs:
            inside.add(node)
            found.append(node)
    return found[::-1]


def shares(traced: fx.GraphModule, used: Mapping[str, float]) -> dict[str, float]:
    """By node, the share of its work that is executed; nodes that always run are left out.

    Args:
        traced: A network with gates.
        used: By gate, the mean of its outputs.
    """
    found: dict[str, float] = {}
    for name, nodes in governed(traced).items():
        for node in nodes:
            found[node.name] = found.get(node.name, 1.0) * used.get(name, 1.0)
    return found


def _readers(product: fx.Node, layers: set[str]) -> list[fx.Node]:
    """The layers that read gated channels, and nothing but these."""
    found, waiting = list[fx.Node](), list(product.users)
    while waiting:
        user = waiting.pop(0)
        if _is(user, layers):
            found.append(user)
        elif len(user.all_input_nodes) == 1 and user.op != "output":
            waiting += list(user.users)
    return found


def _is(node: fx.Node, modules: set[str]) -> bool:
    return node.op == "call_module" and str(node.target) in modules
