"""What resonance remembers of each connection of one layer: how long it has been below the threshold, or off.

One byte a connection tells both: a connection that is on counts its decisions below the threshold, one that resonance
has switched off counts from 128 the decisions since. A connection that is off and below 128 was cut by another policy.
Beside it stand the values of what is off.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

#: Counts of connections that resonance has switched off start here.
OFF = 128
#: The highest count of either kind.
_MOST = 127
#: Connections that are worked on at a time on a processor: what is computed of them stays in a core's cache.
_PART = 1 << 16


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
        found, values = torch.empty_like(self.stored), self.flat(weight.detach())
        for part in parts(found):
            torch.maximum(values[part].abs(), self.stored[part].abs(), out=found[part])
        return found

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
        disable, restore = torch.empty_like(reaches), torch.empty_like(reaches)
        mask_flat = self.flat(mask)
        for part in parts(reaches):
            on, count, reached, returned = mask_flat[part], self.count[part], reaches[part], returns[part]
            # What another policy has brought back is like any other connection.
            _forget(count, (on == (count >= OFF)).logical_or_(on & returned))
            was_off = count >= OFF
            torch.logical_and(on, reached.logical_not().logical_and_(count < OFF), out=disable[part])
            counting = was_off | disable[part]
            counting &= (count != _MOST) & (count != OFF + _MOST)
            count += counting.view(torch.uint8)
            disable[part] &= count >= cooling
            torch.logical_and(returned & was_off, count >= OFF + cooling, out=restore[part])
        return Switch(disable, restore)

    def switched(self, weight: Tensor, disabled: Tensor, restored: Tensor, stored: bool) -> None:
        """Remember what was switched; call it before the weight changes.

        Args:
            weight: Of the layer, as it was.
            disabled: (connections,) boolean: what goes.
            restored: The same: what comes.
            stored: Whether it comes with its value, which is then no longer needed.
        """
        values = self.flat(weight.detach())
        for part in parts(disabled):
            count, kept, gone, came = self.count[part], self.stored[part], disabled[part], restored[part]
            _forget(count, gone | came)
            count += gone.view(torch.uint8) * OFF
            # What is on forgets its former value by halves.
            kept.mul_(((count >= OFF).float() + 1).mul_(0.5))
            torch.where(gone, values[part], kept, out=kept)
            if stored:
                kept.masked_fill_(came, 0)

    def bytes(self) -> int:
        """Memory that it holds."""
        return self.count.numel() + 4 * self.stored.numel()


def parts(flat: Tensor) -> Iterator[slice]:
    """Where the parts of a flat tensor are; an accelerator takes all at once."""
    size = _PART if flat.device.type == "cpu" else max(1, len(flat))
    return (slice(start, start + size) for start in range(0, len(flat), size))


def _forget(count: Tensor, where: Tensor) -> None:
    """Set counts to 0: with bits, for filling guesses at every entry whether it is set."""
    count &= where.view(torch.uint8) - 1
