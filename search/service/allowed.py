"""What the operator lets clients launch: a list of tasks by name, and how large a study may be.

A client names a task of the list. What runs, with which arguments, in which databases and on which cluster is the
operator's: no module, no path and no address is ever taken from a request.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import Field, ValidationError

from objectives.tasks import TASKS
from search.result import TaskReference
from search.study_file import StudyFile
from search.study_tables import StorageTable, Table, TaskTable, one_line, shown
from spaces.errors import RequestError, StudyFileError, TaskError
from spaces.policy import nearest


class Range(Table):
    """Numbers that a client may choose from, both ends among them; whole ones where both ends are whole."""

    low: int | float
    high: int | float


class TaskEntry(Table):
    """``[tasks.NAME]``: what a name stands for, and which of its arguments a client may choose."""

    target: str = Field(min_length=1)
    args: dict[str, Any] = Field(default_factory=dict)
    choices: dict[str, list[bool | int | float | str] | Range] = Field(default_factory=dict)


class LimitsTable(Table):
    """``[limits]``: how much a study may take."""

    running: int = Field(default=2, ge=1)
    trials: int = Field(default=1000, ge=1)
    concurrent: int = Field(default=2, ge=1)
    cpu: float = Field(default=4.0, gt=0, allow_inf_nan=False)
    gpu: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class OperatorFile(Table):
    """The operator's file."""

    tasks: dict[str, TaskEntry] = Field(min_length=1)
    limits: LimitsTable = LimitsTable()
    storage: StorageTable = StorageTable()
    address: str | None = None


