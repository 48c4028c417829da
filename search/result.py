"""What travels between the driver and the workers: small, frozen, JSON. Networks and arrays never do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from search.resources import ResourceBudget
from spaces import reading
from spaces.errors import shown
from spaces.ledger import Ledger
from spaces.profile import CompressionProfile

State = Literal["complete", "pruned", "failed"]


@dataclass(frozen=True)
class TaskReference:
    """Where a task comes from.

    Args:
        target: A short name (``digits``), ``pkg.module:Name`` or ``file.py:Name``.
        args: Keyword arguments of the class or function, JSON-able.
        source: The text of ``file.py`` where the target is one, shipped to workers that cannot read the file.
    """

    target: str
    args: Mapping[str, Any] = field(default_factory=dict)
    source: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return {"target": self.target, "args": dict(self.args), "source": self.source}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TaskReference:
        return cls(data["target"], dict(data["args"]), data["source"])


@dataclass(frozen=True)
class Budget:
    """How long one trial trains.

    Args:
        epochs: Passes over the training split, > 0, fractions allowed.
        iterations: Into how many parts the training is cut; after each comes a report and a checkpoint.
        precision: ``fp32`` or ``bf16`` for the training's forward passes; None leaves it to the task's recipe.
        limits: How much of the machine may be in use meanwhile; None where it does not matter.
    """

    epochs: float = 1.0
    iterations: int = 6
    precision: str | None = None
    limits: ResourceBudget | None = None


@dataclass(frozen=True)
class TrialRequest:
    """One trial to run.

    Args:
        number: Its number in the study, from 0.
        key: Stable across interruptions: a trial that was cut off is taken up again under the same key.
        profile: What to do.
        seed: The study's training seed, the same for every trial.
        budget: How long to train.
    """

    number: int
    key: str
    profile: CompressionProfile
    seed: int
    budget: Budget

    def to_dict(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "key": self.key,
            "profile": self.profile.to_dict(),
            "seed": self.seed,
            "budget": asdict(self.budget),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialRequest:
        data = reading.table(data, "request")
        budget = reading.table(data["budget"], "budget")
        precision, limits = budget.get("precision"), budget.get("limits")
        return cls(
            number=reading.whole(data["number"], "number"),
            key=reading.text(data["key"], "key"),
            profile=CompressionProfile.from_dict(data["profile"]),
            seed=reading.whole(data["seed"], "seed"),
            budget=Budget(
                reading.number(budget["epochs"], "epochs"),
                reading.count(budget["iterations"], "iterations"),
                None if precision is None else reading.text(precision, "precision"),
                None if limits is None else ResourceBudget.from_dict(limits),
            ),
        )


@dataclass(frozen=True)
class Report:
    """What a trial says after each iteration.

    Args:
        iteration: From 1; `of` is the last.
        of: How many iterations the trial has.
        scores: The objectives as if the trial ended in its profile's end state now: what early stopping compares.
        metrics: Everything worth a curve, by MLflow name (``quality/accuracy``, ``plasticity/ratio`` ...).
    """

    iteration: int
    of: int
    scores: Mapping[str, float]
    metrics: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {"iteration": self.iteration, "of": self.of, "scores": dict(self.scores), "metrics": dict(self.metrics)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Report:
        data = reading.table(data, "a report")
        return cls(
            reading.count(data["iteration"], "iteration"),
            reading.count(data["of"], "of"),
            reading.numbers(data["scores"], "scores"),
            reading.numbers(data["metrics"], "metrics"),
        )


@dataclass(frozen=True)
class TrialResult:
    """One decided trial, as written to ``results/<number>.json``.

    Args:
        request: What was asked.
        state: ``complete`` at full budget, ``pruned`` where the scheduler stopped it, ``failed`` by its own fault.
        scores: The objectives; of a complete trial the final ones, of a stopped one the last report's; {} if failed.
        metrics: All final metrics by MLflow name.
        reports: The series, one per iteration.
        ledger: What was switched on and off.
        layers: One row per layer: ``{"layer": name, "weights": n, "active": n, "created": n, "pruned": n, ...}``.
        constraints: Violation per constraint, <= 0 where it is met.
        seconds: Wall time of the trial in its worker.
        reason: Why it failed or was stopped, one line; "" for a complete one.
        cached: The number of the trial whose result this repeats, or None.
    """

    request: TrialRequest
    state: State
    scores: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    reports: tuple[Report, ...] = ()
    ledger: Ledger = field(default_factory=Ledger)
    layers: tuple[Mapping[str, Any], ...] = ()
    constraints: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    reason: str = ""
    cached: int | None = None

    @property
    def number(self) -> int:
        """The trial's number in the study."""
        return self.request.number

    @property
    def feasible(self) -> bool:
        """Whether the trial is complete and meets every constraint."""
        return self.state == "complete" and all(violation <= 0 for violation in self.constraints.values())

    def failed(self, reason: str) -> TrialResult:
        """The same trial, failed for a reason."""
        return replace(self, state="failed", scores={}, reason=" ".join(reason.split()))

    def to_dict(self) -> dict[str, Any]:
        return {
            "request": self.request.to_dict(),
            "state": self.state,
            "scores": dict(self.scores),
            "metrics": {name: value for name, value in self.metrics.items() if math.isfinite(value)},
            "reports": [report.to_dict() for report in self.reports],
            "ledger": self.ledger.to_dict(),
            "layers": [dict(row) for row in self.layers],
            "constraints": dict(self.constraints),
            "seconds": self.seconds,
            "reason": self.reason,
            "cached": self.cached,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TrialResult:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ValueError: If it is something else.
            KeyError: If something is missing.
        """
        data = reading.table(data, "a result")
        if data["state"] not in get_args(State):
            raise ValueError(f"state must be one of {', '.join(get_args(State))}, but is {shown(data['state'])}")
        layers = [reading.table(row, "a layer") for row in reading.rows(data["layers"], "layers")]
        return cls(
            request=TrialRequest.from_dict(data["request"]),
            state=data["state"],
            scores=reading.numbers(data["scores"], "scores"),
            metrics=reading.numbers(data["metrics"], "metrics"),
            reports=tuple(Report.from_dict(report) for report in reading.rows(data["reports"], "reports")),
            ledger=Ledger.from_dict(data["ledger"]),
            layers=tuple(dict(row) for row in layers),
            constraints=reading.numbers(data["constraints"], "constraints"),
            seconds=reading.number(data["seconds"], "seconds"),
            reason=reading.text(data["reason"], "reason"),
            cached=None if data["cached"] is None else reading.whole(data["cached"], "cached"),
        )
