"""CIFAR-10 and a ResNet whose weights the user brings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from objectives.task import Split
from objectives.tasks.cifar10_files import read_images
from objectives.tasks.images import Images, ImageTask, Look, Rows
from objectives.tasks.resnet import ResNet
from spaces.errors import TaskError

#: Of the training images, per channel.
LOOK = Look(top=255.0, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225), shift=4, flip=True)

#: Validation is data that the network was not trained on; which that is, the user knows.
VALIDATION: Mapping[str, Mapping[Split, tuple[str, Rows]]] = {
    "train-tail": {
        "train": ("train", slice(None, -5_000)),
        "validation": ("train", slice(-5_000, None)),
        "test": ("test", slice(None)),
    },
    "test-head": {
        "train": ("train", slice(None)),
        "validation": ("test", slice(None, 5_000)),
        "test": ("test", slice(5_000, None)),
    },
}


class Cifar10(ImageTask):
    """CIFAR-10 with a ResNet-20, 32, 44 or 56.

    Args:
        data_dir: Folder with the images: parquet (Hugging Face's layout), the python batches, or the binary files.
        weights: Safetensors file with the state dict: ``conv1, bn1, layer{1,2,3}.{n}.{conv1,bn1,conv2,bn2}, linear``.
        depth: Of the ResNet, 6n + 2.
        validation: ``train-tail``, the last 5,000 training images, is right where the weights were not trained on
            them; ``test-head``, the first half of the test images, where they were. The second half is the test split
            then.
        batch_size: Samples a batch.
        shift: At most so many pixels by which training images are moved, >= 0. What makes a long training better can
            make a short one worse: 0 suits budgets of an epoch.
        cache_dir: Where decoded images are kept; left out, ``$PLEACH_HOME/cache``, else ``./.pleach/cache``.

    Raises:
        TaskError: If an argument is missing or breaks a rule; the files are read when they are first needed.
    """

    name = "cifar10"

    def __init__(
        self,
        data_dir: str | None = None,
        weights: str | None = None,
        depth: int = 20,
        validation: str = "train-tail",
        batch_size: int = 128,
        shift: int = LOOK.shift,
        cache_dir: str | None = None,
    ) -> None:
        if data_dir is None:
            raise TaskError(
                "cifar10 needs data_dir, the folder with the images, but it is left out: args = {data_dir = ...}"
            )
        if weights is None:
            raise TaskError("cifar10 needs weights, a safetensors file, but it is left out: args = {weights = ...}")
        if validation not in VALIDATION:
            raise TaskError(f"validation must be {' or '.join(VALIDATION)}, but is {validation!r}: choose one of them")
        if not isinstance(shift, int) or isinstance(shift, bool) or not 0 <= shift <= 32:
            raise TaskError(f"shift must be a whole number of pixels from 0 to 32, but is {shift!r}: use e.g. 4")
        super().__init__(replace(LOOK, shift=shift), batch_size, VALIDATION[validation])
        self.data_dir, self.weights_file = Path(data_dir).expanduser(), Path(weights).expanduser()
        self.depth = depth
        self._cache_dir = cache_dir
        self.architecture()  # refuses a depth that does not exist now, not in the first trial

    def architecture(self) -> nn.Module:
        return ResNet(self.depth)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Noise of the images' shape."""
        return (torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)),)

    def read_images(self, file: str) -> Images:
        """``train`` or ``test``."""
        if not self.data_dir.is_dir():
            raise TaskError(f"data_dir must be a folder with CIFAR-10, but {self.data_dir} is none: check the path")
        return read_images(self.data_dir, file, self._cache_dir)

    def read_weights(self) -> Mapping[str, Tensor]:
        try:
            weights = load_file(self.weights_file)
        except (OSError, safetensors.SafetensorError) as error:
            raise TaskError(
                f"weights must be a safetensors file, but {self.weights_file} is not readable ({error})"
            ) from None
        expected = self.architecture().state_dict()
        # BatchNorm's step counters decide nothing here, and files from before they existed lack them.
        weights = {name: value for name, value in expected.items() if name.endswith("num_batches_tracked")} | weights
        misfit = _misfit(expected, weights)
        if misfit:
            raise TaskError(
                f"weights must fit a ResNet-{self.depth}, but {self.weights_file} {misfit}: check depth and the file"
            )
        return weights


def _misfit(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """What is wrong with a state dict, in words; empty where it fits."""
    missing, unknown = expected.keys() - found.keys(), found.keys() - expected.keys()
    shapes = sorted(name for name in expected.keys() & found.keys() if expected[name].shape != found[name].shape)
    words = [f"lacks {_some(missing)}"] if missing else []
    words += [f"has {_some(unknown)} besides"] if unknown else []
    if shapes:
        name = shapes[0]
        words.append(f"has {name} of shape {tuple(found[name].shape)} instead of {tuple(expected[name].shape)}")
    return " and ".join(words)


def _some(names: set[str]) -> str:
    first, *others = sorted(names)
    return f"{first} and {len(others)} more" if others else first
