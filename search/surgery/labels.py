"""Labels on the entries of tensors: which of them would go together if one channel went.

A tensor carries layers of labels, integers of its own shape; along dimensions in which a layer does not vary it is
expanded (stride 0), so that it costs what it says. Label 0 is on entries that can never go.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

#: On entries that cannot go.
FIXED = 0
Layers = tuple[Tensor, ...]


@dataclass(frozen=True, eq=False)
class Marked:
    """A tensor and what is known of its entries.

    Args:
        value: What the network computes there.
        layers: int64, of the value's shape; an entry goes when any of its labels goes.
    """

    value: Tensor
    layers: Layers = ()


def marked(values: Any) -> list[Marked]:
    """All marked tensors in a structure."""
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Marked)]


def bare(values: Any) -> Any:
    """The same structure with plain tensors."""
    return pytree.tree_map_only(Marked, lambda mark: mark.value, values)


class Classes:
    """Which labels are the same: a union-find whose roots are the smallest labels."""

    def __init__(self) -> None:
        self._parent = [FIXED]

    def fresh(self, count: int) -> Tensor:
        """Labels that nothing has yet, (count,)."""
        start = len(self._parent)
        self._parent.extend(range(start, start + count))
        return torch.arange(start, start + count)

    def unite(self, one: Tensor, other: Tensor) -> None:
        """Let labels at the same places go together; the two are broadcast."""
        a, b = core(*torch.broadcast_tensors(one, other))  # type: ignore[no-untyped-call]
        pairs = torch.unique(torch.minimum(a, b) * len(self._parent) + torch.maximum(a, b))
        for pair in pairs.tolist():
            first, second = self._root(pair // len(self._parent)), self._root(pair % len(self._parent))
            self._parent[max(first, second)] = min(first, second)

    def unite_along(self, layer: Tensor, dims: Iterable[int]) -> Tensor:
        """Let labels that differ only along `dims` go together; the layer that is left does not vary there."""
        for dim in dims:
            if layer.stride(dim) and layer.shape[dim] > 1:
                first = layer.narrow(dim, 0, 1)
                self.unite(layer, first)
                layer = first.expand(layer.shape)
        return layer

    def fix(self, layer: Tensor) -> None:
        """Let nothing of this go."""
        self.unite(layer, torch.zeros((), dtype=torch.int64))

    def roots(self) -> Tensor:
        """The root of every label."""
        return torch.tensor([self._root(label) for label in range(len(self._parent))])

    def _root(self, label: int) -> int:
        while self._parent[label] != label:
            self._parent[label] = self._parent[self._parent[label]]
            label = self._parent[label]
        return label


def varying(layer: Tensor) -> list[int]:
    """The dimensions along which a tidy layer varies."""
    return [dim for dim in range(layer.ndim) if layer.shape[dim] > 1 and layer.stride(dim)]


def tidy(layer: Tensor) -> Tensor:
    """The same layer, expanded along every dimension in which it does not vary."""
    for dim in varying(layer):
        first = layer.narrow(dim, 0, 1)
        if bool((layer == first).all()):
            layer = first.expand(layer.shape)
    return layer


def block(layer: Tensor) -> Tensor:
    """A layer with one entry along every dimension in which it does not vary."""
    for dim in set(range(layer.ndim)) - set(varying(layer)):
        layer = layer.narrow(dim, 0, 1)
    return layer


def core(*layers: Tensor) -> list[Tensor]:
    """Layers of one shape, cut down to one entry along every dimension in which none varies."""
    for dim in range(layers[0].ndim):
        if not any(layer.stride(dim) for layer in layers) and layers[0].shape[dim] > 1:
            layers = tuple(layer.narrow(dim, 0, 1) for layer in layers)
    return [layer.reshape(-1) for layer in layers]


def along(labels: Tensor, dim: int, shape: Sequence[int]) -> Tensor:
    """A layer that varies along one dimension.

    Args:
        labels: (shape[dim],).
        dim: May be negative.
        shape: Of the tensor.
    """
    sizes = [1] * len(shape)
    sizes[dim] = -1
    return labels.reshape(sizes).expand(tuple(shape))


def vector(layer: Tensor, dim: int) -> Tensor:
    """Labels along one dimension at the first place of all others: what `along` spreads."""
    for other in range(layer.ndim):
        if other != dim % layer.ndim:
            layer = layer.narrow(other, 0, 1)
    return layer.reshape(-1)


def clusters(layers: Iterable[Tensor]) -> list[list[Tensor]]:
    """Layers of one shape, together where they vary along the same dimensions."""
    found: list[tuple[set[int], list[Tensor]]] = []
    for layer in layers:
        dims, members = set(varying(layer)), [layer]
        for known in [known for known in found if known[0] & dims]:
            found.remove(known)
            dims, members = dims | known[0], [*known[1], *members]
        found.append((dims, members))
    return [members for _, members in found]
