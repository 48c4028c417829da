"""The one place where connections are switched: a mask per weight, and the ledger of every change.

No mechanism writes a mask. It proposes entries, the connectivity applies what changes anything and books it, so that
the books always balance: active now = active at the start - pruned + created, per layer, and that is a recount.

A mask is not a buffer of its module but lives here, with its own `state`: the network's state dict keeps the plain
network's keys throughout, so weights go in and out of a network under surgery as of any other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from objectives.execution import Gate
from objectives.maskable import maskable
from spaces.errors import NetworkError
from spaces.ledger import Event, Ledger

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
        self.iteration = 0
        self._network = network
        self._off = {name: torch.zeros_like(mask) for name, mask in self.masks.items()}
        self._ever_pruned = {name: torch.zeros_like(mask) for name, mask in self.masks.items()}
        self.ever_created = {name: torch.zeros_like(mask) for name, mask in self.masks.items()}
        self._active = {name: mask.numel() for name, mask in self.masks.items()}
        self._start = dict(self._active)
        self._booked: dict[tuple[int, str, str, str], tuple[int, int]] = {}
        # Channels that are masked: how many closings cover an entry, and what stood there before.
        self._closings: dict[str, Tensor] = {}
        self._shadow: dict[str, Tensor] = {}
        self._held: dict[str, Tensor] = {}
        self.closed: dict[tuple[str, int], Channel] = {}
        #: Connections that are the last to be dropped or pruned, because they are new.
        self.spared: dict[str, Tensor] = {}

    # -- what is ----------------------------------------------------------------------------------------------------

    @property
    def active(self) -> Mapping[str, int]:
        """Active connections per layer."""
        return self._active

    @property
    def size(self) -> int:
        """All connections that the network started with."""
        return sum(self._start.values())

    def recount(self) -> dict[str, int]:
        """Active connections per layer, counted from the masks."""
        left = dict.fromkeys(self._active, 0)
        return left | {name: int(mask.count_nonzero()) for name, mask in self.masks.items()}

    def free(self, layer: str) -> Tensor | None:
        """Entries of a layer that no masked channel covers; None where none is covered."""
        closings = self._closings.get(layer)
        return None if closings is None else closings == 0

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
        events = tuple(Event(*key, created, pruned) for key, (created, pruned) in self._booked.items())
        return Ledger(events, dict(self._start), dict(receipts or {}))

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
        self._active[layer] = 0
        self._start.setdefault(layer, 0)
        if within is not None:
            # A closing that nothing ever takes back.
            self._closings[layer] = (~within).to(torch.uint8)
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
        for tensors in (self.weights, self.masks, self._off, self._ever_pruned, self.ever_created, self._closings):
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
            self._book(layer, policy, reason, 0, count)
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
            self._book(layer, policy, reason, count, 0)
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
        self.closed |= {channel.key: channel for channel in closing}
        for name, index in (part for channel in closing for part in channel.held):
            self._hold(name, index)
        produced, consumed = self._covered(closing, step=1)
        for name, where in produced.items():
            weight = self.weights[name]
            shadow = self._shadow.setdefault(name, torch.zeros_like(weight))
            shadow.copy_(torch.where(where, weight, shadow))
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
            del self.closed[channel.key]
        for name, index in (part for channel in opening for part in channel.held):
            value, keep = self._network.get_parameter(name), self._held[name]
            comes = _at(value, index) & ~keep
            value.copy_(torch.where(comes, self._shadow[name], value))
            keep |= comes
        produced, consumed = self._covered(opening, step=-1)
        # Consumers first: an entry that is both comes back at 0, or the channel would be heard at once.
        count = sum(self.create(name, where, policy, "coupled") for name, where in consumed.items())
        return count + sum(
            self.create(name, where, policy, reason, self._shadow[name]) for name, where in produced.items()
        )

    def recouple(self, channels: Mapping[tuple[str, int], Channel]) -> None:
        """After the network has been rewired: masked channels also cover what new weights read or compute of them.

        Args:
            channels: All removable channels by key, as they are coupled now; the masked ones are among them.
        """
        for key, before in list(self.closed.items()):
            known = {name for name, _ in (*before.produced, *before.consumed)}
            now = channels[key]
            fresh = replace(
                now,
                produced=tuple(part for part in now.produced if part[0] not in known),
                consumed=tuple(part for part in now.consumed if part[0] not in known),
                held=(),
            )
            for name, _ in fresh.produced:
                self._shadow.setdefault(name, torch.zeros_like(self.weights[name]))
            for covered in self._covered([fresh], step=1):
                for name, where in covered.items():
                    self.prune(name, where, "reconnection", "coupled")
            self.closed[key] = now

    @torch.no_grad()
    def mask_gradients(self) -> None:
        """Call between backward and the optimizer's step: what is off gets no gradient.

        With its weight, momentum and gradient at 0, an inactive connection stays at exactly 0 through the step of
        every optimizer that adds multiples of these three, which is cheaper than masking weights and momentum again.
        """
        for name, weight in self.weights.items():
            if weight.grad is not None and self._active[name] < weight.numel():
                # Three times as fast on a processor as filling; where a gradient is no number, all is lost anyway.
                weight.grad.mul_(self.masks[name])
        for name, keep in self._held.items():
            gradient = self._network.get_parameter(name).grad
            if gradient is not None:
                gradient.masked_fill_(~keep, 0)

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
        names, policies, reasons = list(self._start), *self._vocabulary()
        rows = [
            [iteration, names.index(layer), policies.index(policy), reasons.index(reason), created, pruned]
            for (iteration, layer, policy, reason), (created, pruned) in self._booked.items()
        ]
        state = {
            "books": torch.tensor(rows, dtype=torch.int64).reshape(-1, 6),
            "layers": _encode(names),
            "starts": torch.tensor(list(self._start.values()), dtype=torch.int64),
            "policies": _encode(policies),
            "reasons": _encode(reasons),
            "iteration": torch.tensor(self.iteration),
        }
        for kind, tensors in self._tensors().items():
            state |= {f"{kind}/{name}": tensor.clone() for name, tensor in tensors.items()}
        return state

    def load_state(self, state: Mapping[str, Tensor], closed: Mapping[tuple[str, int], Channel] | None = None) -> None:
        """Take up what :meth:`state` gave; `closed` are the masked channels, which the caller can name."""
        names, starts = _decode(state["layers"]), state["starts"].tolist()
        policies, reasons = _decode(state["policies"]), _decode(state["reasons"])
        self._start = dict(zip(names, starts, strict=True))
        self.iteration = int(state["iteration"])
        self._booked = {
            (iteration, names[layer], policies[policy], reasons[reason]): (created, pruned)
            for iteration, layer, policy, reason, created, pruned in state["books"].tolist()
        }
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
        self._active = dict.fromkeys(names, 0)
        self._active = self.recount()
        self.closed = dict(closed or {})

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        return {
            "mask": self.masks,
            "pruned": self._ever_pruned,
            "created": self.ever_created,
            "closings": self._closings,
            "shadow": self._shadow,
            "held": self._held,
        }

    def _vocabulary(self) -> tuple[list[str], list[str]]:
        return sorted({key[2] for key in self._booked}), sorted({key[3] for key in self._booked})

    def _hold(self, name: str, index: Index) -> None:
        value = self._network.get_parameter(name)
        keep = self._held.setdefault(name, torch.ones_like(value, dtype=torch.bool))
        shadow = self._shadow.setdefault(name, torch.zeros_like(value))
        goes = _at(value, index) & keep
        if not isinstance(self._network.get_submodule(name.rpartition(".")[0]), Gate):
            # What a gate reads of a channel comes back at 0, or a revived channel would change its choice.
            shadow.copy_(torch.where(goes, value, shadow))
        keep &= ~goes
        value.masked_fill_(goes, 0)
        if self.optimizer is not None:
            self.optimizer.forget(value, goes)

    def _covered(self, channels: Iterable[Channel], step: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Count one closing more or fewer over the channels' entries; say which they are, per producer and consumer."""
        covered: tuple[dict[str, Tensor], dict[str, Tensor]] = ({}, {})
        for channel in channels:
            for found, slices in zip(covered, (channel.produced, channel.consumed), strict=True):
                for name, index in slices:
                    weight = self.weights[name]
                    if name not in self._closings:
                        self._closings[name] = torch.zeros_like(weight, dtype=torch.uint8)
                    if name not in found:
                        found[name] = torch.zeros_like(weight, dtype=torch.bool)
                    place = _place(index)
                    self._closings[name][place] += step
                    found[name][place] = True
        return covered

    def _book(self, layer: str, policy: str, reason: str, created: int, pruned: int) -> None:
        self._active[layer] += created - pruned
        key = (self.iteration, layer, policy, reason)
        before = self._booked.get(key, (0, 0))
        self._booked[key] = (before[0] + created, before[1] + pruned)


#: Positions along the first dimensions of a tensor, one tensor each; every combination is meant.
Index = tuple[Tensor, ...]


def _place(index: Index) -> Index:
    return tuple(positions.view([-1 if d == i else 1 for d in range(len(index))]) for i, positions in enumerate(index))


def _at(tensor: Tensor, index: Index) -> Tensor:
    """A boolean of the tensor's shape, set at the index."""
    where = torch.zeros_like(tensor, dtype=torch.bool)
    where[_place(index)] = True
    return where


def _encode(words: Iterable[str]) -> Tensor:
    return torch.tensor(list("\n".join(words).encode()), dtype=torch.uint8)


def _decode(encoded: Tensor) -> list[str]:
    return bytes(encoded.tolist()).decode().split("\n")
