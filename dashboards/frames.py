"""What every figure and page is made from: tables of one study, read afresh whenever they are asked for."""

from __future__ import annotations

import hashlib
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
PLACE_COLUMNS = ("number", "iteration", "place", "value")


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
        series: One row per trial, iteration and metric, the last iteration's being the final figures. A metric of a
            place in the network has three parts: ``routing/use/layer1.0`` is the `use` of the block ``layer1.0``.
        layers: One row per trial and layer: `LAYER_COLUMNS` and whatever else a policy reports per layer.
        events: One row per entry of a trial's ledger.
        task: The task's name.
        phase: Where the study is: ``new``, ``running``, ``complete``, ``stopped`` or ``interrupted``.
        reason: Why it is there, one line, or "".
        wanted: How many trials it is to have.
        seconds: Wall time of all its runs.
        best: The number of its best trial, or None where none is complete.
        importances: How much each knob decides, >= 0; {} where too little is known.
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
    task: str = ""
    phase: str = "complete"
    reason: str = ""
    wanted: int = 0
    seconds: float = 0.0
    best: int | None = None
    importances: Mapping[str, float] = field(default_factory=dict)

    def knobs(self) -> list[str]:
        """The knob columns of `trials`."""
        return [name for name in self.trials.columns if "." in name and not name.startswith("violation.")]

    def searched(self) -> list[str]:
        """The knobs that differ between trials; the others say nothing about a point."""
        return [name for name in self.knobs() if self.trials[name].nunique(dropna=False) > 1]

    def complete(self) -> pd.DataFrame:
        """The rows of `trials` at full budget."""
        return self.trials[self.trials["state"] == "complete"]

    def feasible(self) -> pd.DataFrame:
        """The complete rows of `trials` that meet every constraint."""
        complete = self.complete()
        return complete[complete["feasible"].astype(bool)]

    def front(self) -> list[int]:
        """The numbers of the trials on the front."""
        return [int(number) for number in self.trials[self.trials["front"].astype(bool)]["number"]]

    def trial(self, number: int | None) -> pd.Series | None:
        """The row of one trial, or None where it is not decided."""
        rows = self.trials[self.trials["number"] == number]
        return None if rows.empty else rows.iloc[0]

    def curve(self, number: int, metric: str) -> pd.DataFrame:
        """``iteration`` and ``value`` of one metric of one trial, in order."""
        rows = self.series[(self.series["number"] == number) & (self.series["metric"] == metric)]
        return rows[["iteration", "value"]].sort_values("iteration")

    def places(self, quantity: str) -> pd.DataFrame:
        """A quantity of places in the network: `PLACE_COLUMNS`.

        Args:
            quantity: The first two parts of the metrics' names, e.g. ``routing/use``.
        """
        metrics = self.series["metric"].astype(str)
        rows = self.series[metrics.str.startswith(f"{quantity}/")]
        places = rows["metric"].astype(str).str.removeprefix(f"{quantity}/")
        return rows.assign(place=places)[list(PLACE_COLUMNS)]

    def version(self) -> str:
        """Differs where two readings of the study differ in anything that a page shows."""
        states = self.trials["state"].value_counts().sort_index().to_dict()
        parts = (self.phase, self.reason, self.wanted, states, self.front(), self.best, dict(self.constraints))
        known = repr((*parts, sorted(self.importances.items()), round(self.seconds)))
        return hashlib.sha256(known.encode()).hexdigest()
