"""Reconnection at work: in each cycle, drop the weakest connections and create others where they are wanted most."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from search.surgery.channel_regrowth import ChannelRegrowth
from search.surgery.edge_growth import EdgeGrowth
from search.surgery.mechanism import Clock, Mechanism, Receipt
from search.surgery.pruning import Pruning
from search.surgery.site import Site
from search.surgery.weight_regrowth import WeightRegrowth
from spaces.reconnection import ReconnectionPolicy


class Reconnection(Mechanism):
    """Carries out a :class:`ReconnectionPolicy`: within the layers by weight or by channel, across them by edges.

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
        self._weights: WeightRegrowth | None = None
        self._channels: ChannelRegrowth | None = None
        if self.policy.granularity == "weight":
            self._weights = WeightRegrowth(self.policy, self._criterion, site, self._decisions, self.pruning)
        else:
            self._channels = ChannelRegrowth(self.policy, self._criterion, site, self.pruning)
        self._edges = EdgeGrowth(self.policy, self._criterion, site) if self.policy.radius > 0 else None

    def before_forward(self, clock: Clock) -> None:
        if self._weights is not None:
            self._weights.before_forward(clock.step)

    def after_backward(self, clock: Clock) -> None:
        if self._weights is not None:
            self._weights.after_backward(clock.step)
        if clock.step not in self._decisions:
            return
        self._cycles += 1
        zeta = self.policy.zeta_at(clock.step, clock.steps)
        if self._channels is not None:
            self._channels.cycle(zeta, clock.step)
            if self._edges is not None:
                self._edges.cycle(clock.step, budget=0)
        elif self._weights is not None:
            self._weights.cycle(zeta, clock.step, self._edges)

    def finish(self) -> Receipt:
        receipt = {"decisions": float(self._cycles)}
        if self._weights is not None:
            receipt["unobserved"] = float(self._weights.let_go())
        if self._edges is not None:
            receipt |= self._edges.finish()
        return receipt

    def structure(self) -> object:
        return self._edges.structure() if self._edges is not None else None

    def rebuild(self, structure: object) -> None:
        if self._edges is not None:
            self._edges.rebuild(structure)

    def state(self) -> dict[str, Tensor]:
        state = {"cycles": torch.tensor(self._cycles)}
        if self._weights is not None:
            state |= {f"weights/{name}": value for name, value in self._weights.state().items()}
        return state

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self._cycles = int(state["cycles"])
        if self._weights is not None:
            self._weights.load_state({k.removeprefix("weights/"): v for k, v in state.items() if k != "cycles"})
