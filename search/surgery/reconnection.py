"""Reconnection at work: in each cycle, drop the weakest connections and create others where they are wanted most."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from search.surgery.criteria import WINDOW, GradientWatch
from search.surgery.mechanism import Clock, Mechanism, Receipt
from search.surgery.pruning import Pruning
from search.surgery.selection import (
    apportion,
    best_entry,
    erk_densities,
    highest,
    lowest,
    lowest_overall,
    room_in_groups,
)
from search.surgery.site import Site
from spaces.reconnection import ReconnectionPolicy


class Reconnection(Mechanism):
    """Carries out a :class:`ReconnectionPolicy` within the weight tensors.

    Args:
        policy: What is asked for.
        pruning: The pruning mechanism that works on the same network, if any: it says how few connections may be left.
    """

    name = "reconnection"

    def __init__(self, policy: ReconnectionPolicy, pruning: Pruning | None = None) -> None:
        self.policy = policy
        self.pruning = pruning
        self._criterion = {"rigl": "gradient", "set": "random"}.get(policy.mode, policy.criterion)
        self._cycles = 0

    def attach(self, site: Site) -> None:
        self.site = site
        self._decisions = self.policy.decision_steps(site.steps)
        weights = site.connectivity.weights
        width = None if self._criterion == "momentum" else WINDOW
        watched = self._criterion != "random"
        self._gradient = GradientWatch(weights, self._decisions, width) if watched else None

    def after_backward(self, clock: Clock) -> None:
        if self._gradient is not None:
            self._gradient.after_backward(clock.step)
        if clock.step in self._decisions:
            self._cycles += 1
            self._cycle(clock)
            if self._gradient is not None:
                self._gradient.clear()

    def finish(self) -> Receipt:
        return {"decisions": self._cycles}

    def state(self) -> dict[str, Tensor]:
        watched = self._gradient.state() if self._gradient is not None else {}
        return {"cycles": torch.tensor(self._cycles)} | {f"gradient/{name}": value for name, value in watched.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._cycles = int(state["cycles"])
        if self._gradient is not None:
            self._gradient.load_state(
                {k.removeprefix("gradient/"): v for k, v in state.items() if k.startswith("gradient/")}
            )

    # -- one cycle --------------------------------------------------------------------------------------------------

    def _cycle(self, clock: Clock) -> None:
        connectivity = self.site.connectivity
        wanted = self._wanted()
        absent = {name: connectivity.revivable(name).clone() for name in connectivity.weights}
        dropped = self._drop(self.policy.zeta_at(clock.step, clock.steps))
        count = self._regrown(sum(dropped.values()))
        # What was just dropped comes back only where nothing else is absent: otherwise a cycle could stand still.
        for candidates in (absent, None):
            if count > 0:
                among = {name: self._room(name, wanted[name], candidates) for name in wanted}
                count -= self._grow(wanted, among, count, dropped)

    def _room(self, name: str, wanted: Tensor, candidates: Mapping[str, Tensor] | None) -> Tensor:
        """Which absent connections of a layer may be created, without breaking an N:M pattern."""
        room = self.site.connectivity.revivable(name)
        if candidates is not None:
            room = room & candidates[name]
        pattern = self.pruning.pattern if self.pruning is not None and self.pruning.governs(name) else None
        if pattern is None:
            return room
        scores = wanted.masked_fill(~room, -1)
        return room & room_in_groups(scores, self.site.connectivity.masks[name], *pattern)

    def _drop(self, zeta: float) -> dict[str, int]:
        """Switch off the share `zeta` of the active connections, the smallest first; never a layer's last one."""
        connectivity = self.site.connectivity
        counts: dict[str, int] = {}
        magnitudes = {name: weight.detach().abs() for name, weight in connectivity.weights.items()}
        among = {}
        for name, mask in connectivity.masks.items():
            free = connectivity.free(name)
            candidates = mask if free is None else mask & free
            among[name] = candidates & ~best_entry(magnitudes[name], candidates)
        if self.policy.distribution == "global" and self.policy.mode != "set":
            chosen = lowest_overall(magnitudes, round(zeta * sum(connectivity.active.values())), among)
        else:
            chosen = {
                name: lowest(magnitudes[name], round(zeta * connectivity.active[name]), among[name])
                for name in magnitudes
            }
        for name, where in chosen.items():
            counts[name] = connectivity.prune(name, where, "reconnection", "drop")
        return counts

    def _regrown(self, dropped: int) -> int:
        """How many connections to create: the policy's share, and at least what pruning's final sparsity asks."""
        if self.policy.mode != "gmp_regrow":
            return dropped
        count = round(self.policy.regrow * dropped)
        if self.pruning is not None:
            missing = self.pruning.floor - sum(self.site.connectivity.active.values())
            count = min(dropped, max(count, missing))
        return count

    def _grow(
        self, wanted: Mapping[str, Tensor], among: Mapping[str, Tensor], count: int, dropped: Mapping[str, int]
    ) -> int:
        """Create up to `count` connections where they are wanted most."""
        connectivity = self.site.connectivity
        if self.policy.distribution == "global" and self.policy.mode != "set":
            flipped = {name: -score for name, score in wanted.items()}
            chosen = lowest_overall(flipped, count, among)
        else:
            capacity = {name: int(among[name].count_nonzero()) for name in among}
            chosen = {
                name: highest(wanted[name], share, among[name])
                for name, share in apportion(count, self._shares(dropped), capacity).items()
            }
        return sum(connectivity.create(name, where, "reconnection", self._criterion) for name, where in chosen.items())

    def _shares(self, dropped: Mapping[str, int]) -> dict[str, float]:
        """In which proportion the layers receive what is created."""
        if self.policy.distribution == "erk" and self.policy.mode != "set":
            connectivity = self.site.connectivity
            shapes = {name: tuple(weight.shape) for name, weight in connectivity.weights.items()}
            active = sum(connectivity.active.values()) + sum(dropped.values())
            densities = erk_densities(shapes, active / connectivity.size)
            return {
                name: max(0.0, densities[name] * weight.numel() - connectivity.active[name])
                for name, weight in connectivity.weights.items()
            }
        return {name: float(count) for name, count in dropped.items()}

    def _wanted(self) -> dict[str, Tensor]:
        if self._gradient is not None:
            return {name: gradient.abs() for name, gradient in self._gradient.mean().items()}
        return {
            name: torch.rand(weight.shape, generator=self.site.generator).to(weight.device)
            for name, weight in self.site.connectivity.weights.items()
        }