@dataclass(frozen=True)
class Allowed:
    """What may be launched.

    Args:
        file: The operator's.
        folder: Where its relative paths start.
    """

    file: OperatorFile
    folder: Path

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an operator's file.

        Raises:
            StudyFileError: If it is missing, does not parse, or breaks a rule.
        """
        try:
            data = tomllib.loads(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError) as error:
            raise StudyFileError(f"the operator's file {path} cannot be read ({error}): check the path") from None
        except tomllib.TOMLDecodeError as error:
            raise StudyFileError(f"{path} is no valid TOML: {error}: correct that place") from None
        try:
            return cls(OperatorFile.model_validate(data), path.resolve().parent)
        except ValidationError as error:
            raise StudyFileError(f"{path}: {one_line(error)}") from None

    @classmethod
    def of(cls, names: Sequence[str]) -> Self:
        """Tasks that come along, by their short names, as they are; none at all: nothing can be launched.

        Raises:
            StudyFileError: If a name is none of them.
        """
        for name in names:
            if name not in TASKS:
                raise StudyFileError(
                    f"--task must be a task that comes along, but is {name!r}: {nearest(name, TASKS)}, or list it "
                    "in a file with --tasks"
                )
        tasks = {name: TaskEntry(target=name) for name in names}
        return cls(OperatorFile.model_construct(tasks=tasks), Path.cwd())

    # -- what a client asks for -------------------------------------------------------------------------------------

    def admitted(self, data: object) -> StudyFile:
        """The study that a client asks for, with what is the operator's put in; its paths are absolute.

        Args:
            data: A study file as JSON, its task a name of the list.

        Raises:
            RequestError: If it asks for what is not the client's to choose.
            StudyFileError: If it breaks a rule of study files.
        """
        if not isinstance(data, Mapping):
            raise RequestError(
                "a study must be an object with study, task, objectives and spaces, but is not: see docs/study-file.md"
            )
        if "storage" in data:
            raise RequestError("the databases of a study are the operator's, but it has storage: leave it out")
        asked = data.get("resources")
        resources = dict(asked) if isinstance(asked, Mapping) else {}
        if "address" in resources:
            raise RequestError("the cluster of a study is the operator's, but it has resources.address: leave it out")
        if asked is not None and not isinstance(asked, Mapping):
            raise RequestError(f"resources must be an object, but is {shown(asked)}: correct it")
        made = {**data, "task": self._task(data.get("task"))}
        if self.file.address is not None:
            resources["address"] = self.file.address
        if resources:
            made["resources"] = resources
        storage = self.file.storage.model_dump(exclude_none=True)
        if storage:
            made["storage"] = storage
        file = StudyFile.of(made, self.folder)
        self.check_size(file)
        reference = file.task_reference
        return StudyFile.of({**made, "task": {"target": reference.target, "args": dict(reference.args)}}, self.folder)

    def check_size(self, file: StudyFile, trials: int | None = None) -> None:
        """Refuse a study that is larger than the operator allows.

        Args:
            file: The study.
            trials: Another number of trials than the file's.

        Raises:
            RequestError: If it is.
        """
        limits, resources = self.file.limits, file.resources
        asked = {
            "study.trials": (file.study.trials if trials is None else trials, limits.trials),
            "resources.concurrent": (resources.concurrent, limits.concurrent),
            "resources.cpu": (resources.cpu, limits.cpu),
            "resources.gpu": (resources.gpu, limits.gpu),
        }
        for key, (value, most) in asked.items():
            if value > most:
                raise RequestError(f"{key} may be at most {most:g} here, but is {value:g}: lower it")

    def check_listed(self, file: StudyFile) -> None:
        """Refuse a study whose task is not on the list, whoever began it.

        Raises:
            RequestError: If it is not.
        """
        wanted = file.task_reference
        if not any(self._fits(entry, wanted) for entry in self.file.tasks.values()):
            raise RequestError(
                f"a study can go on from here only if its task is on the operator's list, but that of {file.name!r} "
                "is not: go on with pleach resume"
            )

    def described(self) -> list[dict[str, Any]]:
        """The list as clients see it: names and what they may choose, nothing of what lies behind."""
        return [
            {
                "task": name,
                "choices": {
                    argument: choice if isinstance(choice, list) else choice.model_dump()
                    for argument, choice in entry.choices.items()
                },
            }
            for name, entry in self.file.tasks.items()
        ]

    # -- one task ---------------------------------------------------------------------------------------------------

    def _task(self, task: object) -> dict[str, Any]:
        if not isinstance(task, Mapping) or not isinstance(task.get("target"), str):
            raise RequestError(f'task must be an object with a target, but is {shown(task)}: write {{"target": NAME}}')
        target, args = task["target"], task.get("args", {})
        entry = self.file.tasks.get(target)
        if entry is None:
            known = nearest(target, self.file.tasks) if self.file.tasks else "the list is empty"
            raise RequestError(f"task.target must be on the operator's list, but is {shown(target)}: {known}")
        if not isinstance(args, Mapping):
            raise RequestError(f"task.args must be an object, but is {shown(args)}: correct it")
        for name, value in args.items():
            if name not in entry.choices:
                known = nearest(name, entry.choices) if entry.choices else "it has none"
                raise RequestError(f"task.args.{name} is not an argument that clients of {target} may choose: {known}")
            if not _chosen(value, entry.choices[name]):
                raise RequestError(
                    f"task.args.{name} must be {_worded(entry.choices[name])}, but is {shown(value)}: choose one"
                )
        return {**task, "target": entry.target, "args": {**entry.args, **args}}

    def _fits(self, entry: TaskEntry, wanted: TaskReference) -> bool:
        """Whether a study's task is an entry's, with arguments that a client may choose."""
        try:
            fixed = self._reference(entry, {})
        except TaskError:  # the operator's file of that task is gone
            return False
        given = {**fixed.args, **wanted.args}
        return fixed.target == wanted.target and all(
            name in wanted.args
            and (
                (name in fixed.args and fixed.args[name] == value)
                or (name in entry.choices and self._may_choose(entry, name, value))
            )
            for name, value in given.items()
        )

    def _may_choose(self, entry: TaskEntry, name: str, value: object) -> bool:
        choice = entry.choices[name]
        if isinstance(choice, Range):
            return _chosen(value, choice)
        return _chosen(value, [self._reference(entry, {name: one}).args[name] for one in choice])

    def _reference(self, entry: TaskEntry, args: Mapping[str, Any]) -> TaskReference:
        """An entry's task with some arguments, its paths absolute as in a study."""
        task = TaskTable(target=entry.target, args={**entry.args, **args})
        known: dict[str, Any] = {"task": task}
        file = StudyFile.model_construct(None, **known)  # a reference is made of nothing else
        file._folder = self.folder
        return file.task_reference


def _chosen(value: object, choice: list[bool | int | float | str] | Range) -> bool:
    """Whether a value is one of those that may be chosen; true is not 1, and 1.0 is not a whole number."""
    if isinstance(choice, list):
        return any(type(value) is type(one) and value == one for one in choice)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    whole = isinstance(choice.low, int) and isinstance(choice.high, int)
    return (isinstance(value, int) or not whole) and choice.low <= value <= choice.high


def _worded(choice: list[bool | int | float | str] | Range) -> str:
    return f"one of {shown(choice)}" if isinstance(choice, list) else f"between {choice.low:g} and {choice.high:g}"
