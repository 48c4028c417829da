"""Channels removed for real: parameters cut, modules told their new sizes, and the constants of the graph put right."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from search.surgery.coupling import Coupling
from search.surgery.labels import Marked, along, block, varying

_T = TypeVar("_T", int, str)
_SIZES = frozenset(("view", "reshape", "expand", "broadcast_to", "unflatten"))
_SPLITS = frozenset(("chunk", "split", "split_with_sizes", "tensor_split"))


def cut(network: nn.Module, followed: Sequence[tuple[Coupling, Tensor]]) -> None:
    """Take entries out of the parameters and buffers of a network, and tell its modules how large they are.

    Args:
        network: Edited in place; its parameters and modules have the names that the couplings know.
        followed: Couplings that have been followed, each with what goes, boolean per label. They say it together.
    """
    for (path, dim), keep in _left(((c.slots[place].labels, place, gone) for c, gone in followed for place in c.slots)):
        owner, _, name = path.rpartition(".")
        module = network.get_submodule(owner)
        before: Tensor = getattr(module, name)
        after = before.detach().index_select(dim, keep.nonzero()[:, 0].to(before.device))
        setattr(module, name, nn.Parameter(after, before.requires_grad) if isinstance(before, nn.Parameter) else after)
    for (path, attribute), keep in _left(((c.sizes[place], place, gone) for c, gone in followed for place in c.sizes)):
        setattr(network.get_submodule(path), attribute, int(keep.sum()))


def _left(found: Iterable[tuple[Tensor, tuple[str, _T], Tensor]]) -> list[tuple[tuple[str, _T], Tensor]]:
    """By place, which of its positions are left; only where some have gone."""
    keeps: dict[tuple[str, _T], Tensor] = {}
    for labels, place, gone in found:
        keep = ~gone[labels]
        keeps[place] = keep & keeps.get(place, keep)
    return [(place, keep) for place, keep in keeps.items() if not bool(keep.all())]


class Rewriting(fx.Interpreter):
    """Runs a network whose parameters have been cut, and puts right every constant that its graph got from them.

    Args:
        network: Rewritten in place while it runs; recompile it afterwards.
        before: By node name what each node gave before, with its layers, and which labels have gone (boolean per
            label). Several, where several couplings say together what goes.
        masked: By node name what each node gives where the same channels are masked; {} to compare nothing.

    Raises:
        ValueError: From `run`, if a node does not give what is left of what it gave before.
    """

    def __init__(
        self,
        network: fx.GraphModule,
        before: Sequence[tuple[Mapping[str, Any], Tensor]],
        masked: Mapping[str, Any],
    ) -> None:
        super().__init__(network)
        self.extra_traceback = False
        self._before, self._masked = before, masked

    def run_node(self, n: fx.Node) -> Any:
        name = str(getattr(n.target, "__name__", n.target)).rstrip("_")
        if n.op in ("call_function", "call_method") and n.all_input_nodes:
            self._adjust(n, name)
        elif n.op == "call_module" and isinstance(module := self.fetch_attr(str(n.target)), nn.Unflatten):
            module.unflattened_size = self._left(n)[0][module.dim :][: len(module.unflattened_size)]
        result = super().run_node(n)
        found, kept = _tensors(result), self._leaves(n)
        if n.op != "output" and [tuple(leaf.shape) for leaf in found] != [_shape(keep) for keep in kept]:
            raise ValueError(f"{n.name} has other shapes than what is left of it")
        for value, keep, expected in zip(found, kept, _tensors(self._masked.get(n.name)), strict=False):
            for dim, positions in enumerate(keep):
                expected = expected.index_select(dim, positions.nonzero()[:, 0].to(expected.device))
            if not close(expected, value):
                raise ValueError(f"{n.name} gives something else than what is left of it where channels are masked")
        return result

    def _adjust(self, n: fx.Node, name: str) -> None:
        if name in _SIZES:
            self._sizes(n)
        elif name == "pad":
            self._pad(n)
        elif not isinstance(self._value(n.args[0]), Tensor) or not self._touched(n):
            return
        elif name in _SPLITS:
            sizes = [shape[self._dim(n, 2)] for shape in self._left(n)]
            n.target = "split" if n.op == "call_method" else torch.split
            n.args, n.kwargs = (n.args[0], sizes, self._dim(n, 2)), {}
        elif name == "getitem":
            n.args = (n.args[0], self._index(n))

    # -- what was there and what is left ----------------------------------------------------------------------------

    def _leaves(self, node: fx.Node) -> list[list[Tensor]]:
        """Per tensor of a node and per dimension, which positions are left."""
        found: list[list[Tensor]] = []
        for marks, gone in self._before:
            leaves = [leaf for leaf in pytree.tree_leaves(marks[node.name]) if isinstance(leaf, Marked)]
            kept = [[torch.ones(size, dtype=torch.bool) for size in leaf.value.shape] for leaf in leaves]
            for leaf, keep in zip(leaves, kept, strict=True):
                for layer in leaf.layers:
                    _strike(layer, gone, keep)
            found = (
                [[a & b for a, b in zip(x, y, strict=True)] for x, y in zip(found, kept, strict=True)]
                if found
                else kept
            )
        return found

    def _left(self, node: fx.Node) -> list[tuple[int, ...]]:
        return [_shape(keep) for keep in self._leaves(node)]

    def _touched(self, n: fx.Node) -> bool:
        """Whether the first tensor that a node reads has lost anything."""
        return not all(keep.all() for leaf in self._leaves(n.args[0]) for keep in leaf)  # type: ignore[arg-type]

    def _value(self, argument: Any) -> Any:
        return self.env[argument] if isinstance(argument, fx.Node) else argument

    # -- single functions -------------------------------------------------------------------------------------------

    def _sizes(self, n: fx.Node) -> None:
        """Sizes that are written down, or computed from what has shrunk."""
        (wanted,) = self._left(n)
        first = 2 if "unflatten" in str(n.target) else 1
        written = n.args[first:]
        packed = len(written) == 1 and isinstance(written[0], list | tuple)
        sizes = list(written[0] if packed else written)  # type: ignore[arg-type]
        if first == 2:
            wanted = wanted[self._value(n.args[1]) :][: len(sizes)]
        if len(sizes) != len(wanted) or not all(isinstance(self._value(size), int) for size in sizes):
            return
        right = [
            size if self._value(size) in (-1, length) else length for size, length in zip(sizes, wanted, strict=True)
        ]
        n.args = (*n.args[:first], *([tuple(right)] if packed else right))

    def _index(self, n: fx.Node) -> Any:
        """An index into what is left, that reads what it read before."""
        (keep,) = self._leaves(n.args[0])  # type: ignore[arg-type]
        index = n.args[1] if isinstance(n.args[1], list | tuple) else (n.args[1],)
        named = sum(each is not None and each is not Ellipsis for each in index)
        right, dim = [], 0
        for each in index:
            if each is Ellipsis:
                dim += len(keep) - named
            elif each is not None:
                if not keep[dim].all():
                    each = self._at(each, keep[dim])
                dim += 1
            right.append(each)
        return tuple(right)

    def _at(self, index: Any, keep: Tensor) -> Any:
        before = [0, *accumulate(keep.int().tolist())]
        if isinstance(index, slice):
            start, stop, step = slice(*map(self._value, (index.start, index.stop, index.step))).indices(len(keep))
            if step != 1:
                raise ValueError(f"a step of {step} across channels has no counterpart in what is left")
            return slice(before[start], before[max(start, stop)])
        position = self._value(index)
        if not isinstance(position, int):
            raise ValueError("channels are read by a tensor of positions")
        return before[position % len(keep)]

    def _pad(self, n: fx.Node) -> None:
        (inside,), (outside,) = self._leaves(n.args[0]), self._leaves(n)  # type: ignore[arg-type]
        amounts = list(n.args[1] if len(n.args) > 1 else n.kwargs["pad"])  # type: ignore[arg-type]
        for i in range(0, len(amounts), 2):
            dim = len(outside) - 1 - i // 2
            before, within = self._value(amounts[i]), len(inside[dim])
            if not outside[dim].all():
                amounts[i : i + 2] = int(outside[dim][:before].sum()), int(outside[dim][before + within :].sum())
        n.args, n.kwargs = (n.args[0], amounts, *n.args[2:]), {k: v for k, v in n.kwargs.items() if k != "pad"}

    def _dim(self, n: fx.Node, position: int) -> int:
        return int(self._value(n.args[position] if len(n.args) > position else n.kwargs.get("dim", 0)))


def close(expected: Tensor, found: Tensor) -> bool:
    """Whether two tensors are the same up to the order in which sums were taken."""
    if expected.shape != found.shape or not expected.is_floating_point():
        return torch.equal(expected, found)
    finite = expected[expected.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    tolerance = 1e-6 if expected.dtype == torch.float64 else 1e-4
    return torch.allclose(expected, found, rtol=tolerance, atol=tolerance * scale, equal_nan=True)


def _tensors(values: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(values) if isinstance(leaf, Tensor)]


def _shape(keep: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(int(positions.sum()) for positions in keep)


def _strike(layer: Tensor, gone: Tensor, keep: Sequence[Tensor]) -> None:
    """Note along which dimension of a tensor what has gone lies."""
    lost = gone[block(layer)]
    if not bool(lost.any()):
        return
    for dim in varying(layer):
        whole = lost.movedim(dim, 0).flatten(1).all(1)
        if torch.equal(along(whole, dim, lost.shape), lost):
            keep[dim].logical_and_(~whole)
            return
    raise ValueError("what goes is no slice of the tensor")
