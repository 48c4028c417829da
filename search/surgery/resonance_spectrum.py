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
    m, device = ordinates(length), history.device(name)
    frequency = torch.empty(history.padded(name), device=device)
    resonant = torch.empty_like(frequency, dtype=torch.bool)
    steady = torch.empty_like(resonant)
    transform = _Transform(length)
    # The last bits of an ordinate say which it is, so that the peak tells its place: the lowest of equal ones. Asking
    # for the place as such takes longer than the transform.
    bits = 2 ** m.bit_length() - 1
    tag_M1 = torch.arange(m - 1, -1, -1, dtype=torch.int32, device=device).unsqueeze(1)
    for first, until, ring_KNB, scale_KN in history.pieces(name):
        power_KMB, dc_KB, nyquist_KB = transform(ring_KNB, scale_KN)
        total_KB = power_KMB.sum(1)
        tagged_KB = power_KMB.view(torch.int32).bitwise_and_(~bits).bitwise_or_(tag_M1).amax(1)
        significant = resonant[first:until].view(total_KB.shape)
        torch.gt(tagged_KB.view(torch.float32), critical * total_KB, out=significant)
        significant &= total_KB > ROUNDING * (dc_KB + nyquist_KB)
        cycles_KB = frequency[first:until].view(total_KB.shape)
        cycles_KB.copy_(tagged_KB.bitwise_and_(bits).neg_().add_(m).mul_(significant)).div_(length * history.average)
        # Variance by Parseval: twice the ordinates and Nyquist's.
        varies_KB = total_KB.mul_(2).add_(nyquist_KB).mul_(STEADY**2)
        torch.ge(dc_KB, varies_KB, out=steady[first:until].view(total_KB.shape)).logical_and_(dc_KB != 0)
    return Signal(frequency[:connections], resonant[:connections], steady[:connections])


class _Transform:
    """Power of pieces of a history; what it gives is overwritten by the next piece.

    Args:
        length: N.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._room: tuple[Tensor, Tensor, Tensor] | None = None

    def __call__(self, ring_KNB: Tensor, scale_KN: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(K, M, B) power, and (K, B) that at DC and at Nyquist's."""
        m, pieces = ordinates(self._length), len(ring_KNB)
        if self._room is None:
            # Memory that is taken once is faster than a page at a time, piece by piece.
            empty = functools.partial(torch.empty, device=ring_KNB.device)
            block = ring_KNB.shape[2]
            self._room = (empty(ring_KNB.shape), empty(pieces, 2 * m + 2, block), empty(pieces, m, block))
        series_KNB, found_KFB, power_KMB = (room[:pieces] for room in self._room)
        series_KNB.copy_(ring_KNB)
        # The scales go into the basis, block by block: there are far fewer of its entries than of the history's.
        scaled = basis(self._length).to(scale_KN.device) * scale_KN.contiguous().unsqueeze(1)
        torch.bmm(scaled, series_KNB, out=found_KFB).square_()
        torch.add(found_KFB[:, :m], found_KFB[:, m : 2 * m], out=power_KMB)
        return power_KMB, found_KFB[:, -2], found_KFB[:, -1]
