"""Which connections are switched off, how many, and when."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Self

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spaces.policy import Harsher, Limits, PerLayer, Policy, When, periodic, step_at


@dataclass(frozen=True, kw_only=True)
class PruningPolicy(Policy):
    """Switch off the connections that matter least.

    Args:
        criterion: What a connection is worth: ``magnitude`` |w|; ``gradient`` |w * dL/dw| (SNIP, Lee et al. 2019;
            Taylor, Molchanov et al. 2019); ``movement`` the sum of -w * dL/dw over the steps (Sanh et al. 2020);
            ``activation`` |w| * ||x||_2 of the input it multiplies (Wanda, Sun et al. 2023); ``random``, the control.
        granularity: ``weight`` single weights, ``nm`` N of every M along the input, ``channel`` whole channels with
            everything that depends on them.
        pattern: The N:M pattern: N weights stay of every M.
        allocation: How the sparsity is spread: ``uniform`` the same share everywhere, ``erk`` Erdős-Rényi-kernel
            (Evci et al. 2020), ``global`` one ranking over all layers.
        schedule: ``oneshot`` at the first step; ``gradual`` s_t = s (1 - (1 - t/T)^3) every `interval` (Zhu and Gupta
            2017); ``iterative`` in `rounds` equal cuts of what is left. Modes ``rigl`` and ``set`` of the reconnection
            policy need a network that is sparse from the start, and so fix it to ``oneshot``.
        sparsity: Share of the governed weights (of the channels, where whole channels go) that is off at the end.
        last_prune: Share of the budget that is spent when the last cut falls.
        interval: Share of the budget between two cuts of the gradual schedule.
        rounds: Number of cuts of the iterative schedule.
        align: Where whole channels go, what stays of each layer is a multiple of it: devices compute so many at a time.
            The share is met to half a multiple. A group that is no wider than the multiple stays whole unless the
            others cannot give enough, and then loses single channels. Reconnection keeps to it.
        merge: Whether a channel that goes is merged into the nearest that stays: what its consumers read of it is added
            to what they read of the other, scaled by the likeness of the two filters.
        exclude: Layers left alone: the first, the last, both or none.
    """

    name: ClassVar[str] = "pruning"

    criterion: Annotated[
        str, CategoricalDistribution(("magnitude", "gradient", "movement", "activation", "random"))
    ] = "magnitude"
    granularity: Annotated[str, CategoricalDistribution(("weight", "nm", "channel"))] = "weight"
    pattern: Annotated[str, CategoricalDistribution(("2:4", "1:4", "4:8", "2:8")), When("granularity", ("nm",))] = "2:4"
    allocation: Annotated[
        str, CategoricalDistribution(("global", "uniform", "erk")), When("granularity", ("weight", "channel"))
    ] = "global"
    schedule: Annotated[
        str,
        CategoricalDistribution(("gradual", "oneshot", "iterative")),
        When("reconnection.mode", ("gmp_regrow",)),
    ] = "gradual"
    sparsity: Annotated[
        float,
        FloatDistribution(0.3, 0.98),
        Limits(0.0, 0.9999),
        Harsher.UP,
        PerLayer.YES,
        When("granularity", ("weight", "channel")),
    ] = 0.8
    last_prune: Annotated[
        float, FloatDistribution(0.5, 0.9), Limits(0.0, 1.0), When("schedule", ("gradual", "iterative"))
    ] = 0.7
    interval: Annotated[
        float, FloatDistribution(0.01, 0.2, log=True), Limits(0.0001, 0.5), When("schedule", ("gradual",))
    ] = 0.03
    rounds: Annotated[int, IntDistribution(3, 6), Limits(1, 100), When("schedule", ("iterative",))] = 3
    align: Annotated[int, CategoricalDistribution((1, 4, 8, 16)), When("granularity", ("channel",))] = 1
    merge: Annotated[bool, CategoricalDistribution((False, True)), When("granularity", ("channel",))] = False
    exclude: Annotated[str, CategoricalDistribution(("none", "first", "last", "both"))] = "none"

    def controls(self) -> Mapping[str, Policy]:
        return {criterion: self.changed({"criterion": criterion}) for criterion in ("random", "magnitude")}

    def within(self, profile: Mapping[str, Policy]) -> Self:
        if self.acts("schedule", profile):
            return self
        defaults: dict[str, Any] = {name: self.knob(name).default for name in ("last_prune", "interval", "rounds")}
        return replace(self, schedule="oneshot", **defaults)

    def decision_steps(self, steps: int) -> tuple[int, ...]:
        """The steps at which a cut falls; the last one is `last_prune` of the budget."""
        if self.schedule == "oneshot":
            return (0,)
        last = step_at(self.last_prune, steps)
        if self.schedule == "iterative":
            return tuple(sorted({last - round(last * i / max(1, self.rounds - 1)) for i in range(self.rounds)}))
        return tuple(sorted({*periodic(steps, self.interval, self.last_prune), last}))

    def wanted_decisions(self) -> int:
        return {"oneshot": 1, "iterative": min(3, self.rounds), "gradual": 3}[self.schedule]

    def sparsity_at(self, decision: int, of: int) -> float:
        """The sparsity due at a cut, as a share of the final sparsity's scale.

        Args:
            decision: Which cut it is, from 0.
            of: How many there are.

        Returns:
            The share of the way to the final sparsity, in (0, 1]; 1 at the last cut.
        """
        progress = (decision + 1) / of
        if self.schedule != "iterative":
            return 1 - (1 - progress) ** 3
        if progress == 1 or self.sparsity == 0:
            return progress
        # (1 - (1 - s)^p) / s, written so that it neither loses digits for a small s nor falls below its limit p.
        return max(progress, -math.expm1(progress * math.log1p(-self.sparsity)) / self.sparsity)
