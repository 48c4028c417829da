"""Handwritten digits of 8 x 8 pixels (scikit-learn's copy of UCI's test set) and a small residual network for them.

Needs no download. The network is trained on first use, in seconds, and kept as safetensors in the cache.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.cache import cache_folder, write_whole
from objectives.task import Split
from objectives.tasks.images import Images, ImageTask, Look

EPOCHS = 12
LEARNING_RATE = 0.05
LOOK = Look(top=16.0, mean=(0.305,), deviation=(0.376,), shift=1, flip=False)


class Block(nn.Module):
    """Two convolutions around an identity."""

    def __init__(self, planes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(x + self.bn2(self.conv2(y)))


class DigitsNetwork(nn.Module):
    """Images (N, 1, 8, 8) to logits (N, 10): a stem, a residual block, a strided convolution, another block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.block1 = Block(16)
        self.down = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.block2 = Block(32)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.stem(x)))
        x = self.block1(x)
        x = F.relu(self.bn2(self.down(x)))
        x = self.block2(x)
        y: Tensor = self.linear(torch.flatten(self.pool(x), 1))
        return y


class Digits(ImageTask):
    """1,797 digits: 60 % training, 20 % validation, 20 % test, the classes in equal shares.

    Args:
        seed: Of the training of the network.
        batch_size: Samples a batch.
        cache_dir: Where the trained network is kept; left out, ``$PLEACH_HOME/cache``, else ``./.pleach/cache``.
    """

    name = "digits"

    def __init__(self, seed: int = 0, batch_size: int = 64, cache_dir: str | None = None) -> None:
        labels = load_digits().target
        rest, test = train_test_split(np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=0)
        train, validation = train_test_split(rest, test_size=0.25, stratify=labels[rest], random_state=0)
        rows: dict[Split, NDArray[np.int64]] = {"train": train, "validation": validation, "test": test}
        super().__init__(LOOK, batch_size, {split: ("digits", np.sort(part)) for split, part in rows.items()})
        self.seed = seed
        self._cache_dir = cache_dir

    def architecture(self) -> nn.Module:
        """28,410 parameters."""
        return DigitsNetwork()

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Noise of the images' shape."""
        return (torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)),)

    @property
    def weights_file(self) -> Path:
        """Where the trained network is kept: named by what it is made of, this file and the seed."""
        made_of = hashlib.sha256(Path(__file__).read_bytes() + f"seed={self.seed}".encode()).hexdigest()
        return cache_folder(made_of[:16], self._cache_dir) / "digits.safetensors"

    def read_weights(self) -> Mapping[str, Tensor]:
        """From the cache; trains the network where no process has done so yet."""
        path = self.weights_file
        if path.is_file():
            try:
                return load_file(path)
            except safetensors.SafetensorError:
                path.unlink(missing_ok=True)  # damaged: it can be made again
        weights = train(self, self.seed).state_dict()
        write_whole(path, lambda temporary: save_file(weights, temporary))
        return weights

    def read_images(self, file: str) -> Images:
        """All 1,797, in scikit-learn's order; pixels are 0 to 16."""
        bunch = load_digits()
        return bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int64)


def train(task: Digits, seed: int) -> DigitsNetwork:
    """A network trained on the training split alone: SGD whose rate rises briefly and falls linearly to 0.

    The same seed gives the same weights on the same machine; the caller's random state and threads stay as they are.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(seed)
            network = DigitsNetwork()
            optimizer = torch.optim.SGD(network.parameters(), LEARNING_RATE, 0.9, weight_decay=5e-4, nesterov=True)
            steps = EPOCHS * len(task.batches("train", shuffle_seed=0))
            rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10, 1 - step / steps))
            for epoch in range(EPOCHS):
                for inputs, targets in task.batches("train", shuffle_seed=seed * EPOCHS + epoch):
                    optimizer.zero_grad()
                    task.loss(network(inputs), targets).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    rate.step()
    finally:
        torch.set_num_threads(threads)
    return network.eval()
