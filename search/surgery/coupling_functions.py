"""What labels do in functions and methods: move with the data, meet, are carried, are used up, or stay for good.

Each rule gives what the function gave, marked. Rules may be generous: nothing is removed before an experiment has shown
that masking and removing are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from search.surgery.coupling_products import attention, product
from search.surgery.labels import Marked, along, bare, marked, varying
from search.surgery.meeting import across, argument, carried, halves, met, moved, opaque, shuffled, unmarked

if TYPE_CHECKING:
    from search.surgery.coupling import Coupling

_MOVES_NAMES = """
    broadcast_to chunk contiguous expand expand_as flatten flip getattr getitem index_select movedim
    moveaxis narrow permute pixel_shuffle pixel_unshuffle ravel repeat repeat_interleave reshape roll select split
    split_with_sizes squeeze swapaxes swapdims t tensor_split tile transpose unbind unflatten unsqueeze view
"""
_ACROSS_NAMES = "cumprod cumsum log_softmax logcumsumexp normalize softmax softmin"
_REDUCTION_NAMES = "all amax amin any argmax argmin count_nonzero logsumexp max mean median min norm prod std sum var"
_OPAQUE_NAMES = """
    addbmm addmm addmv baddbmm batch_norm bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d
    conv_transpose3d cross einsum embedding gather group_norm instance_norm layer_norm linear local_response_norm
    masked_scatter multi_head_attention_forward rms_norm scatter scatter_add setitem sort argsort take_along_dim topk
