"""Random small convolutional networks for property tests: stacks with norms, pools, residuals and concatenations."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from torch import Tensor, nn


@dataclass(frozen=True)
class Stage:
    """One stage of a stack.

    Args:
        kind: One of those that `STAGES` draws.
        width: Output channels of a convolution, or what else the kind counts.
        option: A choice that means something else for each kind.
    """

    kind: str
    width: int
    option: int


STAGES = st.builds(
    Stage,
    st.sampled_from(["conv", "depthwise", "bn", "group", "act", "pool", "residual", "concat", "pad", "drop"]),
    st.integers(1, 6),
    st.integers(0, 2),
)
STACKS = st.tuples(st.lists(STAGES, max_size=7), st.integers(0, 2**16)).map(lambda drawn: Stack(*drawn))


class Stack(nn.Module):
    """A network of the given stages, on images of 2 channels and 8 x 8 pixels; its weights follow from the seed."""

    def __init__(self, stages: list[Stage], seed: int) -> None:
        super().__init__()
        self.stages = stages
        self.blocks = nn.ModuleDict()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            channels = 2
            for i, stage in enumerate(stages):
                channels = self._grow(f"{stage.kind}{i}", stage, channels)
            self.linear = nn.Linear(channels, 3, bias=seed % 2 == 0)

    def _grow(self, name: str, stage: Stage, channels: int) -> int:
        width, option = stage.width, stage.option
        if stage.kind == "conv":
            stride, kernel = 1 + option // 2, (1, 3, 3)[option]
            self.blocks[name] = nn.Conv2d(channels, width, kernel, stride, kernel // 2, bias=option != 1)
            return width
        if stage.kind == "depthwise":
            self.blocks[name] = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        elif stage.kind == "bn":
            self.blocks[name] = nn.BatchNorm2d(channels, affine=option != 1, track_running_stats=option != 2)
        elif stage.kind == "group":
            self.blocks[name] = nn.GroupNorm(1, channels, affine=option != 1)
        elif stage.kind == "act":
            self.blocks[name] = (nn.ReLU(inplace=True), nn.LeakyReLU(0.2), nn.GELU("tanh"))[option]
        elif stage.kind == "pool":
            self.blocks[name] = (nn.MaxPool2d(2, ceil_mode=True), nn.AvgPool2d(3, 1, 1), nn.Upsample(scale_factor=2))[
                option
            ]
        elif stage.kind in ("residual", "concat"):
            self.blocks[name] = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU())
            return channels if stage.kind == "residual" else 2 * channels
        return channels + width if stage.kind == "pad" else channels

    def forward(self, x: Tensor) -> Tensor:
        for i, stage in enumerate(self.stages):
            block = dict(self.blocks.items()).get(f"{stage.kind}{i}")
            if stage.kind == "residual":
                assert block is not None
                x = x + block(x) if stage.option else block(x) + x
            elif stage.kind == "concat":
                assert block is not None
                x = torch.cat([x, block(x)], dim=1)
            elif stage.kind == "pad":
                x = F.pad(
                    x[:, :, :: 1 + stage.option // 2], (0, 0, 0, 0, stage.width // 2, stage.width - stage.width // 2)
                )
            elif stage.kind == "drop":
                x = F.dropout(x, stage.width / 10, self.training)
            elif block is not None:
                x = block(x)
        logits: Tensor = self.linear(x.mean(dim=(2, 3)))
        return logits
