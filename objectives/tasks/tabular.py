"""Tables: a multi-layer perceptron that tells a class or a number from a row.

Needs no download: left alone it reads a set that scikit-learn ships. The network is trained on first use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import sklearn.datasets
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from objectives.mode import evaluating
from objectives.task import Batch, Split, call, move
from objectives.tasks.batches import Batches, whole_number
from objectives.tasks.tables import LARGEST, LEAST, SPLITS, Encoder, class_names, read_splits, split_rows
from objectives.tasks.trained import TrainedTask, Training
from spaces.errors import TaskError

KINDS = ("classification", "regression")
#: What scikit-learn ships, and what it is for.
SETS: Mapping[str, str] = {"breast-cancer": "classification", "wine": "classification", "diabetes": "regression"}


class Perceptron(nn.Module):
    """Rows (N, features) to outputs (N, outputs): layers of Linear, BatchNorm and ReLU, then a linear one.

    Args:
        features: Columns of the input.
        width: Units of a hidden layer.
        depth: Hidden layers.
        outputs: Columns of the output.
        residual: Whether every hidden layer but the first stands beside an identity.
    """

    def __init__(self, features: int, width: int, depth: int, outputs: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Linear(width if i else features, width, bias=False), nn.BatchNorm1d(width), nn.ReLU())
            for i in range(depth)
        )
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for i, layer in enumerate(self.layers):
            x = x + layer(x) if self.residual and i else layer(x)
        y: Tensor = self.head(x)
        return y


class Tabular(TrainedTask):
    """Rows of a table, a class or a number each.

    Args:
        data: A CSV or parquet file, a folder with ``train``, ``validation`` and ``test`` as such files, or a set of
            scikit-learn's: ``breast-cancer``, ``wine``, ``diabetes``.
        target: The column to tell; needed with a file. All other columns are features.
        kind: ``classification`` or ``regression``; needed with a file.
        width: Units of a hidden layer.
        depth: Hidden layers.
        residual: Whether hidden layers stand beside an identity.
        epochs: Of the network's training.
        seed: Of its training.
        batch_size: Rows a batch, at least 2.
        cache_dir: Where the trained network is kept; left out, ``$PLEACH_HOME/cache``, else ``./.pleach/cache``.

    Raises:
        TaskError: If an argument breaks a rule; the data is read when it is first needed.
    """

    name: ClassVar[str] = "tabular"
    recipe: ClassVar[Mapping[str, Any]] = {"optimizer": "adamw", "learning_rate": 1e-3, "weight_decay": 0.01}

    def __init__(
        self,
        data: str = "breast-cancer",
        target: str | None = None,
        kind: str | None = None,
        width: int = 64,
        depth: int = 2,
        residual: bool = False,
        epochs: int = 30,
        seed: int = 0,
        batch_size: int = 32,
        cache_dir: str | None = None,
    ) -> None:
        training = Training(whole_number("epochs", epochs, 1, 30), learning_rate=3e-3)
        super().__init__(training, seed, whole_number("batch_size", batch_size, 2, 32), cache_dir)
        self.data_set = data
        self.kind = _kind(data, target, kind)
        self.target = target or "target"
        self.width, self.depth = whole_number("width", width, 1, 64), whole_number("depth", depth, 1, 2)
        self.residual = bool(residual)
        self._arrays: Mapping[str, NDArray[Any]] | None = None

    def architecture(self) -> nn.Module:
        """The perceptron; as many inputs as features, as many outputs as classes, or one."""
        outputs = len(self.data()["classes"]) if self.kind == "classification" else 1
        return Perceptron(self.data()["train/x"].shape[1], self.width, self.depth, outputs, self.residual)

    def made_of(self) -> tuple[object, ...]:
        """This file and its neighbour, the data, and the network's sizes."""
        sources = tuple(Path(__file__).with_name(name).read_bytes() for name in ("tabular.py", "tables.py"))
        digests = tuple(hashlib.sha256(array.tobytes()).hexdigest() for array in self.data().values())
        return (*sources, *digests, self.kind, self.width, self.depth, self.residual)

    def example_inputs(self) -> tuple[Tensor, ...]:
        """Noise, (2, features)."""
        features = self.data()["train/x"].shape[1]
        return (torch.randn(2, features, generator=torch.Generator().manual_seed(0)),)

    def batches(self, split: Split, *, shuffle_seed: int | None) -> Batches:
        """Rows (N, features) and their classes (N,), or their standardised targets (N,)."""
        if split not in SPLITS:
            raise TaskError(f"a split must be one of {', '.join(SPLITS)}, but is {split!r}")
        x, y = self.data()[f"{split}/x"], self.data()[f"{split}/y"]

        def make(rows: NDArray[np.int64], _: torch.Generator | None) -> Batch:
            return torch.from_numpy(x[rows]), torch.from_numpy(y[rows])

        # BatchNorm cannot train on a single row.
        return Batches(len(y), self.batch_size, shuffle_seed, make, least=2)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross entropy; for a regression the mean squared error of the standardised target."""
        if self.kind == "classification":
            return F.cross_entropy(outputs, targets)
        return F.mse_loss(outputs[:, 0], targets)

    def score(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """1 where the likeliest class is right, else 0; for a regression 1 minus the squared standardised error.

        The mean of the latter is the share of variance explained: 1 is perfect, 0 no better than the training mean.
        """
        if self.kind == "classification":
            return (outputs.argmax(dim=1) == targets).float()
        return 1 - (outputs[:, 0] - targets).square()

    def evaluate(self, network: nn.Module, split: Split) -> dict[str, float]:
        """``balanced_accuracy``, the mean over the classes of their own accuracy; for a regression ``rmse``, the root
        of the mean squared error in the target's own units."""
        device = str(next(network.parameters()).device)
        found: list[Tensor] = []
        with evaluating(network):
            for inputs, targets in self.batches(split, shuffle_seed=None):
                found.append(self.score(call(network, move(inputs, device)), targets.to(device)).cpu())
        scores = torch.cat(found).double()
        if self.kind == "regression":
            return {"rmse": float((1 - scores).mean().sqrt()) * float(self.data()["scale"][1])}
        labels = self.data()[f"{split}/y"]
        present = [float(scores[torch.from_numpy(labels == label)].mean()) for label in np.unique(labels)]
        return {"balanced_accuracy": sum(present) / len(present)}

    def labels(self, split: Split) -> Sequence[int]:
        """The classes of a split in its fixed order; none for a regression."""
        return [int(label) for label in self.data()[f"{split}/y"]] if self.kind == "classification" else []

    def data(self) -> Mapping[str, NDArray[Any]]:
        """Features and targets of each split, and ``classes`` by name, or the target's ``scale``: mean, deviation."""
        if self._arrays is None:
            self._arrays = self._read()
        return self._arrays

    def take(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def _read(self) -> dict[str, NDArray[Any]]:
        classes = self.target if self.kind == "classification" else None
        tables = _shipped(self.data_set) if self.data_set in SETS else None
        tables = tables or read_splits(self.data_set, [self.target], classes)
        encoder = Encoder.of(tables["train"].drop(columns=self.target))
        arrays: dict[str, NDArray[Any]] = {
            f"{split}/x": encoder.features(table.drop(columns=self.target)) for split, table in tables.items()
        }
        targets = {split: table[self.target] for split, table in tables.items()}
        told = _classes(targets) if self.kind == "classification" else _values(targets)
        return arrays | told


def _kind(data: str, target: str | None, kind: str | None) -> str:
    """The kind of task, checked against the data set where it is a shipped one."""
    if kind is not None and kind not in KINDS:
        raise TaskError(f"kind must be {' or '.join(KINDS)}, but is {kind!r}: choose one of them")
    if data in SETS:
        if target is not None:
            raise TaskError(f"target goes with a file, but data is {data!r}, whose target is known: leave it out")
        if kind not in (None, SETS[data]):
            raise TaskError(f"{data} is for {SETS[data]}, but kind is {kind!r}: leave it out")
        return SETS[data]
    if "." not in data and "/" not in data and not Path(data).expanduser().exists():
        raise TaskError(f"data must be a file, a folder or one of {', '.join(SETS)}, but is {data!r}: check it")
    if target is None:
        raise TaskError("tabular needs target, the column to tell, but it is left out: args = {target = ...}")
    if kind is None:
        raise TaskError(f"tabular needs kind with a file, but it is left out: args = {{kind = {KINDS[0]!r}}}")
    return kind


def _shipped(name: str) -> dict[Split, pd.DataFrame]:
    bunch = getattr(sklearn.datasets, f"load_{name.replace('-', '_')}")(as_frame=True)
    table: pd.DataFrame = bunch.frame
    rows = split_rows(len(table), table["target"].to_numpy() if SETS[name] == "classification" else None)
    return {split: table.iloc[part].reset_index(drop=True) for split, part in rows.items()}


def _classes(targets: Mapping[Split, pd.Series]) -> dict[str, NDArray[Any]]:
    words = {split: class_names(column) for split, column in targets.items()}
    known = np.unique(words["train"])
    if len(known) < 2:
        raise TaskError(f"the target must have at least 2 classes, but has only {str(known[0])!r}: check the column")
    for split, found in words.items():
        strange = sorted(set(found.tolist()) - set(known.tolist()))
        if strange:
            raise TaskError(f"every class must be in training, but {strange[0]!r} is only in {split}: add rows of it")
    arrays: dict[str, NDArray[Any]] = {f"{split}/y": np.searchsorted(known, found) for split, found in words.items()}
    return arrays | {"classes": known}


def _values(targets: Mapping[Split, pd.Series]) -> dict[str, NDArray[Any]]:
    try:
        numbers = {split: column.to_numpy(dtype=np.float64) for split, column in targets.items()}
    except (TypeError, ValueError):
        raise TaskError("the target of a regression must be numbers, but is not: use kind classification") from None
    if not all(bool((np.abs(values) <= LARGEST).all()) for values in numbers.values()):
        raise TaskError(f"the target must be finite and below {LARGEST:g}, but is not in every row: check the column")
    mean, deviation = float(numbers["train"].mean()), float(numbers["train"].std())
    if not np.isfinite(mean) or not deviation > LEAST:
        raise TaskError(
            f"the target must be finite and differ between rows, but has mean {mean} and deviation {deviation}: "
            "check the column"
        )
    arrays: dict[str, NDArray[Any]] = {
        f"{split}/y": ((values - mean) / deviation).astype(np.float32) for split, values in numbers.items()
    }
    return arrays | {"scale": np.array([mean, deviation])}
