"""The one place where connections are switched: a mask per weight, and the ledger of every change.

No mechanism writes a mask. It proposes entries, the connectivity applies what changes anything and books it, so that
the books always balance: active now = active at the start - pruned + created, per layer, and that is a recount.

A mask is not a buffer of its module but lives here, with its own `state`: the network's state dict keeps the plain
network's keys throughout, so weights go in and out of a network under surgery as of any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from objectives.maskable import maskable
from search.surgery.books import Books
from search.surgery.closing import Closings
from search.surgery.masking import keep
from spaces.errors import NetworkError
from spaces.ledger import Ledger

if TYPE_CHECKING:
    from search.surgery.channels import Channel, ChannelGroup
    from search.surgery.optimizer import TrainingOptimizer


class Connectivity:
    """Masks and books over all maskable weights of a network.

    Args:
        network: Whose weights; they are edited in place.

    Raises:
        NetworkError: If the network has no maskable weight.
    """

    def __init__(self, network: nn.Module) -> None:
        self.weights: dict[str, nn.Parameter] = maskable(network)
        if not self.weights:
            raise NetworkError(
                "the network must have a convolution, linear, recurrent or attention layer, but has none: "
                "there is nothing to compress"
            )
        self.masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in self.weights.items()}
        self.optimizer: TrainingOptimizer | None = None
        self._network = network
        self._off = {name: torch.zeros_like(mask) for name, mask in self.masks.items()}
        self._ever_pruned = {name: torch.zeros_like(mask) for name, mask in self.masks.items()}
        self.ever_created = {name: torch.zeros_like(mask) for name, mask in self.masks.items()}
        self._books = Books({name: mask.numel() for name, mask in self.masks.items()})
        self._closings = Closings(network)
        #: Connections that are the last to be dropped or pruned, because they are new.
        self.spared: dict[str, Tensor] = {}

    # -- what is ----------------------------------------------------------------------------------------------------

    @property
    def iteration(self) -> int:
        """The iteration under which changes are booked."""
        return self._books.iteration

    @iteration.setter
    def iteration(self, iteration: int) -> None:
        self._books.iteration = iteration

    @property
    def active(self) -> Mapping[str, int]:
        """Active connections per layer."""
        return self._books.active

    @property
    def closed(self) -> dict[tuple[str, int], Channel]:
        """The masked channels."""
        return self._closings.closed

    @property
    def size(self) -> int:
        """All connections that the network started with."""
        return sum(self._books.start.values())

    def recount(self) -> dict[str, int]:
        """Active connections per layer, counted from the masks."""
        left = dict.fromkeys(self.active, 0)
        return left | {name: int(mask.count_nonzero()) for name, mask in self.masks.items()}

    def free(self, layer: str) -> Tensor | None:
        """Entries of a layer that no masked channel covers; None where none is covered."""
        return self._closings.free(layer)

    def spared_last(self, layer: str, scores: Tensor) -> Tensor:
        """The same scores with those of spared connections raised above all others."""
        spared = self.spared.get(layer)
        if spared is None:
            return scores
        lowest, highest = scores.aminmax()
        return torch.add(scores, spared, alpha=float(highest - lowest) + 1)

    def open_channels(self, group: ChannelGroup) -> Tensor:
        """(channels,) boolean: which of a group are not masked."""
        return torch.tensor([channel.key not in self.closed for channel in group.channels])

    def revivable(self, layer: str) -> Tensor:
        """Inactive entries that may be switched on by themselves."""
        free = self.free(layer)
        return self._off[layer] if free is None else self._off[layer] & free

    def survived(self) -> int:
        """Connections that were created at some time and are active now."""
        return sum(int((self.masks[name] & self.ever_created[name]).count_nonzero()) for name in self.masks)

    def ever_pruned(self) -> int:
        """Distinct connections that were off at some time."""
        return sum(int(mask.count_nonzero()) for mask in self._ever_pruned.values())

    def ever_active(self) -> dict[str, Tensor]:
        """Which connections were active at some time: all, where the network started dense."""
        return {name: torch.ones_like(mask) for name, mask in self.masks.items()}

    def ledger(self, receipts: Mapping[str, Mapping[str, float]] | None = None) -> Ledger:
        """The books so far; changes of one reason within one iteration and layer stand in one line."""
        return self._books.ledger(receipts)

    # -- what joins and leaves ------------------------------------------------------------------------------------

    def adopt(self, layer: str, within: Tensor | None = None, lr_factor: float = 1.0) -> None:
        """Take in a weight that has joined the network, all of it off: its connections are then created one by one.

        Args:
            layer: Its name in the network.
            within: Boolean, of its shape: which entries may ever be connections; None for all.
            lr_factor: Its share of the learning rate.
        """
        weight = self._network.get_parameter(layer)
        self.weights[layer] = weight
        self.masks[layer] = torch.zeros_like(weight, dtype=torch.bool)
        self._off[layer] = torch.ones_like(weight, dtype=torch.bool)
        self._ever_pruned[layer] = torch.zeros_like(weight, dtype=torch.bool)
        self.ever_created[layer] = torch.zeros_like(weight, dtype=torch.bool)
        self._books.enter(layer)
        if within is not None:
            self._closings.confine(layer, within)
        with torch.no_grad():
            weight.zero_()
        if self.optimizer is not None:
            self.optimizer.adopt([weight], lr_factor)

    def retire(self, layer: str, policy: str, reason: str) -> int:
        """Switch off all that is left of a weight that leaves the network; its lines stay in the books.

        Returns:
            How many connections were switched off.
        """
        count = self.prune(layer, self.masks[layer], policy, reason)
        if self.optimizer is not None:
            self.optimizer.release([self.weights[layer]])
        gone = (self.weights, self.masks, self._off, self._ever_pruned, self.ever_created, self._closings.counts)
        for tensors in gone:
            tensors.pop(layer, None)
        return count

    # -- what changes -----------------------------------------------------------------------------------------------

    @torch.no_grad()
    def prune(self, layer: str, where: Tensor, policy: str, reason: str) -> int:
        """Switch connections off; those that are off already do not count.

        Args:
            layer: Name of the weight.
            where: Boolean, of the weight's shape.
            policy: Who asks.
            reason: Why.

        Returns:
            How many were switched off.
        """
        goes = where & self.masks[layer]
        count = int(goes.count_nonzero())
        if count:
            self.masks[layer] &= ~goes
            self._off[layer] |= goes
            self._ever_pruned[layer] |= goes
            self.weights[layer].masked_fill_(goes, 0)
            if self.optimizer is not None:
                self.optimizer.forget(self.weights[layer], goes)
            self._books.write(layer, policy, reason, 0, count)
        return count

    @torch.no_grad()
    def create(self, layer: str, where: Tensor, policy: str, reason: str, values: Tensor | None = None) -> int:
        """Switch connections on, at 0, so that no output changes, or at stored `values`.

        Entries that are on already, or that a masked channel covers, are left alone.

        Args:
            layer: Name of the weight.
            where: Boolean, of the weight's shape.
            policy: Who asks.
            reason: Why.
            values: Of the weight's shape; only the created entries are read.

        Returns:
            How many were switched on.
        """
        comes = where & self.revivable(layer)
        count = int(comes.count_nonzero())
        if count:
            self.masks[layer] |= comes
            self._off[layer] &= ~comes
            self.ever_created[layer] |= comes
            if values is not None:
                self.weights[layer].copy_(torch.where(comes, values, self.weights[layer]))
            self._books.write(layer, policy, reason, count, 0)
        return count

    @torch.no_grad()
    def close(self, channels: Iterable[Channel], policy: str, reason: str) -> int:
        """Mask whole channels at their producers, and what their consumers read of them.

        The producer's weights, biases and norm's affine values go to a shadow and are held at 0, so that the channel
        emits exactly nothing; the consumers' input slices are masked with the reason ``coupled``.

        Returns:
            How many connections were switched off.
        """
        closing = [channel for channel in channels if channel.key not in self.closed]
        self._closings.closed |= {channel.key: channel for channel in closing}
        for name, index in (part for channel in closing for part in channel.held):
            goes = self._closings.hold(name, index)
            if self.optimizer is not None:
                self.optimizer.forget(self._network.get_parameter(name), goes)
        produced, consumed = self._closings.cover(closing)
        count = sum(self.prune(name, where, policy, reason) for name, where in produced.items())
        return count + sum(self.prune(name, where, policy, "coupled") for name, where in consumed.items())

    @torch.no_grad()
    def open(self, channels: Iterable[Channel], policy: str, reason: str) -> int:
        """Bring masked channels back: producers as they were, consumers' slices at exactly 0 and active.

        No output changes, and the gradient is alive.

        Returns:
            How many connections were switched on.
        """
        opening = [channel for channel in channels if channel.key in self.closed]
        for channel in opening:
            del self._closings.closed[channel.key]
        for name, index in (part for channel in opening for part in channel.held):
            self._closings.release(name, index)
        produced, consumed = self._closings.uncover(opening)
        # Consumers first: an entry that is both comes back at 0, or the channel would be heard at once.
        count = sum(self.create(name, where, policy, "coupled") for name, where in consumed.items())
        shadow = self._closings.shadow
        return count + sum(self.create(name, where, policy, reason, shadow[name]) for name, where in produced.items())

    def recouple(self, channels: Mapping[tuple[str, int], Channel]) -> None:
        """After the network has been rewired: masked channels also cover what new weights read or compute of them.

        Args:
            channels: All removable channels by key, as they are coupled now; the masked ones are among them.
        """
        for key in list(self.closed):
            for covered in self._closings.cover_also(key, channels[key]):
                for name, where in covered.items():
                    self.prune(name, where, "reconnection", "coupled")

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Call between backward and the optimizer's step: what is off gets no gradient.

        With its weight, momentum and gradient at 0, an inactive connection stays at exactly 0 through the step of
        every optimizer that adds multiples of these three, which is cheaper than masking weights and momentum again.
        """
        for name, weight in self.weights.items():
            if weight.grad is not None and self.active[name] < weight.numel():
                # Three times as fast on a processor as filling; where a gradient is no number, all is lost anyway.
                keep(weight.grad, self.masks[name])
        self._closings.mask_gradients()

    @torch.no_grad()
    def enter_zeros(self) -> int:
        """Book active weights that are exactly 0 as pruned (reason ``zero``): the ledger then counts non-zeros."""
        return sum(self.prune(name, weight == 0, "finalize", "zero") for name, weight in self.weights.items())

    # -- saving and copying -----------------------------------------------------------------------------------------

    def copy_onto(self, network: nn.Module) -> Connectivity:
        """The same masks and books over a deep copy of the network."""
        twin = Connectivity(network)
        twin.load_state(self.state(), dict(self.closed))
        twin.spared = dict(self.spared)
        return twin

    def state(self) -> dict[str, Tensor]:
        """Masks, shadows and books as tensors; the inverse of :meth:`load_state`."""
        state = self._books.state()
        for kind, tensors in self._tensors().items():
            state |= {f"{kind}/{name}": tensor.clone() for name, tensor in tensors.items()}
        return state

    def load_state(self, state: Mapping[str, Tensor], closed: Mapping[tuple[str, int], Channel] | None = None) -> None:
        """Take up what :meth:`state` gave; `closed` are the masked channels, which the caller can name."""
        for kind, tensors in self._tensors().items():
            tensors.clear()
            device = next(iter(self.weights.values())).device
            prefix = f"{kind}/"
            tensors.update(
                {
                    key.removeprefix(prefix): value.to(device).clone()
                    for key, value in state.items()
                    if key.startswith(prefix)
                }
            )
        self._off = {name: ~mask for name, mask in self.masks.items()}
        self._books.load_state(state, {name: int(mask.count_nonzero()) for name, mask in self.masks.items()})
        self._closings.closed = dict(closed or {})

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {
            "mask": self.masks,
            "pruned": self._ever_pruned,
            "created": self.ever_created,
            **self._closings.tensors(),
        }
