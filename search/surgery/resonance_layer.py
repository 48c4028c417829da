"""What resonance remembers of each connection of one layer: how long it has been below the threshold, or off.

One byte a connection tells both: a connection that is on counts its decisions below the threshold, one that resonance
has switched off counts from 128 the decisions since. A connection that is off and below 128 was cut by another policy.
Beside it stand the values of what is off.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Counts of connections that resonance has switched off start here.
OFF = 128
#: The highest count of either kind.
_MOST = 127


@dataclass(frozen=True)
class Switch:
    """What a decision asks of one layer, flat.

    Args:
        disable: (connections,) boolean: active ones that have been below the threshold long enough.
        restore: The same: those off that may come back.
    """

    disable: Tensor
    restore: Tensor


class LayerMemory:
    """The counts and stored values of one layer's connections, in the order in which its weight lies in memory.

    Memory per connection: 1 byte, and 4 for the value.

    Args:
        weight: Of the layer; its layout must not change.
    """

    def __init__(self, weight: nn.Parameter) -> None:
        strides = weight.stride()
        self._order = sorted(range(weight.ndim), key=lambda d: -strides[d])
        self._inverse = sorted(range(weight.ndim), key=self._order.__getitem__)
        self._sizes = [weight.shape[d] for d in self._order]
        self.count = torch.zeros(weight.numel(), dtype=torch.uint8, device=weight.device)
        self.stored = torch.zeros(weight.numel(), device=weight.device)

    def flat(self, tensor: Tensor) -> Tensor:
        """(connections,) of a tensor of the weight's shape; a view where it lies as the weight does."""
        return tensor.permute(self._order).reshape(-1)

    def shaped(self, flat: Tensor) -> Tensor:
        """The inverse of :meth:`flat`."""
        return flat.view(self._sizes).permute(self._inverse)

    def magnitude(self, weight: Tensor) -> Tensor:
        """(connections,) |w|, of connections that are off that of the value they had.

        What has come back at zero keeps its former magnitude, halved at every decision, or it would go at once.
        """
        return torch.maximum(self.flat(weight.detach()).abs(), self.stored.abs())

    def own(self, mask: Tensor) -> Tensor:
        """(connections,) boolean: off, and switched off by resonance."""
        return (self.count >= OFF) & ~self.flat(mask)

    def decide(self, mask: Tensor, reaches: Tensor, returns: Tensor, cooling: int) -> Switch:
        """Count one decision more and say what changes.

        Args:
            mask: The active connections, of the weight's shape.
            reaches: (connections,) boolean: at the threshold or above.
            returns: The same: high enough to come back.
            cooling: Decisions below the threshold until a connection goes, and off until it may come back.
        """
        on, count = self.flat(mask), self.count
        # What another policy has brought back is like any other connection.
        count.masked_fill_(on == (count >= OFF), 0)
        count.masked_fill_(on & returns, 0)
        counting = torch.where(on, ~reaches, count >= OFF)
        limit = (count != _MOST) & (count != OFF + _MOST)
        count += counting & limit
        return Switch(on & ~reaches & (count >= cooling), returns & ~on & (count >= OFF + cooling))

    def switched(self, weight: Tensor, disabled: Tensor, restored: Tensor, stored: bool) -> None:
        """Remember what was switched; call it before the weight changes.

        Args:
            weight: Of the layer, as it was.
            disabled: (connections,) boolean: what goes.
            restored: The same: what comes.
            stored: Whether it comes with its value, which is then no longer needed.
        """
        self.count.masked_fill_(disabled, OFF)
        self.count.masked_fill_(restored, 0)
        # What is on forgets its former value by halves.
        self.stored.mul_(1 - 0.5 * (self.count < OFF))
        torch.where(disabled, self.flat(weight.detach()), self.stored, out=self.stored)
        if stored:
            self.stored.masked_fill_(restored, 0)

    def bytes(self) -> int:
        """Memory that it holds."""
        return self.count.numel() + 4 * self.stored.numel()
