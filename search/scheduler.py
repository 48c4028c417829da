"""Which trials are stopped early: asynchronous successive halving, on one objective or on several. Decides, no more.

At each rung a trial is ranked among all that reached it, and goes on only within the best 1/eta (ASHA, Li et al. 2020).
With several objectives the order is by non-dominated rank and, within a rank, by an epsilon-net: spread before crowd
(MO-ASHA, Schmucker et al. 2021). What misses a constraint comes after everything that meets them all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from objectives.criterion import Criterion
from objectives.objective import Direction
from objectives.pareto import ranks
from search.result import Report

Scores = Mapping[str, float]


@dataclass(frozen=True)
class Scheduler:
    """The rungs of one study and who reached them.

    Args:
        directions: Which way is better, per objective.
        criteria: The constraints.
        baseline: Scores of the network before compression.
        eta: One in so many goes on; 0 stops nobody.
        grace: The iteration of the first rung; the next is `eta` times as late.
    """

    directions: Mapping[str, Direction]
    criteria: tuple[Criterion, ...] = ()
    baseline: Scores = field(default_factory=dict)
    eta: int = 3
    grace: int = 1
    _rungs: dict[int, dict[int, Scores]] = field(default_factory=dict, init=False)

    def is_rung(self, report: Report) -> bool:
        """Whether trials are compared at this iteration; never at the last one, where nothing is saved."""
        if self.eta == 0 or report.iteration >= report.of:
            return False
        level = self.grace
        while level < report.iteration:
            level *= self.eta
        return level == report.iteration

    def stops(self, number: int, report: Report) -> bool:
        """Take note of a trial's report and say whether the trial ends here."""
        if not self.is_rung(report):
            return False
        rung = self._rungs.setdefault(report.iteration, {})
        rung[number] = report.scores
        kept = math.ceil(len(rung) / self.eta)
        # The first eta trials of a rung have nothing to be measured against: what they lack may be what all lack.
        return len(rung) >= self.eta and self.order(rung).index(number) >= kept

    def note(self, number: int, reports: Sequence[Report]) -> None:
        """Take note of the reports of a trial that was decided in an earlier run."""
        for report in reports:
            if self.is_rung(report):
                self._rungs.setdefault(report.iteration, {})[number] = report.scores

    def order(self, rung: Mapping[int, Scores]) -> list[int]:
        """The trials at a rung from best to worst; of equal ones the earlier is better."""
        missed = {number: self._missed(scores) for number, scores in rung.items()}
        numbers = [number for number in sorted(rung) if missed[number] == 0]
        rows = [rung[number] for number in numbers]
        ordered: list[int] = []
        by_rank: dict[int, list[int]] = {}
        for index, rank in enumerate(ranks(rows, self.directions)):
            by_rank.setdefault(rank, []).append(index)
        for _, members in sorted(by_rank.items()):
            net = epsilon_net(self._points([rows[index] for index in members]))
            ordered += [numbers[members[place]] for place in net]
        return ordered + sorted((n for n in rung if missed[n] > 0), key=lambda n: (missed[n], n))

    def _missed(self, scores: Scores) -> float:
        """By how much constraints are missed in all; infinite where an objective is missing."""
        if any(math.isnan(scores.get(name, math.nan)) for name in self.directions):
            return math.inf
        return sum(max(0.0, criterion.violation(scores, self.baseline)) for criterion in self.criteria)

    def _points(self, rows: Sequence[Scores]) -> NDArray[np.float64]:
        """Scores as points to minimise, each objective scaled to [0, 1] over the rows; shape (rows, objectives)."""
        signs = [(name, -1.0 if way == "maximize" else 1.0) for name, way in self.directions.items()]
        points = np.array([[sign * row[name] for name, sign in signs] for row in rows], dtype=np.float64)
        spread = np.ptp(points, axis=0)
        scaled: NDArray[np.float64] = (points - points.min(axis=0)) / np.where(spread > 0, spread, 1.0)
        return scaled


def epsilon_net(points: NDArray[np.float64]) -> list[int]:
    """An order in which every prefix covers the points well: the one nearest to the ideal, then always the farthest
    from those already taken.

    Args:
        points: To be minimised, scaled; shape (points, objectives), at least one.

    Returns:
        Indices into `points`; of equal ones the lower first.
    """
    order = [int(np.round((points**2).sum(axis=1), 12).argmin())]
    distance = ((points - points[order[0]]) ** 2).sum(axis=1)
    while len(order) < len(points):
        distance[order] = -1.0
        farthest = int(np.round(distance, 12).argmax())
        order.append(farthest)
        distance = np.minimum(distance, ((points - points[farthest]) ** 2).sum(axis=1))
    return order
