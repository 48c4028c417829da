"""ResNets for 32 x 32 images with parameter-free shortcuts (He et al. 2016, section 4.2, option A).

Shapes: N samples, C channels, H height, W width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from spaces.errors import TaskError


class Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut, which where the planes double takes every other pixel and adds zeros.

    Args:
        inputs: Planes coming in.
        planes: Planes going out, as many or twice as many.
        stride: 1, or 2 where the planes double.
    """

    def __init__(self, inputs: int, planes: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.stride = stride
        self.added = (planes - inputs) // 2

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x_NCHW)))
        y = self.bn2(self.conv2(y))
        if self.stride == 1:
            return F.relu(y + x_NCHW)
        # A quarter of the new planes on either side, all zero.
        shortcut = F.pad(x_NCHW[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.added, self.added))
        return F.relu(y + shortcut)


class ResNet(nn.Module):
    """Images (N, 3, 32, 32) to logits (N, 10): a stem and three stages of 16, 32 and 64 planes.

    Args:
        depth: Layers with weights, 6n + 2 for n blocks a stage: 20, 32, 44, 56 ...

    Raises:
        TaskError: If there is no network of that depth.
    """

    def __init__(self, depth: int = 20) -> None:
        super().__init__()
        if not isinstance(depth, int) or depth < 8 or depth % 6 != 2:
            raise TaskError(f"depth must be 6n + 2, but is {depth!r}: use 20, 32, 44 or 56")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in range(blocks - 1)))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in range(blocks - 1)))
        self.linear = nn.Linear(64, 10)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x_NCHW)))
        y = self.layer3(self.layer2(self.layer1(y)))
        y = torch.flatten(F.adaptive_avg_pool2d(y, 1), 1)
        logits: Tensor = self.linear(y)
        return logits
