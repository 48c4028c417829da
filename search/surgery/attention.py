"""Attention whose heads together are narrower than what they read, which torch's own cannot be, and how it comes about.

A head is a unit like a channel: its rows of the projections to queries, keys and values, and its columns of the
projection back. Where torch's transformer layers hold the attention, they are written out as calls of their parts.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

_LAYERS = (nn.TransformerEncoder, nn.TransformerEncoderLayer)


class NarrowAttention(nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` with a head width of its own; the same inputs, outputs and names of weights.

    Args:
        embed_dim: Width of what comes in and goes out.
        num_heads: Heads.
        head_dim: Width of each.
        dropout: Of the attention's weights, in training.
        bias: Whether the projections have one.
        kdim: Width of the keys.
        vdim: Width of the values.
        batch_first: Whether inputs are (batch, length, width), not (length, batch, width).
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        head_dim: int,
        dropout: float = 0.0,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ) -> None:
        nn.Module.__init__(self)
        self.embed_dim, self.num_heads, self.head_dim = embed_dim, num_heads, head_dim
        self.kdim, self.vdim = kdim or embed_dim, vdim or embed_dim
        self.dropout, self.batch_first, self.add_zero_attn = dropout, batch_first, False
        # Torch's fused kernels ask for this; they do not know of narrow heads.
        self._qkv_same_embed_dim = False
        inner, widths = num_heads * head_dim, (embed_dim, self.kdim, self.vdim)
        together = len(set(widths)) == 1
        self.register_parameter("in_proj_weight", _drawn(3 * inner, embed_dim) if together else None)
        for name, width in zip(("q_proj_weight", "k_proj_weight", "v_proj_weight"), widths, strict=True):
            self.register_parameter(name, None if together else _drawn(inner, width))
        self.register_parameter("in_proj_bias", nn.Parameter(torch.zeros(3 * inner)) if bias else None)
        self.out_proj = nn.modules.linear.NonDynamicallyQuantizableLinear(inner, embed_dim, bias=bias)
        self.bias_k = self.bias_v = None

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """See `torch.nn.MultiheadAttention`; `is_causal` is a hint about `attn_mask` there, and is not needed here."""
        batched = query.dim() == 3
        inputs = [x if batched else x.unsqueeze(0) for x in (query, key, value)]
        if batched and not self.batch_first:
            inputs = [x.transpose(0, 1) for x in inputs]
        q, k, v = (
            F.linear(x, weight, bias).view(*x.shape[:2], self.num_heads, self.head_dim).transpose(1, 2)
            for x, weight, bias in zip(inputs, *self._projections(), strict=True)
        )
        bias = _added(attn_mask, key_padding_mask if batched else _first(key_padding_mask), q)
        weights = None
        if need_weights:
            scores = q @ k.mT * self.head_dim**-0.5
            weights = F.softmax(scores if bias is None else scores + bias, dim=-1)
            weights = F.dropout(weights, self.dropout, self.training)
            heads = weights @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            heads = F.scaled_dot_product_attention(q, k, v, bias, self.dropout if self.training else 0.0)
        out = self.out_proj(heads.transpose(1, 2).flatten(2))
        if batched:
            return (out if self.batch_first else out.transpose(0, 1)), weights
        return out.squeeze(0), None if weights is None else weights.squeeze(0)

    def _projections(self) -> tuple[Sequence[Tensor], Sequence[Tensor | None]]:
        shared: Tensor | None = self.in_proj_weight
        separate = (self.q_proj_weight, self.k_proj_weight, self.v_proj_weight)
        biases = (None, None, None) if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
        return separate if shared is None else shared.chunk(3), biases


def _drawn(rows: int, columns: int) -> nn.Parameter:
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, columns)))


def _first(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.unsqueeze(0)


def _added(attn_mask: Tensor | None, padding: Tensor | None, query: Tensor) -> Tensor | None:
    """Both masks as one that is added to the scores (batch, heads, length, length); None without any."""
    total: Tensor | None = None
    for mask in (attn_mask, padding[:, None, None, :] if padding is not None else None):
        if mask is None:
            continue
        if mask.dim() == 3:
            mask = mask.view(len(query), -1, *mask.shape[1:])
        if mask.dtype == torch.bool:
            mask = torch.zeros_like(mask, dtype=query.dtype).masked_fill(mask, float("-inf"))
        total = mask if total is None else total + mask
    return total


def narrowed(module: nn.MultiheadAttention, heads: Sequence[int]) -> NarrowAttention:
    """The same attention without some of its heads.

    Args:
        module: Without `bias_k` and `add_zero_attn`.
        heads: Which go, not all.
    """
    keep = torch.ones(module.num_heads, dtype=torch.bool)
    keep[list(heads)] = False
    rows = keep.repeat_interleave(module.head_dim).nonzero()[:, 0]
    narrow = NarrowAttention(
        module.embed_dim,
        int(keep.sum()),
        module.head_dim,
        module.dropout,
        module.in_proj_bias is not None,
        module.kdim,
        module.vdim,
        module.batch_first,
    )
    inner = len(keep) * module.head_dim
    thrice = torch.cat([rows, rows + inner, rows + 2 * inner])
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            left: Tensor = parameter
            if name in ("in_proj_weight", "in_proj_bias"):
                left = parameter[thrice]
            elif name.endswith("_proj_weight"):
                left = parameter[rows]
            elif name == "out_proj.weight":
                left = parameter[:, rows]
            narrow.get_parameter(name).data = left.detach().clone()
            narrow.get_parameter(name).requires_grad_(parameter.requires_grad)
    return narrow.train(module.training)


def written_out(network: fx.GraphModule) -> None:
    """Replace calls of torch's transformer encoders, and of their layers, by calls of their parts; in place."""
    while calls := [n for n in network.graph.nodes if n.op == "call_module" and _writable(network, n)]:
        for node in calls:
            module = network.get_submodule(str(node.target))
            with network.graph.inserting_before(node):
                if isinstance(module, nn.TransformerEncoder):
                    node.replace_all_uses_with(_write_encoder(network, node, module))
                elif isinstance(module, nn.TransformerEncoderLayer):
                    node.replace_all_uses_with(_write_layer(network, node, module))
            network.graph.erase_node(node)
    for name, module in list(network.named_modules()):
        if isinstance(module, _LAYERS):
            # A plain container holds the same parts under the same names.
            container = nn.Module()
            container._modules, container.training = module._modules, module.training
            owner, _, atom = name.rpartition(".")
            setattr(network.get_submodule(owner), atom, container)
    network.recompile()


