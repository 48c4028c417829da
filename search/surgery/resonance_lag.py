"""The cheaper estimator: a frequency from the lag-1 autocorrelation of the gradients, without a history.

f = arccos(rho) / 2 pi is the frequency of a sinusoid with that autocorrelation. Four running means a connection are
kept instead of N entries: the last gradient, the mean, the power and the product of neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

import torch
from torch import Tensor, nn

from search.surgery.resonance_spectrum import STEADY, Signal

_KINDS = ("last", "mean", "power", "product")


class LagHistory:
    """Running means of the gradients, with a horizon of N entries.

    Memory per connection: 16 bytes, and 4 where more than one gradient makes an entry.

    Args:
        weights: Whose gradients, by name.
        length: N; the means forget so that they are as certain as plain means over N entries.
        average: Gradients that make an entry, >= 1.
    """

    def __init__(self, weights: Mapping[str, nn.Parameter], length: int, average: int) -> None:
        self.length, self.average = length, average
        self.entries = 0
        self._pending = 0
        kinds = [*_KINDS, "sum"] if average > 1 else _KINDS
        self._means = {
            kind: {name: torch.zeros(weight.numel(), device=weight.device) for name, weight in weights.items()}
            for kind in kinds
        }

    @property
    def full(self) -> bool:
        """Whether the means rest on N entries."""
        return self.entries >= self.length

    def restart(self) -> None:
        """Forget a half-made entry: there was a gap."""
        self._pending = 0

    @torch.no_grad()
    def record(self, gradients: Mapping[str, Tensor]) -> None:
        """Take one gradient per weight, flat; with the last of `average` of them the means move on."""
        self._pending += 1
        last = self._pending == self.average
        share = 2 / (self.length + 1)
        for name, gradient in gradients.items():
            if self.average > 1:
                summed = self._means["sum"][name]
                summed.copy_(gradient) if self._pending == 1 else summed.add_(gradient)
                gradient = summed
            if last:
                before = self._means["last"][name]
                self._means["mean"][name].lerp_(gradient, share)
                self._means["power"][name].lerp_(gradient.square(), share)
                if self.entries:
                    self._means["product"][name].lerp_(before.mul_(gradient), share)
                before.copy_(gradient)
        if last:
            self._pending = 0
            self.entries += 1

    @torch.no_grad()
    def signal(self, name: str, significance: float | None) -> Signal:
        """The signal of one weight; rho is significant outside of what white noise gives at that level."""
        # The means start at 0; each is divided by the weight that its entries have by now.
        forgets = 1 - 2 / (self.length + 1)
        seen = 1 - forgets**self.entries
        seen_pairs = 1 - forgets ** (self.entries - 1)
        mean = self._means["mean"][name] / max(seen, 1e-30)
        square = mean.square()
        variance = (self._means["power"][name] / max(seen, 1e-30) - square).clamp_min_(0)
        rho = (self._means["product"][name] / max(seen_pairs, 1e-30) - square) / variance.clamp_min(1e-38)
        rho.clamp_(-1, 1)
        bound = 0.0 if significance is None else NormalDist().inv_cdf(1 - significance / 2) / math.sqrt(self.length)
        resonant = (variance > 0) & (rho.abs() >= bound)
        frequency = torch.where(resonant, rho.arccos() / (2 * math.pi * self.average), 0.0)
        return Signal(frequency, resonant, (square >= STEADY**2 * variance) & (mean != 0))

    def bytes(self) -> int:
        """Memory that it holds."""
        return sum(t.numel() * t.element_size() for tensors in self._means.values() for t in tensors.values())

    def state(self) -> dict[str, Tensor]:
        state = {"entries": torch.tensor(self.entries), "pending": torch.tensor(self._pending)}
        for kind, tensors in self._means.items():
            state |= {f"{kind}/{name}": tensor.clone() for name, tensor in tensors.items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.entries, self._pending = int(state["entries"]), int(state["pending"])
        for kind, tensors in self._means.items():
            for name, tensor in tensors.items():
                tensor.copy_(state[f"{kind}/{name}"])
