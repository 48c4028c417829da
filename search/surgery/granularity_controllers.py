"""What decides how fine each unit is: the input's variance, the noise it would hear, or a choice that is learned.

A controller says which level every unit wants; `search.surgery.granularity_levels` sees to budget and dwell.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from search.surgery.granularity_levels import View, mean, within
from spaces.granularity import GranularityPolicy

#: Ratios of so many decisions make up the distribution that the quantiles are taken from.
_REMEMBERED = 32


class Controller(ABC):
    """Decides from what was seen in earlier batches. Its state is explicit: `reset` and it has seen nothing."""

    @abstractmethod
    def wanted(self, views: Sequence[View], budget: float) -> tuple[int, ...]:
        """The level that each unit wants, at most `budget` bits on average where that is its own concern."""

    def reset(self) -> None:
        """Forget everything."""

    def state(self) -> dict[str, Tensor]:
        """Everything that `load_state` needs."""
        return {}

    def load_state(self, state: dict[str, Tensor]) -> None:
        """Take up what `state` gave."""


class SignalToNoise(Controller):
    """The fewest bits whose signal-to-quantization-noise ratio reaches a common bar, as high as the budget allows.

    A range that is fixed gives a fixed noise, so an input of low variance needs *more* bits here: the opposite of what
    the rule of variance says.

    Args:
        hysteresis: Share by which a unit's noise must pass the bar before it moves.
    """

    def __init__(self, hysteresis: float) -> None:
        self._hysteresis = hysteresis

    def wanted(self, views: Sequence[View], budget: float) -> tuple[int, ...]:
        bars = sorted({noise for view in views for noise in view.noise})
        low, high = 0, len(bars) - 1
        # The least noise allowed that the budget can pay for; the average falls as the bar rises.
        while low < high:
            middle = (low + high) // 2
            if mean(views, self._at(views, bars[middle])) <= budget:
                high = middle
            else:
                low = middle + 1
        bar = bars[low]
        levels = []
        for view, level in zip(views, self._at(views, bar), strict=True):
            # Both moves cross at the coarser of the two levels: its noise is on one side of the bar or the other.
            if view.now in view.ladder and abs(view.at(level) - view.at(view.now)) == 1:
                crossed = view.noise[view.at(min(level, view.now))]
                if abs(math.log(crossed / bar)) < math.log1p(self._hysteresis):
                    level = view.now
            levels.append(level)
        return within(views, levels, budget)

    @staticmethod
    def _at(views: Sequence[View], bar: float) -> tuple[int, ...]:
        found = []
        for view in views:
            quiet = [level for level, noise in zip(view.ladder, view.noise, strict=True) if noise <= bar]
            found.append(min(quiet, default=view.ladder[0]))
        return tuple(found)


class InputVariance(Controller):
    """The seed's rule: one level up where the variance is high against its running mean, one down where it is low.

    What is high and low are quantiles of the ratios of the last decisions, over all units (seed 12067492).

    Args:
        low: Quantile, in [0, 0.5].
        high: Quantile, in [0.5, 1].
        hysteresis: Share by which a ratio must pass a threshold.
    """

    def __init__(self, low: float, high: float, hysteresis: float) -> None:
        self._low, self._high, self._hysteresis = low, high, hysteresis
        self._ratios: deque[float] = deque()

    def thresholds(self) -> tuple[float, float]:
        """Below the first a unit goes down, above the second it goes up."""
        ratios = torch.tensor(list(self._ratios) or [1.0], dtype=torch.float64)
        return (
            float(ratios.quantile(self._low)) * (1 - self._hysteresis),
            float(ratios.quantile(self._high)) * (1 + self._hysteresis),
        )

    def wanted(self, views: Sequence[View], budget: float) -> tuple[int, ...]:
        self._ratios.extend(view.ratio for view in views)
        while len(self._ratios) > _REMEMBERED * len(views):
            self._ratios.popleft()
        low, high = self.thresholds()
        levels = []
        for view in views:
            move = view.lowered if view.ratio < low else view.raised if view.ratio > high else None
            levels.append(view.now if move is None or view.now not in view.ladder else move(view.now))
        return within(views, levels, budget)

    def reset(self) -> None:
        self._ratios.clear()

    def state(self) -> dict[str, Tensor]:
        return {"ratios": torch.tensor(list(self._ratios), dtype=torch.float64)}

    def load_state(self, state: dict[str, Tensor]) -> None:
        self._ratios = deque(state["ratios"].tolist())


class Learned(Controller):
    """The level that each unit has learned to prefer; where the budget does not reach, the least loss in preference."""

    def wanted(self, views: Sequence[View], budget: float) -> tuple[int, ...]:
        best = [view.ladder[max(range(len(view.ladder)), key=lambda i: view.scores[i])] for view in views]
        # To `within`, noise is what a level costs: here how much less it is preferred.
        preferred = [
            View(view.share, view.ladder, view.now, tuple(max(view.scores) - score for score in view.scores))
            for view in views
        ]
        return within(preferred, best, budget)


def controller_for(policy: GranularityPolicy) -> Controller:
    """The controller that a policy asks for."""
    if policy.controller == "variance":
        return InputVariance(policy.low, policy.high, policy.hysteresis)
    return SignalToNoise(policy.hysteresis) if policy.controller == "sqnr" else Learned()
