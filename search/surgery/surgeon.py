"""Self-surgery by hand: the operations that the policies are built on, for anyone who trains a network in Python.

    surgeon = Surgeon(network, example_inputs, optimizer)
    surgeon.disconnect("layer1.0.conv1.weight", where)     # where: boolean, of the weight's shape
    edge = surgeon.add_edge("layer1.0.conv1", "layer1.1.conv1")
    ...
    loss.backward(); surgeon.mask_gradients(); optimizer.step()
    ...
    surgeon.undo()                                         # the last operation, bit by bit
    plain = surgeon.finalize()

The optimizer follows: what is gone loses its momentum, what is new is trained.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from itertools import takewhile
from pathlib import Path

import torch
from torch import Tensor, nn

from search.surgery.channels import Channel, refusal
from search.surgery.connectivity import Connectivity
from search.surgery.edges import HOLDER, Edge, candidates, insert, remove, whole
from search.surgery.finalize import plain
from search.surgery.layout import Graph
from search.surgery.network import prepared
from search.surgery.optimizer import TrainingOptimizer
from search.surgery.selection import highest, lowest
from search.surgery.site import Site
from search.surgery.snapshot import Snapshot
from spaces.errors import NetworkError
from spaces.ledger import Ledger
from spaces.policy import nearest
from spaces.profile import CompressionProfile


class Surgeon:
    """Operates on one network.

    Args:
        network: Left as it is; operate on, and train, :attr:`network`, which shares its parameters where torch.fx can
            trace it and is the network itself where not (edges are then refused, all else works).
        example_inputs: ``network(*example_inputs)`` runs; dimension 0 is the batch (at least 2).
        optimizer: What trains it; None where nothing does.
        undo_depth: How many operations can be taken back. Each is remembered as a copy of all weights.
    """

    def __init__(
        self,
        network: nn.Module,
        example_inputs: tuple[Tensor, ...],
        optimizer: torch.optim.Optimizer | None = None,
        *,
        undo_depth: int = 4,
    ) -> None:
        module, untraceable = prepared(network, example_inputs)
        connectivity = Connectivity(module)
        training = TrainingOptimizer(optimizer) if optimizer is not None else None
        connectivity.optimizer = training
        self.site = Site(
            network=module,
            profile=CompressionProfile(),
            connectivity=connectivity,
            generator=torch.Generator(),
            steps=1,
            example_inputs=example_inputs,
            optimizer=training,
            untraceable=untraceable,
        )
        self.edges: list[Edge] = []
        self._undo: deque[Snapshot] = deque(maxlen=undo_depth)

    @property
    def network(self) -> nn.Module:
        """The network under surgery."""
        return self.site.network

    @property
    def ledger(self) -> Ledger:
        """The books so far."""
        return self.site.connectivity.ledger()

    # -- operations -------------------------------------------------------------------------------------------------

    def disconnect(self, layer: str, where: Tensor) -> int:
        """Switch connections off.

        Args:
            layer: Name of a weight, e.g. ``layer1.0.conv1.weight``.
            where: Boolean, of its shape.

        Returns:
            How many were on.

        Raises:
            NetworkError: If there is no such weight, or `where` has another shape.
        """
        self._check(layer, where)
        self._remember()
        return self.site.connectivity.prune(layer, where, "surgeon", "disconnect")

    def connect(self, layer: str, where: Tensor) -> int:
        """Switch connections on, at 0: no output changes. See :meth:`disconnect`."""
        self._check(layer, where)
        self._remember()
        return self.site.connectivity.create(layer, where, "surgeon", "connect")

    def shift(self, source: str, target: str, count: int) -> int:
        """Move `count` connections between layers: the smallest go in one, as many come at 0 in the other.

        They come where the target's gradient is highest, if it has one, else in order.

        Returns:
            How many moved: no more than the source can spare (one stays) and the target has room for.

        Raises:
            NetworkError: If there is no such weight.
        """
        connectivity = self.site.connectivity
        for layer in (source, target):
            self._check(layer)
        self._remember()
        room = connectivity.revivable(target)
        count = max(0, min(count, int(room.count_nonzero()), connectivity.active[source] - 1))
        weight, wanted = connectivity.weights[source].detach(), connectivity.weights[target]
        gradient = torch.zeros_like(wanted) if wanted.grad is None else wanted.grad.abs()
        connectivity.prune(source, lowest(weight.abs(), count, connectivity.masks[source]), "surgeon", "shift")
        return connectivity.create(target, highest(gradient, count, room), "surgeon", "shift")

    def mask_channels(self, layer: str, channels: Iterable[int]) -> int:
        """Mask output channels of a layer, and what others read of them; :meth:`finalize` removes them for real.

        Args:
            layer: Name of a weight whose channels can be removed.
            channels: Their positions.

        Returns:
            How many connections were switched off.

        Raises:
            NetworkError: If the layer's channels cannot be removed.
        """
        found = self._channels(layer, channels)
        self._remember()
        return self.site.connectivity.close(found, "surgeon", "channel")

    def revive_channels(self, layer: str, channels: Iterable[int]) -> int:
        """Bring masked channels back as they were; consumers read them from 0 on. See :meth:`mask_channels`."""
        found = self._channels(layer, channels)
        self._remember()
        return self.site.connectivity.open(found, "surgeon", "channel")

    def add_edge(self, source: str, target: str, *, radius: int = 4, identity: bool | None = None) -> Edge:
        """Join two layers: what `source` emits is added to what `target` computes, through weights that start at 0.

        Args:
            source: Name of a layer, e.g. ``layer1.0.conv1``.
            target: Name of one further on.
            radius: The largest distance in layers that is allowed.
            identity: One number per channel; None for that where both ends have the same channels, else a projection.

        Raises:
            NetworkError: If the network is not traced, or no edge can join the two within the radius.
        """
        site = self.site
        if site.graph is None:
            raise NetworkError(f"an edge needs a network that torch.fx can trace: {site.untraceable}")
        found = candidates(Graph(site.graph, site.example_inputs), site.graph, radius)
        fitting = [c for c in found if (c.source, c.target) == (source, target)]
        if not fitting:
            known = sorted({c.target for c in found if c.source == source})
            raise NetworkError(
                f"no edge can join {source} and {target} within radius {radius}: from {source} one can reach "
                f"{', '.join(known) or 'nothing'}"
            )
        self._remember()
        before, after = fitting[0].channels
        return self._insert(source, target, radius, before == after if identity is None else identity)

    def remove_edge(self, edge: Edge) -> int:
        """Take an edge out.

        Returns:
            How many connections it had.

        Raises:
            NetworkError: If it does not stand.
        """
        if edge not in self.edges or self.site.graph is None:
            raise NetworkError(f"there is no edge {edge.source} -> {edge.target}: add it first")
        self._remember()
        return self._take_out(edge)

    def undo(self) -> None:
        """Take back the last operation: weights, masks, books and momentum are bit by bit what they were.

        Raises:
            NetworkError: If there is none to take back.
        """
        if not self._undo:
            raise NetworkError("there is no operation to undo: raise undo_depth to go back further")
        self._restore(self._undo.pop())

    # -- on disk ----------------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write weights, masks, edges, books and momentum into one safetensors file.

        Raises:
            StorageError: If it cannot be written.
        """
        self._now().save(path)

    def load(self, path: str | Path) -> None:
        """Go on from what :meth:`save` wrote of this network; operations before it cannot be taken back.

        Raises:
            StorageError: If the file cannot be read.
            NetworkError: If it is of another network.
        """
        saved = Snapshot.read(path)
        if _shapes(saved.network) != _shapes(self.network.state_dict()):
            raise NetworkError(f"{path} must be of this network, but its weights differ: load it on the one it is of")
        self._undo.clear()
        self._restore(saved)

    # -- training and the end ---------------------------------------------------------------------------------------

    def mask_gradients(self) -> None:
        """Call between ``backward`` and the optimizer's ``step``: what is off stays off."""
        self.site.connectivity.mask_gradients()

    def finalize(self) -> nn.Module:
        """The plain network: masked channels removed, the rest as it computes now; in eval mode on the CPU."""
        return plain(self.site)

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _insert(self, source: str, target: str, radius: int, identity: bool) -> Edge:
        site = self.site
        if site.graph is None:
            raise NetworkError(f"an edge needs a network that torch.fx can trace: {site.untraceable}")
        found = candidates(Graph(site.graph, site.example_inputs), site.graph, radius)
        candidate = next(c for c in found if (c.source, c.target) == (source, target))
        # A depthwise map would couple the channels of both ends, which could then not be masked apart.
        edge = insert(site.graph, candidate, identity=identity, depthwise=False)
        if not site.rewired():
            remove(site.graph, edge)
            site.rewired()
            raise NetworkError(
                f"an edge {source} -> {target} would keep masked channels from removal: revive them first"
            )
        weight = site.network.get_parameter(edge.weight)
        site.connectivity.adopt(edge.weight, whole(edge, weight))
        site.recouple()
        site.connectivity.create(edge.weight, whole(edge, weight), "surgeon", "edge")
        self.edges.append(edge)
        return edge

    def _take_out(self, edge: Edge) -> int:
        count = self.site.connectivity.retire(edge.weight, "surgeon", "edge")
        if self.site.graph is not None:
            remove(self.site.graph, edge)
        self.site.rewired()
        self.edges.remove(edge)
        return count

    def _channels(self, layer: str, positions: Iterable[int]) -> list[Channel]:
        """The channels to which a layer's outputs belong: whatever must go with them goes too."""
        self._check(layer)
        found = {
            position: channel
            for group in self.site.channel_groups()
            for channel in group.channels
            for name, index in channel.produced
            if name == layer
            for position in index[-1].tolist()
        }
        if not found:
            raise NetworkError(f"the channels of {layer} cannot be removed: {refusal(self.network, layer)}")
        wanted = list(positions)
        if not all(position in found for position in wanted):
            whole = len(found) == max(found) + 1
            known = f"channels 0 to {max(found)}" if whole else f"removable channels {sorted(found)}"
            raise NetworkError(f"{layer} has {known}, but {wanted} was asked for: choose among them")
        return list({found[position].key: found[position] for position in wanted}.values())

    def _check(self, layer: str, where: Tensor | None = None) -> None:
        weights = self.site.connectivity.weights
        if layer not in weights:
            raise NetworkError(f"there is no weight {layer!r}: {nearest(layer, weights)}")
        if where is not None and (where.shape != weights[layer].shape or where.dtype != torch.bool):
            raise NetworkError(
                f"where must be boolean of shape {tuple(weights[layer].shape)}, but is {where.dtype} of "
                f"{tuple(where.shape)}: make it like the weight"
            )

    def _remember(self) -> None:
        self._undo.append(self._now())

    def _now(self) -> Snapshot:
        optimizer = self.site.optimizer
        return Snapshot(
            tuple(self.edges),
            {name: value.clone() for name, value in self.site.network.state_dict().items()},
            self.site.connectivity.state(),
            {n: v.clone() for n, v in optimizer.state().items()} if optimizer is not None else {},
            frozenset(self.site.connectivity.closed),
        )

    def _restore(self, before: Snapshot) -> None:
        # Edges in their old order: the optimizer knows weights by the order in which they came.
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(self.edges, before.edges, strict=False)))
        for edge in self.edges[same:]:
            self._take_out(edge)
        for edge in before.edges[same:]:
            self._insert(edge.source, edge.target, edge.distance, edge.identity)
        self.site.rewired()
        self.site.network.load_state_dict(before.network)
        closed = {c.key: c for g in self.site.channel_groups() for c in g.channels if c.key in before.closed}
        self.site.connectivity.load_state(before.connectivity, closed)
        if self.site.optimizer is not None:
            self.site.optimizer.load_state(before.optimizer)


def _shapes(state: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    """Of everything but the edges, which come and go."""
    return {name: value.shape for name, value in state.items() if not name.startswith(f"{HOLDER}.")}
