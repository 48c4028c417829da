"""The closed list of objectives: what a study may optimise or constrain, beside a task's own metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from objectives.accuracy import accuracy
from objectives.cost import bops, macs
from objectives.latency import latency_ms, throughput
from objectives.memory import peak_memory_bytes
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
        timed: Whether it needs a clock: measured only where a study mentions it.
    """

    name: str
    direction: Direction
    metric: str
    measure: Callable[[Outcome], float]
    timed: bool = False


OBJECTIVES: Mapping[str, Objective] = {
    objective.name: objective
    for objective in (
        Objective("accuracy", "maximize", "quality/accuracy", accuracy),
        Objective("plasticity", "maximize", "plasticity/objective", plasticity),
        Objective("macs", "minimize", "compute/macs", macs),
        Objective("bops", "minimize", "compute/bops", bops),
        Objective("parameters", "minimize", "size/parameters", parameters),
        Objective("size_bytes", "minimize", "size/bytes", size_bytes),
        Objective("peak_memory_bytes", "minimize", "size/peak_memory_bytes", peak_memory_bytes),
        Objective("sparsity", "maximize", "size/sparsity", sparsity),
        Objective("latency_ms", "minimize", "latency/p50_ms", latency_ms, timed=True),
        Objective("throughput", "maximize", "latency/throughput", throughput, timed=True),
    )
}


def known(outcome: Outcome) -> tuple[str, ...]:
    """The objectives that an outcome gives: all but those that need a clock and were not timed."""
    return tuple(name for name, o in OBJECTIVES.items() if not o.timed or name in outcome.measured)
