"""Everything that an operation on a network can change, in memory and as one safetensors file. No pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from search.surgery.edges import Edge
from spaces.errors import StorageError

_KINDS = ("network", "connectivity", "optimizer")
_STRUCTURE = "structure"


@dataclass(frozen=True)
class Snapshot:
    """A network under surgery at one moment.

    Args:
        edges: In the order in which they were added.
        network: Its state dict.
        connectivity: Masks and books.
        optimizer: Its state; empty where nothing is trained.
        closed: Keys of the masked channels.
    """

    edges: tuple[Edge, ...]
    network: dict[str, Tensor]
    connectivity: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    closed: frozenset[tuple[str, int]]

    def save(self, path: str | Path) -> None:
        """Write it.

        Raises:
            StorageError: If it cannot be written.
        """
        tensors = {f"{kind}/{name}": value for kind in _KINDS for name, value in getattr(self, kind).items()}
        ready = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        structure = {"edges": [asdict(edge) for edge in self.edges], "closed": sorted(self.closed)}
        try:
            save_file(ready, path, metadata={_STRUCTURE: json.dumps(structure)})
        except (OSError, SafetensorError) as error:
            raise StorageError(f"{path} cannot be written ({error}): choose another place") from None

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """What :meth:`save` wrote.

        Raises:
            StorageError: If it cannot be read.
        """
        try:
            with safe_open(path, framework="pt") as file:
                structure = json.loads((file.metadata() or {})[_STRUCTURE])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            edges = tuple(Edge(**edge) for edge in structure["edges"])
            closed = frozenset((str(root), int(index)) for root, index in structure["closed"])
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise StorageError(
                f"{path} must be what a surgeon saved, but cannot be read ({error}): check the path"
            ) from None
        kinds = {
            kind: {name.removeprefix(f"{kind}/"): v for name, v in tensors.items() if name.startswith(f"{kind}/")}
            for kind in _KINDS
        }
        return cls(edges, closed=closed, **kinds)
