"""From the result files of a study to the tables that figures and pages are made from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from dashboards.frames import (
    EVENT_COLUMNS,
    LAYER_COLUMNS,
    SERIES_COLUMNS,
    TRIAL_COLUMNS,
    Direction,
    Frames,
)
from search.result import TrialResult


def tabulate(
    results: Iterable[TrialResult],
    *,
    study: str,
    directions: Mapping[str, Direction],
    front: Iterable[int] = (),
    baseline: Mapping[str, float] | None = None,
    constraints: Mapping[str, str] | None = None,
    bounds: Mapping[str, float] | None = None,
    task: str = "",
    phase: str = "complete",
    reason: str = "",
    wanted: int = 0,
    seconds: float = 0.0,
    best: int | None = None,
) -> Frames:
    """The tables of a study.

    Args:
        results: Its decided trials, in any order.
        study: Its name.
        directions: Its objectives.
        front: The trials on its front.
        baseline: The objectives before compression.
        constraints: As the study file has them.
        bounds: What they come to.
        task: The task's name.
        phase: Where the study is.
        reason: Why, or "".
        wanted: How many trials it is to have.
        seconds: Wall time of all its runs.
        best: Its best trial.
    """
    ordered = sorted(results, key=lambda result: result.number)
    on_front = set(front)
    return Frames(
        study=study,
        directions=dict(directions),
        baseline=dict(baseline or {}),
        constraints=dict(constraints or {}),
        bounds=dict(bounds or {}),
        trials=_table((_trial(result, on_front) for result in ordered), (*TRIAL_COLUMNS, *directions)),
        series=_table((row for result in ordered for row in _series(result)), SERIES_COLUMNS),
        layers=_table(({"number": r.number, **layer} for r in ordered for layer in r.layers), LAYER_COLUMNS),
        events=_table((row for result in ordered for row in _events(result)), EVENT_COLUMNS),
        task=task,
        phase=phase,
        reason=reason,
        wanted=wanted,
        seconds=seconds,
        best=best,
    )


def _trial(result: TrialResult, front: set[int]) -> dict[str, Any]:
    request = result.request
    return {
        "number": result.number,
        "state": result.state,
        "feasible": result.feasible,
        "front": result.number in front,
        "seconds": result.seconds,
        "epochs": request.budget.epochs,
        "cached": result.cached,
        "reason": result.reason,
        "profile": request.profile.fingerprint(),
        **result.scores,
        **request.profile.parameters(),
        **{f"violation.{name}": value for name, value in result.constraints.items()},
    }


def _series(result: TrialResult) -> Iterable[dict[str, Any]]:
    """The curves; the final figures take the place of the last report's, as they do in MLflow."""
    values = {(report.iteration, name): value for report in result.reports for name, value in report.metrics.items()}
    last = result.reports[-1].iteration if result.reports else result.request.budget.iterations
    values |= {(last, name): value for name, value in result.metrics.items()}
    for (iteration, metric), value in values.items():
        yield {"number": result.number, "iteration": iteration, "metric": metric, "value": value}


def _events(result: TrialResult) -> Iterable[dict[str, Any]]:
    for event in result.ledger.events:
        yield {
            "number": result.number,
            "iteration": event.iteration,
            "layer": event.layer,
            "policy": event.policy,
            "reason": event.reason,
            "created": event.created,
            "pruned": event.pruned,
        }


def _table(rows: Iterable[Mapping[str, Any]], columns: tuple[str, ...]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows))
    missing = [name for name in columns if name not in table.columns]
    for name in missing:
        table[name] = pd.Series(dtype="object")
    return table[[*columns, *(name for name in table.columns if name not in columns)]]
