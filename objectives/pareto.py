"""Comparing trials on several objectives at once: the front, the ranks, the hypervolume, the one to pick.

A row is the scores of one trial by name; which of them count, and which way is better, say the directions. A row that
lacks a score, or has NaN for one, is never better than another: it is on no front and has the last rank.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    # Only for the checker: objective.py imports torch, which figures must be able to do without.
    from objectives.objective import Direction

Row = Mapping[str, float]
Array = NDArray[np.float64]


def front(rows: Sequence[Row], directions: Mapping[str, Direction]) -> list[int]:
    """Indices of the rows that no other row dominates, in order; equal rows are all on it."""
    usable = [index for index, row in enumerate(rows) if _usable(row, directions)]
    beaten: list[bool] = np.any(_dominates(_costs([rows[index] for index in usable], directions)), axis=0).tolist()
    return [index for index, lost in zip(usable, beaten, strict=True) if not lost]


def ranks(rows: Sequence[Row], directions: Mapping[str, Direction]) -> list[int]:
    """Non-dominated sorting (Deb et al. 2002): 0 for the front, 1 for the front of the rest, and so on.

    Rows with a missing score share the rank after the last.
    """
    usable = [index for index, row in enumerate(rows) if _usable(row, directions)]
    costs = _costs([rows[index] for index in usable], directions)
    dominates = _dominates(costs)
    above = dominates.sum(axis=0)
    rank, found = 0, np.full(len(usable), -1)
    while (left := found < 0).any():
        peeled = left & (above == 0)
        found[peeled] = rank
        above -= dominates[peeled].sum(axis=0)
        rank += 1
    by_index = dict(zip(usable, found.tolist(), strict=True))
    return [by_index.get(index, rank) for index in range(len(rows))]


def nearest_to_ideal(rows: Sequence[Row], directions: Mapping[str, Direction]) -> int | None:
    """The front's member nearest to the ideal point, objectives scaled to the front's range; ties to the lower index.

    Returns:
        An index into `rows`, or None where no row has all scores. With one objective: the best value.
    """
    members = front(rows, directions)
    if not members:
        return None
    costs = _costs([rows[index] for index in members], directions)
    ideal, spread = costs.min(axis=0), np.ptp(costs, axis=0)
    # Where all agree, the objective decides nothing.
    scaled = (costs - ideal) / np.where(spread > 0, spread, 1.0)
    # Rounded, because equal distances may differ in the last bit.
    distances = np.round(np.sqrt((scaled**2).sum(axis=1)), 12)
    return members[int(distances.argmin())]


def normalized_hypervolume(
    rows: Sequence[Row], directions: Mapping[str, Direction], baseline: Mapping[str, float]
) -> float:
    """The hypervolume of the rows in units of the baseline: what `study/hypervolume` shows.

    The reference is 0 for what is maximised and the baseline for what is minimised, so an objective spans
    ``score / baseline`` or ``1 - score / baseline``. Where the baseline is 0 (plasticity, sparsity) the unit is 1.

    Args:
        rows: Of the trials that count, typically the complete and feasible ones; others are left out by the caller.
        directions: By objective.
        baseline: Scores of the network before compression, with every objective.

    Returns:
        At least 0. It never falls when a row is added.
    """
    kept = [row for row in rows if _usable(row, directions)]
    gains = np.zeros((len(kept), len(directions)))
    for column, (name, direction) in enumerate(directions.items()):
        unit = abs(baseline[name]) or 1.0
        scores = np.array([row[name] for row in kept], dtype=np.float64)
        gains[:, column] = (scores if direction == "maximize" else baseline[name] - scores) / unit
    return hypervolume(-gains, np.zeros(len(directions)))


class Growing:
    """The normalised hypervolume of rows that come one by one: each costs only what it adds.

    Args:
        directions: By objective.
        baseline: As `normalized_hypervolume`.
    """

    def __init__(self, directions: Mapping[str, Direction], baseline: Mapping[str, float]) -> None:
        self._directions, self._baseline = directions, baseline
        self._boxes: Array = np.zeros((0, len(directions)))
        #: Of all rows so far; it never falls.
        self.volume = 0.0

    def add(self, row: Row) -> None:
        """Enter a row; one that lacks a score adds nothing."""
        if not _usable(row, self._directions):
            return
        box = np.array(
            [
                (row[name] if way == "maximize" else self._baseline[name] - row[name])
                / (abs(self._baseline[name]) or 1.0)
                for name, way in self._directions.items()
            ]
        )
        if not bool((box > 0).all()) or bool((self._boxes >= box).all(axis=1).any()):
            return
        if bool(np.isinf(box).any()):
            self.volume = float("inf")
            return
        shared = _volume(_undominated(np.minimum(self._boxes, box))) if len(self._boxes) else 0.0
        self.volume += max(0.0, float(np.prod(box)) - shared)
        self._boxes = np.vstack([self._boxes[~(self._boxes <= box).all(axis=1)], box])


def hypervolume(points: Array | Sequence[Sequence[float]], reference: Array | Sequence[float]) -> float:
    """Volume of the region that the points dominate, up to the reference; everything is minimised. Exact.

    Args:
        points: Shape (points, objectives); those not below the reference in every objective add nothing.
        reference: Shape (objectives,), finite.

    Returns:
        At least 0; infinite where a point has an objective at minus infinity.
    """
    corner = np.asarray(reference, dtype=np.float64)
    below = corner - np.asarray(points, dtype=np.float64).reshape(-1, len(corner))
    below = below[(below > 0).all(axis=1)]
    if np.isinf(below).any():
        return float("inf")
    return _volume(_undominated(below))


def _volume(boxes: Array) -> float:
    """Volume of the union of boxes that share the corner 0, none inside another (While et al. 2012, WFG).

    Args:
        boxes: Edge lengths, shape (boxes, dimensions), all > 0.
    """
    if len(boxes) <= 1 or boxes.shape[1] == 1:
        return float(np.prod(boxes, axis=1).max(initial=0.0))
    # Largest in the last dimension first: the boxes behind it are then cut to their own length there.
    boxes = boxes[np.argsort(-boxes[:, -1], kind="stable")]
    if boxes.shape[1] == 2:
        # Undominated and falling in one edge means rising in the other: a staircase.
        return float((boxes[:, 1] * np.diff(boxes[:, 0], prepend=0.0)).sum())
    total = 0.0
    for index, box in enumerate(boxes):
        # What this box adds to those before it, whose last edges are at least as long: a slab of one dimension less.
        overlap = np.minimum(boxes[:index, :-1], box[:-1])
        total += box[-1] * (float(np.prod(box[:-1])) - _volume(_undominated(overlap)))
    return total


def _undominated(boxes: Array) -> Array:
    """The boxes that lie in no other, equal ones once."""
    if boxes.shape[1] == 2 and len(boxes):
        # The longest first: a box lies in one before it unless it is higher than all of them.
        boxes = boxes[np.lexsort((-boxes[:, 1], -boxes[:, 0]))]
        higher = boxes[1:, 1] > np.maximum.accumulate(boxes[:-1, 1])
        return np.asarray(boxes[np.concatenate(([True], higher))])
    boxes = np.unique(boxes, axis=0)
    inside = np.asarray((boxes[:, None, :] <= boxes[None, :, :]).all(axis=2))
    np.fill_diagonal(inside, False)
    return boxes[~inside.any(axis=1)]


def _dominates(costs: Array) -> NDArray[np.bool_]:
    """Whether row i is nowhere worse than row j and somewhere better; shape (rows, rows)."""
    no_worse = np.ones((len(costs), len(costs)), dtype=bool)
    better = np.zeros_like(no_worse)
    for column in costs.T:
        no_worse &= column[:, None] <= column[None, :]
        better |= column[:, None] < column[None, :]
    return no_worse & better


def _costs(rows: Sequence[Row], directions: Mapping[str, Direction]) -> Array:
    """Scores as numbers to minimise, shape (rows, objectives)."""
    signs = {name: -1.0 if direction == "maximize" else 1.0 for name, direction in directions.items()}
    return np.array([[sign * row[name] for name, sign in signs.items()] for row in rows]).reshape(len(rows), len(signs))


def _usable(row: Row, directions: Mapping[str, Direction]) -> bool:
    return all(name in row and not np.isnan(row[name]) for name in directions)
