"""Rewrites a traced network so that a runtime's own optimizations find what they know; it computes the same.

A shortcut that takes every other pixel and adds planes of zeros (He et al. 2016, option A) is a slice and a padding,
for which a runtime leaves the memory layout of its convolutions and comes back to it. As a 1x1 convolution with ones at
the right places it stays there, and the addition behind it melts into the convolution before it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from objectives.mode import evaluating

_PREFIX = "_shortcut"


def simplified(network: nn.Module, inputs: tuple[Tensor, ...]) -> nn.Module:
    """The network, or where it is a traced one that holds such shortcuts, a copy with convolutions in their place."""
    if not isinstance(network, fx.GraphModule) or not any(_padding(node) for node in network.graph.nodes):
        return network
    copied = copy.deepcopy(network)
    with evaluating(copied):
        ShapeProp(copied).propagate(*inputs)
    for node in list(copied.graph.nodes):
        found = _shortcut(node)
        if found is None:
            continue
        source, stride, channels, before, after = found
        name = f"{_PREFIX}_{node.name}"
        copied.add_submodule(name, _selecting(channels, before, after, stride))
        with copied.graph.inserting_before(node):
            convolution = copied.graph.call_module(name, (source,))
        node.replace_all_uses_with(convolution)
    copied.graph.eliminate_dead_code()
    copied.recompile()
    return copied.eval()


def _shortcut(node: fx.Node) -> tuple[fx.Node, int, int, int, int] | None:
    """Source, stride, channels and added channels of a padding of planes behind a subsampling; None for anything else.

    Channels are added by their number, so a padding that also crops (a negative one) is left alone.
    """
    padding = _padding(node)
    subsampling = node.args[0] if padding else None
    if padding is None or not isinstance(subsampling, fx.Node):
        return None
    stride = _stride(subsampling)
    source = subsampling.args[0] if stride is not None else None
    meta = source.meta.get("tensor_meta") if isinstance(source, fx.Node) else None
    shape = getattr(meta, "shape", None)
    dtype = getattr(meta, "dtype", None)
    if stride is None or shape is None or len(shape) != 4 or dtype != torch.float32:
        return None
    assert isinstance(source, fx.Node)
    return source, stride, int(shape[1]), *padding


def _padding(node: fx.Node) -> tuple[int, int] | None:
    """Planes added before and after by ``F.pad(x, (0, 0, 0, 0, before, after))``."""
    if node.op != "call_function" or node.target not in (F.pad, torch._C._nn.pad) or len(node.args) < 2:
        return None
    widths, rest = node.args[1], [*node.args[2:], *node.kwargs.values()]
    if (
        not isinstance(widths, tuple | list)
        or len(widths) != 6
        or any(each not in ("constant", 0, None) for each in rest)
    ):
        return None
    numbers: list[Any] = list(widths)
    if not all(isinstance(each, int) for each in numbers) or any(numbers[:4]) or min(numbers[4:]) < 0:
        return None
    return numbers[4], numbers[5]


def _stride(node: fx.Node) -> int | None:
    """The stride s of ``x[:, :, ::s, ::s]``."""
    if node.op != "call_function" or len(node.args) != 2 or getattr(node.target, "__name__", "") != "getitem":
        return None
    index: Any = node.args[1]
    if not isinstance(index, tuple) or len(index) != 4 or not all(isinstance(each, slice) for each in index):
        return None
    if any(each.start not in (None, 0) or each.stop is not None for each in index):
        return None
    steps = [1 if each.step is None else each.step for each in index]
    if steps[:2] != [1, 1] or steps[2] != steps[3] or not isinstance(steps[2], int) or steps[2] < 1:
        return None
    return steps[2]


def _selecting(channels: int, before: int, after: int, stride: int) -> nn.Conv2d:
    """A 1x1 convolution that takes every `stride`-th pixel and puts planes of zeros on either side."""
    convolution = nn.Conv2d(channels, before + channels + after, 1, stride=stride, bias=False)
    with torch.no_grad():
        weight = torch.zeros_like(convolution.weight)
        weight[torch.arange(channels) + before, torch.arange(channels)] = 1.0
        convolution.weight.copy_(weight)
    return convolution.requires_grad_(False)
