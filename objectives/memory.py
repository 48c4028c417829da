"""How much memory one forward pass takes: weights, and the most activations that are alive at a time.

Counted, not sampled: the same network gives the same figure on every machine. PyTorch's eager mode is meant, which
frees a tensor when nothing refers to it any more; memory that kernels borrow while they work is not seen.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from objectives.mode import evaluating
from objectives.outcome import Outcome
from spaces.errors import NetworkError


def peak_memory_bytes(outcome: Outcome) -> float:
    """Bytes of parameters, buffers and inputs, and the peak of what is alive beside them, for one sample."""
    inputs = tuple(x[:1] if isinstance(x, Tensor) and x.dim() else x for x in outcome.inputs)
    if not inputs:
        raise NetworkError("memory needs example inputs, but got none: pass example_inputs()")
    return float(peak_bytes(outcome.network, inputs))


def peak_bytes(network: nn.Module, inputs: tuple[object, ...]) -> int:
    """The largest number of bytes that is alive during a forward pass in evaluation mode.

    Args:
        network: On the CPU; it gets its modes back.
        inputs: ``network(*inputs)`` runs.
    """
    meter = _Meter()
    for value in (*network.parameters(), *network.buffers(), *(x for x in inputs if isinstance(x, Tensor))):
        meter.see(value, freed=False)
    with evaluating(network), meter:
        network(*inputs)
    return meter.peak


class _Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts memory from the operation that makes a tensor to the moment in which nothing refers to it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._seen: dict[int, int] = {}

    def see(self, value: Tensor, *, freed: bool = True) -> None:
        """Count a tensor's memory once, whichever views there are of it."""
        storage = value.untyped_storage()
        place = storage.data_ptr()
        if place == 0 or place in self._seen:
            return
        self._seen[place] = storage.nbytes()
        self.alive += storage.nbytes()
        self.peak = max(self.peak, self.alive)
        if freed:
            weakref.finalize(storage, self._free, place)

    def _free(self, place: int) -> None:
        self.alive -= self._seen.pop(place, 0)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in pytree.tree_leaves(result):
            if isinstance(value, Tensor):
                self.see(value)
        return result
