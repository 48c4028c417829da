"""Results of trials as a worker would send them, made by hand: what the record and the figures are tested with."""

from __future__ import annotations

from collections.abc import Mapping

from search.result import Budget, Report, State, TrialRequest, TrialResult
from spaces.ledger import Event, Ledger
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy


def result(
    number: int,
    *,
    state: State = "complete",
    scores: Mapping[str, float] | None = None,
    profile: CompressionProfile | None = None,
    violation: float = -0.1,
    reason: str = "",
    cached: int | None = None,
) -> TrialResult:
    """A trial of two layers that pruned 60 of 100 connections and created 12, told in two of two reports."""
    scores = {"accuracy": 0.9, "plasticity": 0.2, "macs": 5e5} if scores is None else scores
    profile = profile or CompressionProfile.of(PruningPolicy(sparsity=0.5 + number / 1000))
    events = (
        Event(0, "conv.weight", "pruning", "magnitude", 0, 40),
        Event(1, "conv.weight", "pruning", "gradient", 12, 10),
        Event(1, "linear.weight", "pruning", "magnitude", 0, 10),
    )
    reports = tuple(Report(i, 2, {"accuracy": 0.4 * i}, {"quality/accuracy": 0.4 * i}) for i in (1, 2))
    layers = (
        {"layer": "conv.weight", "weights": 80, "active": 42, "sparsity": 0.475, "created": 12, "pruned": 50},
        {"layer": "linear.weight", "weights": 20, "active": 10, "sparsity": 0.5, "created": 0, "pruned": 10},
    )
    complete = state == "complete"
    return TrialResult(
        TrialRequest(number, f"{number:05d}-abc", profile, 0, Budget(1.0, 2)),
        state,
        scores=scores if state != "failed" else {},
        metrics={"quality/accuracy": 0.9, "plasticity/created": 12.0, "plasticity/pruned": 60.0} if complete else {},
        reports=reports if state != "failed" else (),
        ledger=Ledger(events, {"conv.weight": 80, "linear.weight": 20}),
        layers=layers if complete else (),
        constraints={"macs": violation} if complete else {},
        seconds=2.0,
        reason=reason,
        cached=cached,
    )
