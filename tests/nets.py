"""Tiny networks and tasks for tests: seconds on a CPU, every kind of layer that surgery meets."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.task import Batch, Split


class Residual(nn.Module):
    """Two convolutions around an identity, as in a ResNet's block."""

    def __init__(self, planes: int, inner: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes, inner, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.conv2 = nn.Conv2d(inner, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(y)))


def tiny_cnn(seed: int = 0, planes: int = 8, inner: int = 8, classes: int = 4) -> nn.Module:
    """Stem, one residual block, pooling, linear; BatchNorm has statistics of its own, as after training."""
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(1, planes, 3, padding=1, bias=False),
        nn.BatchNorm2d(planes),
        nn.ReLU(),
        Residual(planes, inner),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(planes, classes),
    )
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)  # type: ignore[union-attr]
            module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
            with torch.no_grad():
                module.bias.uniform_(-0.3, 0.3)
                module.weight.uniform_(0.5, 1.5)
    return network


def mlp(seed: int = 0, width: int = 16, inputs: int = 8, classes: int = 4) -> nn.Module:
    """Three linear layers."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(inputs, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, classes)
    )


class Blobs:
    """A task that is learnt in seconds: classes are bumps at different places of an 8x8 image, or of 8 numbers."""

    def __init__(self, kind: str = "cnn", samples: int = 128, batch: int = 16, classes: int = 4) -> None:
        self.recipe = {"learning_rate": 0.05}
        self.kind, self.batch, self.classes = kind, batch, classes
        generator = torch.Generator().manual_seed(7)
        shape = (1, 8, 8) if kind == "cnn" else (8,)
        centres = torch.randn(classes, *shape, generator=generator)
        self._data: dict[str, tuple[Tensor, Tensor]] = {}
        for split in ("train", "validation", "test"):
            y = torch.arange(samples) % classes
            self._data[split] = (centres[y] + 0.8 * torch.randn(samples, *shape, generator=generator), y)

    def network(self) -> nn.Module:
        network = tiny_cnn(classes=self.classes) if self.kind == "cnn" else mlp(classes=self.classes)
        # A few steps, so that the weights are a trained network's.
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
        for _ in range(4):
            for x, y in self.batches("train", shuffle_seed=0):
                optimizer.zero_grad()
                self.loss(network(x), y).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
        return network.eval()

    def example_inputs(self) -> tuple[Tensor, ...]:
        return (self._data["train"][0][:4],)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Iterator[Batch]:
        x, y = self._data[split]
        order = torch.arange(len(x))
        if shuffle_seed is not None:
            order = torch.randperm(len(x), generator=torch.Generator().manual_seed(shuffle_seed))
        for part in torch.split(order, self.batch):
            yield x[part], y[part]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs.argmax(1) == targets).float()
