"""Every point of a search space, for the grid sampler; conditions between knobs are kept."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from spaces.errors import StudyFileError
from spaces.policy import Value
from spaces.space import SearchSpace

#: How many values of a range of numbers a grid tries, and how many points it may have.
GRID_STEPS, GRID_LIMIT = 5, 10_000


def grid(space: SearchSpace, seed: int) -> list[dict[str, Value]]:
    """Every point of a space in which a range has `GRID_STEPS` values, in an order shuffled by the seed.

    A knob that does not act under the others' values is not walked along, so no two points are the same profile.

    Raises:
        StudyFileError: If there are more than `GRID_LIMIT`.
    """
    points: list[dict[str, Value]] = []
    path: list[int] = []
    while True:
        walk = _Walk(path)
        space.suggest(walk)
        points.append(walk.values)
        if len(points) > GRID_LIMIT:
            raise StudyFileError(
                f"a grid may have {GRID_LIMIT} points, but this one has more: fix some knobs, or use another sampler"
            )
        path = walk.taken
        while path and path[-1] + 1 == walk.choices[len(path) - 1]:
            path.pop()
        if not path:
            break
        path[-1] += 1
    random.Random(seed).shuffle(points)
    return points


class _Walk:
    """Stands in for a trial: takes the choices that `path` says, and the first one wherever it says nothing."""

    def __init__(self, path: Sequence[int]) -> None:
        self._path = path
        self.values: dict[str, Value] = {}
        self.taken: list[int] = []
        self.choices: list[int] = []

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        return self._take(name, choices)

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        return int(self._take(name, sorted({round(value) for value in _spread(low, high, log)})))

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        return float(self._take(name, _spread(low, high, log)))

    def _take(self, name: str, choices: Sequence[Any]) -> Any:
        position = len(self.taken)
        index = self._path[position] if position < len(self._path) else 0
        self.taken.append(index)
        self.choices.append(len(choices))
        self.values[name] = choices[index]
        return choices[index]


def _spread(low: float, high: float, log: bool) -> list[float]:
    if low == high:
        return [low]
    shares = [step / (GRID_STEPS - 1) for step in range(GRID_STEPS)]
    inner = [low * (high / low) ** share if log else low + (high - low) * share for share in shares[1:-1]]
    return [low, *inner, high]
