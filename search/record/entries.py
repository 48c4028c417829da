"""What is written of one trial: its parameters, curves, tags and files, under MLflow's names and alphabet."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

import pandas as pd

from objectives.objective import OBJECTIVES
from search.result import TrialResult
from spaces.policy import Value

#: One point of a curve: name, step, value, milliseconds since 1970.
Point = tuple[str, int, float, int]


def tags_of(result: TrialResult) -> dict[str, str]:
    """What a trial was, and what came of it."""
    budget = result.request.budget
    labels = texts(
        {
            "trial.number": result.number,
            "trial.state": result.state,
            "feasible": result.feasible,
            "budget": f"{budget.epochs:g} epochs",
            "profile.hash": result.request.profile.fingerprint(),
            "cached": result.cached is not None,
        }
    )
    if result.cached is not None:
        labels["cached.from"] = str(result.cached)
    if result.reason:
        labels["reason"] = result.reason
        labels["mlflow.note.content"] = result.reason
    return labels


def metric_name(objective: str) -> str:
    """The MLflow name of an objective; a task's own metrics are quality figures."""
    if objective in OBJECTIVES:
        return OBJECTIVES[objective].metric
    return "size/weights" if objective == "weights" else f"quality/{objective}"


def param_name(knob: str) -> str:
    """A knob's name within MLflow's alphabet: ``pruning.sparsity@layer3.*`` -> ``pruning.sparsity at layer3.all``."""
    plain = knob.replace("@", " at ").replace("*", "all")
    return "".join(c if c.isalnum() or c in "_.- " else f"-{ord(c):x}" for c in plain)


def params_of(values: Mapping[str, Value]) -> dict[str, str]:
    """Knobs as MLflow's parameters."""
    return {param_name(name): text for name, text in texts(values).items()}


def points_of(result: TrialResult, start: int) -> list[Point]:
    """The curves, one step per iteration, the last step being the final figures; ``final/`` at full budget only."""
    seconds = 1000 * result.seconds
    values: dict[tuple[str, int], float] = {}
    last = result.reports[-1].iteration if result.reports else result.request.budget.iterations
    for report in result.reports:
        values |= {(name, report.iteration): value for name, value in report.metrics.items()}
    values |= {(name, last): value for name, value in result.metrics.items()}
    if result.state == "complete":
        values |= {(f"final/{name}", last): value for name, value in result.scores.items()}
        values[("final/seconds", last)] = result.seconds
    return [
        (name, step, value, start + round(seconds * step / last))
        for (name, step), value in values.items()
        if math.isfinite(value)
    ]


def files_of(result: TrialResult) -> dict[str, str]:
    """The texts that are kept with a trial, by name."""
    kept = {
        "profile.json": result.request.profile.to_json(),
        "ledger.json": json.dumps(result.ledger.to_dict()),
    }
    if result.layers:
        kept["layers.csv"] = pd.DataFrame(list(result.layers)).to_csv(index=False)
    return kept


def texts(values: Mapping[str, object]) -> dict[str, str]:
    """Values as MLflow writes them: booleans in small letters, floats without noise."""
    return {name: _text(value) for name, value in values.items()}


def _text(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return repr(value) if isinstance(value, float) else str(value)
