"""Pruning at work: on each of the schedule's steps, switch off the connections that matter least."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from search.surgery.aligned import Row, leaving, multiple
from search.surgery.channels import ChannelGroup, merge, worth
from search.surgery.criteria import ActivationWatch, GradientWatch, MovementWatch
from search.surgery.edges import HOLDER as EDGES
from search.surgery.mechanism import Clock, Mechanism, Receipt
from search.surgery.selection import (
    apportion,
    best_entry,
    erk_densities,
    grouped,
    lowest,
    lowest_in_groups,
    lowest_overall,
)
from search.surgery.site import Site
from spaces.errors import NetworkError
from spaces.pruning import PruningPolicy


class Pruning(Mechanism):
    """Carries out a :class:`PruningPolicy`."""

    name = "pruning"

    def __init__(self, policy: PruningPolicy) -> None:
        self.policy = policy
        self._cuts = 0

    def attach(self, site: Site) -> None:
        self.site = site
        connectivity = site.connectivity
        self._decisions = self.policy.decision_steps(site.steps)
        governed = _governed(site, self.policy)
        if self.policy.granularity == "nm":
            of = self._pattern[1]
            governed = [n for n in governed if connectivity.weights[n].shape[1] % of == 0]
            if not governed:
                raise NetworkError(
                    f"pruning.pattern = {self.policy.pattern} needs a layer whose inputs come in groups of {of}, but "
                    "the network has none: use granularity weight"
                )
        self._fixed = {
            name: float(site.profile.overrides("pruning", name)["sparsity"])
            for name in governed
            if "sparsity" in site.profile.overrides("pruning", name)
        }
        self._layers = [name for name in governed if name not in self._fixed]
        weights = {name: connectivity.weights[name] for name in governed}
        self._gradient = GradientWatch(weights, self._decisions) if self.policy.criterion == "gradient" else None
        self._movement = MovementWatch(weights) if self.policy.criterion == "movement" else None
        self._activation = (
            ActivationWatch(site.network, weights, self._decisions) if self.policy.criterion == "activation" else None
        )
        self._last_gradient: dict[str, Tensor] = {}
        self._roots: list[str] = []
        if self.policy.granularity == "channel":
            self._roots = [group.root for group in site.channel_groups() if group.root in weights]
            if not self._roots:
                raise NetworkError(
                    "pruning.granularity = channel needs a layer whose channels can be removed, but the network has "
                    "none that stays equal when one is removed: use granularity weight or nm"
                )

    @property
    def settled(self) -> bool:
        """Whether the last cut has fallen."""
        return self._cuts >= len(self._decisions)

    @property
    def floor(self) -> int:
        """Connections that stay active at the end: reconnection never leaves fewer. 0 where channels go."""
        connectivity = self.site.connectivity
        if self.policy.granularity == "channel":
            return 0
        total = sum(self._size(name) for name in self._layers)
        if self.policy.granularity == "nm":
            keep, of = self._pattern
            return connectivity.size - total * (of - keep) // of
        fixed = sum(round(share * self._size(name)) for name, share in self._fixed.items())
        return connectivity.size - round(self.policy.sparsity * total) - fixed

    def channel_floor(self, channels: int) -> int:
        """How many of all removable channels stay open at the end; all where this policy takes no channels."""
        if self.policy.granularity != "channel":
            return channels
        groups = self._groups(self.site)
        free = sum(group.size for group in groups if group.root not in self._fixed)
        fixed = sum(round(self._fixed[group.root] * group.size) for group in groups if group.root in self._fixed)
        return channels - round(self.policy.sparsity * free) - fixed

    def governs(self, name: str) -> bool:
        """Whether this policy may touch the weight."""
        return name in self._layers or name in self._fixed

    @property
    def progress(self) -> float:
        """The share of the way to the end state that has been gone, in [0, 1]."""
        return self.policy.sparsity_at(self._cuts - 1, len(self._decisions)) if self._cuts else 0.0

    @property
    def pattern(self) -> tuple[int, int] | None:
        """The N:M pattern that holds by now; None where the policy has none."""
        return (self._keep(self.progress), self._pattern[1]) if self.policy.granularity == "nm" else None

    def before_forward(self, clock: Clock) -> None:
        if self._activation is not None:
            self._activation.before_forward(clock.step)

    def after_backward(self, clock: Clock) -> None:
        if self._activation is not None:
            self._activation.after_backward()
        if self._movement is not None and not self.settled:
            self._movement.after_backward()
        if self._gradient is not None:
            self._gradient.after_backward(clock.step)
        if clock.step in self._decisions and not self.settled:
            if self._gradient is not None:
                self._last_gradient = self._gradient.mean()
                self._gradient.clear()
            self._cuts += 1
            self._cut(self.site, self.policy.sparsity_at(self._cuts - 1, len(self._decisions)))
            if clock.step == self._decisions[-1]:
                self._let_go()

    def project(self, site: Site) -> None:
        if not self.settled:
            self._cut(site, 1.0)

    def finish(self) -> Receipt:
        self._let_go()
        unobserved = len(self._activation.unobserved) if self._activation is not None else 0
        return {
            "decisions": self._cuts,
            "governed": len(self._layers) + len(self._fixed),
            "left_alone": len(self.site.connectivity.weights) - len(self._layers) - len(self._fixed),
            "unobserved": unobserved,
        }

    def _groups(self, site: Site) -> list[ChannelGroup]:
        """The governed groups, as they are coupled by now."""
        return [group for group in site.channel_groups() if group.root in self._roots]

    def state(self) -> dict[str, Tensor]:
        state = {"cuts": torch.tensor(self._cuts)}
        for kind, watch in (("gradient", self._gradient), ("movement", self._movement), ("input", self._activation)):
            if watch is not None:
                state |= {f"{kind}/{name}": value for name, value in watch.state().items()}
        return state | {f"last/{name}": value.clone() for name, value in self._last_gradient.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._cuts = int(state["cuts"])
        for kind, watch in (("gradient", self._gradient), ("movement", self._movement), ("input", self._activation)):
            if watch is not None:
                watch.load_state(_under(kind, state))
        self._last_gradient = _under("last", state)
        if self.settled:
            self._let_go()

    # -- one cut ----------------------------------------------------------------------------------------------------

    def _cut(self, site: Site, progress: float) -> None:
        """Bring `site` to `progress`, in (0, 1], of the way to the final sparsity."""
        if self.policy.granularity == "channel":
            self._cut_channels(site, progress)
        elif self.policy.granularity == "nm":
            self._cut_pattern(site, progress)
        else:
            self._cut_weights(site, progress)

    def _cut_weights(self, site: Site, progress: float) -> None:
        connectivity, names = site.connectivity, self._layers
        scores = {n: connectivity.spared_last(n, self._score(site, n)) for n in [*names, *self._fixed]}
        among = connectivity.masks
        chosen: dict[str, Tensor] = {}
        total = round(progress * self.policy.sparsity * sum(self._size(name) for name in names))
        if self.policy.allocation == "global":
            missing = total - sum(self._size(name) - connectivity.active[name] for name in names)
            if names and missing > 0:
                chosen |= lowest_overall({n: scores[n] for n in names}, missing, among, leave_one=True)
        else:
            for name, off in self._allocate(total).items():
                missing = off - (self._size(name) - connectivity.active[name])
                chosen[name] = lowest(scores[name], missing, among[name], leave=1)
        for name, share in self._fixed.items():
            missing = round(progress * share * self._size(name)) - (self._size(name) - connectivity.active[name])
            chosen[name] = lowest(scores[name], missing, among[name], leave=1)
        for name, where in chosen.items():
            connectivity.prune(name, where, "pruning", self.policy.criterion)

    def _cut_pattern(self, site: Site, progress: float) -> None:
        keep, of = self._keep(progress), self._pattern[1]
        for name in self._layers:
            mask = site.connectivity.masks[name]
            if int(grouped(mask, of).sum(-1).max()) > keep:
                scores = site.connectivity.spared_last(name, self._score(site, name))
                where = lowest_in_groups(scores, mask, keep, of)
                site.connectivity.prune(name, where, "pruning", self.policy.criterion)

    def _cut_channels(self, site: Site, progress: float) -> None:
        connectivity, groups = site.connectivity, self._groups(site)
        scores = {name: self._score(site, name) for group in groups for name in group.weights if self.governs(name)}
        ranked = {g.name: worth(g, scores, normalize=self.policy.allocation == "global") for g in groups}
        open_ = {g.name: connectivity.open_channels(g) for g in groups}
        free = [g for g in groups if g.root not in self._fixed]
        total = round(progress * self.policy.sparsity * sum(g.size for g in free))
        off = {g.name: g.size - int(open_[g.name].sum()) for g in groups}
        among = {name: open_[name] & ~best_entry(ranked[name], open_[name]) for name in ranked}
        chosen: dict[str, Tensor] = {}
        if self.policy.align > 1:
            chosen |= self._aligned(site, free, ranked, open_, total)
        elif self.policy.allocation == "global":
            missing = total - sum(off[g.name] for g in free)
            if free and missing > 0:
                chosen |= lowest_overall({g.name: ranked[g.name] for g in free}, missing, among)
        else:
            due = self._allocate_channels(site, free, total)
            chosen |= {name: lowest(ranked[name], due[name] - off[name], among[name]) for name in due}
        for group in groups:
            if (share := self._fixed.get(group.root)) is not None:
                due_here = round(progress * share * group.size)
                if self.policy.align > 1:
                    chosen |= self._aligned(site, [group], ranked, open_, due_here)
                    continue
                missing = due_here - off[group.name]
                chosen[group.name] = lowest(ranked[group.name], missing, among[group.name])
        closing = [g.channels[i] for g in groups if g.name in chosen for i in chosen[g.name].nonzero()[:, 0].tolist()]
        if self.policy.merge:
            merge(site.network, closing, groups, connectivity)
        connectivity.close(closing, "pruning", self.policy.criterion)

    def _aligned(
        self,
        site: Site,
        groups: Sequence[ChannelGroup],
        ranked: Mapping[str, Tensor],
        open_: Mapping[str, Tensor],
        total: int,
    ) -> dict[str, Tensor]:
        """The channels to close so that about `total` of all are off and what stays is a multiple of `align`."""
        rows, shares = {}, self._channel_shares(site, groups)
        for group in groups:
            values, number = ranked[group.name][open_[group.name]].sort().values.tolist(), group.size
            if self.policy.allocation != "global":
                share, off = max(shares[group.name], 1e-12), number - len(values)
                values = [(off + place + 0.5) / share for place in range(len(values))]
            rows[group.name] = Row(number, multiple(group, self.policy.align), values)
        going = leaving(total - sum(row.size - len(row.values) for row in rows.values()), rows)
        return {name: lowest(ranked[name], count, open_[name]) for name, count in going.items()}

    def _allocate_channels(self, site: Site, groups: Sequence[ChannelGroup], total: int) -> dict[str, int]:
        """How many channels of each group are off, `total` in all."""
        shares = self._channel_shares(site, groups)
        return apportion(total, shares, {group.name: group.size - 1 for group in groups})

    def _channel_shares(self, site: Site, groups: Sequence[ChannelGroup]) -> dict[str, float]:
        """In what proportion the groups lose channels where there is no ranking over all of them."""
        shares = {group.name: float(group.size) for group in groups}
        if self.policy.allocation == "erk":
            shapes = {group.name: tuple(site.connectivity.weights[group.root].shape) for group in groups}
            density = erk_densities(shapes, 1 - self.policy.sparsity)
            shares = {name: (1 - density[name]) * size for name, size in shares.items()}
        return shares

    def _allocate(self, total: int) -> dict[str, int]:
        """How many connections of each layer are off, `total` in all."""
        sizes = {name: self._size(name) for name in self._layers}
        capacity = {name: size - 1 for name, size in sizes.items()}
        if self.policy.allocation == "uniform":
            return apportion(total, {name: float(size) for name, size in sizes.items()}, capacity)
        shapes = {name: tuple(self.site.connectivity.weights[name].shape) for name in sizes}
        densities = erk_densities(shapes, 1 - total / max(1, sum(sizes.values())))
        return apportion(total, {name: (1 - densities[name]) * size for name, size in sizes.items()}, capacity)

    def _score(self, site: Site, name: str) -> Tensor:
        weight = site.connectivity.weights[name].detach()
        criterion = self.policy.criterion
        if criterion == "random":
            return torch.rand(weight.shape, generator=site.generator).to(weight.device)
        if self._movement is not None:
            return self._movement.score[name]
        if criterion == "gradient":
            # Before the first cut there is no gradient yet: the projection for early stopping then goes by magnitude.
            gradient = self._last_gradient.get(name)
            return weight.abs() if gradient is None else (weight * gradient).abs()
        if self._activation is not None:
            return weight.abs() * self._activation.norms(name, weight)
        return weight.abs()

    def _size(self, name: str) -> int:
        return self.site.connectivity.weights[name].numel()

    @property
    def _pattern(self) -> tuple[int, int]:
        keep, of = self.policy.pattern.split(":")
        return int(keep), int(of)

    def _keep(self, progress: float) -> int:
        """N decays from M to its end, so that a group loses one weight at a time (Kao et al. 2022)."""
        keep, of = self._pattern
        return of - round(progress * (of - keep))

    def _let_go(self) -> None:
        if self._activation is not None:
            self._activation.remove()


def _governed(site: Site, policy: PruningPolicy) -> list[str]:
    """The weights a policy may touch: all but edges, and the first and the last layer where it excludes them."""
    names = [name for name in site.connectivity.weights if not name.startswith(f"{EDGES}.")]
    first = 1 if policy.exclude in ("first", "both") else 0
    last = len(names) - (1 if policy.exclude in ("last", "both") else 0)
    governed = names[first:last]
    if not governed:
        raise NetworkError(
            f"pruning.exclude = {policy.exclude} must leave a layer, but the network has {len(names)}: use exclude none"
        )
    return governed


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{prefix}/"): value for key, value in state.items() if key.startswith(f"{prefix}/")}
