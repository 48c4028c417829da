"""Which parts of a network an input may bypass."""

# mypy: disable-error-code="no-any-return"
from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from objectives.tasks.resnet import ResNet
from search.surgery.graph import trace
from search.surgery.routing_blocks import Block, blocks, inner_channels
from tests.nets import mlp


def found(network: nn.Module, x: Tensor) -> list[Block]:
    return blocks(traced(network, x), (x,))


def traced(network: nn.Module, x: Tensor) -> fx.GraphModule:
    return trace(network.eval(), (x,))


class Projected(nn.Module):
    """A block whose shortcut is a layer of its own, summed in place, as torchvision writes it."""

    def __init__(self, inner: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.conv1, self.conv2 = nn.Conv2d(4, inner, 3, 2, padding=1), nn.Conv2d(inner, 8, 3, padding=1)
        self.short = nn.Conv2d(4, 8, 1, 2)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        y = self.conv2(self.relu(self.conv1(x)))
        y += self.short(x)
        return self.relu(y).mean((2, 3))


class Leaking(nn.Module):
    """What the block computes inside is read outside too."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Linear(6, 6) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(x))
        inside = F.relu(self.b(x))
        return (x + self.c(inside)) @ inside.mT


class Transformer(nn.Module):
    """One attention and one feed-forward block before it is averaged over tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(5, 8)
        self.norm1, self.norm2 = nn.LayerNorm(8), nn.LayerNorm(8)
        self.qkv, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        b, t, c = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, t, c))
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return x.mean(1)


def test_all_blocks_of_a_resnet_with_what_they_cost() -> None:
    x = torch.randn(2, 3, 32, 32)
    blocks_ = found(ResNet(14), x)
    assert [block.name for block in blocks_] == [f"layer{i}.{j}" for i in (1, 2, 3) for j in range(2)]
    assert {block.kind for block in blocks_} == {"residual"}
    # Two 3x3 convolutions of 16 on 16 planes at 32 x 32; where planes double and extents halve, half of the first.
    assert blocks_[0].macs == 2 * 9 * 16 * 16 * 32 * 32
    assert blocks_[2].macs == 9 * 16 * 32 * 16 * 16 + 9 * 32 * 32 * 16 * 16


def test_a_shortcut_may_be_a_layer_and_the_costlier_path_is_the_block() -> None:
    (block,) = found(Projected(), torch.randn(2, 3, 8, 8))
    assert (block.kind, block.entry, block.end) == ("residual", "relu", "conv2")
    assert block.macs == (9 * 4 * 8 + 9 * 8 * 8) * 16


def test_what_is_read_outside_is_no_block() -> None:
    assert [block.kind for block in found(Leaking(), torch.randn(2, 3, 6))] == []


def test_blocks_of_a_transformer() -> None:
    blocks_ = found(Transformer(), torch.randn(2, 6, 5))
    assert [(block.kind, block.last) for block in blocks_] == [("residual", True)] * 2
    # Per token: queries, keys and values, the output; both attention products; then 8 x 32 twice.
    assert blocks_[0].macs == 6 * (8 * 24 + 8 * 8) + 2 * 6 * 6 * 8
    assert blocks_[1].macs == 6 * 2 * 8 * 32


def test_a_layer_with_shortcuts_inside_is_one_block() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    network = nn.Sequential(nn.Linear(4, 8), layer, nn.Flatten(), nn.Linear(24, 2))
    (block,) = found(network, torch.randn(2, 3, 4))
    assert (block.name, block.kind, block.last) == ("1", "whole", True)


@pytest.mark.parametrize(
    ("layer", "kinds"),
    [
        (nn.Conv2d(6, 6, 3, padding=1), ["plain"]),
        (nn.Conv2d(6, 8, 3, 2, padding=1), ["plain"]),
        (nn.Conv2d(6, 6, 1, groups=6), []),  # a skip would cost as much
        (nn.Conv2d(6, 6, 3), []),  # 6 x 6 of 8 x 8 positions: no plain way around
        (nn.ConvTranspose2d(6, 6, 2, 2), []),
    ],
)
def test_plain_layers_around_which_a_skip_is_worth_its_cost(layer: nn.Module, kinds: list[str]) -> None:
    network = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1))
    assert [block.kind for block in found(network, torch.randn(2, 3, 8, 8))] == kinds


def test_the_first_and_the_last_plain_layer_always_run() -> None:
    assert [block.name for block in found(mlp(), torch.randn(2, 8))] == ["2"]


def test_inner_channels_lie_between_two_layers_of_a_block() -> None:
    x = torch.randn(2, 3, 32, 32)
    inner = inner_channels(traced(ResNet(8), x), (x,))
    assert [(block.name, block.end) for block in inner] == [
        ("layer1.0", "relu_1"),
        ("layer2.0", "relu_3"),
        ("layer3.0", "relu_5"),
    ]
