"""A network from an ONNX file as a task: what was trained in TensorFlow, Keras, JAX or whatever else exports it."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.task import Batch, Split
from objectives.tasks.batches import Batches, whole_number
from objectives.tasks.onnx_network import read_onnx
from objectives.tasks.tables import SPLITS, split_rows
from spaces.errors import TaskError

KINDS = ("classification", "regression")


class Onnx:
    """An ONNX network with its data.

    Args:
        file: The ONNX file: one or more inputs whose dimension 0 is the batch, one output.
        data: A ``.npz`` file with ``x_train``, ``y_train``, ``x_validation``, ``y_validation``, ``x_test`` and
            ``y_test``, or with ``x`` and ``y``, which are cut 60 : 20 : 20. Validation data must be data that the
            network was not trained on.
        kind: ``classification``: `y` are class numbers and the output has a value per class in dimension 1;
            ``regression``: `y` has the output's shape.
        batch_size: Samples a batch.

    Raises:
        TaskError: If a file cannot be read, the network uses an operator that is not supported, or data and network do
            not fit.
    """

    name: ClassVar[str] = "onnx"

    def __init__(self, file: str, data: str, kind: str = "classification", batch_size: int = 64) -> None:
        if kind not in KINDS:
            raise TaskError(f"kind must be one of {', '.join(KINDS)}, but is {kind!r}: choose one")
        self.kind = kind
        self.batch_size = whole_number("batch_size", batch_size, 1, 64)
        self._network = read_onnx(file)
        self._data: Mapping[str, NDArray[Any]] = _read(Path(data).expanduser(), kind)
        self._scale = float(np.var(self._data["y_train"])) or 1.0 if kind == "regression" else 1.0

    def network(self) -> nn.Module:
        """A copy of the network."""
        return copy.deepcopy(self._network).eval()

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Two samples."""
        return (_tensor(self._data["x_validation"][:2]),)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Iterable[Batch]:
        """One pass over a split."""
        x, y = self._data[f"x_{split}"], self._data[f"y_{split}"]

        def make(rows: NDArray[np.int64], generator: torch.Generator | None) -> Batch:
            return _tensor(x[rows]), _tensor(y[rows])

        return Batches(len(x), self.batch_size, shuffle_seed, make, least=2)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross entropy, or the mean square error."""
        if self.kind == "classification":
            return F.cross_entropy(outputs, targets.long())
        return F.mse_loss(outputs, targets.reshape(outputs.shape).to(outputs.dtype))

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether the class is right, or 1 less the square error in variances of the training data, per sample."""
        if self.kind == "classification":
            right = (outputs.argmax(dim=1) == targets.long()).float()
            return right.flatten(1).mean(1) if right.dim() > 1 else right
        error = (outputs - targets.reshape(outputs.shape)).square().flatten(1).mean(1)
        return 1.0 - error / self._scale

    def labels(self, split: Split) -> list[int]:
        """The class of every sample of a split."""
        return [] if self.kind == "regression" else [int(y) for y in self._data[f"y_{split}"].reshape(-1)]

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The data, to be shared between processes."""
        return dict(self._data)

    def use(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Take the data from elsewhere."""
        self._data = dict(arrays)


def _read(path: Path, kind: str) -> dict[str, NDArray[Any]]:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as held:
            arrays: dict[str, NDArray[Any]] = {name: held[name] for name in held.files}
    except OSError as error:
        raise TaskError(
            f"the data {path} must be readable, but are not ({error.strerror or error}): check it"
        ) from None
    # An archive, its headers and its arrays fail each in ways of their own.
    except Exception as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise TaskError(f"the data {path} must be a .npz file of plain arrays, but are not ({said}): save it") from None
    for name, array in arrays.items():
        if array.ndim == 0 or array.dtype.kind not in "fiub":
            raise TaskError(
                f"the data {path} must be arrays of numbers, a row per sample, but {name} is {array.dtype} of shape "
                f"{array.shape}: save it as such"
            )
    if {"x", "y"} <= set(arrays):
        x, y = arrays["x"], arrays["y"]
        if len(x) != len(y):
            raise TaskError(f"x and y of {path} must be as many, but are {len(x)} and {len(y)}: pair them")
        rows = split_rows(len(x), y if kind == "classification" and y.ndim == 1 else None)
        arrays = {f"{axis}_{split}": values[rows[split]] for split in SPLITS for axis, values in (("x", x), ("y", y))}
    wanted = [f"{axis}_{split}" for split in SPLITS for axis in "xy"]
    missing = [name for name in wanted if name not in arrays]
    if missing:
        raise TaskError(f"the data {path} must hold {', '.join(wanted)}, or x and y, but lack {missing[0]}: add it")
    for split in SPLITS:
        counts = len(arrays[f"x_{split}"]), len(arrays[f"y_{split}"])
        if counts[0] != counts[1] or counts[0] < 2:
            raise TaskError(f"the {split} split of {path} must have at least 2 pairs, but has {counts}: correct it")
        labels = arrays[f"y_{split}"]
        if kind == "classification" and not bool((labels == np.trunc(labels)).all() and (labels >= 0).all()):
            raise TaskError(
                f"the classes of {path} must be whole numbers from 0, but y_{split} has others: number them"
            )
    return {name: arrays[name] for name in wanted}


def _tensor(array: NDArray[Any]) -> Tensor:
    """A tensor of its own; double precision, which networks seldom take, becomes single."""
    tensor = torch.from_numpy(np.array(array))
    return tensor.float() if tensor.dtype == torch.float64 else tensor
