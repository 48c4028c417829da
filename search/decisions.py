"""How often a policy acts in one trial: its values mean nothing where it hardly does.

Schedules are shares of the budget, so in a short budget a policy may come down to one cut, and a search over its other
knobs would compare noise.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, cast

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from spaces import POLICIES
from spaces.policy import Harsher, Value
from spaces.profile import CompressionProfile
from spaces.space import SearchSpace

#: Budgets in which it is asked whether a knob matters: one so long that rounding hides nothing, and two so short that
#: what must fill before a policy acts may not.
BUDGETS = (64, 250, 10_000)

Corner = Literal["mildest", "middle", "harshest"]


@dataclass(frozen=True)
class Decisions:
    """How often a policy acts in one trial.

    Args:
        fewest: At the point of the space where the most is missing.
        most: Over the whole space.
        wanted: At that point; fewer are refused.
    """

    fewest: int
    most: int
    wanted: int

    @property
    def enough(self) -> bool:
        return self.fewest >= self.wanted


def decisions(space: SearchSpace, policy: str, steps: int) -> Decisions:
    """The extremes over the ends of every knob on which it depends how often the policy acts.

    Args:
        space: Has the policy.
        policy: Its name.
        steps: Optimizer steps of a trial.
    """
    return _extremes(_profiles(space, policy), policy, steps)


def enough_steps(space: SearchSpace, policy: str, steps: int) -> int | None:
    """A budget in which the policy acts often enough, a fifth above the least at most; None where none does."""
    profiles = _profiles(space, policy)
    for _ in range(60):
        steps += max(1, steps // 5)
        if _extremes(profiles, policy, steps).enough:
            return steps
    return None


def _extremes(profiles: list[CompressionProfile], policy: str, steps: int) -> Decisions:
    found = [_acts(profile, policy, steps) for profile in profiles]
    fewest, wanted = min(found, key=lambda pair: pair[0] - pair[1])
    return Decisions(fewest, max(count for count, _ in found), wanted)


def _acts(profile: CompressionProfile, policy: str, steps: int) -> tuple[int, int]:
    """How often the policy acts, and how often it must."""
    acting = profile.policies[policy].within(profile.policies)
    return len(acting.decision_steps(steps)), acting.wanted_decisions()


def _profiles(space: SearchSpace, policy: str) -> list[CompressionProfile]:
    """All combinations of the ends of the knobs that matter, the others in the middle.

    A knob may matter only under another one's choice, so those that act under what was found are looked at again.
    """
    middle: dict[str, Value] = point_at(space, "middle") | {f"{policy}.on": True}
    names = [name for name in space.distributions() if "@" not in name and name != f"{policy}.on"]
    matter = [name for name in names if _matters(space, [middle], name, policy)]
    while True:
        points = [middle | chosen for chosen in _combinations(space, matter)]
        others = [name for name in names if name not in matter and _owners(name) & set(matter)]
        more = [name for name in others if _matters(space, points, name, policy)]
        if not more:
            return [space.profile(point) for point in points]
        matter += more


def _owners(name: str) -> set[str]:
    """The knobs whose choices decide whether this one acts."""
    policy, _, knob = name.partition(".")
    if knob == "on":
        return set()
    owners = {w.knob if "." in w.knob else f"{policy}.{w.knob}" for w in POLICIES[policy].knob(knob).when}
    return owners.union(*(_owners(owner) for owner in owners))


def _matters(space: SearchSpace, points: list[dict[str, Value]], name: str, policy: str) -> bool:
    """Whether the knob decides how often the policy acts."""
    options = ends(space.distributions()[name])
    return any(len({_seen(space.profile(point | {name: end}), policy) for end in options}) > 1 for point in points)


def _seen(profile: CompressionProfile, policy: str) -> tuple[tuple[int, int], ...]:
    return tuple(_acts(profile, policy, steps) for steps in BUDGETS)


def _combinations(space: SearchSpace, names: list[str]) -> Iterator[dict[str, Value]]:
    options = [ends(space.distributions()[name]) for name in names]
    for chosen in itertools.product(*options):
        yield dict(zip(names, chosen, strict=True))


def ends(distribution: BaseDistribution) -> tuple[Value, ...]:
    """All choices, or both ends of a range."""
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return (distribution.low, distribution.high)
    return tuple(cast(Value, choice) for choice in cast(CategoricalDistribution, distribution).choices)


def point_at(space: SearchSpace, which: Corner) -> dict[str, Value]:
    """A value for every searched name at a corner of the space, also for those that do not act there."""
    point: dict[str, Value] = {}
    for name, distribution in space.distributions().items():
        policy, _, knob = name.partition("@")[0].partition(".")
        harsher = None if knob == "on" else POLICIES[policy].knob(knob).harsher
        if not isinstance(distribution, FloatDistribution | IntDistribution):
            point[name] = ends(distribution)[0]
        elif harsher is None or which == "middle":
            point[name] = _middle(distribution)
        else:
            upper = (harsher is Harsher.UP) == (which == "harshest")
            point[name] = distribution.high if upper else distribution.low
    return point


def _middle(distribution: FloatDistribution | IntDistribution) -> float | int:
    low, high = distribution.low, distribution.high
    middle = math.sqrt(low * high) if distribution.log else (low + high) / 2
    return round(middle) if isinstance(distribution, IntDistribution) else middle
