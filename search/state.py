"""What a study remembers between two runs beside its results: small, and written anew whenever it changes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, get_args

from search.database import censored
from search.home import StudyFolder, driver, read_json, write_json
from spaces import reading
from spaces.errors import StorageError, shown

SCHEMA = 1
#: ``stopped`` was asked for; ``interrupted`` is a driver that died.
Phase = Literal["new", "running", "complete", "stopped", "interrupted"]


@dataclass(frozen=True)
class State:
    """The state of a study.

    Args:
        identity: Tells the study from another one of its name.
        phase: Where it is.
        reason: Why it ended, one line; "" while it runs.
        folder: Where relative paths of its file start.
        file: The file of the latest run, as TOML.
        judged: The constraints by which Optuna was told of the trials.
        task: The task's name.
        task_hash: What the task was made of.
        baseline: The measures of the network before compression.
        seconds: Wall time of all runs.
        interrupted: How often a trial was cut off by the end of its driver.
        ray: A folder outside of the home that Ray uses, because the home's path is too long for it.
        origin: The study whose best profiles were tried first.
        mlflow_uri: Where the runs are recorded, without a password.
        driver: What this home is called among the drivers of a shared study.
    """

    identity: str = ""
    phase: Phase = "new"
    reason: str = ""
    folder: str = ""
    file: str = ""
    judged: Mapping[str, str] = field(default_factory=dict)
    task: str = ""
    task_hash: str = ""
    baseline: Mapping[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    interrupted: int = 0
    ray: str | None = None
    origin: str | None = None
    mlflow_uri: str = ""
    driver: str = ""

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; the inverse of :meth:`from_dict`."""
        return {"schema": SCHEMA, **asdict(self)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> State:
        """Read what :meth:`to_dict` wrote; what a later version added is left alone.

        Raises:
            ValueError: If it is something else.
        """
        found = {name: _value(name, data[name]) for name in cls.__dataclass_fields__ if name in data}
        return cls(**found)


def _value(name: str, value: object) -> Any:
    """A field's value, if it can be that."""
    if name in ("judged", "baseline"):
        return reading.texts(value, name) if name == "judged" else _finite(reading.numbers(value, name))
    if name == "seconds":
        return max(0.0, _finite({name: reading.number(value, name)})[name])
    if name == "interrupted":
        return reading.count(value, name)
    if name in ("ray", "origin") and value is None:
        return None
    if name == "phase" and value not in get_args(Phase):
        raise ValueError(f"phase must be one of {', '.join(get_args(Phase))}, but is {shown(value)}")
    return reading.text(value, name)


def _finite(numbers: dict[str, float]) -> dict[str, float]:
    for name, value in numbers.items():
        if not math.isfinite(value):
            raise ValueError(f"{name} must be finite, but is {value}")
    return numbers


def read_state(folder: StudyFolder) -> State:
    """The state as it is now: ``running`` only while its driver lives.

    Raises:
        StorageError: If it cannot be read.
    """
    if not folder.state.exists():
        return State()
    data = read_json(folder.state)
    try:
        state = State.from_dict(data)
    except ValueError as error:
        raise StorageError(
            f"{folder.state} is no state of a study ({error}): restore it from a copy, or move it away"
        ) from None
    if state.phase == "running" and driver(folder) is None:
        return replace(state, phase="interrupted", reason="its driver ended without a word: run it again to go on")
    return state


def write_state(folder: StudyFolder, state: State) -> None:
    """Keep the state; after a power cut it may be the one before.

    Raises:
        StorageError: If it cannot be written.
    """
    write_json(folder.state, state.to_dict(), durable=False, private=state.file != censored(state.file))
