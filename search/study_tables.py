"""The tables of a study file: their keys, types and bounds, and how a broken rule is said in one line."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from objectives.objective import Direction
from search.database import checked, same_database
from search.home import STUDY_NAME
from spaces.errors import shown as quoted
from spaces.policy import nearest

#: The longest value that a message quotes.
LONGEST = 80
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
BYTES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}


def seconds(duration: str) -> float:
    """``"90m"`` in seconds.

    Raises:
        ValueError: If it is no number with a unit, or not positive.
    """
    return _amount(duration, SECONDS, "a duration", '"30s", "90m" or "4h"')


def size(memory: str) -> int:
    """``"2GiB"`` in bytes.

    Raises:
        ValueError: If it is no number with a unit, or not positive.
    """
    return int(_amount(memory, BYTES, "memory", '"2GiB" or "800MB"'))


def _amount(text: str, units: Mapping[str, int], what: str, examples: str) -> float:
    match = re.fullmatch(rf"(\d+(?:\.\d+)?)\s*({'|'.join(units)})", text.strip())
    if not match or float(match[1]) <= 0:
        raise ValueError(f"{what} must be a number and a unit, but is {text!r}: write {examples}")
    return float(match[1]) * units[match[2]]


class Table(BaseModel):
    """A table of the file: frozen, strict, and its unknown keys are errors that name the nearest known key."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _know_keys(cls, data: object) -> object:
        if not isinstance(data, Mapping):
            raise ValueError("it must be a table of keys, but is not: write it as [table] with key = value lines")
        for key in data:
            if key not in cls.model_fields:
                raise ValueError(f"there is no key {key!r}: {nearest(key, cls.model_fields)}")
        return data


class StudyTable(Table):
    """``[study]``: its name, how long it goes on, and who proposes."""

    name: str
    seed: int = Field(default=0, ge=0, lt=2**31)
    trials: int = Field(default=50, ge=1)
    time_limit: str | None = None
    sampler: Literal["tpe", "nsga2", "nsga3", "gp", "random", "grid"] = "tpe"
    stop_when: str | None = None

    @field_validator("name")
    @classmethod
    def _is_a_folder_name(cls, name: str) -> str:
        if not STUDY_NAME.fullmatch(name):
            raise ValueError(f"must be letters, digits, '.', '_' and '-', at most 64, but is {name!r}: rename it")
        return name

    @field_validator("time_limit")
    @classmethod
    def _is_a_duration(cls, duration: str | None) -> str | None:
        if duration is not None:
            seconds(duration)
        return duration


class TaskTable(Table):
    """``[task]``: a short name, ``pkg.module:Name`` or ``file.py:Name``, and its arguments."""

    target: str = Field(min_length=1)
    args: dict[str, Any] = Field(default_factory=dict)


class Goal(Table):
    """One objective: which way is better and, for what is measured on the clock, how it is measured.

    ``accuracy = "maximize"`` is short for ``accuracy = {direction = "maximize"}``.
    """

    direction: Direction
    batch: int | None = Field(default=None, ge=1)
    threads: int | None = Field(default=None, ge=1)
    runtime: Literal["onnxruntime", "eager", "compile"] | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, data: object) -> object:
        return data if isinstance(data, Mapping) else {"direction": data}


class Confirm(Table):
    """The finalists again, with fresh seeds and the full budget."""

    top: int = Field(default=5, ge=1)
    seeds: int = Field(default=3, ge=1)


class LimitsTable(Table):
    """How much of the machine may be in use while a trial trains; beyond it `granularity` uses fewer bits."""

    cpu: float | None = Field(default=None, gt=0, le=1)
    memory: float | None = Field(default=None, gt=0, le=1)
    gpu: float | None = Field(default=None, gt=0, le=1)
    gpu_memory: float | None = Field(default=None, gt=0, le=1)
    bits: int | None = Field(default=None, ge=1, le=32)


class BudgetTable(Table):
    """``[budget]``: how long a trial trains, and which trials are stopped early."""

    epochs: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    iterations: int = Field(default=6, ge=1)
    precision: Literal["fp32", "bf16"] | None = None
    scheduler: Literal["none", "asha", "mo-asha"] = "none"
    eta: int = Field(default=3, ge=2)
    grace: int = Field(default=1, ge=1)
    timeout: str | None = None
    limits: LimitsTable | None = None
    confirm: Confirm | None = None

    @field_validator("timeout")
    @classmethod
    def _is_a_duration(cls, duration: str | None) -> str | None:
        return StudyTable._is_a_duration(duration)


class ResourcesTable(Table):
    """``[resources]``: how many trials run at once, and what each of them gets."""

    concurrent: int = Field(default=1, ge=1)
    cpu: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    gpu: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    memory: str | None = None
    address: str | None = None
    runner: Literal["tune", "inline"] = "tune"

    @field_validator("memory")
    @classmethod
    def _is_a_size(cls, memory: str | None) -> str | None:
        if memory is not None:
            size(memory)
        return memory


class StorageTable(Table):
    """``[storage]``: databases shared with others; left out, everything is in the home."""

    optuna: str | None = None
    mlflow: str | None = None
    artifacts: str | None = None
    takeover: str = "60s"

    @field_validator("optuna")
    @classmethod
    def _is_a_database(cls, url: str | None) -> str | None:
        return url if url is None else checked(url)

    @field_validator("mlflow")
    @classmethod
    def _is_a_server_or_a_database(cls, url: str | None) -> str | None:
        return url if url is None or url.startswith(("http://", "https://")) else checked(url)

    @field_validator("artifacts")
    @classmethod
    def _is_a_place(cls, url: str | None) -> str | None:
        if url is not None and not re.match(r"[a-z][a-z0-9+.-]*:", url):
            raise ValueError(
                f"must be a URI, but is {url!r}: write s3://bucket/path, or file:///path for a shared folder"
            )
        return url

    @field_validator("takeover")
    @classmethod
    def _is_long_enough(cls, duration: str) -> str:
        if seconds(duration) < 1:
            raise ValueError(f"must be at least a second, but is {duration!r}: write 60s")
        return duration

    @model_validator(mode="after")
    def _are_two_databases(self) -> Self:
        if self.optuna and self.mlflow and same_database(self.optuna, self.mlflow):
            raise ValueError("optuna and mlflow must be two databases, but are one: create another one with createdb")
        return self


def one_line(error: ValidationError) -> str:
    """The first thing that is wrong, as rule, value and remedy."""
    details = error.errors()
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return _phrase(details[0]) + more


def _phrase(detail: ErrorDetails) -> str:
    where = ".".join(str(part) for part in detail["loc"])
    value, kind = detail["input"], detail["type"]
    if kind == "missing":
        return f"{where} is missing: add it"
    if kind == "value_error":
        message = str(detail["ctx"]["error"])
        return f"{where}: {message}" if where else message
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", detail["ctx"]["expected"])
        return f"{where} must be one of {', '.join(choices)}, but is {shown(value)}: {nearest(value, choices)}"
    if kind == "too_short":
        return f"{where} must name at least one, but is empty: add one"
    rule = detail["msg"].removeprefix("Input should be ").removeprefix("a valid ")
    return f"{where} must be {rule}, but is {shown(value)}: correct it"


def shown(value: object) -> str:
    """A value as a message shows it."""
    if value is None:
        return "left out"
    try:
        text = json.dumps(value, default=str)
    except (ValueError, RecursionError):
        text = quoted(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."
