"""When a search is over: the threshold that its trials are to reach, the time it may take, how many it may try."""

from __future__ import annotations

from dataclasses import dataclass

from objectives.criterion import Criterion


@dataclass(frozen=True)
class SearchCriteria:
    """What ends a search, whichever comes first (seed 11755603, 5).

    Args:
        trials: How many trials are decided, >= 1.
        seconds: Wall time of all runs, or None for as long as it takes.
        target: What one feasible complete trial must meet; empty where the search goes on regardless.
    """

    trials: int
    seconds: float | None = None
    target: tuple[Criterion, ...] = ()

    def met(self, decided: int, seconds: float, hit: bool) -> str:
        """Why the search is over, in one line; "" while it is not.

        Args:
            decided: Trials that are complete, pruned or failed.
            seconds: Wall time so far.
            hit: Whether a trial has met the target.
        """
        if decided >= self.trials:
            return f"{decided} of {self.trials} trials are decided"
        if hit:
            return f"a trial meets {' and '.join(map(str, self.target))}"
        return f"the time limit of {self.seconds:g} seconds is reached" if self.late(seconds) else ""

    def late(self, seconds: float) -> bool:
        """Whether the time is up."""
        return self.seconds is not None and seconds >= self.seconds
