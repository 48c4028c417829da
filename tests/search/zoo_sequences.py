"""The part of the zoo that works on sequences, tokens and tables: attention, recurrence, mixing, plain layers."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.search.zoo_recurrent import elman, gru, lstm, unrolled_cell

Specimen = tuple[nn.Module, tuple[Tensor, ...]]


class DropPath(nn.Module):
    """Drops whole samples in training, nothing in evaluation."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0.0 or not self.training:
            return x
        kept = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1 - self.p)
        dropped: Tensor = x * kept / (1 - self.p)
        return dropped


class Attention(nn.Module):
    """Written by hand: one projection to queries, keys and values, softmax, one back."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (width // heads) ** -0.5
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        qkv = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        q, k, v = qkv[0], qkv[1], qkv[2]
        weights = self.drop((q @ k.transpose(-2, -1) * self.scale).softmax(dim=-1))
        out: Tensor = self.proj((weights @ v).transpose(1, 2).reshape(b, n, c))
        return out


class FusedAttention(Attention):
    """The same by one call, with dropout inside."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        out = F.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, dropout_p=0.1 if self.training else 0.0, is_causal=mask is None
        )
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(b, n, c))
        return projected


class Block(nn.Module):
    """A transformer block, norms first."""

    def __init__(self, width: int, attention: nn.Module, drop: float = 0.1) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.LayerNorm(width), nn.LayerNorm(width), attention
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.drop = DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        out: Tensor = x + self.drop(self.mlp(self.norm2(x)))
        return out


class TorchAttention(nn.Module):
    """torch's own attention on one input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return out


class VisionTransformer(nn.Module):
    """Patches, a class token, positions, blocks, a head."""

    def __init__(self, attention: Callable[[int, int], nn.Module], width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 5, width) * 0.1)
        self.blocks = nn.ModuleList(Block(width, attention(width, 2)) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 5)

    def forward(self, x: Tensor) -> Tensor:
        assert x.shape[1] == 3, "images have three channels"
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(self.norm(x)[:, 0])
        return logits


def vit_by_hand() -> Specimen:
    """Vision transformer, attention by matrix products."""
    return VisionTransformer(Attention), (torch.randn(2, 3, 8, 8),)


def vit_fused() -> Specimen:
    """The same by scaled_dot_product_attention."""
    return VisionTransformer(FusedAttention), (torch.randn(2, 3, 8, 8),)


def vit_multihead() -> Specimen:
    """The same with torch's MultiheadAttention."""
    return VisionTransformer(TorchAttention), (torch.randn(2, 3, 8, 8),)


