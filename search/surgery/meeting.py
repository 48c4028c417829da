"""How labels meet, are carried on, and come to stay: what the rules for functions and modules have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from search.surgery.labels import Layers, Marked, clusters, tidy, varying

if TYPE_CHECKING:
    from search.surgery.coupling import Coupling


def unmarked(result: Any) -> Any:
    """What has no labels."""
    return pytree.tree_map_only(Tensor, Marked, result)


def opaque(flow: Coupling, args: Any, kwargs: Any, result: Any) -> Any:
    """What no rule knows needs all that it reads."""
    flow.fix((args, kwargs))
    return unmarked(result)


def met(flow: Coupling, inputs: Sequence[Marked], shape: torch.Size) -> Layers:
    """Entries at the same place go together; along a dimension where one of them has no label, nothing goes."""
    spread = [(mark, tidy(layer.expand(shape))) for mark in inputs for layer in mark.layers]
    found = []
    for members in clusters(layer for _, layer in spread):
        for other in members[1:]:
            flow.classes.unite(members[0], other)
        owners = {id(mark) for mark, layer in spread if any(layer is member for member in members)}
        bare_sizes = [
            [1] * (len(shape) - mark.value.ndim) + list(mark.value.shape) for mark in inputs if id(mark) not in owners
        ]
        needed = {dim for sizes in bare_sizes for dim, size in enumerate(sizes) if size > 1}
        found += whole_along(flow, members[0], needed)
    return tuple(found)


def whole_along(flow: Coupling, layer: Tensor, dims: Iterable[int]) -> list[Tensor]:
    """A layer of which nothing goes along some dimensions: what is left of it, if it varies along others."""
    needed, own = set(dims), set(varying(layer))
    if not own - needed:
        flow.classes.fix(layer)
        return []
    return [flow.classes.unite_along(layer, sorted(own & needed))]


def carried(flow: Coupling, x: Marked, shape: torch.Size) -> Layers | None:
    """The same layers in another extent; None where a dimension along which they vary has changed."""
    if len(shape) != x.value.ndim:
        return None
    found = []
    for layer in x.layers:
        dims = varying(layer)
        if any(shape[dim] != layer.shape[dim] for dim in dims):
            return None
        for dim in set(range(layer.ndim)) - set(dims):
            layer = layer.narrow(dim, 0, 1)
        found.append(layer.expand(shape))
    return tuple(found)


def across(flow: Coupling, x: Marked, dims: Iterable[int]) -> Layers:
    """What mixes all entries along some dimensions needs them; the other layers are carried."""
    mixed = set(dims)
    return tuple(kept for layer in x.layers for kept in whole_along(flow, layer, mixed))


def halves(flow: Coupling, x: Marked, dim: int) -> Layers:
    """One half of a dimension gates the other."""
    parts = [layer.chunk(2, dim) for layer in x.layers]
    for one, other in parts:
        flow.classes.unite(one, other)
    return tuple(one for one, _ in parts)


def shuffled(flow: Coupling, x: Marked, groups: int) -> Layers:
    """Channels dealt out anew: of the groups of them, whole ones go or all lose as much."""
    flow.ambiguous = True
    found = []
    for layer in x.layers:
        by_group = layer.reshape(len(layer), groups, -1, *layer.shape[2:])
        flow.classes.unite(by_group, by_group[:, :, :1] if flow.whole else by_group[:, :1])
        found.append(by_group.transpose(1, 2).flatten(1, 2))
    return tuple(found)


def moved(layer: Tensor, move: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What moving entries does to labels. Some kernels move floating point only; it holds labels exactly."""
    try:
        return move(layer, *args, **kwargs)
    except (NotImplementedError, RuntimeError):
        found = move(layer.double(), *args, **kwargs)
        return pytree.tree_map_only(Tensor, lambda each: each.long(), found)


def argument(args: Sequence[Any], kwargs: Mapping[str, Any], position: int, name: str, default: Any) -> Any:
    return args[position] if len(args) > position else kwargs.get(name, default)
