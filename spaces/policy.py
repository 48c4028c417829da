"""What a policy is: frozen data whose knobs are annotated with Optuna's own distributions.

    class PruningPolicy(Policy):
        sparsity: Annotated[float, FloatDistribution(0.3, 0.98), Limits(0.0, 0.999), Harsher.UP] = 0.8

The distribution is the default search range. `Limits` is what the mechanism can do at all, `When` says under which
other knob's value this one acts: elsewhere it has no value, so that no profile carries a number that does nothing.
"""

from __future__ import annotations

import dataclasses
import difflib
import enum
import functools
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from spaces.errors import ProfileError, shown

Value = float | int | str | bool


@dataclass(frozen=True)
class Limits:
    """The hard bounds of a number, both included; ranges in a study file may be wider than the default within them."""

    low: float
    high: float


@dataclass(frozen=True)
class When:
    """The knob acts only where another knob has one of these values.

    Args:
        knob: ``granularity`` for a knob of the same policy, ``reconnection.mode`` for another policy's.
        values: The values under which this knob acts.
        absent: Whether it acts where the other policy is off (only read for another policy's knob).
        inert: Whether it acts where the other knob does not and so has its default.
    """

    knob: str
    values: tuple[Value, ...]
    absent: bool = True
    inert: bool = False


class Harsher(enum.Enum):
    """In which direction a knob compresses more; the pre-flight table walks along it."""

    UP = "up"
    DOWN = "down"


class PerLayer(enum.Enum):
    """The knob may be set for the layers that match a name pattern."""

    YES = "yes"


@dataclass(frozen=True)
class Knob:
    """One searchable number or choice of a policy, as read from its annotation."""

    name: str
    type: type
    distribution: BaseDistribution
    default: Value
    limits: Limits | None = None
    when: tuple[When, ...] = ()
    harsher: Harsher | None = None
    per_layer: bool = False

    @property
    def neutral(self) -> Value:
        """What is logged where the policy is off, so that the axes of a comparison line up."""
        return "off" if self.type is str else self.type(0)

    def check(self, value: object, where: str) -> Value:
        """Return `value` in the knob's own type.

        Raises:
            ProfileError: If it is of another type or outside of what the mechanism can do.
        """
        if isinstance(self.distribution, CategoricalDistribution):
            choices = self.distribution.choices
            known_type = isinstance(value, Value) and isinstance(value, bool) == (self.type is bool)
            if not known_type or value not in choices:
                known = ", ".join(str(choice) for choice in choices)
                raise ProfileError(f"{where} must be one of {known}, but is {shown(value)}: {nearest(value, choices)}")
            return typing.cast(Value, self.type(value))
        whole = isinstance(self.distribution, IntDistribution)
        number = _finite(value)
        if number is None or (whole and not number.is_integer()):
            kind = "a whole number" if whole else "a number"
            raise ProfileError(f"{where} must be {kind}, but is {shown(value)}: use one such as {self.default}")
        if self.limits and not self.limits.low <= number <= self.limits.high:
            raise ProfileError(
                f"{where} must lie in [{self.limits.low:g}, {self.limits.high:g}], but is {number:g}: "
                f"the default range is {_range(self.distribution)}"
            )
        return int(number) if whole else number


