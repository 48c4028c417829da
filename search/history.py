"""What a sampler looks at of a long study: its best trials and its latest, so that the thousandth proposal takes no
longer than the two hundredth.

Trials are taken block by block, by number. Of every block that is decided the best stay, together with the best of the
blocks before; what follows the last such block is looked at whole. Which these are follows from the decided trials
alone, so a study that was cut short goes on with the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from objectives.objective import Direction
from objectives.pareto import ranks
from search.scheduler import epsilon_net

#: Trials of one block.
BLOCK = 75
#: How many of the best stay: TPE calls at most 25 good.
KEPT = 50


class Told(Protocol):
    """A trial as a sampler sees it."""

    @property
    def number(self) -> int: ...
    @property
    def values(self) -> list[float] | None: ...
    @property
    def constraints(self) -> Mapping[str, float]: ...
    @property
    def state(self) -> Finished: ...


class Finished(Protocol):
    """A trial's state."""

    def is_finished(self) -> bool: ...


class History:
    """Remembers the best of the blocks that are decided.

    Args:
        directions: Which way is better, per objective, in the order of the trials' values.
    """

    def __init__(self, directions: Mapping[str, Direction]) -> None:
        self._directions = dict(directions)
        self._best: list[int] = []
        self._blocks = 0
        #: By the start of a block that is open: how many of its trials were decided, and the best of these.
        self._open: dict[int, tuple[int, Sequence[int]]] = {}

    def seen(self, trials: Sequence[Told]) -> set[int]:
        """The numbers of the trials to look at; `trials` are all of a study, by number from 0."""
        while len(trials) - self._blocks * BLOCK >= 2 * BLOCK:
            start = self._blocks * BLOCK
            block = trials[start : start + BLOCK]
            if not all(trial.state.is_finished() for trial in block):
                break  # a trial that takes long keeps its block open
            self._best = self._of([*(trials[number] for number in self._best), *block])
            self._blocks += 1
        rest = range(self._blocks * BLOCK, len(trials))
        running = [number for number in rest if not trials[number].state.is_finished()]
        return {*self._best, *(rest if len(running) <= BLOCK else self._of_many(trials, rest, running))}

    def _of_many(self, trials: Sequence[Told], rest: range, running: Sequence[int]) -> set[int]:
        """What to look at where hundreds of workers keep many blocks open.

        Of every open block the best, and of all of them the latest that are decided and the latest that run. The others
        that run are not kept clear of: among so many that makes no difference.
        """
        seen = {*running[-BLOCK:], *[number for number in rest if trials[number].state.is_finished()][-2 * BLOCK :]}
        for start in range(rest.start, rest.stop, BLOCK):
            decided = [t for t in trials[start : start + BLOCK] if t.state.is_finished()]
            if self._open.get(start, (0, ()))[0] != len(decided):
                self._open[start] = len(decided), self._of(decided)[: KEPT // 10]
            seen |= {*self._open[start][1]} if start in self._open else set()
        self._open = {start: kept for start, kept in self._open.items() if start >= rest.start}
        return seen

    def _of(self, trials: Sequence[Told]) -> list[int]:
        """The best of some trials: what is feasible first, then by rank, and within a rank spread before crowd."""
        complete = [trial for trial in trials if trial.values is not None]
        missed = {t.number: sum(max(0.0, violation) for violation in t.constraints.values()) for t in complete}
        feasible = [trial for trial in complete if missed[trial.number] == 0]
        rows = [dict(zip(self._directions, trial.values or (), strict=True)) for trial in feasible]
        ranked: dict[int, list[int]] = {}
        for index, rank in enumerate(ranks(rows, self._directions)):
            ranked.setdefault(rank, []).append(index)
        best: list[int] = []
        for _, members in sorted(ranked.items()):
            signs = [-1.0 if way == "maximize" else 1.0 for way in self._directions.values()]
            points = np.array([feasible[index].values for index in members], dtype=np.float64) * signs
            spread = np.ptp(points, axis=0)
            scaled = (points - points.min(axis=0)) / np.where(spread > 0, spread, 1.0)
            best += [feasible[members[place]].number for place in epsilon_net(scaled)]
            if len(best) >= KEPT:
                break
        misses = sorted((t for t in complete if missed[t.number] > 0), key=lambda t: (missed[t.number], t.number))
        return sorted([*best, *(trial.number for trial in misses)][:KEPT])
