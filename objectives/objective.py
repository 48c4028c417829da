"""The closed list of objectives: what a study may optimise or constrain, beside a task's own metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from objectives.accuracy import accuracy
from objectives.cost import bops, macs
from objectives.outcome import Outcome
from objectives.plasticity import plasticity
from objectives.size import parameters, size_bytes, sparsity

Direction = Literal["maximize", "minimize"]


@dataclass(frozen=True)
class Objective:
    """One figure of merit.

    Args:
        name: As study files and constraints write it.
        direction: Which way is better.
        metric: Its name in MLflow.
        measure: How it is computed from a finished trial.
    """

    name: str
    direction: Direction
    metric: str
    measure: Callable[[Outcome], float]


OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("accuracy", "maximize", "quality/accuracy", accuracy),
        Objective("plasticity", "maximize", "plasticity/objective", plasticity),
        Objective("macs", "minimize", "compute/macs", macs),
        Objective("bops", "minimize", "compute/bops", bops),
        Objective("parameters", "minimize", "size/parameters", parameters),
        Objective("size_bytes", "minimize", "size/bytes", size_bytes),
        Objective("sparsity", "maximize", "size/sparsity", sparsity),
    )
}
