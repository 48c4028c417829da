"""What tasks that classify small images share: arrays per split, fast batches, cross entropy and top-1.

Shapes: N samples, C channels, H height, W width; images are uint8, labels int64.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.task import Split
from spaces.errors import TaskError

#: (images_NCHW uint8, labels_N int64)
Images = tuple[NDArray[np.uint8], NDArray[np.int64]]
Rows = NDArray[np.int64] | slice
_NETWORK = "network/"


@dataclass(frozen=True)
class Look:
    """How an image becomes numbers, and how training varies it.

    Args:
        top: The brightest value of a pixel, which becomes 1.
        mean: Per channel, of images in [0, 1].
        deviation: Per channel.
        shift: At most so many pixels up, down, left and right; what moves in is black.
        flip: Whether half of the images are mirrored left to right.
    """

    top: float
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    shift: int
    flip: bool


@dataclass(frozen=True)
class ImageBatches:
    """One pass over images in batches, the last one smaller where they do not divide.

    Args:
        images: Shape (N, C, H, W); only read, and may be a read-only view.
        labels: Shape (N,).
        look: How they are presented.
        size: Samples a batch, >= 1.
        shuffle_seed: Decides order and variation; None for the order of the arrays and no variation.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    look: Look
    size: int
    shuffle_seed: int | None

    def __len__(self) -> int:
        return -(-len(self.labels) // self.size)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        if self.shuffle_seed is None:
            for start in range(0, len(self.labels), self.size):
                part = slice(start, start + self.size)
                # Copied, because a tensor over a read-only array could be written into.
                yield (
                    self._present(torch.from_numpy(self.images[part].copy())),
                    torch.from_numpy(self.labels[part].copy()),
                )
            return
        generator = torch.Generator().manual_seed(self.shuffle_seed)
        order = torch.randperm(len(self.labels), generator=generator).numpy()
        for start in range(0, len(order), self.size):
            chosen = order[start : start + self.size]
            images = self._vary(torch.from_numpy(np.asarray(self.images[chosen])), generator)
            yield self._present(images), torch.from_numpy(np.asarray(self.labels[chosen]))

    @cached_property
    def _scale(self) -> tuple[Tensor, Tensor]:
        mean, deviation = torch.tensor(self.look.mean), torch.tensor(self.look.deviation)
        return (1 / (self.look.top * deviation)).view(-1, 1, 1), (-mean / deviation).view(-1, 1, 1)

    def _present(self, images_NCHW: Tensor) -> Tensor:
        scale, offset = self._scale
        return images_NCHW.float().mul_(scale).add_(offset)

    def _vary(self, images_NCHW: Tensor, generator: torch.Generator) -> Tensor:
        """Shift and flip every image by itself: rows and columns of the padded batch, gathered at once."""
        count, _, height, width = images_NCHW.shape
        shift = self.look.shift
        rows = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator) + torch.arange(height)
        columns = torch.randint(0, 2 * shift + 1, (count, 1), generator=generator) + torch.arange(width)
        if self.look.flip:
            mirrored = torch.rand(count, 1, generator=generator) < 0.5
            columns = torch.where(mirrored, columns.flip(1), columns)
        padded = F.pad(images_NCHW, (shift, shift, shift, shift)).permute(0, 2, 3, 1)
        samples = torch.arange(count)[:, None, None]
        # Channels last while gathering: the pixels of one place lie together and are copied as one.
        return padded.contiguous()[samples, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2).contiguous()


class ImageTask(ABC):
    """A trained classifier with its images, both read when they are first needed and shared as arrays.

    Args:
        look: How images are presented.
        batch_size: Samples a batch.
        splits: For each split the file it is cut from and which rows of it: ``{"test": ("test", rows)}``.
    """

    def __init__(self, look: Look, batch_size: int, splits: Mapping[Split, tuple[str, Rows]]) -> None:
        if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
            raise TaskError(f"batch_size must be a whole number of at least 1, but is {batch_size!r}: use e.g. 128")
        self.batch_size = batch_size
        self._look, self._splits = look, splits
        self._files: dict[str, Images] = {}
        self._parts: dict[str, Images] = {}
        self._weights: Mapping[str, Tensor] | None = None

    @abstractmethod
    def architecture(self) -> nn.Module:
        """The network with any weights."""

    @abstractmethod
    def read_weights(self) -> Mapping[str, Tensor]:
        """The trained state dict."""

    @abstractmethod
    def read_images(self, file: str) -> Images:
        """All images of one file."""

    def network(self) -> nn.Module:
        """A new copy of the trained network, in evaluation mode."""
        network = self.architecture()
        network.load_state_dict(self._state())
        return network.eval()

    def batches(self, split: Split, *, shuffle_seed: int | None) -> ImageBatches:
        """One pass over a split; images are shifted and flipped where `shuffle_seed` is given."""
        return ImageBatches(*self._part(split), self._look, self.batch_size, shuffle_seed)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy."""
        return F.cross_entropy(outputs, targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """1 where the likeliest class is the label, else 0."""
        return (outputs.argmax(dim=1) == targets).float()

    def labels(self, split: Split) -> Sequence[int]:
        """The classes of a split in its fixed order."""
        return [int(label) for label in self._part(split)[1]]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """All images, labels and weights: what `use` of another instance takes instead of reading files."""
        shared: dict[str, NDArray[Any]] = {}
        for file in self._file_names():
            images, labels = self._file(file)
            shared |= {f"{file}/images": np.asarray(images), f"{file}/labels": np.asarray(labels)}
        return shared | {f"{_NETWORK}{name}": value.numpy() for name, value in self._state().items()}

    def use(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take images, labels and weights from elsewhere; they are only read."""
        self._parts.clear()
        for file in self._file_names():
            self._files[file] = (arrays[f"{file}/images"], arrays[f"{file}/labels"])
        # The weights are small, and a tensor needs memory that may be written.
        self._weights = {
            name.removeprefix(_NETWORK): torch.from_numpy(np.array(value))
            for name, value in arrays.items()
            if name.startswith(_NETWORK)
        }

    def _state(self) -> Mapping[str, Tensor]:
        if self._weights is None:
            self._weights = self.read_weights()
        return self._weights

    def _file_names(self) -> list[str]:
        return list(dict.fromkeys(file for file, _ in self._splits.values()))

    def _file(self, file: str) -> Images:
        if file not in self._files:
            self._files[file] = self.read_images(file)
        return self._files[file]

    def _part(self, split: Split) -> Images:
        if split not in self._splits:
            raise TaskError(f"a split must be one of {', '.join(self._splits)}, but is {split!r}")
        if split not in self._parts:
            file, rows = self._splits[split]
            images, labels = self._file(file)
            self._parts[split] = (images[rows], labels[rows])
        return self._parts[split]
