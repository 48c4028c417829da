"""Which connections come back, or appear where none was: self-surgery (seed 11755603)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spaces.policy import Limits, Policy, When, periodic

#: Whatever is new across layers needs a radius.
_FAR = When("radius", (1, 2, 3, 4))


@dataclass(frozen=True, kw_only=True)
class ReconnectionPolicy(Policy):
    """Drop some connections in each cycle and create others in their place.

    Args:
        mode: ``gmp_regrow`` regrows beside gradual pruning (GraNet, Liu et al. 2021); ``rigl`` keeps a network that is
            sparse from the start and grows by gradient (Evci et al. 2020); ``set`` does so and grows at random
            (Mocanu et al. 2018).
        criterion: What makes an absent connection worth creating: ``gradient`` |dL/dw| averaged over a few batches;
            ``momentum`` the same averaged over the whole interval (SNFS, Dettmers and Zettlemoyer 2019);
            ``correlation`` |Pearson correlation| of the two units it would join; ``divergence`` edges go where the
            features of two layers are less alike (CKA) than layers at that distance usually are, and what is regrown
            within a layer goes by gradient; ``random``, the control.
        granularity: What is dropped and regrown within the layers: single ``weight``s or whole ``channel``s, which were
            only masked and come back with their producer's values.
        radius: The largest distance in layers that a new edge may span. 0: nothing new across layers.
        skips: How many new edges may stand at the same time.
        edge_granularity: What a new edge connects: ``weight`` the chosen pairs of units, ``channel`` each channel with
            its counterpart (or, where the channels differ, a whole projection), ``layer`` all with all.
        across: Share of what is regrown in a cycle that goes to edges, where they connect pairs of units.
        zeta: Share of the active connections (of the open channels) dropped in the first cycle; falls by a cosine to 0
            at `t_end`.
        interval: Share of the budget between two cycles.
        t_end: Share of the budget after which the connections stay as they are.
        regrow: Created per dropped connection, in [0, 1]. Never fewer than the pruning policy's final sparsity asks.
        distribution: Which layers the created connections go to: ``uniform`` each layer gets back its share of what it
            lost, ``erk`` towards Erdős-Rényi-kernel densities, ``global`` wherever the criterion is highest,
            ``redistribute`` in proportion to the mean |momentum| of the layer's active weights (SNFS).
        protect: For how many cycles a created connection is the last to be dropped or pruned: it starts at 0 and would
            otherwise go at once.
    """

    name: ClassVar[str] = "reconnection"

    mode: Annotated[str, CategoricalDistribution(("gmp_regrow", "rigl", "set"))] = "gmp_regrow"
    criterion: Annotated[
        str,
        CategoricalDistribution(("gradient", "momentum", "correlation", "divergence", "random")),
        When("mode", ("gmp_regrow",)),
    ] = "gradient"
    granularity: Annotated[str, CategoricalDistribution(("weight", "channel"))] = "weight"
    radius: Annotated[int, IntDistribution(0, 4), Limits(0, 4), When("mode", ("gmp_regrow",))] = 0
    skips: Annotated[int, IntDistribution(1, 4), Limits(1, 64), _FAR] = 2
    edge_granularity: Annotated[str, CategoricalDistribution(("weight", "channel", "layer")), _FAR] = "weight"
    across: Annotated[
        float,
        FloatDistribution(0.02, 0.3, log=True),
        Limits(0.0, 1.0),
        When("edge_granularity", ("weight",)),
        When("granularity", ("weight",)),
    ] = 0.1
    zeta: Annotated[float, FloatDistribution(0.1, 0.5), Limits(0.0, 0.9)] = 0.3
    interval: Annotated[float, FloatDistribution(0.01, 0.2, log=True), Limits(0.0001, 0.5)] = 0.05
    t_end: Annotated[float, FloatDistribution(0.5, 0.9), Limits(0.0, 1.0)] = 0.75
    regrow: Annotated[float, FloatDistribution(0.0, 1.0), Limits(0.0, 1.0), When("mode", ("gmp_regrow",))] = 1.0
    distribution: Annotated[
        str,
        CategoricalDistribution(("uniform", "erk", "global", "redistribute")),
        When("mode", ("gmp_regrow", "rigl")),
        When("granularity", ("weight",)),
    ] = "uniform"
    protect: Annotated[int, IntDistribution(0, 3), Limits(0, 10), When("granularity", ("weight",))] = 1

    def controls(self) -> Mapping[str, Policy]:
        """What comes back at random. What would come back by magnitude is what pruning keeps: see it without this."""
        return {"random": self.changed({"criterion": "random"} if self.mode == "gmp_regrow" else {"mode": "set"})}

    def decision_steps(self, steps: int) -> tuple[int, ...]:
        return periodic(steps, self.interval, self.t_end)

    def wanted_decisions(self) -> int:
        return 3

    def zeta_at(self, step: int, steps: int) -> float:
        """Share dropped at `step`: a cosine from `zeta` to 0 at `t_end` (RigL, equation 1)."""
        end = max(1.0, self.t_end * steps)
        return 0.0 if step > end else self.zeta / 2 * (1 + math.cos(math.pi * step / end))
