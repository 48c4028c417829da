"""One pass over samples in batches, in a fixed order or shuffled: what tasks over arrays in memory share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from objectives.task import Batch
from spaces.errors import TaskError

#: Row numbers, and the pass's generator, to a batch; the generator is None where nothing may vary.
Make = Callable[[NDArray[np.int64], torch.Generator | None], Batch]


@dataclass(frozen=True)
class Batches:
    """One pass over samples in batches, the last one smaller where they do not divide.

    Args:
        count: Samples, >= 1.
        size: Samples a batch, >= 1.
        shuffle_seed: Decides order and variation; None for the order of the samples and no variation.
        make: Makes a batch of the samples of these numbers.
        least: A shuffled pass leaves out a last batch of fewer samples than this; BatchNorm, for one, needs two.
    """

    count: int
    size: int
    shuffle_seed: int | None
    make: Make
    least: int = 1

    def __len__(self) -> int:
        left_out = self.shuffle_seed is not None and 0 < self.count % self.size < self.least < self.count
        return -(-self.count // self.size) - int(left_out)

    def __iter__(self) -> Iterator[Batch]:
        generator = None
        order = np.arange(self.count)
        if self.shuffle_seed is not None:
            generator = torch.Generator().manual_seed(self.shuffle_seed)
            order = torch.randperm(self.count, generator=generator).numpy()
        for number in range(len(self)):
            yield self.make(order[number * self.size : (number + 1) * self.size], generator)


def whole_number(name: str, value: object, least: int, example: int) -> int:
    """An argument that counts something.

    Raises:
        TaskError: If it is no whole number of at least `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise TaskError(f"{name} must be a whole number of at least {least}, but is {value!r}: use e.g. {example}")
    return value
