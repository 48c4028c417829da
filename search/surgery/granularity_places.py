"""Which layers of a network can have a precision of their own."""

from __future__ import annotations

from collections import Counter
from typing import Any

from torch import fx, nn

from search.surgery.granularity_units import KINDS
from search.surgery.site import Site
from search.surgery.tracing import is_leaf


def eligible(site: Site) -> tuple[dict[str, nn.Module], int]:
    """The layers by name, in module order, and how many maskable weights are left alone.

    Left alone are layers of another class than those of torch.nn (they may compute something else), layers inside of
    torch's own attention and encoders (which hand weights to fused kernels), and weights that more than one module has
    or that the graph reads without its layer.
    """
    network, weights = site.network, site.connectivity.weights
    owners = Counter(id(p) for m in network.modules() for p in m._parameters.values() if p is not None)
    read = set()
    if isinstance(network, fx.GraphModule):
        read = {str(node.target) for node in network.graph.nodes if node.op == "get_attr"}
    fused = [name for name, module in network.named_modules() if name and is_leaf(module) and type(module) not in KINDS]
    found = {}
    for name, module in network.named_modules():
        weight = f"{name}.weight"
        inside = any(name.startswith(f"{outer}.") for outer in fused)
        if type(module) not in KINDS or weight not in weights or inside or weight in read:
            continue
        if owners[id(weights[weight])] == 1:
            found[name] = module
    return found, len(weights) - len(found)


def groups_of(layer: Any, group: str) -> tuple[int, ...]:
    """Output channels of each unit of a layer."""
    count = int(layer.weight.shape[0])
    if group == "layer" or getattr(layer, "groups", 1) != 1:
        return (count,)
    size = int(group)
    return tuple(min(size, count - start) for start in range(0, count, size))
