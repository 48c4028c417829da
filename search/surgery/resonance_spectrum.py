"""The dominant frequency of a history: a batched DFT as one matrix product, and whether its peak is significant.

A Fourier transform of 16 to 64 entries is ten times faster as a product with its basis than as an FFT. The test is
Fisher's g (1929) over the ordinates that are left when DC and Nyquist's are not counted; it takes no window.

Legend: N entries, B connections of a block, K blocks, M ordinates.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from search.surgery.resonance_history import GradientHistory

#: Below this share of the power at DC and Nyquist's, what is left is rounding.
ROUNDING = 1e-10
#: A gradient is steady where |mean| / standard deviation reaches this: its connection descends consistently.
STEADY = 1.0


@dataclass(frozen=True)
class Signal:
    """What the histories of one weight say, flat: all (connections,).

    Args:
        frequency: Cycles per step of the dominant oscillation, in (0, 0.5); 0 where there is none.
        resonant: Whether it is significant.
        steady: Whether the gradient hardly changes: the DC class, which is protected.
    """

    frequency: Tensor
    resonant: Tensor
    steady: Tensor


def ordinates(length: int) -> int:
    """Frequencies that are looked at: m = N/2 - 1, without DC and Nyquist's."""
    return (length + 1) // 2 - 1


def critical_g(length: int, significance: float) -> float:
    """The value of g = largest ordinate / sum that white noise exceeds with this probability (Fisher 1929).

    P(g > x) = sum over j from 1 while j x < 1 of (-1)^(j-1) C(m, j) (1 - j x)^(m-1).

    Args:
        length: N, >= 4.
        significance: In (0, 1).
    """
    m = ordinates(length)

    def exceeds(x: float) -> float:
        terms = range(1, min(m, math.floor(1 / x)) + 1)
        signs = (1 if j % 2 else -1 for j in terms)
        return math.fsum(
            s * math.comb(m, j) * max(0.0, 1 - j * x) ** (m - 1) for s, j in zip(signs, terms, strict=True)
        )

    low, high = 1 / m, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if exceeds(middle) > significance else (low, middle)
    return high


@functools.cache
def basis(length: int) -> Tensor:
    """(2M + 2, N): M cosines, M sines, DC and, where N is even, Nyquist's; a series times it is its transform."""
    time = torch.arange(length, dtype=torch.float64)
    angles = 2 * math.pi * torch.outer(torch.arange(1, ordinates(length) + 1, dtype=torch.float64), time) / length
    nyquist = torch.cos(math.pi * time) * (length % 2 == 0)
    return torch.cat([angles.cos(), angles.sin(), torch.ones(1, length), nyquist[None]]).float()


@torch.no_grad()
def signal_of(history: GradientHistory, name: str, connections: int, significance: float | None) -> Signal:
    """The signal of one weight.

    Args:
        history: Holds it.
        name: Of the weight.
        connections: How many it has.
        significance: Level of the test; None counts every peak.
    """
    length = history.length
    critical = critical_g(length, significance) if significance is not None else 0.0
    frequency, resonant, steady = [], [], []
    for _, _, ring_KNB, scale_KN in history.pieces(name):
        power_KMB, total_KB, mean_KB, variance_KB, left_KB = _power(ring_KNB, scale_KN)
        peak_KB = power_KMB.amax(1)
        significant = (peak_KB > critical * total_KB) & (total_KB > ROUNDING * left_KB)
        at = significant.nonzero(as_tuple=True)
        # The peak's place is asked for where it counts only: finding it costs more than the transform.
        found = torch.zeros_like(peak_KB)
        place = power_KMB.transpose(1, 2)[at].argmax(1) + 1
        found[at] = place.to(found.dtype) / (length * history.average)
        frequency.append(found.flatten())
        resonant.append(significant.flatten())
        steady.append(((mean_KB**2 >= STEADY**2 * variance_KB) & (mean_KB != 0)).flatten())
    parts = (torch.cat(part)[:connections] for part in (frequency, resonant, steady))
    return Signal(*parts)


def _power(ring_KNB: Tensor, scale_KN: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """(K, M, B) power, and (K, B) its sum, the series' mean and variance (Parseval), the power at DC and Nyquist's."""
    length = ring_KNB.shape[1]
    m = ordinates(length)
    # The scales go into the basis, block by block: there are far fewer of its entries than of the history's.
    scaled = basis(length).to(scale_KN.device) * scale_KN.unsqueeze(1)
    transform = torch.bmm(scaled, ring_KNB.to(torch.float32))
    power_KMB = transform[:, :m].square().addcmul_(transform[:, m : 2 * m], transform[:, m : 2 * m])
    total_KB = power_KMB.sum(1)
    mean_KB = transform[:, -2] / length
    nyquist_KB = transform[:, -1].square()
    variance_KB = (2 * total_KB + nyquist_KB) / length**2
    return power_KMB, total_KB, mean_KB, variance_KB, nyquist_KB.add_(transform[:, -2].square())
