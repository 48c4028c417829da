"""What masked channels cover: which entries they hold off, how often, and what stood there before.

An entry may belong to several masked channels (the output of one is the input of another), so closings are counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from objectives.execution import Gate

if TYPE_CHECKING:
    from search.surgery.channel import Channel

#: Positions along the first dimensions of a tensor, one tensor each; every combination is meant.
Index = tuple[Tensor, ...]
#: By weight, boolean of its shape: what channels compute, and what reads them.
Covered = tuple[dict[str, Tensor], dict[str, Tensor]]


class Closings:
    """The masked channels of a network, and all that they hold.

    Args:
        network: Its parameters are read and, where a channel would have a value of its own, held at 0.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self.closed: dict[tuple[str, int], Channel] = {}
        #: By weight, uint8: how many closings cover each entry.
        self.counts: dict[str, Tensor] = {}
        #: By weight, bias or norm: what stood where a channel is masked.
        self.shadow: dict[str, Tensor] = {}
        #: By bias or norm, boolean: what is not held at 0.
        self.held: dict[str, Tensor] = {}

    def free(self, layer: str) -> Tensor | None:
        """Entries of a layer that nothing covers; None where nothing is covered."""
        counts = self.counts.get(layer)
        return None if counts is None else counts == 0

    def confine(self, layer: str, within: Tensor) -> None:
        """Cover all other entries of a layer for good."""
        self.counts[layer] = (~within).to(torch.uint8)

    def cover(self, channels: Iterable[Channel]) -> Covered:
        """Count one closing more over the channels' entries and put aside what computes them; say which they are."""
        produced, consumed = self._counted(channels, step=1)
        for name, where in produced.items():
            weight = self._network.get_parameter(name)
            shadow = self.shadow.setdefault(name, torch.zeros_like(weight))
            shadow.copy_(torch.where(where, weight, shadow))
        return produced, consumed

    def uncover(self, channels: Iterable[Channel]) -> Covered:
        """Count one closing less over the channels' entries; say which they are."""
        return self._counted(channels, step=-1)

    def cover_also(self, key: tuple[str, int], now: Channel) -> Covered:
        """A masked channel has become `now`: cover the weights that it did not have before."""
        before = self.closed[key]
        known = {name for name, _ in (*before.produced, *before.consumed)}
        fresh = replace(
            now,
            produced=tuple(part for part in now.produced if part[0] not in known),
            consumed=tuple(part for part in now.consumed if part[0] not in known),
            held=(),
        )
        for name, _ in fresh.produced:
            self.shadow.setdefault(name, torch.zeros_like(self._network.get_parameter(name)))
        self.closed[key] = now
        return self._counted([fresh], step=1)

    def hold(self, name: str, index: Index) -> Tensor:
        """Hold entries of a bias or a norm at 0, their values aside; say which were not held before."""
        value = self._network.get_parameter(name)
        keep = self.held.setdefault(name, torch.ones_like(value, dtype=torch.bool))
        shadow = self.shadow.setdefault(name, torch.zeros_like(value))
        goes = _at(value, index) & keep
        if not isinstance(self._network.get_submodule(name.rpartition(".")[0]), Gate):
            # What a gate reads of a channel comes back at 0, or a revived channel would change its choice.
            shadow.copy_(torch.where(goes, value, shadow))
        keep &= ~goes
        value.masked_fill_(goes, 0)
        return goes

    def release(self, name: str, index: Index) -> None:
        """Give entries of a bias or a norm their values back."""
        value, keep = self._network.get_parameter(name), self.held[name]
        comes = _at(value, index) & ~keep
        value.copy_(torch.where(comes, self.shadow[name], value))
        keep |= comes

    def mask_gradients(self) -> None:
        """What is held gets no gradient."""
        for name, keep in self.held.items():
            gradient = self._network.get_parameter(name).grad
            if gradient is not None:
                gradient.masked_fill_(~keep, 0)

    def tensors(self) -> Mapping[str, dict[str, Tensor]]:
        """All that must be saved beside the channels themselves."""
        return {"closings": self.counts, "shadow": self.shadow, "held": self.held}

    def _counted(self, channels: Iterable[Channel], step: int) -> Covered:
        covered: Covered = ({}, {})
        for channel in channels:
            for found, slices in zip(covered, (channel.produced, channel.consumed), strict=True):
                for name, index in slices:
                    if name not in found:
                        weight = self._network.get_parameter(name)
                        found[name] = torch.zeros_like(weight, dtype=torch.bool)
                        self.counts.setdefault(name, torch.zeros_like(weight, dtype=torch.uint8))
                    place = _place(index)
                    self.counts[name][place] += step
                    found[name][place] = True
        return covered


def _place(index: Index) -> Index:
    return tuple(positions.view([-1 if d == i else 1 for d in range(len(index))]) for i, positions in enumerate(index))


def _at(tensor: Tensor, index: Index) -> Tensor:
    """A boolean of the tensor's shape, set at the index."""
    where = torch.zeros_like(tensor, dtype=torch.bool)
    where[_place(index)] = True
    return where