class LanguageModel(nn.Module):
    """Characters in, characters out, one matrix for both; sinusoidal positions are a buffer that is no state."""

    positions: Tensor

    def __init__(self, tied: bool, width: int = 16, letters: int = 11, length: int = 12) -> None:
        super().__init__()
        self.embedding = nn.Embedding(letters, width)
        angles = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(100.0) / width))
        table = torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)
        self.register_buffer("positions", table, persistent=False)
        self.blocks = nn.Sequential(Block(width, CausalAttention(width, 2, length)), nn.LayerNorm(width))
        self.head = nn.Linear(width, letters, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embedding(tokens) + self.positions[: tokens.size(1)]
        logits: Tensor = self.head(self.blocks(x))
        return logits


class CausalAttention(Attention):
    """Attention that masks the future by a buffer cut to the length."""

    future: Tensor

    def __init__(self, width: int, heads: int, length: int) -> None:
        super().__init__(width, heads)
        self.register_buffer("future", torch.ones(length, length, dtype=torch.bool).triu(1))

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.size()
        q, k, v = self.qkv(x).split(c, dim=2)
        q, k, v = (t.view(b, n, self.heads, c // self.heads).transpose(1, 2) for t in (q, k, v))
        scores = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
        scores = scores.masked_fill(self.future[:n, :n], float("-inf"))
        out: Tensor = self.proj((F.softmax(scores, dim=-1) @ v).transpose(1, 2).contiguous().view(b, n, c))
        return out


def language_model() -> Specimen:
    """Decoder of characters."""
    return LanguageModel(tied=False), (torch.randint(0, 11, (2, 9)),)


def tied_weights() -> Specimen:
    """The same, its head tied to its embedding."""
    return LanguageModel(tied=True), (torch.randint(0, 11, (2, 9)),)


class EncoderLayers(nn.Module):
    """torch's own transformer layers."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(6, 8)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, activation="gelu", batch_first=True), 2, enable_nested_tensor=False
        )
        self.leave = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.leave(self.encoder(self.enter(x)).mean(1))
        return logits


def torch_encoder() -> Specimen:
    """torch's TransformerEncoder."""
    return EncoderLayers(), (torch.randn(2, 7, 6),)


class DecoderLayers(nn.Module):
    """torch's own decoder reading from its own encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.leave = nn.Linear(6, 8), nn.Linear(8, 3)
        self.transformer = nn.Transformer(8, 2, 1, 1, 16, batch_first=True)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        logits: Tensor = self.leave(self.transformer(self.enter(x), self.enter(y)))
        return logits


def torch_transformer() -> Specimen:
    """torch's Transformer, encoder and decoder."""
    return DecoderLayers(), (torch.randn(2, 7, 6), torch.randn(2, 4, 6))


class GroupedQueries(nn.Module):
    """Attention in which two heads of queries read one of keys and values."""

    def __init__(self, width: int, heads: int, shared: int) -> None:
        super().__init__()
        self.head = width // heads
        self.q, self.kv = nn.Linear(width, width), nn.Linear(width, 2 * shared * self.head)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        b, n, _ = x.shape
        q = self.q(x).view(b, n, -1, self.head).transpose(1, 2)
        k, v = (part.view(b, n, -1, self.head).transpose(1, 2) for part in self.kv(x).chunk(2, dim=-1))
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        projected: Tensor = self.proj(out.transpose(1, 2).reshape(b, n, -1))
        return projected


def grouped_queries() -> Specimen:
    """The same, two heads of queries to one of keys and values."""
    return VisionTransformer(lambda width, _: GroupedQueries(width, 4, 2)), (torch.randn(2, 3, 8, 8),)


class MixerBlock(nn.Module):
    """Mixes tokens, then channels."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.tokens = nn.Sequential(nn.Linear(tokens, 8), nn.GELU(), nn.Linear(8, tokens))
        self.channels = nn.Sequential(nn.Linear(width, 24), nn.GELU(), nn.Dropout(0.1), nn.Linear(24, width))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        out: Tensor = x + self.channels(self.norm2(x))
        return out


def mlp_mixer() -> Specimen:
    """MLP-Mixer: mixes tokens, then channels."""
    patches = nn.Sequential(nn.Conv2d(3, 12, 4, 4), nn.Flatten(2))
    return Mixer(patches, nn.Sequential(MixerBlock(4, 12), MixerBlock(4, 12)), nn.Linear(12, 5)), (
        torch.randn(2, 3, 8, 8),
    )


class Mixer(nn.Module):
    """Patches, blocks, mean over tokens, head."""

    def __init__(self, patches: nn.Module, blocks: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.patches, self.blocks, self.head = patches, blocks, head

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.blocks(self.patches(x).mT).mean(dim=1))
        return logits


def conv_1d() -> Specimen:
    """Convolutions over a sequence."""
    layers = (nn.Conv1d(2, 6, 5, padding=2), nn.BatchNorm1d(6), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(6, 8, 3))
    return nn.Sequential(*layers, nn.AdaptiveMaxPool1d(1), nn.Flatten(), nn.Linear(8, 3)), (torch.randn(2, 2, 20),)


def mlp() -> Specimen:
    """A perceptron with BatchNorm and dropout."""
    hidden = (nn.Linear(7, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 16), nn.Sigmoid())
    return nn.Sequential(*hidden, nn.Linear(16, 2)), (torch.randn(3, 7),)


class TwoInputs(nn.Module):
    """A table row and its category; the second input may be left out."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.numbers = nn.Embedding(4, 3), nn.Linear(5, 6)
        self.norm, self.head = nn.RMSNorm(9), nn.Bilinear(6, 9, 2)

    def forward(self, numbers: Tensor, category: Tensor, weight: Tensor | None = None) -> Tensor:
        hidden = F.softplus(self.numbers(numbers))
        joined = self.norm(torch.cat((self.embedding(category), hidden), dim=-1))
        logits: Tensor = self.head(hidden, joined)
        return logits if weight is None else logits * weight


def two_inputs() -> Specimen:
    """A table row and a category, joined by a bilinear layer."""
    return TwoInputs(), (torch.randn(3, 5), torch.tensor([0, 3, 1]))


class Shared(nn.Module):
    """One layer used three times, and weights of its own used without a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)
        self.gain = nn.ParameterList([nn.Parameter(torch.full((8,), 0.5 + i)) for i in range(3)])
        self.out = nn.Parameter(torch.randn(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        for gain in self.gain:
            x = x + torch.tanh(self.layer(x)) * gain
        return x @ self.out


def shared_layer() -> Specimen:
    """One layer used three times, and weights used without a layer."""
    return Shared(), (torch.randn(2, 8),)


SEQUENCES: tuple[Callable[[], Specimen], ...] = (
    *(vit_by_hand, vit_fused, vit_multihead, grouped_queries, language_model, tied_weights, torch_encoder),
    *(torch_transformer, mlp_mixer, lstm, gru, elman),
    *(unrolled_cell, conv_1d, mlp, two_inputs, shared_layer),
)
