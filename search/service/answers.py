"""What the service answers, as its OpenAPI schema says it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Scores = dict[str, float | None]


class Answer(BaseModel):
    """More may be added to any answer."""

    model_config = ConfigDict(extra="allow")


class Trouble(BaseModel):
    """Why it was not done: the rule, the value and the remedy, on one line."""

    error: str


class Health(BaseModel):
    status: str = Field(examples=["ok"])


class TaskAnswer(Answer):
    """A task that can be launched, and what of it can be chosen."""

    task: str
    choices: dict[str, Any]


class MemberAnswer(Answer):
    """A member of the front."""

    trial: int
    scores: Scores


class BestAnswer(MemberAnswer):
    """A trial, its scores and its profile."""

    feasible: bool
    profile: dict[str, Any]


class StudyAnswer(Answer):
    """A study: where it is, how many trials are decided, the best and the front."""

    study: str
    state: str = Field(examples=["starting", "refused", "running", "complete", "stopped", "interrupted"])
    reason: str
    trials: dict[str, int]
    baseline: Scores
    best: BestAnswer | None
    front: list[MemberAnswer]
    hypervolume: float | None
    seconds: float


class LaunchAnswer(BaseModel):
    """What was begun, and where to follow it."""

    study: str
    state: str
    follow: str


class StopAnswer(BaseModel):
    study: str
    stopping: str


class FrontAnswer(BaseModel):
    study: str
    state: str
    front: list[MemberAnswer]


class ChoiceAnswer(BaseModel):
    study: str
    state: str
    best: BestAnswer | None


class ResumeAsked(BaseModel):
    """How far to go on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    trials: int | None = Field(default=None, ge=1, le=10**9, description="In all; left out, as many as before.")
