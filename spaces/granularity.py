"""How fine the numbers of each layer are, and what decides it (seed 12067492)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spaces.policy import Harsher, Limits, Policy, When, periodic, step_at

#: A policy that decides less often than this is refused.
DECISIONS = 3


@dataclass(frozen=True, kw_only=True)
class GranularityPolicy(Policy):
    """Give every layer, or group of its output channels, a precision of its own.

    A unit starts in float32 and is brought down the ladder of `levels` until the average over all units, each weighed
    by its share of the multiply-accumulates, is at most `bits`.

    Args:
        controller: What decides a unit's level: ``variance`` the variance of its input over its running mean, against
            two thresholds (the seed's rule, a heuristic); ``sqnr`` the bits that a wanted ratio of signal to
            quantization noise needs; ``learned`` a choice per unit that is trained with the weights (Gumbel
            straight-through, Jang et al. 2017).
        levels: The ladder, in bits from fine to coarse. 16 is a cast to `half`; 8 has a scale per output channel; 4 and
            2 are nested in the 8.
        half: The type of 16 bits.
        bits: The average to reach. Below the lowest level of the ladder it means that level everywhere.
        activations: What a unit of 8 bits or less does to its input: ``none`` leaves it, ``dynamic`` gives it 8 bits
            with a range per sample (per token), ``static`` 8 bits with the range that was seen in training.
        group: Output channels that share a level: the whole layer, or 128, 64 or 32 of them. The channels of a grouped
            convolution always share one.
        ends: Whether the first and the last layer stay at 8 bits or more (``eight``) or are like the others (``free``).
        penalty: Weight of the loss term: the sum over the units of cost share times expected bits.
        low: Quantile of the recent ratios below which a unit goes one level down.
        high: Quantile above which it goes one level up.
        hysteresis: Share by which a threshold must be passed before a unit moves.
        dwell: Decisions that a unit stays at a level at least.
        interval: Share of the budget between two decisions; a third of `settle` where that is shorter.
        settle: Share of the budget after which the levels stay.
        gate_rate: Learning rate of the learned choice, as a factor of the weights'.
        dynamic: Whether the finished network goes on choosing among its integer levels, from batch to batch.
    """

    name: ClassVar[str] = "granularity"

    controller: Annotated[str, CategoricalDistribution(("sqnr", "variance", "learned"))] = "sqnr"
    levels: Annotated[str, CategoricalDistribution(("16-8-4", "32-16-8-4", "32-8-4", "16-8-4-2", "8-4", "8-4-2"))] = (
        "16-8-4"
    )
    half: Annotated[
        str, CategoricalDistribution(("bf16", "fp16")), When("levels", ("16-8-4", "32-16-8-4", "16-8-4-2"))
    ] = "bf16"
    bits: Annotated[float, FloatDistribution(3.0, 8.0), Limits(2.0, 32.0), Harsher.DOWN] = 6.0
    activations: Annotated[str, CategoricalDistribution(("dynamic", "static", "none"))] = "dynamic"
    group: Annotated[str, CategoricalDistribution(("layer", "128", "64", "32"))] = "layer"
    ends: Annotated[str, CategoricalDistribution(("eight", "free"))] = "eight"
    penalty: Annotated[float, FloatDistribution(1e-4, 1.0, log=True), Limits(0.0, 100.0)] = 1e-3
    low: Annotated[float, FloatDistribution(0.05, 0.45), Limits(0.0, 0.5), When("controller", ("variance",))] = 0.2
    high: Annotated[float, FloatDistribution(0.55, 0.95), Limits(0.5, 1.0), When("controller", ("variance",))] = 0.8
    hysteresis: Annotated[
        float, FloatDistribution(0.02, 0.3), Limits(0.0, 1.0), When("controller", ("variance", "sqnr"))
    ] = 0.1
    dwell: Annotated[
        int, IntDistribution(1, 64, log=True), Limits(1, 10_000), When("controller", ("variance", "sqnr"))
    ] = 2
    interval: Annotated[float, FloatDistribution(0.01, 0.2, log=True), Limits(0.0001, 0.5)] = 0.03
    settle: Annotated[float, FloatDistribution(0.2, 0.7), Limits(0.0, 1.0)] = 0.4
    gate_rate: Annotated[
        float, FloatDistribution(1.0, 30.0, log=True), Limits(1e-3, 1e3), When("controller", ("learned",))
    ] = 5.0
    dynamic: Annotated[bool, CategoricalDistribution((False, True)), When("controller", ("variance",))] = False

    @property
    def ladder(self) -> tuple[int, ...]:
        """The levels in bits, from fine to coarse."""
        return tuple(int(level) for level in self.levels.split("-"))

    def decision_steps(self, steps: int) -> tuple[int, ...]:
        """The steps after which levels are decided; the last is at `settle` of the budget."""
        last = step_at(self.settle, steps)
        interval = min(self.interval, self.settle / DECISIONS)
        before = periodic(steps, interval, self.settle) if interval > 0 else ()
        return tuple(sorted({*(s for s in before if s < last), last}))

    def wanted_decisions(self) -> int:
        return DECISIONS

    def budget_at(self, decision: int, of: int) -> float:
        """The average bits allowed after a decision: from the ladder's top to `bits`, geometrically.

        Args:
            decision: Which one it is, from 0.
            of: How many there are; after the last the allowance is `bits`.
        """
        top = max(float(self.ladder[0]), self.bits)
        return float(top * (self.bits / top) ** ((decision + 1) / of))
