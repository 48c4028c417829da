"""What a study file says of one knob: a value that fixes it, a list of choices, or a range."""

from __future__ import annotations

import json
import typing
from collections.abc import Mapping

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from spaces.errors import ProfileError, shown
from spaces.policy import Knob, Value, nearest


def read_setting(knob: Knob, setting: object, where: str) -> BaseDistribution | Value:
    """What a study file says of one knob: ``0.9`` fixes it, ``["a", "b"]`` and ``{low=, high=, log=}`` search it.

    Raises:
        ProfileError: If the range is upside down, or a value is out of what the mechanism can do.
    """
    if isinstance(setting, Mapping):
        return _read_range(knob, setting, where)
    if isinstance(setting, list | tuple):
        if not setting:
            raise ProfileError(f"{where} must offer at least one choice, but is empty: leave it out for the default")
        values = [knob.check(value, where) for value in setting]
        if len(set(values)) < len(values):
            raise ProfileError(f"{where} must offer each choice once, but is {shown(values)}: remove the repetition")
        return CategoricalDistribution(values)
    return knob.check(setting, where)


def _read_range(knob: Knob, setting: Mapping[str, object], where: str) -> BaseDistribution:
    default = knob.distribution
    if not isinstance(default, FloatDistribution | IntDistribution):
        raise ProfileError(f"{where} is a choice, not a number: write a list of choices, e.g. [{knob.default!r}]")
    for key in setting:
        if key not in ("low", "high", "log"):
            raise ProfileError(f"{where} has no key {shown(key)}: {nearest(key, ('low', 'high', 'log'))}")
    low = typing.cast(float, knob.check(setting.get("low", default.low), f"{where}.low"))
    high = typing.cast(float, knob.check(setting.get("high", default.high), f"{where}.high"))
    log = setting.get("log", default.log and low > 0)
    if not isinstance(log, bool):
        raise ProfileError(f"{where}.log must be true or false, but is {shown(log)}: choose one")
    if low > high:
        raise ProfileError(f"{where} must have low <= high, but low is {low:g} and high is {high:g}: swap them")
    if log and low <= 0:
        raise ProfileError(f"{where} with log = true must have low > 0, but low is {low:g}: raise it or drop log")
    if isinstance(default, IntDistribution):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def may_be(setting: BaseDistribution | Value, values: tuple[Value, ...]) -> bool:
    """Whether a knob with this setting can take one of these values."""
    if isinstance(setting, BaseDistribution):
        return any(contains(setting, value) for value in values)
    return setting in values


def contains(distribution: BaseDistribution, value: Value) -> bool:
    """Whether the value lies in the searched range or is one of the searched choices."""
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    numbers = typing.cast(FloatDistribution | IntDistribution, distribution)
    return isinstance(value, int | float) and numbers.low <= value <= numbers.high


def canonical(setting: BaseDistribution | Value) -> object:
    """A JSON-able form, equal for equal settings."""
    return json.loads(distribution_to_json(setting)) if isinstance(setting, BaseDistribution) else setting
