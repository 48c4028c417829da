"""One cycle of reconnection over whole channels: mask the weakest, bring back the masked ones that are wanted most."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from objectives.task import call, move
from search.surgery.aligned import multiple
from search.surgery.channels import Channel, ChannelGroup, worth
from search.surgery.criteria import WINDOW, CorrelationWatch
from search.surgery.pruning import Pruning
from search.surgery.selection import best_entry, lowest
from search.surgery.site import Site
from spaces.errors import NetworkError
from spaces.reconnection import ReconnectionPolicy


class ChannelRegrowth:
    """Carries out the cycles.

    Args:
        policy: The shares.
        criterion: What makes a masked channel worth bringing back.
        site: The network under surgery.
        pruning: Says how few channels may be left; None where nothing is pruned.

    Raises:
        NetworkError: If the network has no channels that can be masked.
    """

    def __init__(self, policy: ReconnectionPolicy, criterion: str, site: Site, pruning: Pruning | None) -> None:
        self._policy, self._criterion, self._site, self._pruning = policy, criterion, site, pruning
        if not site.channel_groups():
            raise NetworkError(
                "reconnection.granularity = channel needs a layer whose channels can be removed, but the network has "
                "none that stays equal when one is removed: use granularity weight"
            )

    def cycle(self, zeta: float, step: int) -> None:
        """Mask the share `zeta` of each group's open channels, bring back as many as the policy says."""
        connectivity, groups = self._site.connectivity, self._site.channel_groups()
        masked = [channel for group in groups for channel in group.channels if channel.key in connectivity.closed]
        leaving: list[Channel] = []
        dropped: dict[str, int] = {}
        room = sum(group.size for group in groups) - len(masked) - self._least()
        for group in groups:
            magnitudes = {name: connectivity.weights[name].detach().abs() for name in group.weights}
            ranked, open_ = worth(group, magnitudes, normalize=False), connectivity.open_channels(group)
            going = lowest(ranked, round(zeta * int(open_.sum())), open_ & ~best_entry(ranked, open_))
            leaving += [group.channels[i] for i in going.nonzero()[:, 0].tolist()]
            dropped[group.name] = len(leaving) - sum(dropped.values())
        connectivity.close(leaving, "reconnection", "drop")
        count, quota = self._regrown(len(leaving)), None
        if self._align > 1:
            quota = self._quota(dropped, room)
            count = sum(quota.values())
        if count > 0:
            # What has just gone comes back only where nothing else is masked.
            candidates = [*masked, *leaving]
            wanted = self._wanted(candidates, step)
            order = [candidates[i] for i in sorted(range(len(wanted)), key=lambda i: (i >= len(masked), -wanted[i]))]
            returning = order[:count] if quota is None else _within(order, groups, quota)
            connectivity.open(returning, "reconnection", self._criterion)

    @property
    def _align(self) -> int:
        return self._pruning.policy.align if self._pruning is not None else 1

    def _least(self) -> int:
        total = sum(group.size for group in self._site.channel_groups())
        return self._pruning.channel_floor(total) if self._pruning is not None else 0

    def _regrown(self, dropped: int) -> int:
        if self._policy.mode != "gmp_regrow":
            return dropped
        count = round(self._policy.regrow * dropped)
        total = sum(group.size for group in self._site.channel_groups())
        return min(dropped, max(count, self._least() - (total - len(self._site.connectivity.closed))))

    def _quota(self, dropped: Mapping[str, int], room: int) -> dict[str, int]:
        """How many channels each group gets back where widths are aligned: all, or all but a multiple.

        Args:
            dropped: Per group, what has just gone.
            room: How many of all may stay away.
        """
        found = {}
        for group in self._site.channel_groups():
            gone, step = dropped[group.name], multiple(group, self._align)
            step = 1 if group.size <= step else step
            open_before = int(self._site.connectivity.open_channels(group).sum()) + gone
            away = 0
            if self._policy.mode == "gmp_regrow" and open_before % step == 0:
                away = min(
                    math.floor((1 - self._policy.regrow) * gone / step + 0.5), gone // step, max(0, room) // step
                )
            found[group.name] = gone - away * step
            room -= away * step
        return found

    def _wanted(self, channels: list[Channel], step: int) -> list[float]:
        """What bringing each channel back would be worth: looked at in a copy in which all of them are open.

        Opening changes no output, because what consumers read of them starts at 0; so the gradient there is the one
        that the network at hand would have.
        """
        if self._criterion == "random":
            return torch.rand(len(channels), generator=self._site.generator).tolist()
        twin = self._site.copy()
        twin.connectivity.open(channels, "probe", "probe")
        batches = self._site.batches(2 * WINDOW if self._criterion == "momentum" else WINDOW, step)
        device, task = self._site.device, self._site.task
        watch = None
        if self._criterion == "correlation":
            watch = CorrelationWatch(twin.network, twin.connectivity.weights, [0], always=True)
        twin.network.eval()
        twin.network.zero_grad(set_to_none=True)
        for inputs, targets in batches:
            outputs = call(twin.network, move(inputs, device))
            if task is not None and watch is None:
                task.loss(outputs, targets.to(device)).backward()  # type: ignore[no-untyped-call]
        scores: dict[str, Tensor] = {}
        for name, weight in twin.connectivity.weights.items():
            if watch is not None:
                scores[name] = watch.scores(name, weight)
            else:
                scores[name] = weight.grad.abs() if weight.grad is not None else torch.zeros_like(weight)
        return [
            sum(
                float(scores[name].index_select(len(index) - 1, index[-1].to(scores[name].device)).mean())
                for name, index in channel.consumed
            )
            for channel in channels
        ]


def _within(order: Sequence[Channel], groups: Sequence[ChannelGroup], quota: Mapping[str, int]) -> list[Channel]:
    """The first channels of each group, as many as it gets back."""
    of = {channel.key: group.name for group in groups for channel in group.channels}
    left, found = dict(quota), []
    for channel in order:
        if left[of[channel.key]] > 0:
            left[of[channel.key]] -= 1
            found.append(channel)
    return found
