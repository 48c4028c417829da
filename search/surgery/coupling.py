"""How channels of different layers hang together: labels that flow through a traced network with the data.

Every dimension of a weight has labels. A layer gives those of its outputs to what it computes, and takes those of its
inputs from what it reads; sums, products and concatenations let labels meet, and whatever only moves data (views,
splits, pads, shuffles) is done to the labels as it is done to the data. What no rule knows fixes what it reads.

Two questions have no one answer: a grouped convolution can lose whole groups or as many channels out of each, and
attention whole heads or as many columns out of each. `whole` says which of the two is asked; both are worth asking.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.utils import _pytree as pytree

from objectives.maskable import CONVOLUTIONS
from search.surgery.coupling_functions import apply
from search.surgery.labels import Classes, Layers, Marked, along, bare, block, marked, tidy, varying, vector
from search.surgery.meeting import across, carried, halves, moved, opaque, shuffled, unmarked
from search.surgery.routing_gate import RoutingGate

Role = Literal["produced", "consumed", "held", "kept"]
_BY_CHANNEL = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_SHUFFLES = (nn.Flatten, nn.Unflatten, nn.PixelShuffle, nn.PixelUnshuffle)
_ACROSS = (nn.LocalResponseNorm, nn.Softmax2d, nn.Fold, nn.Unfold)


@dataclass(frozen=True, eq=False)
class Slot:
    """The labels along one dimension of one parameter or buffer.

    Args:
        name: Of the parameter.
        dim: Which dimension.
        role: ``produced`` and ``consumed`` of weights, ``held`` of what gives a channel a value of its own, ``kept`` of
            what is only cut with it.
        labels: One per position.
    """

    name: str
    dim: int
    role: Role
    labels: Tensor


class Coupling(fx.Interpreter):
    """Runs a traced network on example inputs and on labels.

    Args:
        traced: In evaluation mode; it is left as it is.
        whole: Whether groups and heads go as a whole, or every one of them loses as much.

    Attributes:
        slots: By parameter and dimension, in the order in which the network reads them.
        marks: By node, what it gave: tensors on the meta device, with their layers.
        sizes: By module and attribute, the labels that the attribute counts.
        ambiguous: Whether the answer depends on `whole`.
    """

    def __init__(self, traced: fx.GraphModule, *, whole: bool) -> None:
        super().__init__(traced)
        self.extra_traceback = False
        self.whole = whole
        self.classes = Classes()
        self.slots: dict[tuple[str, int], Slot] = {}
        self.marks: dict[fx.Node, Any] = {}
        self.sizes: dict[tuple[str, str], Tensor] = {}
        self.ambiguous = False
        self._blocks: list[Tensor] = []
        named = [*traced.named_parameters(), *traced.named_buffers()]
        self._names = {id(tensor): name for name, tensor in named}

    def follow(self, example_inputs: Sequence[Tensor]) -> Tensor:
        """Run everything.

        Returns:
            The root of every label; what has the same root goes together, and what has `FIXED` stays.
        """
        self.run(*(Marked(x.clone()) for x in example_inputs))
        return self._closed()

    def slot(self, tensor: Tensor | None, dim: int, role: Role, labels: Tensor | None = None) -> Tensor:
        """The labels of one dimension: `labels` if they are the first, else they meet those that are there.

        Without `labels` they are new ones.
        """
        if tensor is None:
            return torch.zeros(0, dtype=torch.int64)
        name = self._names[id(tensor)]
        known = self.slots.get((name, dim))
        if known is None:
            found = self.classes.fresh(tensor.shape[dim]) if labels is None else labels
            known = self.slots[name, dim] = Slot(name, dim, role, found)
        elif labels is not None:
            self.classes.unite(known.labels, labels)
        return known.labels

    def fix(self, values: Any) -> None:
        """Let nothing go of any tensor in a structure."""
        for layer in (layer for mark in marked(values) for layer in mark.layers):
            self.classes.fix(layer)

    def mark(self, value: Tensor, layers: Sequence[Tensor]) -> Marked:
        """A value with its layers, tidied."""
        found = []
        for layer in map(tidy, layers):
            dims = varying(layer)
            if dims:
                found.append(layer)
            elif layer.numel():
                self.classes.fix(layer)  # with its label the whole tensor would go, and with it the network
            if len(dims) > 1:
                self._blocks.append(block(layer))
        return Marked(value, tuple(found))

    # -- the nodes --------------------------------------------------------------------------------------------------

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        self.marks[n] = pytree.tree_map_only(Marked, lambda mark: Marked(mark.value.to("meta"), mark.layers), result)
        return result

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        value = self.fetch_attr(target)
        if not isinstance(value, Tensor):
            return value
        dims = [dim for dim, size in enumerate(value.shape) if size > 1]
        if not isinstance(value, nn.Parameter) or len(dims) != 1:
            return Marked(value)
        return self.mark(value, [along(self.slot(value, dims[0], "held"), dims[0], value.shape)])

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        result = target(*bare(args), **bare(kwargs))
        return apply(self, getattr(target, "__name__", ""), target, args, kwargs, result)

    def call_method(self, target: Any, args: Any, kwargs: Any) -> Any:
        method = getattr(torch.Tensor, str(target), None)
        this, *rest = bare(args)
        result = getattr(this, str(target))(*rest, **bare(kwargs))
        if method is None or not isinstance(args[0], Marked):
            return unmarked(result)
        return apply(self, str(target), method, args, kwargs, result)

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return self._module(str(target), self.fetch_attr(target), args, kwargs)

    def output(self, target: Any, args: Any, kwargs: Any) -> Any:
        self.fix(args)
        return args[0]

    # -- modules ----------------------------------------------------------------------------------------------------

    def _module(self, name: str, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        if type(module) is nn.Sequential:
            (value,) = args
            for child, part in module.named_children():
                value = self._module(f"{name}.{child}", part, (value,), {})
            return value
        result = module(*bare(args), **bare(kwargs))
        first = args[0] if args and isinstance(args[0], Marked) else None
        if first is None or len(marked((args, kwargs))) > 1 or hasattr(module, "parametrizations"):
            return opaque(self, args, kwargs, result)
        layers = self._layers(name, module, first, result) if isinstance(result, Tensor) else None
        return opaque(self, args, kwargs, result) if layers is None else self.mark(result, layers)

    def _layers(self, name: str, module: nn.Module, x: Marked, result: Tensor) -> Layers | None:
        """The layers of what a module gives; None where no rule knows it."""
        if isinstance(module, nn.Linear):
            return self._linear(name, module, x, result)
        if isinstance(module, CONVOLUTIONS):
            return self._convolution(name, module, x, result)
        if isinstance(module, nn.Embedding):
            labels = self.sizes[name, "embedding_dim"] = self.slot(module.weight, 1, "held")
            return (along(labels, -1, result.shape),)
        if isinstance(module, _BY_CHANNEL):
            self._by_channel(x, (module.weight, module.bias), (module.running_mean, module.running_var))
            return self._counted(x, name, "num_features")
        if isinstance(module, nn.PReLU) and module.num_parameters > 1:
            self._by_channel(x, (module.weight,), ())
            return self._counted(x, name, "num_parameters")
        if isinstance(module, nn.GroupNorm):
            self.sizes[name, "num_groups"] = self._groups(self._channels(x, 1), module.num_groups)
            self._by_channel(x, (module.weight, module.bias), ())
            return self._counted(x, name, "num_channels")
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            return across(self, x, range(x.value.ndim - len(module.normalized_shape), x.value.ndim))
        if isinstance(module, nn.Softmax | nn.LogSoftmax | nn.Softmin) and module.dim is not None:
            return across(self, x, [module.dim % x.value.ndim])
        if isinstance(module, nn.GLU):
            return halves(self, x, module.dim)
        if isinstance(module, nn.ChannelShuffle):
            left = shuffled(self, x, module.groups)
            if self.whole:
                self.sizes[name, "groups"] = self._channels(x, 1).reshape(module.groups, -1)[:, 0]
            return left
        if isinstance(module, RoutingGate):
            return self._gate(name, module, x, result)
        if isinstance(module, _SHUFFLES):
            return tuple(moved(layer, module) for layer in x.layers)
        if isinstance(module, _ACROSS) or sum(parameter.numel() for parameter in module.parameters()) > 1:
            return None
        return carried(self, x, result.shape)

    def _linear(self, name: str, module: nn.Linear, x: Marked, result: Tensor) -> Layers:
        last, carried = x.value.ndim - 1, []
        read = torch.zeros(module.in_features, dtype=torch.int64)
        for layer in x.layers:
            dims = varying(layer)
            if last in dims and len(dims) > 1:
                self.ambiguous = True
                layer = self.classes.unite_along(layer, [last] if self.whole else dims[:-1])
                dims = varying(layer)
            if dims == [last]:
                read = vector(layer, last)
            else:
                carried.append(layer.narrow(last, 0, 1).expand(result.shape))
        self.sizes[name, "in_features"] = self.slot(module.weight, 1, "consumed", read)
        labels = self.sizes[name, "out_features"] = self.slot(module.weight, 0, "produced")
        self.slot(module.bias, 0, "held", labels)
        return (along(labels, -1, result.shape), *carried)

    def _convolution(self, name: str, module: nn.Module, x: Marked, result: Tensor) -> Layers:
        weight, groups = module.weight, int(module.groups)  # type: ignore[arg-type]
        assert isinstance(weight, Tensor)
        dim = x.value.ndim - (weight.ndim - 1)
        into, out = (0, 1) if module.transposed else (1, 0)
        read = self._channels(x, dim)
        if groups == 1:
            self.slot(weight, into, "consumed", read)
            labels = self.slot(weight, out, "produced")
        elif self.whole or len(read) == result.shape[dim] == groups:
            self.ambiguous |= not len(read) == result.shape[dim] == groups
            by_group = self.sizes[name, "groups"] = self._groups(read, groups)
            labels = by_group.repeat_interleave(result.shape[dim] // groups)
            self.slot(weight, 0, "produced", by_group.repeat_interleave(weight.shape[0] // groups))
        else:
            self.ambiguous = True
            labels = self._thinned(weight, groups, read, transposed=bool(module.transposed))
        self.slot(module.bias if isinstance(module.bias, Tensor) else None, 0, "held", labels)
        self.sizes[name, "in_channels"], self.sizes[name, "out_channels"] = read, labels
        return (along(labels, dim, result.shape),)

    def _gate(self, name: str, module: RoutingGate, x: Marked, result: Tensor) -> Layers:
        """A gate sums over the channels that it reads, and has an output per channel that it opens and shuts."""
        read = self.sizes[name, "channels"] = self._channels(x, x.value.ndim - 1 if module.last else 1)
        for weight in module.reads():
            self.slot(weight, weight.ndim - 1, "held", read)
        for buffer in (module.center, module.scale):
            self.slot(buffer, 0, "kept", read)
        if not module.width:
            return ()
        labels = self.sizes[name, "width"] = self.slot(module.member, 0, "kept")
        return (along(labels, -1 if module.last else 1, result.shape),)

    def _thinned(self, weight: Tensor, groups: int, read: Tensor, *, transposed: bool) -> Tensor:
        """Labels of what a grouped convolution computes, where every group loses as much."""
        by_group = read.reshape(groups, -1)
        self.classes.unite(by_group, by_group[:1])
        if transposed:
            self.slot(weight, 0, "consumed", read)
            return self.slot(weight, 1, "produced").repeat(groups)
        self.slot(weight, 1, "consumed", by_group[0])
        labels = self.slot(weight, 0, "produced").reshape(groups, -1)
        self.classes.unite(labels, labels[:1])
        return labels.reshape(-1)

    def _channels(self, x: Marked, dim: int) -> Tensor:
        """The labels along dimension `dim`, after all that vary elsewhere too are united there; 0 where none are."""
        found = torch.zeros(x.value.shape[dim], dtype=torch.int64)
        for layer in x.layers:
            dims = varying(layer)
            if dim in dims:
                found = vector(self.classes.unite_along(layer, [d for d in dims if d != dim]), dim)
            else:
                self.classes.fix(layer)
        return found

    def _groups(self, read: Tensor, groups: int) -> Tensor:
        """One label per group, (groups,), for all channels in it."""
        by_group = read.reshape(groups, -1)
        self.classes.unite(by_group, by_group[:, :1])
        return by_group[:, 0]

    def _by_channel(self, x: Marked, affine: Sequence[Any], statistics: Sequence[Any]) -> None:
        for role, tensors in (("held", affine), ("kept", statistics)):
            for tensor in tensors:
                self.slot(tensor, 0, role, self._channels(x, 1))  # type: ignore[arg-type]

    def _counted(self, x: Marked, name: str, attribute: str) -> Layers:
        labels = self.sizes[name, attribute] = self._channels(x, 1)
        return (along(labels, 1, x.value.shape),)

    # -- what goes together in the end ------------------------------------------------------------------------------

    def _closed(self) -> Tensor:
        """Unite until what goes is always a slice of each tensor, so that a rectangle is left."""
        while True:
            roots, changed = self.classes.roots(), False
            for labels in self._blocks:
                layer = tidy(roots[labels])
                dims = varying(layer)
                if len(dims) > 1:
                    self.ambiguous = changed = True
                    self.classes.unite_along(layer, dims[1:] if self.whole else dims[:-1])
            if not changed:
                return roots
