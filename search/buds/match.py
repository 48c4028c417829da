"""A bud beside its parent, block by block: what flows at the end of each is held to what flows there in the parent.

Outputs alone say little to a network that has a single epoch to learn from them; what its parent computes on the way
says how to come to them (Romero et al. 2015, FitNets).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from search.buds.cut import Place, places
from search.buds.graft import ends
from search.surgery.channels import Channel

#: A block whose outputs vary less than this is not compared.
_STILL = 1e-12


@dataclass(frozen=True, eq=False)
class Match:
    """Where a bud and its parent compute the same thing.

    Args:
        parent: The nodes at the ends of the parent's blocks.
        bud: The same in the bud, behind their plasticity layers.
        kept: Per block which of the parent's channels the bud has, and along which dimension they lie.
    """

    parent: tuple[str, ...]
    bud: tuple[str, ...]
    kept: tuple[tuple[Tensor, int], ...]

    @classmethod
    def of(cls, tail: fx.GraphModule, hidden: Tensor, bud: fx.GraphModule, leaving: Iterable[Channel]) -> Match:
        """Find it.

        Args:
            tail: The parent's.
            hidden: Example of what flows into it.
            bud: From `search.buds.graft.graft`.
            leaving: What that was told to leave out.
        """
        gone, behind = _gone(leaving), ends(bud)
        rows = []
        for place in places(tail, inputs=(hidden,)):
            kept = _kept(tail, place, gone)
            if place.node in behind and kept is not None:
                rows.append((place.node, behind[place.node], (kept, place.dim)))
        return cls(*(tuple(row[i] for row in rows) for i in range(3)))  # type: ignore[arg-type]

    def to(self, device: str) -> Match:
        """The same on another device."""
        return Match(self.parent, self.bud, tuple((kept.to(device), dim) for kept, dim in self.kept))

    def of_parent(self, blocks: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Of what flows in the parent, the channels that the bud has."""
        return tuple(
            b if len(kept) == b.shape[dim] else b.index_select(dim, kept)
            for b, (kept, dim) in zip(blocks, self.kept, strict=True)
        )


def matching(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """How far a bud is from its parent: the mean squared distance in units of the variance, averaged over its blocks.

    Args:
        found: What flows at the ends of the bud's blocks, (batch, ...) each.
        wanted: The same in the parent.
    """
    distances = [
        (a.float() - b.float()).square().mean() / b.float().var(correction=0).clamp_min(_STILL)
        for a, b in zip(found, wanted, strict=True)
    ]
    return torch.stack(distances).mean() if distances else torch.zeros(())


def _gone(leaving: Iterable[Channel]) -> Mapping[str, list[Tensor]]:
    """By weight which of its inputs go."""
    gone: dict[str, list[Tensor]] = {}
    for channel in leaving:
        for name, index in channel.consumed:
            gone.setdefault(name, []).append(index[-1].flatten())
    return gone


def _kept(tail: fx.GraphModule, place: Place, gone: Mapping[str, list[Tensor]]) -> Tensor | None:
    """Which channels of a place stay; None where no layer reads them one to one."""
    node = next(node for node in tail.graph.nodes if node.name == place.node)
    for reader in node.users:
        weight = getattr(tail.get_submodule(str(reader.target)), "weight", None) if reader.op == "call_module" else None
        if weight is not None and weight.ndim >= 2 and weight.shape[1] == place.channels:
            stays = torch.ones(place.channels, dtype=torch.bool)
            for index in gone.get(f"{reader.target}.weight", ()):
                stays[index.cpu()] = False
            return stays.nonzero()[:, 0]
    return None
