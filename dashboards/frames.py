"""What every figure and page is made from: tables of one study, read afresh whenever they are asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import pandas as pd

Direction = Literal["maximize", "minimize"]

#: Columns that a table has even when no trial is decided yet.
TRIAL_COLUMNS = ("number", "state", "feasible", "front", "seconds", "epochs", "cached", "reason", "profile")
SERIES_COLUMNS = ("number", "iteration", "metric", "value")
LAYER_COLUMNS = ("number", "layer", "weights", "active", "created", "pruned")
EVENT_COLUMNS = ("number", "iteration", "layer", "policy", "reason", "created", "pruned")


@dataclass(frozen=True)
class Frames:
    """One study as tables.

    Args:
        study: Its name.
        directions: The objectives in the study file's order, and which way is better.
        baseline: Objectives of the network before compression.
        constraints: As the study file has them, e.g. ``{"macs": "<= 0.6 * baseline"}``.
        bounds: What they come to: the largest or smallest value allowed, by objective.
        trials: One row per decided trial: `TRIAL_COLUMNS`, one column per objective (``accuracy``), one per searched
            or fixed knob (``pruning.sparsity``; missing where it does not act), one per constraint
            (``violation.macs``). ``cached`` is the number of the trial it repeats, or missing.
        series: One row per trial, iteration and metric.
        layers: One row per trial and layer: `LAYER_COLUMNS` and whatever else a policy reports per layer.
        events: One row per entry of a trial's ledger.
    """

    study: str
    directions: Mapping[str, Direction]
    baseline: Mapping[str, float] = field(default_factory=dict)
    constraints: Mapping[str, str] = field(default_factory=dict)
    bounds: Mapping[str, float] = field(default_factory=dict)
    trials: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(TRIAL_COLUMNS)))
    series: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(SERIES_COLUMNS)))
    layers: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(LAYER_COLUMNS)))
    events: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(EVENT_COLUMNS)))

    def knobs(self) -> list[str]:
        """The knob columns of `trials`."""
        return [name for name in self.trials.columns if "." in name and not name.startswith("violation.")]

    def complete(self) -> pd.DataFrame:
        """The rows of `trials` at full budget."""
        return self.trials[self.trials["state"] == "complete"]