"""
#: What only moves entries: done to labels as to data.
_MOVES = frozenset(_MOVES_NAMES.split())
#: What takes one dimension as a whole.
_ACROSS = frozenset(_ACROSS_NAMES.split())
#: What makes one entry of many.
_REDUCTIONS = frozenset(_REDUCTION_NAMES.split())
#: Reductions in which an entry that is 0 counts: nothing of what they reduce can go.
_COUNTING = frozenset(("logsumexp", "mean", "median", "prod", "std", "var"))
#: What looks like a function of single entries, by its shapes, and is none.
_OPAQUE = frozenset(_OPAQUE_NAMES.split())


def apply(
    flow: Coupling, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Any:
    """Mark what a function gave; see `_ruled`. Arguments that no rule foresaw fix what they are."""
    try:
        return _ruled(flow, name, function, args, kwargs, result)
    except Exception:  # a rule may meet any call that anybody's network makes
        return opaque(flow, args, kwargs, result)


def _ruled(
    flow: Coupling, name: str, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Any:
    """Mark what a function gave.

    Args:
        flow: Where labels meet.
        name: Of the function or method.
        function: Called on labels where entries only move.
        args: Its arguments, tensors marked; of a method the tensor comes first.
        kwargs: The same by name.
        result: What it gave.
    """
    inputs = marked((args, kwargs))
    if not any(mark.layers for mark in inputs):
        return unmarked(result)
    name = name.rstrip("_")
    rule = _RULES.get(name)
    if name in _OPAQUE:
        return opaque(flow, args, kwargs, result)
    if not any(isinstance(leaf, Tensor) for leaf in pytree.tree_leaves(result)):
        return result
    if rule is not None:
        return rule(flow, args, kwargs, result)
    if name in _MOVES:
        return _moves(flow, function, args, kwargs, result)
    if name in _ACROSS:
        dim = argument(args, kwargs, 2 if name == "normalize" else 1, "dim", 1 if name == "normalize" else -1)
        return flow.mark(result, across(flow, args[0], [dim % args[0].value.ndim]))
    if name in _REDUCTIONS and len(inputs) == 1:
        return _reduced(flow, args, kwargs, result, counting=name in _COUNTING)
    if not isinstance(result, Tensor):
        return opaque(flow, args, kwargs, result)
    shapes = [mark.value.shape for mark in inputs]
    try:
        elementwise = torch.broadcast_shapes(*shapes) == result.shape  # type: ignore[no-untyped-call]
    except RuntimeError:
        elementwise = False
    if elementwise:
        return flow.mark(result, met(flow, inputs, result.shape))
    if len(inputs) == 1 and (layers := carried(flow, inputs[0], result.shape)) is not None:
        return flow.mark(result, layers)
    return opaque(flow, args, kwargs, result)


# -- rules of single functions -----------------------------------------------------------------------------------------


def _moves(
    flow: Coupling, function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any], result: Any
) -> Any:
    x = args[0] if args else None
    if isinstance(x, list | tuple) and function.__name__ == "getitem":
        return result if not isinstance(result, Tensor) else x[bare(args[1])]
    if not isinstance(x, Marked):
        return opaque(flow, args, kwargs, result)
    if any(mark.layers for mark in marked((args[1:], kwargs))):
        flow.fix((args[1:], kwargs))
    # A view of labels need not be one.
    move = torch.Tensor.reshape if function is torch.Tensor.view else function
    layers = [moved(layer, move, *bare(args[1:]), **bare(kwargs)) for layer in x.layers]
    if isinstance(result, Tensor):
        return flow.mark(result, layers)
    return type(result)([flow.mark(value, [layer[i] for layer in layers]) for i, value in enumerate(result)])


def _joined(flow: Coupling, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Marked:
    # An empty list that has become a tensor (keys before the first token) is left out.
    parts = [part for part in (args[0] if args else kwargs["tensors"]) if part.value.numel()]
    dim = argument(args, kwargs, 1, "dim", 0) % result.ndim
    # Where one part varies along the dimension and others, what the rest has along these is joined with it.
    reach = {dim} | {d for part in parts for layer in part.layers if dim in varying(layer) for d in varying(layer)}
    slim = torch.Size([*result.shape[:dim], 1, *result.shape[dim + 1 :]])
    ends, rest = [], []
    for part in parts:
        joined = [layer for layer in part.layers if reach & set(varying(layer))]
        ends.append(joined[0] if joined else torch.zeros((), dtype=torch.int64).expand(part.value.shape))
        # Each part has all of the other dimensions, so that what one has no label for stays.
        others = [layer.narrow(dim, 0, 1).expand(slim) for layer in part.layers if not reach & set(varying(layer))]
        rest.append(Marked(part.value.narrow(dim, 0, 1), tuple(others)))
        flow.fix([Marked(part.value, tuple(joined[1:]))])
    layers = [torch.cat(ends, dim)] if any(varying(end) for end in ends) else []
    layers += [layer.expand(result.shape) for layer in met(flow, rest, slim)]
    return flow.mark(result, layers)


def _stacked(flow: Coupling, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Marked:
    dim = argument(args, kwargs, 1, "dim", 0) % result.ndim
    parts = args[0] if args else kwargs["tensors"]
    apart = [Marked(p.value.unsqueeze(dim), tuple(layer.unsqueeze(dim) for layer in p.layers)) for p in parts]
    return _joined(flow, (apart, dim), {}, result)


def _padded(flow: Coupling, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Any:
    x, amounts = args[0], argument(args, kwargs, 1, "pad", ())
    mode, value = argument(args, kwargs, 2, "mode", "constant"), argument(args, kwargs, 3, "value", None)
    layers = []
    for layer in x.layers:
        dims = varying(layer)
        padded = {result.ndim - 1 - i // 2 for i, amount in enumerate(amounts) if amount}
        if not padded & set(dims):
            same = layer
            for dim in padded:
                same = same.narrow(dim, 0, 1).expand([*same.shape[:dim], result.shape[dim], *same.shape[dim + 1 :]])
            layers.append(same)
            continue
        if mode != "constant" or value or len(dims) > 1 or min(amounts) < 0:
            return opaque(flow, args, kwargs, result)
        (dim,) = dims
        before, after = amounts[2 * (result.ndim - 1 - dim) :][:2]
        inside = layer.movedim(dim, 0).flatten(1)[:, 0]
        # The zeros are channels as well: nothing computes them, and they go with what they are added to.
        whole = torch.cat([flow.classes.fresh(before), inside, flow.classes.fresh(after)])
        layers.append(along(whole, dim, result.shape))
    return flow.mark(result, layers)


def _reduced(flow: Coupling, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, *, counting: bool) -> Any:
    x = args[0]
    dims = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else None))
    keep = bool(kwargs.get("keepdim", args[2] if len(args) > 2 and isinstance(args[2], bool) else False))
    if dims is None or isinstance(dims, Marked):
        return opaque(flow, args, kwargs, result)
    gone = {dim % x.value.ndim for dim in ([dims] if isinstance(dims, int) else dims)}
    layers = []
    for layer in across(flow, x, gone) if counting else x.layers:
        inside, outside = gone & set(varying(layer)), set(varying(layer)) - gone
        if inside and outside:
            flow.ambiguous = True
            layer = flow.classes.unite_along(layer, inside if flow.whole else outside)
        if inside and not (inside and outside and flow.whole):
            continue  # used up: what is masked adds nothing to a sum
        for dim in sorted(gone, reverse=True):
            layer = layer.narrow(dim, 0, 1) if keep else layer.select(dim, 0)
        layers.append(layer)
    return pytree.tree_map_only(Tensor, lambda value: flow.mark(value, layers), result)


def _shuffle(flow: Coupling, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Any:
    return flow.mark(result, shuffled(flow, args[0], argument(args, kwargs, 1, "groups", 1)))


def _glu(flow: Coupling, args: Sequence[Any], kwargs: Mapping[str, Any], result: Tensor) -> Any:
    return flow.mark(result, halves(flow, args[0], argument(args, kwargs, 1, "dim", -1)))


_RULES: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("cat", "concat", "concatenate"), _joined),
    "stack": _stacked,
    "pad": _padded,
    **dict.fromkeys(("matmul", "bmm", "mm"), product),
    "scaled_dot_product_attention": attention,
    "glu": _glu,
    "channel_shuffle": _shuffle,
}