def _writable(network: fx.GraphModule, node: fx.Node) -> bool:
    return isinstance(network.get_submodule(str(node.target)), _LAYERS)


def _given(node: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _write_encoder(network: fx.GraphModule, node: fx.Node, module: nn.TransformerEncoder) -> fx.Node:
    given = _given(node, ("src", "mask", "src_key_padding_mask", "is_causal"))
    masks = {"src_mask": given.get("mask"), "src_key_padding_mask": given.get("src_key_padding_mask")}
    x: fx.Node = given["src"]
    for name in module.layers._modules:
        x = network.graph.call_module(f"{node.target}.layers.{name}", (x,), masks)
    return network.graph.call_module(f"{node.target}.norm", (x,)) if module.norm is not None else x


def _write_layer(network: fx.GraphModule, node: fx.Node, module: nn.TransformerEncoderLayer) -> fx.Node:
    graph = network.graph
    given = _given(node, ("src", "src_mask", "src_key_padding_mask", "is_causal"))
    masks = {"attn_mask": given.get("src_mask"), "key_padding_mask": given.get("src_key_padding_mask")}

    def call(name: str, *args: Any, **kwargs: Any) -> fx.Node:
        return graph.call_module(f"{node.target}.{name}", args, kwargs)

    def attend(x: fx.Node) -> fx.Node:
        both = call("self_attn", x, x, x, need_weights=False, **{k: v for k, v in masks.items() if v is not None})
        return call("dropout1", graph.call_function(operator.getitem, (both, 0)))

    def feed(x: fx.Node) -> fx.Node:
        inner = call("linear1", x)
        if isinstance(module.activation, nn.Module):
            inner = call("activation", inner)
        else:
            inner = graph.call_function(module.activation, (inner,))
        return call("dropout2", call("linear2", call("dropout", inner)))

    x: fx.Node = given["src"]
    for part, norm in ((attend, "norm1"), (feed, "norm2")):
        if module.norm_first:
            x = graph.call_function(operator.add, (x, part(call(norm, x))))
        else:
            x = call(norm, graph.call_function(operator.add, (x, part(x))))
    return x
