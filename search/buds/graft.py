"""A bud: the part of a tail that a sub-task needs, its weights inherited and frozen, with plasticity layers between.

A plasticity layer is a residual adapter of low rank after each inherited block, ``x + up(relu(down(x)))``, whose `up`
is 0 at birth: a bud then computes exactly what was cut out for it.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from search.buds.cut import Place, places
from search.surgery.channels import Channel, remove

#: Names of the plasticity layers begin so.
PLASTICITY = "plasticity"
_POINTWISE: Mapping[int, type[nn.Conv1d | nn.Conv2d | nn.Conv3d]] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}


def graft(tail: fx.GraphModule, hidden: Tensor, leaving: Iterable[Channel], rank: int, seed: int) -> fx.GraphModule:
    """A bud of a tail.

    Args:
        tail: Left as it is.
        hidden: Example of what flows into it.
        leaving: Channels that the bud does without, from `search.buds.isolate.leaving`.
        rank: Of the plasticity layers, >= 1; at most the channels that they stand between.
        seed: Of the plasticity layers.

    Returns:
        In evaluation mode; inherited parameters are frozen, those of the plasticity layers are not.
    """
    bud: fx.GraphModule = copy.deepcopy(tail).eval()
    going = list(leaving)
    if going:
        remove(bud, going, (hidden,))
    for parameter in bud.parameters():
        parameter.requires_grad_(False)
    _insert(bud, _after(bud, hidden), rank, torch.Generator().manual_seed(seed))
    return bud.eval()


def is_plastic(name: str) -> bool:
    """Whether a parameter belongs to a plasticity layer."""
    return name.startswith(PLASTICITY)


def ends(bud: fx.GraphModule) -> Mapping[str, str]:
    """By the node at the end of each inherited block the one behind its plasticity layer."""
    found = {}
    for node in bud.graph.nodes:
        if node.op == "call_function" and node.target is operator.add and len(node.args) == 2:
            before, up = node.args
            if isinstance(up, fx.Node) and up.op == "call_module" and is_plastic(str(up.target)):
                found[before.name] = node.name
    return found


def thaw(bud: nn.Module) -> list[nn.Parameter]:
    """Let the inherited parameters train as well; returns them."""
    inherited = [p for name, p in bud.named_parameters() if not is_plastic(name) and p.is_floating_point()]
    for parameter in inherited:
        parameter.requires_grad_(True)
    return inherited


def _after(bud: fx.GraphModule, hidden: Tensor) -> Sequence[Place]:
    """Where the plasticity layers go: the end of each block but the last, whose output is the bud's."""
    found = places(bud, inputs=(hidden,))
    if found:
        return found
    output = next(node for node in bud.graph.nodes if node.op == "output").args[0]
    with torch.no_grad():
        value = bud(hidden)
    return [Place(output.name, tuple(value.shape), value.ndim - 1)] if isinstance(output, fx.Node) else []


def _insert(bud: fx.GraphModule, where: Sequence[Place], rank: int, generator: torch.Generator) -> None:
    nodes = {node.name: node for node in bud.graph.nodes}
    for index, place in enumerate(where):
        name = f"{PLASTICITY}{index}"
        bud.add_module(name, _adapter(place, min(rank, place.channels), generator))
        before = nodes[place.node]
        readers = list(before.users)
        with bud.graph.inserting_after(before):
            down = bud.graph.call_module(f"{name}.down", (before,))
        with bud.graph.inserting_after(down):
            bent = bud.graph.call_function(F.relu, (down,))
        with bud.graph.inserting_after(bent):
            up = bud.graph.call_module(f"{name}.up", (bent,))
        with bud.graph.inserting_after(up):
            after = bud.graph.call_function(operator.add, (before, up))
        for reader in readers:
            reader.replace_input_with(before, after)
    bud.graph.lint()
    bud.recompile()


def _adapter(place: Place, rank: int, generator: torch.Generator) -> nn.Module:
    channels = place.channels
    down: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    up: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d
    if place.dim == 1 and len(place.shape) > 2:
        pointwise = _POINTWISE[len(place.shape)]
        down, up = pointwise(channels, rank, 1, bias=False), pointwise(rank, channels, 1, bias=False)
    else:
        down, up = nn.Linear(channels, rank, bias=False), nn.Linear(rank, channels, bias=False)
    with torch.no_grad():
        noise = torch.randn(down.weight.shape, generator=generator)
        down.weight.copy_(noise * (2.0 / channels) ** 0.5)
        up.weight.zero_()
    adapter = nn.Module()
    adapter.add_module("down", down)
    adapter.add_module("up", up)
    return adapter
