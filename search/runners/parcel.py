"""What goes to the nodes of a cluster beside the task's arrays: the code, and the base network as plain arrays.

The network travels as its structure, which is small and pickled, and its tensors as numpy arrays, which the object
store holds once per node and hands out without a copy. Pickles pass between processes of one study, never in files.
"""

from __future__ import annotations

import importlib.util
import io
import pickle
import shutil
import sysconfig
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from ray import cloudpickle
from torch import Tensor, nn

from objectives.task import Task
from objectives.tasks import TASKS
from search.installation import PACKAGES, ROOT
from spaces.errors import StudyError

#: Left out where code is copied.
LITTER = shutil.ignore_patterns("__pycache__", "*.pyc", ".*")


@dataclass(frozen=True)
class PackedTensor:
    """A tensor as bytes.

    Args:
        data: Its values, contiguous, as bytes; shape (n,).
        dtype: Of the tensor: numpy does not know all of torch's.
        shape: Of the tensor.
        parameter: Whether it is a parameter.
        requires_grad: Whether it is trained.
    """

    data: NDArray[np.uint8]
    dtype: torch.dtype
    shape: tuple[int, ...]
    parameter: bool
    requires_grad: bool

    @classmethod
    def of(cls, tensor: Tensor) -> PackedTensor:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        data = flat.view(torch.uint8).numpy() if flat.numel() else np.zeros(0, np.uint8)
        return cls(data, tensor.dtype, tuple(tensor.shape), isinstance(tensor, nn.Parameter), tensor.requires_grad)

    def tensor(self) -> Tensor:
        """The tensor again, in memory of its own: the object store's may not be written."""
        values = torch.from_numpy(np.array(self.data))
        tensor = (
            values.view(self.dtype).reshape(self.shape) if self.data.size else torch.empty(self.shape).to(self.dtype)
        )
        if self.parameter:
            return nn.Parameter(tensor, requires_grad=self.requires_grad)
        return tensor.requires_grad_(self.requires_grad)


@dataclass(frozen=True)
class PackedNetwork:
    """A network on its way to the workers.

    Args:
        structure: All but its tensors, pickled; classes of importable modules and of a task's file by name.
        tensors: Its tensors, each once however often the network refers to it.
    """

    structure: bytes
    tensors: tuple[PackedTensor, ...]

    @classmethod
    def of(cls, network: nn.Module) -> PackedNetwork:
        """Pack a network.

        Raises:
            StudyError: If something in it cannot be pickled.
        """
        stream = io.BytesIO()
        pickler = _Pickler(stream)
        try:
            pickler.dump(network)  # type: ignore[no-untyped-call]
        except Exception as error:  # whatever the classes of a user's network throw
            raise StudyError(
                f"a network must be picklable to travel to a cluster, but is not ({type(error).__name__}: {error})"
            ) from error
        return cls(stream.getvalue(), tuple(map(PackedTensor.of, pickler.tensors)))

    def network(self) -> nn.Module:
        """A new copy of the network."""
        network: nn.Module = _Unpickler(io.BytesIO(self.structure), self.tensors).load()
        return network


class _Pickler(cloudpickle.Pickler):
    """Leaves numbers in the place of tensors."""

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream)  # type: ignore[no-untyped-call]
        self.tensors: list[Tensor] = []
        self._places: dict[int, int] = {}

    def persistent_id(self, thing: Any) -> int | None:
        if type(thing) not in (Tensor, nn.Parameter) or thing.layout is not torch.strided:
            return None
        if id(thing) not in self._places:
            self._places[id(thing)] = len(self.tensors)
            self.tensors.append(thing)
        return self._places[id(thing)]


class _Unpickler(pickle.Unpickler):
    """Puts the tensors back; one that the network refers to twice is one tensor again."""

    def __init__(self, stream: io.BytesIO, tensors: tuple[PackedTensor, ...]) -> None:
        super().__init__(stream)
        self._packed = tensors
        self._made: dict[int, Tensor] = {}

    def persistent_load(self, place: int) -> Tensor:
        if place not in self._made:
            self._made[place] = self._packed[place].tensor()
        return self._made[place]


def give(task: Task, packed: PackedNetwork) -> None:
    """Let a task hand out copies of a network that came with it, whatever it would have read or trained."""
    object.__setattr__(task, "network", packed.network)


# -- code -----------------------------------------------------------------------------------------------------------


def stage(folder: Path, target: str) -> Path:
    """Copy the code that workers need into a folder: Pleach's own packages, and the task's module.

    Args:
        folder: To be made.
        target: Of the task; a file's source travels with the work, and what is installed must be so on every node.
    """
    folder.mkdir(parents=True)
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=LITTER)
    own = _own_code(target)
    if own is not None and not (folder / own.name).exists():
        if own.is_dir():
            shutil.copytree(own, folder / own.name, ignore=LITTER)
        else:
            shutil.copy(own, folder)
    return folder


def _own_code(target: str) -> Path | None:
    """The user's package or module that a task comes from; None where it is installed, or is a file."""
    place = TASKS.get(target, target).rpartition(":")[0]
    top = place.partition(".")[0]
    if place.endswith(".py") or top in PACKAGES or not top:
        return None
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    places = list(spec.submodule_search_locations or ())
    found = Path(places[0] if places else spec.origin or "")
    installed = {Path(sysconfig.get_path(name)) for name in ("purelib", "platlib", "stdlib")}
    return None if not found.exists() or any(path in found.parents for path in installed) else found
