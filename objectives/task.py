"""What a user brings: a trained network, its data, a loss and a score. Any object with the five methods will do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from torch import Tensor, nn

from spaces.errors import TaskError

Split = Literal["train", "validation", "test"]
#: What a network is called with: `network(x)`, `network(*x)` or `network(**x)`.
Inputs = Tensor | tuple[Tensor, ...] | dict[str, Tensor]
Batch = tuple[Inputs, Tensor]


@runtime_checkable
class Task(Protocol):
    """The five methods every task has. Tensors are on the CPU; the trial moves them."""

    def network(self) -> nn.Module:
        """A new copy of the trained network, on the CPU."""
        ...

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Inputs such that ``network(*example_inputs())`` runs; dimension 0 is the batch (at least 2)."""
        ...

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Iterable[Batch]:
        """One pass over a split as ``(inputs, targets)``; `shuffle_seed` None means fixed order, no augmentation."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The training loss of a batch, a scalar."""
        ...

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """One value per sample, higher is better; its mean over a split is the objective ``accuracy``."""
        ...


@runtime_checkable
class Evaluates(Protocol):
    """Optional: metrics that are no mean over samples."""

    def evaluate(self, network: nn.Module, split: Split) -> dict[str, float]:
        """Further objectives by name."""
        ...


@runtime_checkable
class SharesArrays(Protocol):
    """Optional: the data as arrays, put into the cluster's object store once and read without a copy."""

    def arrays(self) -> dict[str, np.ndarray]:
        """The data; the values may be handed to `use` of another instance as read-only views."""
        ...

    def use(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take the data from elsewhere instead of loading it; must not write into the arrays."""
        ...


@runtime_checkable
class Labels(Protocol):
    """Optional: class labels of a split, in its fixed order, for reports on sub-tasks."""

    def labels(self, split: Split) -> Sequence[int]:
        """One label per sample."""
        ...


def call(network: nn.Module, inputs: Inputs) -> Tensor:
    """Run a network on a batch's inputs, whichever of the three forms they have."""
    if isinstance(inputs, Tensor):
        outputs = network(inputs)
    elif isinstance(inputs, Mapping):
        outputs = network(**inputs)
    else:
        outputs = network(*inputs)
    if not isinstance(outputs, Tensor):
        raise TaskError(
            f"the network must return one tensor, but returned {type(outputs).__name__}: wrap it in a module that does"
        )
    return outputs


def move(inputs: Inputs, device: str) -> Inputs:
    """The same inputs on another device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device, non_blocking=True)
    if isinstance(inputs, Mapping):
        return {name: value.to(device, non_blocking=True) for name, value in inputs.items()}
    return tuple(value.to(device, non_blocking=True) for value in inputs)


def samples(inputs: Inputs) -> int:
    """The number of samples in a batch's inputs."""
    if isinstance(inputs, Tensor):
        return inputs.shape[0]
    return next(iter(inputs.values() if isinstance(inputs, dict) else inputs)).shape[0]
