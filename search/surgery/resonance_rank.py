"""Where each connection stands in its layer, as a quantile: resonant ones by frequency, the others by magnitude.

Both classes are ranked apart, so that together the positions are spread evenly over [0, 1] and a threshold of T has
the share T of a layer below it. Connections with a steady gradient stand above all others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from search.surgery.ranking import positions
from search.surgery.resonance_layer import parts
from search.surgery.resonance_spectrum import Signal

#: A quantile between decisions is taken of this many connections of a layer at most.
SAMPLE = 1 << 16


@dataclass(frozen=True)
class Ranking:
    """What the connections of one layer are ranked by, flat.

    Args:
        key: (connections,) higher is kept: of resonant ones their frequency as the policy keeps it, equal ones by
            magnitude; of the others their magnitude.
        signal: Of these connections.
        keep: Which frequencies are kept.
    """

    key: Tensor
    signal: Signal
    keep: str = "high"

    @torch.no_grad()
    def reaches(self, quantile: float) -> Tensor:
        """(connections,) boolean: which stand at this quantile or above it, estimated from a sample in large layers."""
        resonant, steady = self.signal.resonant, self.signal.steady
        total = self.key.numel()
        places = _spread(total, self.key.device)
        key, among = self.key[places], resonant[places]
        plain = ~among & ~steady[places]
        of_resonant = _quantile(key[among & ~steady[places]], quantile)
        of_plain = _quantile(key[plain], quantile)
        found = torch.empty_like(resonant)
        for part in parts(found):
            # With booleans alone, which is faster than a bound of its own for every connection.
            value, is_resonant, reached = self.key[part], resonant[part], found[part]
            torch.logical_and(value >= of_resonant, is_resonant, out=reached)
            reached |= (value >= of_plain).logical_and_(~is_resonant)
            reached |= steady[part]
        return found

    def cycles(self, reaches: Tensor) -> float:
        """The threshold in cycles per step: the outermost frequency that is still kept; 0 where none is."""
        kept = self.signal.frequency[positions(self.signal.resonant & reaches)]
        if not kept.numel():
            return 0.0
        return float(kept.max() if self.keep == "low" else kept.min())

    @torch.no_grad()
    def positions(self) -> Tensor:
        """(connections,) in [0, 2): exact, ties by index; steady ones in [1, 2)."""
        found = torch.zeros_like(self.key)
        steady = self.signal.steady
        for where, lift in (
            (self.signal.resonant & ~steady, 0.0),
            (~self.signal.resonant & ~steady, 0.0),
            (steady, 1.0),
        ):
            keys = self.key[where]
            ranks = torch.empty_like(keys)
            order = keys.argsort(stable=True)
            ranks[order] = torch.arange(keys.numel(), dtype=keys.dtype, device=keys.device)
            found[where] = ranks / max(1, keys.numel()) + lift
        return found


@torch.no_grad()
def ranking(signal: Signal, magnitude: Tensor, keep: str) -> Ranking:
    """Rank a layer's connections.

    Args:
        signal: Of the connections.
        magnitude: (connections,) >= 0.
        keep: ``high``, ``low`` or ``band``.
    """
    frequency = signal.frequency
    if keep == "low":
        frequency = -frequency
    elif keep == "band":
        places = _spread(frequency.numel(), frequency.device)
        median = _quantile(frequency[places][signal.resonant[places]], 0.5)
        frequency = -(frequency - torch.where(median.isfinite(), median, 0.0)).abs()
    # Frequencies are few (bins), so magnitudes decide within one. Neighbouring bins are further apart than 1e-4.
    ties = 1e-4 / magnitude.max().clamp_min(1e-38)
    key = torch.empty_like(magnitude)
    for part in parts(key):
        value = magnitude[part]
        torch.where(signal.resonant[part], frequency[part] + value * ties, value, out=key[part])
    return Ranking(key, signal, keep)


def by_magnitude(magnitude: Tensor) -> Ranking:
    """The ranking where nothing is known of the gradients."""
    nothing = torch.zeros_like(magnitude, dtype=torch.bool)
    return Ranking(magnitude, Signal(torch.zeros_like(magnitude), nothing, nothing))


def _spread(total: int, device: torch.device) -> Tensor:
    """At most `SAMPLE` places, all where there are no more, spread without a period that a layout could share."""
    if total <= SAMPLE:
        return torch.arange(total, device=device)
    golden = round(total * (math.sqrt(5) - 1) / 2) | 1
    while math.gcd(golden, total) > 1:
        golden += 2
    return torch.arange(SAMPLE, device=device) * golden % total


def _quantile(values: Tensor, quantile: float) -> Tensor:
    """The value that the share `quantile` lies below; infinite at 1, where all do, and for no values."""
    below = round(quantile * values.numel())
    if below >= values.numel():
        return torch.tensor(math.inf, device=values.device)
    return values.kthvalue(below + 1).values
