"""The study file: what to search, on which task, for what. TOML or YAML with one schema; unknown keys are errors."""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, PrivateAttr, ValidationError

from objectives.criterion import Criterion, parse, parse_bound
from objectives.loading import task_source
from objectives.objective import OBJECTIVES, Direction
from search.buds import MEASURES as BUD_MEASURES
from search.criteria import SearchCriteria
from search.plain import check_plain
from search.resources import ResourceBudget
from search.result import Budget, TaskReference
from search.study_tables import (
    BudgetTable,
    Goal,
    ResourcesTable,
    StorageTable,
    StudyTable,
    Table,
    TaskTable,
    one_line,
    seconds,
    shown,
)
from search.toml import to_toml
from spaces.budding import BuddingPolicy
from spaces.errors import PleachError, StudyFileError
from spaces.finetuning import FinetuningPolicy
from spaces.granularity import GranularityPolicy
from spaces.policy import nearest
from spaces.space import SearchSpace

#: Characters; a file of every key there is has some ten thousand.
LONGEST_FILE = 2**18
#: What a later run of the same study may change; the constraints may change too and judge old trials anew.
MAY_CHANGE = ("study.trials", "study.time_limit", "study.stop_when", "resources", "storage", "constraints")
#: The objectives that say how they are measured.
MEASURED = ("latency_ms", "throughput")
#: Arguments of a task that name files: relative ones start at the study file.
PATH_ARGUMENT = re.compile(r"(.*_)?(dir|path|file|folder)")