@dataclass(frozen=True, kw_only=True)
class Policy:
    """Base of all policies. A subclass adds knobs as annotated fields, each with a default."""

    name: ClassVar[str]

    def __post_init__(self) -> None:
        for knob in self.knobs().values():
            value = knob.check(getattr(self, knob.name), f"{self.name}.{knob.name}")
            object.__setattr__(self, knob.name, value)
        for knob in self.knobs().values():
            if getattr(self, knob.name) != knob.default and not self.acts(knob.name):
                raise ProfileError(self.inert(knob))

    @classmethod
    @functools.cache
    def knobs(cls) -> Mapping[str, Knob]:
        """The knobs by name, in the order in which they are written."""
        hints = typing.get_type_hints(cls, include_extras=True)
        return {f.name: _read_knob(f.name, hints[f.name], f.default) for f in dataclasses.fields(cls)}

    @classmethod
    def knob(cls, name: str) -> Knob:
        """The knob of that name.

        Raises:
            ProfileError: If there is none; the message names the nearest.
        """
        if name not in cls.knobs():
            raise ProfileError(f"{cls.name} has no knob {shown(name)}: {nearest(name, cls.knobs())}")
        return cls.knobs()[name]

    @classmethod
    def from_values(cls, values: Mapping[str, object]) -> Self:
        """Build the policy from explicit values; knobs that are left out take their default.

        Raises:
            ProfileError: If a name is unknown, a value is out of range, or a knob is set that cannot act.
        """
        for name in values:
            cls.knob(name)
        policy = cls(**typing.cast(dict[str, Any], dict(values)))
        for name in values:
            if not policy.acts(name):
                raise ProfileError(policy.inert(cls.knob(name)))
        return policy

    def acts(self, name: str, profile: Mapping[str, Policy] | None = None) -> bool:
        """Whether the knob has any effect, given this policy's other values and, if given, the other policies."""
        return self.would_act(name, vars(self), profile)

    @classmethod
    def would_act(cls, name: str, values: Mapping[str, Value], profile: Mapping[str, Policy] | None = None) -> bool:
        """As `acts`, for a policy with these values and otherwise its defaults."""
        for condition in cls.knob(name).when:
            owner, _, other = condition.knob.rpartition(".")
            if not owner:
                value = values.get(other, cls.knob(other).default)
                holds = value in condition.values and (condition.inert or cls.would_act(other, values, profile))
            elif profile is None:
                holds = True
            elif owner not in profile:
                holds = condition.absent
            else:
                holds = getattr(profile[owner], other) in condition.values
            if not holds:
                return False
        return True

    def values(self, profile: Mapping[str, Policy] | None = None) -> dict[str, Value]:
        """The knobs that act, with their values."""
        return {name: getattr(self, name) for name in self.knobs() if self.acts(name, profile)}

    def changed(self, values: Mapping[str, Value], profile: Mapping[str, Policy] | None = None) -> Self:
        """The same policy with some values changed; knobs that do not act any more go back to their default.

        Args:
            values: By knob.
            profile: The policies that stand beside it.

        Raises:
            ProfileError: If a value is out of range.
        """
        drafted: dict[str, Any] = vars(self) | dict(values)
        return type(self)(**{name: v for name, v in drafted.items() if self.would_act(name, drafted, profile)})

    def controls(self) -> Mapping[str, Policy]:
        """What shows whether this policy's own choice of connections pays: the same but for that choice, by name."""
        return {}

    def within(self, profile: Mapping[str, Policy]) -> Self:
        """This policy as it acts beside the others; overridden where another policy fixes one of its knobs."""
        return self

    def decision_steps(self, steps: int) -> tuple[int, ...]:
        """The optimizer steps, from 0, of a run of `steps` in which this policy acts; overridden by those that do."""
        return ()

    def wanted_decisions(self) -> int:
        """How often it must act for its values to mean anything; a budget that allows fewer is refused."""
        return 0

    @classmethod
    def inert(cls, knob: Knob) -> str:
        """The message for a knob that is set where it cannot act."""
        rules = " and ".join(f"{w.knob} is {' or '.join(map(str, w.values))}" for w in knob.when)
        return f"{cls.name}.{knob.name} acts only where {rules}, but it is set: leave it out"


def periodic(steps: int, interval: float, end: float) -> tuple[int, ...]:
    """The steps 0, n, 2n, ... up to the share `end` of `steps`, where n is the share `interval`, at least one step."""
    every = max(1, round(interval * steps))
    return tuple(range(0, step_at(end, steps) + 1, every)) if steps > 0 else ()


def step_at(share: float, steps: int) -> int:
    """The step, from 0, at which a share of the budget is spent; the last one of the run for a share of 1."""
    return min(int(share * steps), max(0, steps - 1))


def _finite(value: object) -> float | None:
    """The number as a float (0.0 for -0.0, which would be equal and yet print otherwise), None where it is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        number = float(value) + 0.0
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _read_knob(name: str, hint: object, default: object) -> Knob:
    kind, *notes = typing.get_args(hint)
    distributions = [note for note in notes if isinstance(note, BaseDistribution)]
    limits = [note for note in notes if isinstance(note, Limits)]
    return Knob(
        name=name,
        type=kind,
        distribution=distributions[0],
        default=typing.cast(Value, default),
        limits=limits[0] if limits else None,
        when=tuple(note for note in notes if isinstance(note, When)),
        harsher=next((note for note in notes if isinstance(note, Harsher)), None),
        per_layer=PerLayer.YES in notes,
    )


def nearest(value: object, known: Iterable[object]) -> str:
    """The remedy for a mistyped name: the closest known one, or all of them."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(value, names, n=1, cutoff=0.4) if isinstance(value, str) else []
    return f"did you mean {close[0]!r}?" if close else f"known are {', '.join(names)}"


def _range(distribution: BaseDistribution) -> str:
    if isinstance(distribution, FloatDistribution | IntDistribution):
        return f"[{distribution.low:g}, {distribution.high:g}]"
    return str(distribution)
