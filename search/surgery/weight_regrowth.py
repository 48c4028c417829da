"""One cycle of reconnection over single weights: drop the smallest, create where the criterion is highest."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from search.surgery.criteria import WINDOW, CorrelationWatch, GradientWatch
from search.surgery.edge_growth import EdgeGrowth
from search.surgery.edges import HOLDER as EDGES
from search.surgery.pruning import Pruning
from search.surgery.ranking import number
from search.surgery.selection import (
    apportion,
    erk_densities,
    highest,
    highest_overall,
    lowest,
    lowest_overall,
    room_in_groups,
)
from search.surgery.site import Site
from spaces.reconnection import ReconnectionPolicy


class WeightRegrowth:
    """Watches what the criterion needs and carries out the cycles.

    Args:
        policy: The shares, and where regrown connections go.
        criterion: What makes an absent connection worth creating.
        site: The network under surgery.
        decisions: The steps of the cycles.
        pruning: Says how few connections may be left and which pattern holds; None where nothing is pruned.
    """

    def __init__(
        self,
        policy: ReconnectionPolicy,
        criterion: str,
        site: Site,
        decisions: Sequence[int],
        pruning: Pruning | None,
    ) -> None:
        self._policy, self._criterion, self._site, self._pruning = policy, criterion, site, pruning
        weights = site.connectivity.weights
        watched = criterion in ("gradient", "momentum", "divergence")
        width = None if criterion == "momentum" else WINDOW
        self._gradient = GradientWatch(weights, decisions, width) if watched else None
        self._correlation = CorrelationWatch(site.network, weights, decisions) if criterion == "correlation" else None
        self._recent: deque[dict[str, Tensor]] = deque(maxlen=policy.protect)
        # What routing has added starts at 0 and would be the first to go. Edges that are grown here come later.
        self._left = frozenset(name for name in weights if name.startswith(f"{EDGES}."))

    def before_forward(self, step: int) -> None:
        """Listen to activations where a cycle is near."""
        if self._correlation is not None:
            self._correlation.before_forward(step)

    def after_backward(self, step: int) -> None:
        """Take the gradients where a cycle is near."""
        if self._correlation is not None:
            self._correlation.after_backward()
        if self._gradient is not None:
            self._gradient.after_backward(step)

    def cycle(self, zeta: float, step: int, edges: EdgeGrowth | None) -> None:
        """Drop the share `zeta`, create as many as the policy says, some of them across layers."""
        connectivity = self._site.connectivity
        before = {name: mask.clone() for name, mask in connectivity.masks.items()}
        wanted = self._wanted()
        absent = {name: connectivity.revivable(name).clone() for name in wanted}
        dropped = self._drop(zeta)
        count = self._regrown(sum(dropped.values()))
        if edges is not None and count > 0:
            count -= edges.cycle(step, budget=round(self._policy.across * count))
        # What was just dropped comes back only where nothing else is absent: otherwise a cycle could stand still.
        for candidates in (absent, None):
            if count > 0:
                among = {
                    name: self._room(name, wanted[name], candidates) for name in wanted if name in connectivity.masks
                }
                count -= self._grow(wanted, among, count, dropped)
        self._protect(before)
        if self._gradient is not None:
            self._gradient.clear()
        if self._correlation is not None:
            self._correlation.clear()

    def let_go(self) -> int:
        """Take all hooks off; how many layers the criterion could not observe."""
        if self._correlation is None:
            return 0
        self._correlation.remove()
        return len(self._correlation.unobserved)

    def state(self) -> dict[str, Tensor]:
        state: dict[str, Tensor] = {}
        if self._gradient is not None:
            state |= {f"gradient/{name}": value for name, value in self._gradient.state().items()}
        if self._correlation is not None:
            state |= {f"correlation/{name}": value for name, value in self._correlation.state().items()}
        for age, created in enumerate(self._recent):
            state |= {f"recent/{age}/{name}": value.clone() for name, value in created.items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        if self._gradient is not None:
            self._gradient.load_state(_under("gradient", state))
        if self._correlation is not None:
            self._correlation.load_state(_under("correlation", state))
        self._recent.clear()
        for age in range(self._policy.protect):
            created = _under(f"recent/{age}", state)
            if created:
                self._recent.append({n: v.to(self._site.connectivity.weights[n].device) for n, v in created.items()})
        self._spare()

    # -- the parts of a cycle ---------------------------------------------------------------------------------------

    def _drop(self, zeta: float) -> dict[str, int]:
        """Switch off the share `zeta` of the active connections, the smallest first; never a layer's last one."""
        connectivity = self._site.connectivity
        weights = {name: weight for name, weight in connectivity.weights.items() if name not in self._left}
        magnitudes = {name: connectivity.spared_last(name, weight.detach().abs()) for name, weight in weights.items()}
        among = {}
        for name in weights:
            mask, free = connectivity.masks[name], connectivity.free(name)
            among[name] = mask if free is None else mask & free
        if self._policy.distribution == "global" and self._policy.mode != "set":
            chosen = lowest_overall(
                magnitudes, round(zeta * sum(connectivity.active[n] for n in weights)), among, leave_one=True
            )
        else:
            shares = {name: round(zeta * connectivity.active[name]) for name in weights}
            chosen = {name: lowest(magnitudes[name], shares[name], among[name], leave=1) for name in magnitudes}
        return {name: connectivity.prune(name, where, "reconnection", "drop") for name, where in chosen.items()}

    def _regrown(self, dropped: int) -> int:
        """How many connections to create: the policy's share, and at least what pruning's final sparsity asks."""
        if self._policy.mode != "gmp_regrow":
            return dropped
        count = round(self._policy.regrow * dropped)
        if self._pruning is not None:
            missing = self._pruning.floor - sum(self._site.connectivity.active.values())
            count = min(dropped, max(count, missing))
        return count

    def _room(self, name: str, wanted: Tensor, candidates: Mapping[str, Tensor] | None) -> Tensor:
        """Which absent connections of a layer may be created, without breaking an N:M pattern."""
        room = self._site.connectivity.revivable(name)
        if candidates is not None:
            room = room & candidates[name]
        pattern = self._pruning.pattern if self._pruning is not None and self._pruning.governs(name) else None
        if pattern is None:
            return room
        scores = wanted.masked_fill(~room, -1)
        return room & room_in_groups(scores, self._site.connectivity.masks[name], *pattern)

    def _grow(
        self, wanted: Mapping[str, Tensor], among: Mapping[str, Tensor], count: int, dropped: Mapping[str, int]
    ) -> int:
        """Create up to `count` connections where they are wanted most."""
        connectivity = self._site.connectivity
        if self._policy.distribution == "global" and self._policy.mode != "set":
            chosen = highest_overall({name: wanted[name] for name in among}, count, among)
        else:
            capacity, wished = {name: number(among[name]) for name in among}, self._shares(dropped)
            shares = {name: wished[name] for name in among}
            given = apportion(count, shares, capacity)
            chosen = {name: highest(wanted[name], share, among[name]) for name, share in given.items()}
        return sum(connectivity.create(name, where, "reconnection", self._criterion) for name, where in chosen.items())

    def _shares(self, dropped: Mapping[str, int]) -> dict[str, float]:
        """In which proportion the layers receive what is created."""
        connectivity, distribution = self._site.connectivity, self._policy.distribution
        if distribution == "erk" and self._policy.mode != "set":
            shapes = {name: tuple(weight.shape) for name, weight in connectivity.weights.items()}
            total = sum(weight.numel() for weight in connectivity.weights.values())
            densities = erk_densities(shapes, (sum(connectivity.active.values()) + sum(dropped.values())) / total)
            return {
                name: max(0.0, densities[name] * weight.numel() - connectivity.active[name])
                for name, weight in connectivity.weights.items()
            }
        if distribution == "redistribute" and self._policy.mode != "set" and connectivity.optimizer is not None:
            momenta = {n: connectivity.optimizer.momentum(w).abs() for n, w in connectivity.weights.items()}
            return {
                name: float(momentum.sum()) / max(1, connectivity.active[name]) for name, momentum in momenta.items()
            }
        return {name: float(dropped.get(name, 0)) for name in connectivity.weights}

    def _wanted(self) -> dict[str, Tensor]:
        weights = self._site.connectivity.weights
        if self._gradient is not None:
            return self._gradient.take()
        if self._correlation is not None:
            return {name: self._correlation.scores(name, weight) for name, weight in weights.items()}
        generator = self._site.generator
        return {name: torch.rand(w.shape, generator=generator).to(w.device) for name, w in weights.items()}

    def _protect(self, before: Mapping[str, Tensor]) -> None:
        """Spare what this cycle created for the next few: at 0 it would be the first to go."""
        if self._policy.protect > 0:
            masks = self._site.connectivity.masks
            self._recent.append({n: m & ~before[n] if n in before else m.clone() for n, m in masks.items()})
            self._spare()

    def _spare(self) -> None:
        connectivity = self._site.connectivity
        connectivity.spared = {}
        for created in self._recent:
            for name, mask in created.items():
                known = connectivity.spared.get(name)
                connectivity.spared[name] = mask if known is None else known | mask


def _under(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix(f"{prefix}/"): value for key, value in state.items() if key.startswith(f"{prefix}/")}