class StudyFile(Table):
    """A study as its file describes it; relative paths start at `folder`."""

    study: StudyTable
    task: TaskTable
    objectives: dict[str, Goal] = Field(min_length=1)
    constraints: dict[str, str] = Field(default_factory=dict)
    budget: BudgetTable = BudgetTable()
    resources: ResourcesTable = ResourcesTable()
    storage: StorageTable = StorageTable()
    spaces: dict[str, Any] = Field(min_length=1)

    _folder: Path = PrivateAttr(default_factory=Path.cwd)
    _text: str = PrivateAttr(default="")

    # -- reading ----------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a ``.toml``, ``.yaml`` or ``.yml`` file.

        Raises:
            StudyFileError: If it is missing, does not parse, or breaks a rule.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise StudyFileError(
                f"there is no study file {path}: check the path, or write one with pleach init"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise StudyFileError(f"the study file {path} cannot be read ({error}): check the path") from None
        syntax: Literal["toml", "yaml"] = "yaml" if path.suffix.lower() in (".yaml", ".yml") else "toml"
        return cls.parse(text, path.resolve().parent, syntax=syntax, name=str(path))

    @classmethod
    def parse(
        cls, text: str, folder: Path, *, syntax: Literal["toml", "yaml"] = "toml", name: str = "the study file"
    ) -> Self:
        """Read the text of a study file whose relative paths start at `folder`.

        Raises:
            StudyFileError: If it does not parse or breaks a rule.
        """
        try:
            if len(text) > LONGEST_FILE:
                raise StudyFileError(f"{name} may have {LONGEST_FILE} characters, but has {len(text)}: shorten it")
            data = tomllib.loads(text) if syntax == "toml" else yaml.safe_load(text)
        except StudyFileError:
            raise
        except tomllib.TOMLDecodeError as error:
            raise StudyFileError(f"{name} is no valid TOML: {error}: correct that place") from None
        except yaml.MarkedYAMLError as error:
            line = f" (at line {error.problem_mark.line + 1})" if error.problem_mark else ""
            raise StudyFileError(f"{name} is no valid YAML: {error.problem}{line}: correct that place") from None
        # Neither parser knows all that goes wrong in it: numbers without digits, days without months, no end of depth.
        except (yaml.YAMLError, RecursionError, ValueError, TypeError, LookupError, AttributeError) as error:
            said = " ".join(str(error).split())[:200]
            raise StudyFileError(f"{name} does not parse ({said}): correct it") from None
        read = cls.of(data, folder, name=name)
        read._text = text if syntax == "toml" else to_toml(data)
        return read

    @classmethod
    def of(cls, data: object, folder: Path | None = None, *, name: str = "the study") -> Self:
        """Build it from a mapping of the same shape.

        Raises:
            StudyFileError: If it breaks a rule.
        """
        if not isinstance(data, Mapping):
            raise StudyFileError(f"{name} must be a table with [study], [task], [objectives] and [spaces], but is not")
        check_plain(data, name)
        try:
            read = cls.model_validate(data)
        except ValidationError as error:
            raise StudyFileError(f"{name}: {one_line(error)}") from None
        read._folder = (folder or Path.cwd()).resolve()
        read._text = to_toml(data)
        try:
            read._check()
        except PleachError as error:
            raise StudyFileError(f"{name}: {error}") from None
        return read

    def _check(self) -> None:
        for name, goal in self.objectives.items():
            known = OBJECTIVES.get(name)
            if known is not None and known.direction != goal.direction:
                raise StudyFileError(f'objectives.{name} must be "{known.direction}", but is not: turn it round')
            if name not in MEASURED and goal != Goal(direction=goal.direction):
                raise StudyFileError(
                    f"objectives.{name} has options, but only {' and '.join(MEASURED)} are measured on the clock: "
                    f'write {name} = "{goal.direction}"'
                )
        if self.budget.scheduler == "asha" and len(self.objectives) > 1:
            raise StudyFileError(
                f'budget.scheduler "asha" compares one objective, but the study has {len(self.objectives)}: '
                'use "mo-asha"'
            )
        self._check_buds()
        if not self.space.policies:
            raise StudyFileError("spaces must name at least one policy, but names none: add [spaces.pruning]")
        if self.budget.limits is not None and GranularityPolicy.name not in self.space.policies:
            raise StudyFileError(
                "budget.limits is kept by using fewer bits, but [spaces] does not name granularity: add "
                "[spaces.granularity], or leave budget.limits out"
            )
        _ = self.criteria, self.stop_criteria

    def _check_buds(self) -> None:
        if not self.buds:
            return
        others = sorted(set(self.space.policies) - {BuddingPolicy.name, FinetuningPolicy.name})
        if others or self.space.layers:
            what = others[0] if others else "layers"
            raise StudyFileError(
                f"a study of buds searches budding and finetuning alone, but [spaces] names {what} too: compress the "
                "network first and let what is exported bud, or leave it out"
            )
        if self.space.policies[BuddingPolicy.name].optional:
            raise StudyFileError("spaces.budding cannot be optional, but is: leave optional out")
        for name in self.measures:
            if name in OBJECTIVES and name not in BUD_MEASURES:
                raise StudyFileError(f"a study of buds cannot measure {name}: {nearest(name, BUD_MEASURES)}")

    # -- what it says -----------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.study.name

    @property
    def folder(self) -> Path:
        """Where relative paths start."""
        return self._folder

    @property
    def text(self) -> str:
        """The file as TOML: the user's own text where it was TOML."""
        return self._text

    @property
    def directions(self) -> dict[str, Direction]:
        """Which way is better, per objective."""
        return {name: goal.direction for name, goal in self.objectives.items()}

    @functools.cached_property
    def space(self) -> SearchSpace:
        """All that the study may try."""
        return SearchSpace.from_settings(self.spaces)

    @property
    def buds(self) -> bool:
        """Whether its trials grow buds instead of compressing the network."""
        return BuddingPolicy.name in self.space.policies

    @functools.cached_property
    def criteria(self) -> tuple[Criterion, ...]:
        """The constraints."""
        return tuple(parse_bound(name, bound) for name, bound in self.constraints.items())

    @functools.cached_property
    def stop_criteria(self) -> tuple[Criterion, ...]:
        """What a trial must meet for the study to be over; empty where it goes on to its last trial."""
        return parse(self.study.stop_when) if self.study.stop_when else ()

    @property
    def measures(self) -> tuple[str, ...]:
        """Every name that objectives, constraints and the stop criterion mention, each once."""
        names = [*self.directions, *(c.name for c in self.criteria), *(c.name for c in self.stop_criteria)]
        return tuple(dict.fromkeys(names))

    @property
    def own_measures(self) -> tuple[str, ...]:
        """The measures that are not in the closed list: the task's ``evaluate`` must give them."""
        return tuple(name for name in self.measures if name not in OBJECTIVES)

    @property
    def trial_budget(self) -> Budget:
        """What each trial gets."""
        table = self.budget
        limits = ResourceBudget(**table.limits.model_dump()) if table.limits is not None else None
        return Budget(table.epochs, table.iterations, table.precision, limits)

    @property
    def search_criteria(self) -> SearchCriteria:
        """What ends the search."""
        return SearchCriteria(self.study.trials, self.time_limit, self.stop_criteria)

    @property
    def time_limit(self) -> float | None:
        """Seconds that the study may take over all its runs."""
        return seconds(self.study.time_limit) if self.study.time_limit else None

    @property
    def timeout(self) -> float | None:
        """Seconds that one trial may take."""
        return seconds(self.budget.timeout) if self.budget.timeout else None

    @property
    def task_reference(self) -> TaskReference:
        """The task with its paths made absolute and, where it is a file, its source.

        Raises:
            TaskError: If the file cannot be read.
        """
        target, args = self.task.target, dict(self.task.args)
        file, colon, attribute = target.rpartition(":")
        if colon and file.endswith(".py"):
            target = f"{self._absolute(file)}:{attribute}"
        for name, value in args.items():
            if isinstance(value, str) and (
                PATH_ARGUMENT.fullmatch(name) or ("/" in value and self._absolute(value).exists())
            ):
                args[name] = str(self._absolute(value))
        return TaskReference(target, args, task_source(target))

    def _absolute(self, path: str) -> Path:
        return (self._folder / Path(path).expanduser()).resolve()

    def renamed(self, name: str) -> Self:
        """The same study under another name.

        Raises:
            StudyFileError: If the name cannot be a folder's.
        """
        data = tomllib.loads(self._text)
        data["study"]["name"] = name
        return self.of(data, self._folder)

    def check_continues(self, kept: StudyFile) -> None:
        """Refuse to continue a study whose results this file would not have given.

        Raises:
            StudyFileError: If a key differs that must not; the message names it, both values and the remedy.
        """
        before, now = _flat(kept.model_dump()), _flat(self.model_dump())
        # The deepest key first: an empty table differs as well from one that has a key.
        for key in sorted({*before, *now}, key=lambda key: (-key.count("."), key)):
            allowed = any(key == prefix or key.startswith(f"{prefix}.") for prefix in MAY_CHANGE)
            if not allowed and before.get(key) != now.get(key):
                raise StudyFileError(
                    f"{key} must stay as in the first run of {kept.name!r}, {shown(before.get(key))}, but is now "
                    f"{shown(now.get(key))}: undo it, or start another study with --name NEW --from {kept.name}"
                )


def _flat(data: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
