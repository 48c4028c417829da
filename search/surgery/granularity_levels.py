"""From what each unit wants to a level for each: within the budget, and without moving to and fro.

The average is over units, each weighed by its share of the cost; shares add up to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """What a controller knows of a unit.

    Args:
        share: Of the network's cost, in [0, 1].
        ladder: The levels it may have, in bits, from fine to coarse.
        now: Its level; finer than the ladder before the first decision.
        noise: Noise over signal at each level of the ladder, > 0, falling with the bits.
        ratio: Variance of its input over the running mean of it.
        scores: The learned preference for each level of the ladder.
        held: Whether it has not been at its level for long enough.
    """

    share: float
    ladder: tuple[int, ...]
    now: int
    noise: tuple[float, ...]
    ratio: float = 1.0
    scores: tuple[float, ...] = ()
    held: bool = False

    def at(self, bits: int) -> int:
        """The place of a level on the ladder; 0 for one that is finer than all."""
        return self.ladder.index(bits) if bits in self.ladder else 0

    def lowered(self, bits: int) -> int:
        """The next level down; the same at the lowest."""
        if bits not in self.ladder:
            return self.ladder[0]
        return self.ladder[min(self.at(bits) + 1, len(self.ladder) - 1)]

    def raised(self, bits: int) -> int:
        """The next level up; the same at the highest."""
        return self.ladder[max(self.at(bits) - 1, 0)]


def mean(views: Sequence[View], bits: Sequence[int]) -> float:
    """Average bits."""
    return sum(view.share * level for view, level in zip(views, bits, strict=True))


def within(views: Sequence[View], bits: Sequence[int], budget: float) -> tuple[int, ...]:
    """The same levels, some lowered until the average is in the budget; all at their lowest where it cannot be.

    The next to go down is the one that then has the least noise; units that are held go last.
    """
    levels = [level if level in view.ladder else view.ladder[0] for view, level in zip(views, bits, strict=True)]
    total = mean(views, levels)
    while total > budget + 1e-9:
        free = [i for i, view in enumerate(views) if levels[i] != view.ladder[-1] and view.share > 0]
        if not free:
            break

        def harm(i: int) -> tuple[bool, float, int]:
            view = views[i]
            return view.held, view.noise[view.at(view.lowered(levels[i]))], i

        chosen = min(free, key=harm)
        lower = views[chosen].lowered(levels[chosen])
        total -= views[chosen].share * (levels[chosen] - lower)
        levels[chosen] = lower
    return tuple(levels)


def steady(views: Sequence[View], wanted: Sequence[int], budget: float) -> tuple[int, ...]:
    """What is wanted, but units that are held stay where they are as far as the budget allows."""
    levels = [view.now if view.held else level for view, level in zip(views, wanted, strict=True)]
    return within(views, levels, budget)
