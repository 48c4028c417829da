"""What each connection's gradient did: mean gradients in a ring, one byte each, with a scale per block.

Legend: N entries, B connections of a block, K blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Connections that share a scale.
BLOCK = 256
#: Connections that are worked on at a time: what is computed of them stays in a core's cache.
PIECE = 1 << 13
#: The same where little is computed of them.
STRIP = 1 << 17


class GradientHistory:
    """The last N mean gradients of every weight.

    Memory per connection: N bytes, 4 N / 256 for the scales, and 4 where more than one gradient makes an entry.

    Args:
        weights: Whose gradients, by name.
        length: N.
        average: Gradients that make an entry, >= 1.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], length: int, average: int) -> None:
        self.length, self.average = length, average
        self.entries = 0
        self._pending = 0
        self._rings: dict[str, Tensor] = {}
        self._scales: dict[str, Tensor] = {}
        self._sums: dict[str, Tensor] = {}
        for name, weight in weights.items():
            blocks, block = blocks_of(weight.numel())
            # Entry by entry: a step writes one of them, and nothing that lies between.
            self._rings[name] = torch.zeros(length, blocks, block, dtype=torch.int8, device=weight.device)
            self._scales[name] = torch.zeros(length, blocks, device=weight.device)
            if average > 1:
                self._sums[name] = torch.zeros(weight.numel(), device=weight.device)

    @property
    def full(self) -> bool:
        """Whether N entries have been taken."""
        return self.entries >= self.length

    def restart(self) -> None:
        """Forget a half-made entry: there was a gap."""
        self._pending = 0

    @torch.no_grad()
    def record(self, gradients: Mapping[str, Tensor]) -> None:
        """Take one gradient per weight, flat; with the last of `average` of them an entry is written.

        Args:
            gradients: (connections,) per weight.
        """
        self._pending += 1
        last = self._pending == self.average
        for name, gradient in gradients.items():
            if self.average > 1:
                summed = self._sums[name]
                summed.copy_(gradient) if self._pending == 1 else summed.add_(gradient)
                gradient = summed
            if last:
                self._write(name, gradient)
        if last:
            self._pending = 0
            self.entries += 1

    def pieces(self, name: str) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """A weight's history, piece by piece, in the order in which the ring holds it: a spectrum's power is the same.

        Yields:
            The first connection, the one after the last, (K, N, B) whole numbers and (K, N) scales, their factors. The
            last block may be longer than what is left of the connections.
        """
        ring, scales = self._rings[name], self._scales[name]
        _, blocks, block = ring.shape
        stride = max(1, PIECE // block)
        for first in range(0, blocks, stride):
            until = min(blocks, first + stride)
            yield first * block, until * block, ring[:, first:until].transpose(0, 1), scales[:, first:until].t()

    def padded(self, name: str) -> int:
        """How many connections the pieces of a weight have in all."""
        return self._rings[name][0].numel()

    def device(self, name: str) -> torch.device:
        """Where a weight's history is."""
        return self._rings[name].device

    def bytes(self) -> int:
        """Memory that it holds."""
        tensors = [*self._rings.values(), *self._scales.values(), *self._sums.values()]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def state(self) -> dict[str, Tensor]:
        state = {"entries": torch.tensor(self.entries), "pending": torch.tensor(self._pending)}
        for kind, tensors in self._tensors().items():
            state |= {f"{kind}/{name}": tensor.clone() for name, tensor in tensors.items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.entries, self._pending = int(state["entries"]), int(state["pending"])
        for kind, tensors in self._tensors().items():
            for name, tensor in tensors.items():
                tensor.copy_(state[f"{kind}/{name}"])

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {"ring": self._rings, "scale": self._scales, "sum": self._sums}

    def _write(self, name: str, gradient: Tensor) -> None:
        slot = self.entries % self.length
        ring_KB, scale_K = self._rings[name][slot], self._scales[name][slot]
        blocks, block = ring_KB.shape
        stride = max(1, STRIP // block)
        whole_KB = gradient.new_empty(min(stride, blocks), block)
        for first in range(0, blocks, stride):
            until = min(blocks, first + stride)
            x_KB = gradient[first * block : until * block]
            missing = (until - first) * block - x_KB.numel()
            x_KB = (F.pad(x_KB, (0, missing)) if missing else x_KB).view(-1, block)
            # Two passes over the extremes are faster than one over absolute values.
            highest_K = torch.maximum(x_KB.amax(1), x_KB.amin(1).neg_())
            torch.div(highest_K, 127, out=scale_K[first:until])
            factor_K1 = (127 / highest_K.clamp_min_(1e-38)).unsqueeze(1)
            ring_KB[first:until] = torch.mul(x_KB, factor_K1, out=whole_KB[: until - first]).round_()


def blocks_of(connections: int) -> tuple[int, int]:
    """How many blocks, and how long each is: as even as they can be, so that hardly anything is padded."""
    blocks = -(-connections // BLOCK)
    return blocks, -(-connections // blocks)
