"""How the network is trained while it is cut and rewoven: the same knobs for every contender."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from optuna.distributions import CategoricalDistribution, FloatDistribution

from spaces.policy import Limits, Policy


@dataclass(frozen=True, kw_only=True)
class FinetuningPolicy(Policy):
    """Constants of the training loop that a study may search; where the policy is off, the task's recipe holds.

    Args:
        learning_rate: The highest rate; it falls linearly to 0 over the budget.
        distillation: Weight of the loss against the unpruned network's outputs, in [0, 1]; the task's loss has the
            rest (Hinton et al. 2015).
        temperature: Of the distillation.
        adaptive: Start lower where the profile removes little (Zimmer et al. 2023, ALLR).
    """

    name: ClassVar[str] = "finetuning"

    learning_rate: Annotated[float, FloatDistribution(0.005, 0.1, log=True), Limits(1e-6, 10.0)] = 0.02
    distillation: Annotated[float, FloatDistribution(0.0, 0.9), Limits(0.0, 1.0)] = 0.0
    temperature: Annotated[float, FloatDistribution(1.0, 6.0), Limits(0.1, 100.0)] = 2.0
    adaptive: Annotated[bool, CategoricalDistribution((False, True))] = False
