"""The books of a study: every decided trial, how many there are of which kind, the front, the best."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from objectives.criterion import Criterion
from objectives.objective import Direction
from objectives.pareto import Growing, front, nearest_to_ideal, normalized_hypervolume, ranks
from search.home import StudyFolder, read_json, write_text
from search.result import TrialResult
from spaces.errors import StorageError
from spaces.profile import CompressionProfile

#: A violation that is infinite because a score is missing, as JSON can hold it.
WORST = 1e12


@dataclass
class Volumes:
    """The hypervolume after each entry, worked out entry by entry: from scratch it takes longer with every trial.

    Args:
        after: By place of the entry.
        whole: Whether entries were only ever added.
    """

    after: list[float] = field(default_factory=list)
    whole: bool = True
    _growing: Growing | None = None

    def first(self, count: int) -> Volumes:
        """Those after the first so many entries; nothing is entered into them."""
        return Volumes(self.after[:count], self.whole and len(self.after) >= count)

    def enter(self, books: Books, result: TrialResult) -> None:
        """Take note of the next entry."""
        if result.number in books.results or any(name not in books.baseline for name in books.directions):
            self.whole = False
        if not self.whole:
            return
        self._growing = self._growing or Growing(books.directions, books.baseline)
        if result.feasible:
            self._growing.add(result.scores)
        self.after.append(self._growing.volume)


@dataclass
class Books:
    """Every decided trial, judged by the constraints of today.

    Args:
        directions: Which way is better, per objective.
        criteria: The constraints.
        baseline: Scores of the network before compression.
    """

    directions: Mapping[str, Direction]
    criteria: tuple[Criterion, ...]
    baseline: Mapping[str, float]
    results: dict[int, TrialResult] = field(default_factory=dict)
    _evaluated: dict[str, int] = field(default_factory=dict)
    _volumes: Volumes = field(default_factory=Volumes)

    def first(self, count: int) -> Books:
        """The books as they were when so many trials were decided; made when asked for, also by another thread."""
        volumes = self._volumes.first(count)
        return replace(self, results=dict(list(self.results.items())[:count]), _evaluated={}, _volumes=volumes)

    def read(self, folder: StudyFolder) -> None:
        """Take up every result of a study's folder; also while it is being written to.

        Raises:
            StorageError: If one cannot be read.
        """
        for number, path in folder.results().items():
            if number not in self.results:
                result = read_result(path)
                if result.number != number:
                    raise StorageError(f"{path} is of trial {result.number}: restore it from a copy, or move it away")
                self.add(result)

    def judge(self, result: TrialResult) -> TrialResult:
        """The result with its violations of the constraints; failed where an objective is missing or not finite."""
        if result.state == "complete":
            for name in self.directions:
                if not math.isfinite(result.scores.get(name, math.nan)):
                    return replace(result.failed(f"{name} is not a finite number"), constraints={})
        if result.state == "failed":
            return replace(result, constraints={})
        violations = {c.name: min(c.violation(result.scores, self.baseline), WORST) for c in self.criteria}
        return replace(result, constraints=violations)

    def add(self, result: TrialResult) -> TrialResult:
        """Enter a decided trial and return it as it is judged."""
        judged = self.judge(result)
        self._volumes.enter(self, judged)
        self.results[judged.number] = judged
        if judged.state == "complete" and judged.cached is None:
            self._evaluated.setdefault(judged.request.profile.fingerprint(), judged.number)
        return judged

    def withdraw(self, result: TrialResult) -> None:
        """Take back a trial that another driver decided before."""
        self.results.pop(result.number, None)
        self._volumes.whole = False
        fingerprint = result.request.profile.fingerprint()
        if self._evaluated.get(fingerprint) == result.number:
            del self._evaluated[fingerprint]

    # -- counting ---------------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        return len(self.results)

    def counts(self) -> dict[str, int]:
        """Trials by state; ``complete + pruned + failed`` is all of them, ``cached + evaluated`` the complete ones."""
        counts = dict.fromkeys(("complete", "pruned", "failed"), 0)
        for result in self.results.values():
            counts[result.state] += 1
        cached = sum(result.cached is not None for result in self.results.values())
        return counts | {"cached": cached, "evaluated": counts["complete"] - cached}

    def complete(self) -> list[TrialResult]:
        """The trials at full budget, by number."""
        return [result for _, result in sorted(self.results.items()) if result.state == "complete"]

    def same(self, profile: CompressionProfile) -> TrialResult | None:
        """A complete trial of the same profile: in one study, seed and budget are the same as well."""
        return self.results.get(self._evaluated.get(profile.fingerprint(), -1))

    # -- comparing --------------------------------------------------------------------------------------------------

    def front(self, where: Iterable[Criterion] = ()) -> list[TrialResult]:
        """The feasible complete trials that no other dominates, each profile once, by number.

        Args:
            where: Further conditions that they must meet.
        """
        rows = [r for r in self.complete() if r.cached is None and r.feasible and self._missed(r, where) == 0]
        return [rows[index] for index in front([row.scores for row in rows], self.directions)]

    def best(self, where: Iterable[Criterion] = ()) -> TrialResult | None:
        """The member of the front that is nearest to the ideal point; where nothing is feasible, what misses least.

        Returns:
            A complete trial, or None where there is none. It meets everything where `holds` says so.
        """
        where = tuple(where)
        members = self.front(where)
        if members:
            index = nearest_to_ideal([member.scores for member in members], self.directions)
            return members[index] if index is not None else None
        return min(self.complete(), key=lambda r: (self._missed(r, where), r.number), default=None)

    def holds(self, result: TrialResult, where: Iterable[Criterion] = ()) -> bool:
        """Whether a trial is complete, feasible, and meets further conditions."""
        return result.feasible and self._missed(result, where) == 0

    def _missed(self, result: TrialResult, where: Iterable[Criterion] = ()) -> float:
        violations = [*result.constraints.values(), *(c.violation(result.scores, self.baseline) for c in where)]
        return sum(max(0.0, violation) for violation in violations)

    def places(self) -> dict[int, int]:
        """Per complete trial its place from 0: by violation, then by non-dominated rank, then nearest to the ideal."""
        rows = self.complete()
        rank = ranks([row.scores for row in rows], self.directions)
        distance = self._distances(rows)
        order = sorted(range(len(rows)), key=lambda i: (self._missed(rows[i]), rank[i], distance[i], i))
        return {rows[index].number: place for place, index in enumerate(order)}

    def _distances(self, rows: list[TrialResult]) -> list[float]:
        """From the ideal point, squared, each objective scaled to the range of the rows."""
        total = [0.0] * len(rows)
        for name, way in self.directions.items():
            values = [row.scores[name] for row in rows]
            low, high = min(values, default=0.0), max(values, default=0.0)
            ideal, spread = (high if way == "maximize" else low), (high - low) or 1.0
            total = [sum_ + ((value - ideal) / spread) ** 2 for sum_, value in zip(total, values, strict=True)]
        return total

    def hypervolume(self) -> float:
        """The normalised hypervolume of what is feasible; it never falls."""
        if self._volumes.whole and len(self._volumes.after) == len(self.results):
            return self._volumes.after[-1] if self.results else 0.0
        return normalized_hypervolume([r.scores for r in self.complete() if r.feasible], self.directions, self.baseline)

    def figures(self) -> dict[str, float]:
        """What the study as a whole has reached."""
        complete = self.complete()
        feasible = [result for result in complete if result.feasible]
        figures = {
            "hypervolume": self.hypervolume(),
            "feasible_share": len(feasible) / len(complete) if complete else 0.0,
        }
        best = self.best()
        if best is not None and best.feasible:
            # One number per study: the first objective of the best trial.
            figures["best_feasible"] = best.scores[next(iter(self.directions))]
        return figures


def read_result(path: Path) -> TrialResult:
    """Read a result that :func:`write_result` wrote.

    Raises:
        StorageError: If it cannot be read or is no result.
    """
    try:
        return TrialResult.from_dict(read_json(path))
    except (KeyError, TypeError, ValueError) as error:
        raise StorageError(
            f"{path} is no result of a trial ({error}): restore it from a copy, or move it away"
        ) from None


def write_result(path: Path, result: TrialResult) -> None:
    """Write a result.

    Raises:
        StorageError: If it cannot be written.
    """
    write_text(path, result_text(result))


def result_text(result: TrialResult) -> str:
    """A result as its file holds it; numbers that JSON does not know are left out."""
    return json.dumps(_finite(result.to_dict()), separators=(",", ":"), allow_nan=False)


def _finite(data: Any) -> Any:
    if isinstance(data, Mapping):
        return {k: _finite(v) for k, v in data.items() if not (isinstance(v, float) and not math.isfinite(v))}
    if isinstance(data, list | tuple):
        return [_finite(item) for item in data]
    return data
