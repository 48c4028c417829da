"""Which connections resonate: connectivity by the frequencies of the gradients (seed 11468313)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spaces.policy import Harsher, Limits, Policy, step_at

#: The history takes at most this share of the budget, or nothing would be left to decide in.
HISTORY_SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class ResonancePolicy(Policy):
    """Disable connections whose gradients oscillate below a threshold that itself rises and falls in waves.

    The threshold T_t = base + A_t (1 + wave) / 2 is a quantile of each layer's frequencies; a controller moves the
    amplitude A_t, in [0, 1 - base], so that the sparsity reaches its target.

    Args:
        criterion: How connections are chosen: by ``resonance``; ``magnitude`` and ``random`` are its controls: they
            switch as many connections, in the same layers and at the same decisions, but choose them by |w| or by lot.
        sparsity: Share of the governed weights that is off at the end; met exactly.
        estimator: ``fft`` takes the strongest frequency of the gradient's history; ``lag1`` arccos(rho) / 2 pi of its
            lag-1 autocorrelation, which needs no history.
        history: Entries of the history, N (for ``lag1``, the horizon of the running means).
        average: Gradients per entry, s: at most that, and fewer where N * s would exceed a quarter of the budget.
        every: Share of the budget between two decisions.
        t_end: Share of the budget after which the connections stay as they are.
        significance: A peak counts if Fisher's g finds it at this level, ``off`` counts all. Connections without one
            are ranked by magnitude.
        keep: Which frequencies are kept: ``high`` as in the seed, ``low``, or the ``band`` around the median.
        wave: ``sine``, ``triangle`` or ``saw``.
        bits: The wave takes 2^bits - 1 levels: more bits, finer control, and a longer period.
        stretch: Decisions per level: the period is stretch * (2^bits - 1) decisions.
        base: The threshold's lowest value, a quantile.
        kp: The controller's proportional gain.
        ki: The controller's integral gain.
        cooling: A connection is disabled after so many decisions below the threshold, and comes back after so many at
            the earliest.
        hysteresis: How far above the wave's crest a connection must lie to come back, as a share of what is above.
        resume: What a connection comes back with: the value that it had (``stored``: this changes outputs) or ``zero``.
        exclude: Layers left alone: the first, the last, both or none.
    """

    name: ClassVar[str] = "resonance"

    criterion: Annotated[str, CategoricalDistribution(("resonance", "magnitude", "random"))] = "resonance"
    sparsity: Annotated[float, FloatDistribution(0.5, 0.98), Limits(0.0, 0.9999), Harsher.UP] = 0.8
    estimator: Annotated[str, CategoricalDistribution(("fft", "lag1"))] = "fft"
    history: Annotated[int, CategoricalDistribution((16, 32, 64))] = 32
    average: Annotated[int, CategoricalDistribution((1, 2, 4, 8))] = 2
    every: Annotated[float, FloatDistribution(0.01, 0.1, log=True), Limits(0.0001, 0.5)] = 0.02
    t_end: Annotated[float, FloatDistribution(0.6, 0.9), Limits(0.0, 1.0)] = 0.75
    significance: Annotated[str, CategoricalDistribution(("0.05", "0.01", "off"))] = "0.01"
    keep: Annotated[str, CategoricalDistribution(("high", "low", "band"))] = "high"
    wave: Annotated[str, CategoricalDistribution(("sine", "triangle", "saw"))] = "sine"
    bits: Annotated[int, IntDistribution(2, 6), Limits(1, 16)] = 3
    stretch: Annotated[float, FloatDistribution(0.125, 2.0, log=True), Limits(0.001, 1000.0)] = 1.0
    base: Annotated[float, FloatDistribution(0.0, 0.5), Limits(0.0, 0.99)] = 0.25
    kp: Annotated[float, FloatDistribution(0.0, 1.0), Limits(0.0, 10.0)] = 0.2
    ki: Annotated[float, FloatDistribution(1e-3, 0.3, log=True), Limits(0.0, 10.0)] = 0.15
    cooling: Annotated[int, IntDistribution(1, 8), Limits(1, 100)] = 2
    hysteresis: Annotated[float, FloatDistribution(0.0, 0.1), Limits(0.0, 1.0)] = 0.05
    resume: Annotated[str, CategoricalDistribution(("zero", "stored"))] = "zero"
    exclude: Annotated[str, CategoricalDistribution(("none", "first", "last", "both"))] = "none"

    @property
    def period(self) -> int:
        """Decisions in one wave."""
        levels: int = 2**self.bits - 1
        return max(1, round(self.stretch * levels))

    def averaged(self, steps: int) -> int:
        """Gradients per entry in a budget of `steps`; 0 where the history does not fit at all."""
        return min(self.average, int(HISTORY_SHARE * steps) // self.history)

    def decision_steps(self, steps: int) -> tuple[int, ...]:
        """The first decision falls when the history is full, the last at `t_end`; the last alone where it never is."""
        last = step_at(self.t_end, steps)
        first = self.history * self.averaged(steps) - 1
        if steps <= 0:
            return ()
        if first < 0 or first > last:
            return (last,)
        return tuple(sorted({*range(first, last, max(1, round(self.every * steps))), last}))

    def controls(self) -> Mapping[str, Policy]:
        """As many connections switched at the same decisions, but chosen by lot or by magnitude."""
        return {criterion: replace(self, criterion=criterion) for criterion in ("random", "magnitude")}

    def wanted_decisions(self) -> int:
        return 3
