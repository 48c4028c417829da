"""Small networks of every kind that users bring, for tests of what must hold for all of them.

Each function makes one with its example inputs; `ZOO` lists them, `bred` makes one from a seed, with statistics in its
norms as a trained network has them. Convolutional ones are here, the others in `zoo_sequences`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.search import zoo_sequences
from tests.search.zoo_odd import data_dependent, functional_dropout, single_layer, volume
from tests.search.zoo_transformers import TRANSFORMERS

Specimen = tuple[nn.Module, tuple[Tensor, ...]]


def images(channels: int = 3, size: int = 8) -> tuple[Tensor, ...]:
    """A batch of two images."""
    return (torch.randn(2, channels, size, size),)


def conv_bn(inputs: int, outputs: int, stride: int = 1, groups: int = 1, kernel: int = 3) -> nn.Sequential:
    """Convolution, norm, non-linearity."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class Head(nn.Module):
    """Global average pooling and a linear layer."""

    def __init__(self, channels: int, classes: int = 5) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits


def plain() -> Specimen:
    """Convolutions with norms, flattened into a linear layer."""
    return nn.Sequential(conv_bn(3, 8), nn.MaxPool2d(2), conv_bn(8, 12), nn.Flatten(), nn.Linear(12 * 16, 5)), images()


def without_norm() -> Specimen:
    """Convolutions without norms."""
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Tanh(), Head(8)), images()


class BasicBlock(nn.Module):
    """He et al.'s block; shortcut A subsamples and pads channels, shortcut B projects."""

    def __init__(self, inputs: int, outputs: int, stride: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.grow = outputs - inputs
        self.stride = stride
        self.shortcut: nn.Module | None = None
        if projection and (stride > 1 or self.grow):
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.shortcut is not None:
            x = self.shortcut(x)
        elif self.stride > 1 or self.grow:
            x = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.grow // 2, self.grow - self.grow // 2))
        return F.relu(out + x)


class ResNet(nn.Module):
    """Three stages of basic blocks."""

    def __init__(self, widths: tuple[int, int, int], blocks: int, projection: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = self._stage(widths[0], widths[0], 1, blocks, projection)
        self.layer2 = self._stage(widths[0], widths[1], 2, blocks, projection)
        self.layer3 = self._stage(widths[1], widths[2], 2, blocks, projection)
        self.linear = nn.Linear(widths[2], 5)

    @staticmethod
    def _stage(inputs: int, outputs: int, stride: int, blocks: int, projection: bool) -> nn.Sequential:
        rest = (BasicBlock(outputs, outputs, 1, projection) for _ in range(blocks - 1))
        return nn.Sequential(BasicBlock(inputs, outputs, stride, projection), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.avg_pool2d(x, x.size()[3])
        logits: Tensor = self.linear(x.view(x.size(0), -1))
        return logits


def resnet_option_a() -> Specimen:
    """ResNet whose shortcuts subsample and pad."""
    return ResNet((4, 8, 16), 1, projection=False), images()


def resnet_projection() -> Specimen:
    """ResNet whose shortcuts project."""
    return ResNet((4, 8, 12), 1, projection=True), images()


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 with a shortcut."""

    def __init__(self, channels: int, inner: int) -> None:
        super().__init__()
        self.reduce, self.middle = conv_bn(channels, inner, kernel=1), conv_bn(inner, inner)
        self.expand = nn.Sequential(nn.Conv2d(inner, channels, 1, bias=False), nn.BatchNorm2d(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.expand(self.middle(self.reduce(x))))


def bottleneck() -> Specimen:
    """Residual blocks of 1x1, 3x3 and 1x1."""
    return nn.Sequential(conv_bn(3, 12), Bottleneck(12, 4), Bottleneck(12, 4), Head(12)), images()


class DenseBlock(nn.Module):
    """Every layer sees all earlier ones."""

    def __init__(self, channels: int, growth: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv_bn(channels + i * growth, growth) for i in range(layers))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(torch.cat(features, 1)))
        return torch.cat(features, dim=1)


def dense() -> Specimen:
    """DenseNet's blocks: every layer reads all earlier ones."""
    return nn.Sequential(conv_bn(3, 6), DenseBlock(6, 4, 3), nn.AvgPool2d(2), Head(18)), images()


class Inception(nn.Module):
    """Branches of different kernels, joined by concatenation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {
                "one": conv_bn(channels, 4, kernel=1),
                "three": nn.Sequential(conv_bn(channels, 3, kernel=1), conv_bn(3, 4)),
                "pool": nn.Sequential(nn.MaxPool2d(3, 1, 1), conv_bn(channels, 4, kernel=1)),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches.values()], 1)


def inception() -> Specimen:
    """Branches joined by concatenation."""
    return nn.Sequential(conv_bn(3, 6), Inception(6), Inception(12), Head(12)), images()


class InvertedBottleneck(nn.Module):
    """Expand, depthwise, project; MobileNet's block."""

    def __init__(self, channels: int, outputs: int, stride: int) -> None:
        super().__init__()
        inner = channels * 3
        self.residual = stride == 1 and channels == outputs
        self.conv = nn.Sequential(
            nn.Conv2d(channels, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(inplace=True),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.residual else out


def inverted_bottleneck() -> Specimen:
    """MobileNet's blocks: expand, depthwise, project."""
    blocks = (InvertedBottleneck(6, 6, 1), InvertedBottleneck(6, 8, 2))
    return nn.Sequential(conv_bn(3, 6), *blocks, Head(8)), images()


class SqueezeExcite(nn.Module):
    """Channels weighed by what the whole image holds."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = conv_bn(channels, channels)
        self.fc1, self.fc2 = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        scale = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.fc2(F.silu(self.fc1(scale))))


def squeeze_excite() -> Specimen:
    """Channels weighed by what the image holds."""
    return nn.Sequential(conv_bn(3, 8), SqueezeExcite(8), nn.Hardswish(), Head(8)), images()


class UNet(nn.Module):
    """Down, up again, and skips between."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.middle = conv_bn(3, 4), conv_bn(4, 8), conv_bn(8, 8)
        self.up = nn.ConvTranspose2d(8, 8, 2, 2)
        self.out = nn.Conv2d(12, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        fine = self.down1(x)
        coarse = self.down2(F.max_pool2d(fine, 2))
        up = F.interpolate(self.middle(F.max_pool2d(coarse, 2)), size=coarse.shape[-2:], mode="nearest")
        logits: Tensor = self.out(torch.cat([self.up(up + coarse), fine], 1))
        return logits


def unet() -> Specimen:
    """Down and up again, with skips between."""
    return UNet(), images()


class ConvNext(nn.Module):
    """Depthwise 7x7, LayerNorm over channels, and a scaled residual that training drops at random."""

    def __init__(self, channels: int, drop: float = 0.2) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, padding=3, groups=channels)
        self.norm = nn.LayerNorm(channels, eps=1e-6)
        self.wide, self.narrow = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), 0.5))
        self.drop = zoo_sequences.DropPath(drop)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.narrow(F.gelu(self.wide(y)))
        out: Tensor = x + self.drop(y.permute(0, 3, 1, 2))
        return out


def convnext() -> Specimen:
    """ConvNeXt's blocks: depthwise 7x7, LayerNorm, drop path."""
    return nn.Sequential(nn.Conv2d(3, 8, 2, 2), ConvNext(8), ConvNext(8), Head(8)), images()


def grouped() -> Specimen:
    """Grouped convolutions around a channel shuffle."""
    groups = nn.Sequential(conv_bn(8, 8, groups=4), nn.ChannelShuffle(4), conv_bn(8, 8, groups=2))
    return nn.Sequential(conv_bn(3, 8), groups, Head(8)), images()


class ShuffleUnit(nn.Module):
    """ShuffleNet's: one half passes by, the other is computed, and the two are dealt out anew by hand."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.branch = nn.Sequential(
            *(conv_bn(half, half, kernel=1), nn.Conv2d(half, half, 3, padding=1, groups=half), nn.BatchNorm2d(half)),
            conv_bn(half, half, kernel=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        passing, computed = x.chunk(2, dim=1)
        x = torch.cat([passing, self.branch(computed)], dim=1)
        b, c, h, w = x.shape
        return x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)


def shuffle_by_hand() -> Specimen:
    """ShuffleNet's units: split, join, deal out by views."""
    return nn.Sequential(conv_bn(3, 8), ShuffleUnit(8), ShuffleUnit(8), conv_bn(8, 12, kernel=1), Head(12)), images()


def group_norm() -> Specimen:
    """GroupNorm, InstanceNorm, PReLU."""
    layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(4, 8), nn.SiLU(), nn.Conv2d(8, 8, 3), nn.InstanceNorm2d(8))
    return nn.Sequential(layers, nn.PReLU(8), Head(8)), images()


def transposed() -> Specimen:
    """A transposed convolution."""
    up = nn.Sequential(nn.ConvTranspose2d(6, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.LeakyReLU(0.1))
    return nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.ReLU(), up, nn.Conv2d(4, 3, 3, padding=1), nn.Tanh()), images()


def pixel_shuffle() -> Specimen:
    """Channels dealt out into pixels."""
    return nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.PixelShuffle(2), nn.ELU(), nn.Conv2d(4, 3, 1)), images()


