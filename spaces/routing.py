"""Which blocks of a network an input may bypass: the choice is made anew for every sample (seed 10515312)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spaces.policy import Harsher, Limits, Policy, When, step_at

#: Shares of the budget at which gates that have turned static are settled.
SETTLES = (0.8, 0.9, 1.0)
#: A gate that runs for less than this share of the samples, or for all but this share, is static.
STATIC = 0.01
#: Decisions of a static choice.
REMOVALS = 4
_LEARNT = When("mode", ("hard", "soft"))
_BLOCKS = When("unit", ("block",), inert=True)


@dataclass(frozen=True, kw_only=True)
class RoutingPolicy(Policy):
    """Let every sample choose, block by block, whether to run the block or to take the bypass around it.

    A small gate reads what enters a block. It starts open, so nothing changes at first; training then learns which
    samples need the block while a penalty draws the expected cost down. Gates that turn static end as what they are: an
    open one vanishes, and a block that nobody runs is removed.

    Args:
        mode: How the choice is made: ``hard`` runs the block or does not and hands its gradient through as if it had
            been a probability (straight-through); ``soft`` blends both paths by a softmax, and either way inference
            decides for each sample. ``static`` chooses for everybody: blocks whose absence costs the loss least are
            removed. It is the control of the other two, and what a clock rewards most.
        unit: What is chosen: a whole ``block``, or which of the ``channel_group``s inside of a block run.
        groups: Channel groups per block.
        blocks: Blocks with a shortcut of their own (``residual``), or plain layers too (``all``), around which a skip
            connection is added (one weight per channel, or pooling and a 1x1 projection) that starts at zero.
        exclude: Blocks that always run: the first, the last, both or none.
        pooling: What a gate reads: the ``average`` over positions (the mean over tokens), or what a learned query
            attends to (``attention``).
        hidden: Units of the gate's hidden layer; 0: none.
        target_cost: Share of the network's multiply-accumulates that is to run, in expectation over samples.
        cost_weight: Weight of (expected cost - target)^2 in the loss.
        anneal: Share of the budget over which the target falls from 1 to `target_cost`, and the noise rises from 0;
            blocks that are removed for everybody go in as many steps as there are `REMOVALS`.
        bias: What an untrained gate says before the sigmoid: how far open gates start.
        tau_start: Temperature of the sigmoid at first.
        tau_end: And at the end; it falls geometrically.
        noise: Width of the logistic noise on a gate's value in training, at its highest.
        lr_factor: Learning rate of the gates, as a multiple of the network's.
        confidence: Weight of the gates' mean entropy per sample, in bits: few, confident paths are favoured.
        l1: Weight of the sum of |w| over added skip connections.
    """

    name: ClassVar[str] = "routing"

    mode: Annotated[str, CategoricalDistribution(("hard", "soft", "static"))] = "hard"
    unit: Annotated[str, CategoricalDistribution(("block", "channel_group")), _LEARNT] = "block"
    groups: Annotated[int, IntDistribution(2, 8), Limits(2, 8), When("unit", ("channel_group",))] = 4
    blocks: Annotated[str, CategoricalDistribution(("residual", "all")), _BLOCKS] = "all"
    exclude: Annotated[str, CategoricalDistribution(("none", "first", "last", "both"))] = "none"
    pooling: Annotated[str, CategoricalDistribution(("average", "attention")), _LEARNT] = "average"
    hidden: Annotated[int, CategoricalDistribution((0, 8, 16)), _LEARNT] = 8
    target_cost: Annotated[float, FloatDistribution(0.4, 0.95), Limits(0.0, 1.0), Harsher.DOWN] = 0.7
    cost_weight: Annotated[float, FloatDistribution(0.1, 20.0, log=True), Limits(0.0, 1000.0), _LEARNT] = 5.0
    anneal: Annotated[float, FloatDistribution(0.1, 0.5), Limits(0.0, 1.0)] = 0.3
    bias: Annotated[float, FloatDistribution(1.0, 4.0), Limits(0.1, 10.0), _LEARNT] = 2.0
    tau_start: Annotated[float, FloatDistribution(1.0, 4.0), Limits(0.05, 20.0), _LEARNT] = 2.0
    tau_end: Annotated[float, FloatDistribution(0.3, 1.0), Limits(0.05, 20.0), _LEARNT] = 0.6
    noise: Annotated[float, FloatDistribution(0.0, 1.0), Limits(0.0, 10.0), When("mode", ("hard",))] = 0.3
    lr_factor: Annotated[float, FloatDistribution(1.0, 30.0, log=True), Limits(0.01, 1000.0), _LEARNT] = 10.0
    confidence: Annotated[float, FloatDistribution(0.001, 0.1, log=True), Limits(0.0, 10.0), _LEARNT] = 0.01
    l1: Annotated[float, FloatDistribution(1e-5, 1e-2, log=True), Limits(0.0, 1.0), When("blocks", ("all",))] = 1e-4

    def decision_steps(self, steps: int) -> tuple[int, ...]:
        """The steps at which gates that turned static are settled, or blocks are removed."""
        shares: Iterable[float] = SETTLES
        if self.mode == "static":
            shares = (self.anneal * (i + 1) / REMOVALS for i in range(REMOVALS))
        return tuple(sorted({step_at(share, steps) for share in shares})) if steps > 0 else ()

    def wanted_decisions(self) -> int:
        return 3

    def controls(self) -> Mapping[str, Policy]:
        """The same work left, by removing blocks for everybody."""
        return {} if self.mode == "static" else {"static": self.changed({"mode": "static", "unit": "block"})}

    def target_at(self, step: int, steps: int) -> float:
        """The expected cost that is asked for at `step`: a line from 1 to `target_cost`."""
        return 1 - (1 - self.target_cost) * self.progress(step, steps)

    def progress(self, step: int, steps: int) -> float:
        """How much of the annealing is done at `step`, in [0, 1]."""
        end = self.anneal * steps
        return min(1.0, step / end) if end > 0 else 1.0

    def tau_at(self, step: int, steps: int) -> float:
        """The temperature at `step`."""
        share = step / max(1, steps - 1)
        return float(self.tau_start * (self.tau_end / self.tau_start) ** share)
