"""A channel as surgery sees it: which entries of which weights compute it, read it, or give it a value of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from search.surgery.closing import Index
from search.surgery.connectivity import Connectivity

#: How channels hang together: by labels that flow through the graph, with groups and heads as a whole or thinned
#: alike; inside of one module of torch; or as torch-pruning finds it where there is no graph.
By = Literal["whole", "equal", "inside", "dependency"]
#: Cosine from which on two filters count as alike: below, one explains less than a quarter of the other's signal.
ALIKE = 0.5


@dataclass(frozen=True, eq=False)
class Channel:
    """One channel of one group, or whatever else goes as one: a group of a convolution, a head of attention.

    Args:
        root: Name of the weight whose output it is.
        index: Its (first) position among that weight's outputs.
        produced: Entries of the weights that compute it.
        consumed: Entries of the weights that read it.
        held: Entries of biases and norms that would give it a value of its own.
        by: How it is removed.
    """

    root: str
    index: int
    produced: tuple[tuple[str, Index], ...]
    consumed: tuple[tuple[str, Index], ...]
    held: tuple[tuple[str, Index], ...]
    by: By = "whole"

    @property
    def key(self) -> tuple[str, int]:
        """What names it: the root and the index."""
        return (self.root, self.index)


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that live and die in the same layers; entry for entry they are alike.

    Args:
        root: Name of the weight whose outputs they are. A weight whose outputs go different ways is the root of
            several groups.
        channels: By ascending index, at least two.
    """

    root: str
    channels: tuple[Channel, ...]

    @property
    def name(self) -> str:
        """What names it: its root and the index of its first channel."""
        return f"{self.root}[{self.channels[0].index}]"

    @property
    def size(self) -> int:
        """How many channels there are."""
        return len(self.channels)

    @property
    def weights(self) -> tuple[str, ...]:
        """Names of the weights that compute or read these channels."""
        first = self.channels[0]
        return tuple(dict.fromkeys(name for name, _ in (*first.produced, *first.consumed)))


def worth(group: ChannelGroup, scores: Mapping[str, Tensor], normalize: bool) -> Tensor:
    """What each channel of a group is worth: the mean of its connections' scores, layer by layer.

    Args:
        group: The channels.
        scores: Per weight, of its shape; weights that are not in it have no say.
        normalize: Relative to the group's mean, so that groups can be compared.

    Returns:
        (channels,) float.
    """
    total = torch.zeros(group.size)
    parts = zip(*([*channel.produced, *channel.consumed] for channel in group.channels), strict=True)
    for part in parts:
        name, (*_, first) = part[0]
        if name not in scores:
            continue
        dim = len(part[0][1]) - 1
        means = scores[name].float().transpose(0, dim).flatten(1).mean(1)
        positions = torch.stack([index[dim] for _, index in part]) if len(first) else torch.zeros(0)
        per_channel = means[positions.to(means.device)].mean(1)
        total += (per_channel / means.mean().clamp_min(1e-30)).cpu()
    return total / total.mean().clamp_min(1e-30) if normalize else total


@torch.no_grad()
def merge(
    network: nn.Module, leaving: Sequence[Channel], groups: Sequence[ChannelGroup], connectivity: Connectivity
) -> None:
    """Add what consumers read of each leaving channel to what they read of the nearest that stays.

    Nearest by the cosine of the filters that compute them, biases and norms folded in as far as they scale; the
    addition is scaled so that a channel which is a multiple of another merges without loss. A channel to which none is
    like goes without a trace: a chance resemblance explains little of it, and beside a nearly silent channel it would
    be blown up beyond all measure.
    """
    gone = {channel.key for channel in leaving} | set(connectivity.closed)
    for group in groups:
        going = {channel.key for channel in leaving} & {channel.key for channel in group.channels}
        stays = [i for i, channel in enumerate(group.channels) if channel.key not in gone]
        if not going or not stays:
            continue
        filters = torch.stack([_filter(network, connectivity, channel) for channel in group.channels])
        for place, channel in enumerate(group.channels):
            if channel.key not in going:
                continue
            likeness = F.cosine_similarity(filters[place].unsqueeze(0), filters[stays])
            nearest = stays[int(likeness.argmax())]
            if likeness.max() < ALIKE:
                continue  # nor is a multiple below 0, which behind a ReLU is another signal
            scale = (filters[place] @ filters[nearest]) / filters[nearest].square().sum().clamp_min(1e-12)
            for (name, of), (_, to) in zip(channel.consumed, group.channels[nearest].consumed, strict=True):
                weight, mask, dim = connectivity.weights[name], connectivity.masks[name], len(of) - 1
                source, target = of[dim].to(weight.device), to[dim].to(weight.device)
                added = weight.index_select(dim, source) * scale.to(weight.dtype)
                weight.index_add_(dim, target, added * mask.index_select(dim, target))


def _filter(network: nn.Module, connectivity: Connectivity, channel: Channel) -> Tensor:
    """Everything that computes a channel, as one vector, scaled by its norm's gain."""
    rows = [
        connectivity.weights[name].index_select(len(index) - 1, index[-1].to(connectivity.weights[name].device))
        for name, index in channel.produced
    ]
    gain = torch.ones((), device=rows[0].device)
    for name, index in channel.held:
        owner, _, kind = name.rpartition(".")
        module = network.get_submodule(owner)
        if kind == "weight" and isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_var is not None:
            gain = gain * (module.weight[index[0]] / (module.running_var[index[0]] + module.eps).sqrt()).mean()
    return torch.cat([row.flatten() for row in rows]).float() * gain