#: Networks that torch.fx can trace.
ZOO: Mapping[str, Callable[[], Specimen]] = {
    maker.__name__: maker
    for maker in (
        *(plain, without_norm, resnet_option_a, resnet_projection, bottleneck, dense, inception, inverted_bottleneck),
        *(squeeze_excite, unet, convnext, grouped, shuffle_by_hand, group_norm, transposed, pixel_shuffle, volume),
        functional_dropout,
        *zoo_sequences.SEQUENCES,
    )
}
#: Networks that it cannot.
STRANGERS: Mapping[str, Callable[[], Specimen]] = {maker.__name__: maker for maker in (data_dependent, single_layer)}
#: Networks that need the package transformers.
PRETRAINED: Mapping[str, Callable[[], Specimen]] = {maker.__name__: maker for maker in TRANSFORMERS}
ALL: Mapping[str, Callable[[], Specimen]] = {**ZOO, **STRANGERS, **PRETRAINED}


def bred(name: str, seed: int = 0) -> Specimen:
    """A network of the zoo, the same for the same seed, in evaluation mode, its norms as if they had been trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network, inputs = ALL[name]()
        for module in network.modules():
            mean, variance = getattr(module, "running_mean", None), getattr(module, "running_var", None)
            if mean is not None and variance is not None:
                nn.init.normal_(mean, std=0.2)
                nn.init.uniform_(variance, 0.5, 2.0)
            if (
                isinstance(module, nn.modules.batchnorm._NormBase | nn.LayerNorm | nn.GroupNorm)
                and module.bias is not None
            ):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.1)
    return network.eval(), inputs
