"""A bud beside its parent, block by block: what flows at the end of each is held to what flows there in the parent.

Outputs alone say little to a network that has a single epoch to learn from them; what its parent computes on the way
says how to come to them (Romero et al. 2015, FitNets).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from search.buds.cut import Place, places, watched
from search.buds.graft import ends
from search.surgery.channels import Channel

#: A block whose variance in the parent is less than this is not compared.
_STILL = 1e-12
#: Layers whose weights have their inputs along dimension 1.
_READERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


@dataclass(frozen=True, eq=False)
class Block:
    """A place at which a bud and its parent compute the same thing.

    Args:
        parent: The node at the end of the parent's block.
        bud: The same in the bud, behind its plasticity layer.
        kept: Which of the parent's channels there the bud has, ascending.
        dim: Along which dimension they lie.
    """

    parent: str
    bud: str
    kept: Tensor
    dim: int

    def narrowed(self, x: Tensor) -> Tensor:
        """Of what flows there in the parent, the channels that the bud has."""
        return x if len(self.kept) == x.shape[self.dim] else x.index_select(self.dim, self.kept)

    def to(self, device: str) -> Block:
        """The same on another device."""
        return replace(self, kept=self.kept.to(device))


def shared(tail: fx.GraphModule, hidden: Tensor, bud: fx.GraphModule, leaving: Iterable[Channel]) -> tuple[Block, ...]:
    """Where a bud can be held to its parent, in the order of the network.

    Args:
        tail: The parent's.
        hidden: Example of what flows into it.
        bud: From `search.buds.graft.graft`.
        leaving: What that was told to leave out.
    """
    gone, behind = _gone(leaving), ends(bud)
    blocks = [
        Block(place.node, behind[place.node], _kept(tail, place, gone), place.dim)
        for place in places(tail, inputs=(hidden,))
        if place.node in behind
    ]
    with torch.no_grad():
        wanted = watched(tail, [block.parent for block in blocks])(hidden)[1]
        found = watched(bud, [block.bud for block in blocks])(hidden)[1]
    # Where the bud was put together in another way, nothing is compared rather than the wrong things.
    pairs = zip(blocks, found, wanted, strict=True)
    return tuple(block for block, a, b in pairs if a.shape == block.narrowed(b).shape)


def matching(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """How far a bud is from its parent: the mean squared distance in units of the variance, averaged over its blocks.

    Args:
        found: What flows at the ends of the bud's blocks, (batch, ...) each.
        wanted: The same in the parent.
    """
    distances = []
    for a, b in zip(found, wanted, strict=True):
        variance = b.float().var(correction=0)
        distance = (a.float() - b.float()).square().mean() / variance.clamp_min(_STILL)
        distances.append(distance * (variance > _STILL))
    return torch.stack(distances).mean() if distances else torch.zeros(())


def _gone(leaving: Iterable[Channel]) -> Mapping[str, list[Tensor]]:
    """By weight which of its inputs go."""
    gone: dict[str, list[Tensor]] = {}
    for channel in leaving:
        for name, index in channel.consumed:
            gone.setdefault(name, []).append(index[-1].flatten())
    return gone


def _kept(tail: fx.GraphModule, place: Place, gone: Mapping[str, list[Tensor]]) -> Tensor:
    """Which channels of a place stay: all, as far as one can see, where something else than a layer reads them."""
    stays = torch.ones(place.channels, dtype=torch.bool)
    node = next(node for node in tail.graph.nodes if node.name == place.node)
    for reader in node.users:
        layer = tail.get_submodule(str(reader.target)) if reader.op == "call_module" else None
        if isinstance(layer, _READERS) and layer.weight.shape[1] == place.channels:
            for index in gone.get(f"{reader.target}.weight", ()):
                stays[index.cpu()] = False
            break
    return stays.nonzero()[:, 0]
