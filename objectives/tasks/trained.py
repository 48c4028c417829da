"""Tasks whose network is trained on first use and kept: the loop, the cache of weights, and all of it as arrays."""

from __future__ import annotations

import hashlib
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from objectives.cache import cache_folder, write_whole
from objectives.task import Batch, Split, call
from objectives.tasks.batches import whole_number
from spaces.errors import TaskError

_NETWORK = "network/"
#: Seconds of training before anything is said, and between two lines after that.
PATIENCE = 5.0


@dataclass(frozen=True)
class Training:
    """How a network is trained: AdamW whose rate rises over the first tenth of the steps and falls linearly to 0.

    Args:
        epochs: Passes over the training split, >= 1.
        learning_rate: The highest rate.
        weight_decay: >= 0.
        clip: The largest norm of a step's gradient.
    """

    epochs: int
    learning_rate: float
    weight_decay: float = 0.01
    clip: float = 1.0


class TrainedTask(ABC):
    """A task that trains its network once, keeps the weights in the cache, and shares them and its data as arrays.

    Args:
        training: How; None where the weights need no training.
        seed: Of the training.
        batch_size: Samples a batch.
        cache_dir: Where the trained network is kept; left out, ``$PLEACH_HOME/cache``, else ``./.pleach/cache``.
    """

    name: ClassVar[str]

    def __init__(self, training: Training | None, seed: int, batch_size: int, cache_dir: str | None) -> None:
        self.training = training
        self.seed = whole_number("seed", seed, 0, 0)
        self.batch_size = whole_number("batch_size", batch_size, 1, 32)
        self._cache_dir = cache_dir
        self._weights: Mapping[str, Tensor] | None = None

    @abstractmethod
    def architecture(self) -> nn.Module:
        """The network with any weights; random ones come from torch's own generator."""

    @abstractmethod
    def made_of(self) -> Iterable[object]:
        """What decides the trained weights beside the training itself: sources, arguments, digests of the data."""

    @abstractmethod
    def batches(self, split: Split, *, shuffle_seed: int | None) -> Iterable[Batch]:
        """One pass over a split."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """A scalar."""

    @abstractmethod
    def data(self) -> Mapping[str, NDArray[Any]]:
        """The data as arrays."""

    @abstractmethod
    def take(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take what `data` gave; the arrays are only read."""

    def beginning(self) -> nn.Module:
        """The network that training starts from, or that needs none: a new one unless a task has weights already."""
        return self.architecture()

    def network(self) -> nn.Module:
        """A new copy of the trained network, in evaluation mode."""
        # Whoever asks for a copy must not find the random numbers after it changed.
        with torch.random.fork_rng(devices=[]):
            network = self.architecture()
        network.load_state_dict(self._state())
        return network.eval()

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Data and weights: what `use` of another instance takes instead of reading files and training."""
        weights = {f"{_NETWORK}{name}": value.numpy() for name, value in self._state().items()}
        return {**self.data(), **weights}

    def use(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take data and weights from elsewhere; they are only read."""
        self.take({name: value for name, value in arrays.items() if not name.startswith(_NETWORK)})
        # The weights are small, and a tensor needs memory that may be written.
        self._weights = {
            name.removeprefix(_NETWORK): torch.from_numpy(np.array(value))
            for name, value in arrays.items()
            if name.startswith(_NETWORK)
        }

    @property
    def weights_file(self) -> Path:
        """Where the trained network is kept: named by what it is made of."""
        digest = hashlib.sha256(Path(__file__).read_bytes())
        for part in (*self.made_of(), self.training, self.seed, self.batch_size):
            digest.update(part if isinstance(part, bytes) else repr(part).encode())
            digest.update(b"\0")
        return cache_folder(digest.hexdigest()[:16], self._cache_dir) / f"{self.name}.safetensors"

    def read_weights(self) -> Mapping[str, Tensor]:
        """The trained state dict: from the cache, or trained where no process has done so yet."""
        if self.training is None:
            return _separate(self.beginning().state_dict())
        path = self.weights_file
        if path.is_file():
            try:
                return load_file(path)
            except safetensors.SafetensorError:
                path.unlink(missing_ok=True)  # damaged: it can be made again
        weights = _separate(train(self, self.training).state_dict())
        write_whole(path, lambda temporary: save_file(weights, temporary))
        return weights

    def _state(self) -> Mapping[str, Tensor]:
        if self._weights is None:
            self._weights = self.read_weights()
        return self._weights


def train(task: TrainedTask, training: Training) -> nn.Module:
    """The task's network trained on the training split alone.

    The same seed gives the same weights on the same machine; the caller's random state and threads stay as they are.

    Raises:
        TaskError: If the loss is not finite.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), torch.enable_grad():
            torch.manual_seed(task.seed)
            return _trained(task, training).eval()
    finally:
        torch.set_num_threads(threads)


def _trained(task: TrainedTask, training: Training) -> nn.Module:
    network = task.beginning().train()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, training.learning_rate, weight_decay=training.weight_decay)
    steps = training.epochs * sum(1 for _ in task.batches("train", shuffle_seed=0))
    warm = max(1, steps // 10)
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / warm, 1 - step / steps))
    progress = _Progress(task.name, steps)
    for epoch in range(training.epochs):
        for inputs, targets in task.batches("train", shuffle_seed=task.seed * training.epochs + epoch):
            optimizer.zero_grad()
            loss = task.loss(call(network, inputs), targets)
            if not torch.isfinite(loss):
                raise TaskError(
                    f"the loss of {task.name}'s training must be finite, but is {float(loss)}: check the data"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, training.clip)
            optimizer.step()
            rate.step()
            progress.step()
    progress.end()
    return network


class _Progress:
    """Lines on stderr about what takes long; none about what does not."""

    def __init__(self, name: str, steps: int) -> None:
        self._name, self._steps, self._done = name, steps, 0
        self._start = self._last = time.monotonic()

    def step(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._last > PATIENCE and self._done < self._steps:
            left = (now - self._start) * (self._steps - self._done) / self._done
            self._say(f"{self._done / self._steps:.0%} done, about {left:.0f} s left")
            self._last = now

    def end(self) -> None:
        if self._last > self._start:
            self._say(f"done in {time.monotonic() - self._start:.0f} s; it is kept for the next time")

    def _say(self, what: str) -> None:
        print(f"{self._name}: training the network, {what}", file=sys.stderr, flush=True)


def _separate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tied weights each in memory of its own, because a safetensors file holds no ties."""
    return {name: value.detach().clone().contiguous() for name, value in state.items()}
