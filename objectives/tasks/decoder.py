"""A small decoder-only transformer, written so that torch.fx can trace it.

Shapes: B samples, L positions, C width, H heads, D = C / H, V vocabulary.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.errors import TaskError


class CausalAttention(nn.Module):
    """Every position looks at itself and what is before it; queries, keys, values and the output are linear layers."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)

    def forward(self, x_BLC: Tensor) -> Tensor:
        batch, length, width = x_BLC.shape
        shape = (batch, length, self.heads, width // self.heads)
        q_BHLD = self.query(x_BLC).view(shape).transpose(1, 2)
        k_BHLD = self.key(x_BLC).view(shape).transpose(1, 2)
        v_BHLD = self.value(x_BLC).view(shape).transpose(1, 2)
        y_BHLD = F.scaled_dot_product_attention(q_BHLD, k_BHLD, v_BHLD, is_causal=True)
        y_BLC: Tensor = self.output(y_BHLD.transpose(1, 2).reshape(batch, length, width))
        return y_BLC


class Block(nn.Module):
    """Attention and two layers around a GELU, each behind a norm and beside an identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = CausalAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def forward(self, x_BLC: Tensor) -> Tensor:
        x_BLC = x_BLC + self.attention(self.norm1(x_BLC))
        y_BLC: Tensor = x_BLC + self.down(F.gelu(self.up(self.norm2(x_BLC))))
        return y_BLC


class Decoder(nn.Module):
    """Tokens (B, L) to logits (B, V, L) of the token after each.

    Args:
        vocabulary: V.
        context: The largest L.
        width: C, a multiple of `heads`.
        depth: Blocks.
        heads: H.

    Raises:
        TaskError: If the heads do not divide the width.
    """

    def __init__(self, vocabulary: int, context: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise TaskError(f"width must be a multiple of heads, but {width} is none of {heads}: change one of them")
        self.embedding = nn.Embedding(vocabulary, width)
        self.positions = nn.Parameter(torch.randn(context, width) * 0.02)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary)
        nn.init.normal_(self.embedding.weight, std=0.02)

    def forward(self, tokens_BL: Tensor) -> Tensor:
        x_BLC = self.embedding(tokens_BL) + self.positions[: tokens_BL.shape[1]]
        for block in self.blocks:
            x_BLC = block(x_BLC)
        y_BVL: Tensor = self.head(self.norm(x_BLC)).transpose(1, 2)
        return y_BVL
