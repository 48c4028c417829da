"""Random small networks in which channels are grouped, split, gated, shuffled, joined and attended to."""

# mypy: disable-error-code="no-any-return,no-untyped-call,override"
from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: What `Mixed` can be made of.
LAYERS = (
    *("grouped", "depthwise", "shuffle", "shuffle_by_hand", "halves", "gate", "residual", "squeeze", "transposed"),
    *("stack", "slices", "heads", "group_norm", "bottleneck", "pixels", "thirds"),
)
#: Channels between layers: divisible by 2, 3, 4 and 6.
_WIDTH = 12


class Mixed(nn.Module):
    """Layers of some kinds, one after the other, on images of 2 channels and 8 x 8 pixels.

    Args:
        kinds: Of `LAYERS`.
        seed: Decides the weights and the numbers of groups.
    """

    def __init__(self, kinds: Sequence[str], seed: int) -> None:
        super().__init__()
        self.kinds = tuple(kinds)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.groups = (2, 3, 4)[seed % 3]
            self.stem = nn.Conv2d(2, _WIDTH, 3, padding=1)
            self.blocks = nn.ModuleList(self._block(kind) for kind in kinds)
            self.head = nn.Linear(_WIDTH, 3)

    def _block(self, kind: str) -> nn.Module:
        groups, width = self.groups, _WIDTH
        if kind in ("grouped", "depthwise"):
            return nn.Conv2d(width, width, 3, padding=1, groups=width if kind == "depthwise" else groups)
        if kind == "transposed":
            return nn.ConvTranspose2d(width, width, 3, padding=1, groups=groups if groups > 2 else 1)
        if kind == "shuffle":
            return nn.ChannelShuffle(groups)
        if kind == "group_norm":
            return nn.GroupNorm(groups, width)
        if kind == "bottleneck":
            return nn.Sequential(nn.Conv2d(width, 8, 1), nn.BatchNorm2d(8), nn.PReLU(8), nn.Conv2d(8, width, 1))
        if kind == "pixels":
            return nn.Sequential(nn.Conv2d(width, 4 * width, 1), nn.PixelShuffle(2), nn.AvgPool2d(2))
        outputs = {"gate": 2 * width, "heads": 3 * width, "squeeze": width, "halves": width // 2, "thirds": width // 3}
        inputs = {"halves": width // 2, "thirds": width // 3}
        return nn.Conv2d(inputs.get(kind, width), outputs.get(kind, width), 1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        for kind, block in zip(self.kinds, self.blocks, strict=True):
            x = self._apply(kind, block, x)
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits

    def _apply(self, kind: str, block: nn.Module, x: Tensor) -> Tensor:
        if kind == "residual":
            return x + block(x).tanh()
        if kind == "squeeze":
            return x * block(x.mean((2, 3), keepdim=True)).sigmoid()
        if kind == "gate":
            return F.glu(block(x), dim=1)
        if kind == "halves":
            one, other = x.chunk(2, dim=1)
            return torch.cat([block(one), other], 1)
        if kind == "thirds":
            one, *others = x.split(x.shape[1] // 3, dim=1)
            return torch.cat([*others, block(one)], 1)
        if kind == "slices":
            return torch.cat([x[:, 5:], block(x)[:, :5]], 1)
        if kind == "stack":
            return torch.stack([x, block(x)], 1).amax(1)
        if kind == "shuffle_by_hand":
            b, c, h, w = x.shape
            return block(x.view(b, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(b, c, h, w))
        if kind == "heads":
            b, c, h, w = x.shape
            q, k, v = block(x).reshape(b, 3, self.groups, c // self.groups, h * w).unbind(1)
            out = (q.transpose(-2, -1) @ k * 0.3).softmax(-1) @ v.transpose(-2, -1)
            return x + out.transpose(-2, -1).reshape(b, c, h, w)
        result: Tensor = F.relu(block(x))
        return result
