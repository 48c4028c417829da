"""The search space: which knobs are searched over which ranges, which are fixed, which layers differ."""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)

from spaces import POLICIES
from spaces.errors import ProfileError
from spaces.policy import Harsher, Knob, Policy, Value, nearest
from spaces.profile import CompressionProfile, LayerOverride

#: What a study file may say of one knob: a value that fixes it, choices, or a range.
Setting = Value | Sequence[Value] | Mapping[str, object]


class Suggests(Protocol):
    """The three verbs of an Optuna trial that a space needs."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float: ...
    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int: ...
    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any: ...


@dataclass(frozen=True)
class PolicySpace:
    """What is searched of one policy.

    Args:
        policy: The policy's type.
        knobs: Per knob the distribution that is searched, or the value that is fixed.
        optional: Whether the search also decides if the policy is on at all (the knob ``<policy>.on``).
    """

    policy: type[Policy]
    knobs: Mapping[str, BaseDistribution | Value]
    optional: bool = False

    @classmethod
    def of(cls, policy: type[Policy], settings: Mapping[str, object] | None = None) -> PolicySpace:
        """Default ranges, narrowed or fixed by `settings` (a study file's table for the policy).

        Raises:
            ProfileError: If a knob is unknown, or a range or value is not possible.
        """
        settings = dict(settings or {})
        optional = settings.pop("optional", False)
        if not isinstance(optional, bool):
            raise ProfileError(f"{policy.name}.optional must be true or false, but is {optional!r}: choose one")
        knobs: dict[str, BaseDistribution | Value] = {k.name: k.distribution for k in policy.knobs().values()}
        for name, setting in settings.items():
            knobs[name] = read_setting(policy.knob(name), setting, f"{policy.name}.{name}")
        return cls(policy, knobs, optional)


@dataclass(frozen=True)
class LayerSpace:
    """What is searched separately for the layers that match a pattern."""

    match: str
    policy: type[Policy]
    knobs: Mapping[str, BaseDistribution | Value]

    @classmethod
    def of(cls, match: str, policy: type[Policy], settings: Mapping[str, object]) -> LayerSpace:
        """Read a study file's ``[[spaces.layers]]`` table for one policy.

        Raises:
            ProfileError: If a knob is unknown or cannot differ by layer, or a range or value is not possible.
        """
        knobs: dict[str, BaseDistribution | Value] = {}
        for name, setting in settings.items():
            knob = policy.knob(name)
            if not knob.per_layer:
                allowed = ", ".join(k.name for k in policy.knobs().values() if k.per_layer) or "none"
                raise ProfileError(f"{policy.name}.{name} cannot differ by layer: of this policy only {allowed} can")
            knobs[name] = read_setting(knob, setting, f"{policy.name}.{name}@{match}")
        return cls(match, policy, knobs)


@dataclass(frozen=True)
class SearchSpace:
    """All that a study may try.

    Args:
        policies: The policies that are searched, by name; one that is not named is off.
        layers: What differs for some layers.
    """

    policies: Mapping[str, PolicySpace] = field(default_factory=dict)
    layers: tuple[LayerSpace, ...] = ()

    def __post_init__(self) -> None:
        ordered = {name: self.policies[name] for name in POLICIES if name in self.policies}
        object.__setattr__(self, "policies", ordered)
        for layer in self.layers:
            if layer.policy.name not in ordered:
                raise ProfileError(
                    f"spaces.layers {layer.match!r} names {layer.policy.name}, but it is off: add [spaces."
                    f"{layer.policy.name}]"
                )

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> SearchSpace:
        """Read a study file's ``[spaces]`` table.

        Raises:
            ProfileError: If a name is unknown, or a range or value is not possible.
        """
        policies: dict[str, PolicySpace] = {}
        layers: list[LayerSpace] = []
        for name, table in settings.items():
            if name == "layers":
                layers.extend(_read_layers(table))
                continue
            if name not in POLICIES:
                raise ProfileError(f"there is no policy {name!r}: {nearest(name, [*POLICIES, 'layers'])}")
            if not isinstance(table, Mapping):
                raise ProfileError(f"spaces.{name} must be a table of knobs, but is {table!r}: use {{}} for defaults")
            policies[name] = PolicySpace.of(POLICIES[name], table)
        return cls(policies, tuple(layers))

    def suggest(self, trial: Suggests) -> CompressionProfile:
        """One profile, sampled knob by knob; knobs that cannot act under what was already chosen are not asked for."""
        return self._walk(lambda name, distribution, knob: _suggest(trial, name, distribution))

    def corner(self, which: Literal["mildest", "middle", "harshest"]) -> CompressionProfile:
        """The profile at one end of every knob that has a harsher end; the others stay at their middle."""
        return self._walk(lambda name, distribution, knob: _corner(distribution, knob, which))

    def parameters(self, profile: CompressionProfile) -> dict[str, Value]:
        """The searched names and values that lead to `profile`, as `enqueue` wants them.

        Values outside of this space's ranges are left out, so that a profile of another study still guides this one.
        """
        flat = profile.parameters() | {f"{name}.on": name in profile.policies for name in self.policies}
        searched = self.distributions()
        return {
            name: value
            for name, value in flat.items()
            if name in searched and searched[name]._contains(searched[name].to_internal_repr(value))
        }

    def distributions(self) -> dict[str, BaseDistribution]:
        """Every searched name with its distribution, whatever the conditions."""
        found: dict[str, BaseDistribution] = {}
        for name, space in self.policies.items():
            if space.optional:
                found[f"{name}.on"] = CategoricalDistribution((True, False))
            for knob, setting in space.knobs.items():
                if isinstance(setting, BaseDistribution):
                    found[f"{name}.{knob}"] = setting
        for layer in self.layers:
            for knob, setting in layer.knobs.items():
                if isinstance(setting, BaseDistribution):
                    found[f"{layer.policy.name}.{knob}@{layer.match}"] = setting
        return found

    def fingerprint(self) -> str:
        """sha256 over every range and fixed value: two spaces are the same exactly where this is."""
        text: dict[str, Any] = {
            name: {knob: _canonical(setting) for knob, setting in space.knobs.items()} | {"optional": space.optional}
            for name, space in self.policies.items()
        }
        text["layers"] = [
            [layer.match, layer.policy.name, {knob: _canonical(setting) for knob, setting in layer.knobs.items()}]
            for layer in self.layers
        ]
        return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()

    def _walk(self, choose: _Choose) -> CompressionProfile:
        chosen: dict[str, Policy] = {}
        waiting = dict(self.policies)
        while waiting:
            # A policy whose knobs depend on another policy's choice waits for it.
            name = next(n for n, space in waiting.items() if not _awaited(space.policy, waiting) - {n})
            space = waiting.pop(name)
            if not space.optional or choose(f"{name}.on", CategoricalDistribution((True, False)), None):
                chosen[name] = self._choose_policy(name, space, chosen, choose)
        layers = []
        for layer in self.layers:
            name = layer.policy.name
            if name in chosen:
                values = {
                    knob: self._choose_value(f"{name}.{knob}@{layer.match}", setting, layer.policy.knob(knob), choose)
                    for knob, setting in layer.knobs.items()
                    if chosen[name].acts(knob, chosen)
                }
                if values:
                    layers.append(LayerOverride(layer.match, name, values))
        return CompressionProfile(chosen, tuple(layers))

    def _choose_policy(self, name: str, space: PolicySpace, chosen: Mapping[str, Policy], choose: _Choose) -> Policy:
        values: dict[str, Value] = {}
        waiting = dict(space.policy.knobs())
        while waiting:
            knob = next(k for k in waiting.values() if not {w.knob for w in k.when} & (set(waiting) - {k.name}))
            del waiting[knob.name]
            if space.policy.from_values(values).acts(knob.name, chosen):
                values[knob.name] = self._choose_value(f"{name}.{knob.name}", space.knobs[knob.name], knob, choose)
        return space.policy.from_values(values)

    @staticmethod
    def _choose_value(name: str, setting: BaseDistribution | Value, knob: Knob, choose: _Choose) -> Value:
        return choose(name, setting, knob) if isinstance(setting, BaseDistribution) else setting


class _Choose(Protocol):
    def __call__(self, name: str, distribution: BaseDistribution, knob: Knob | None) -> Value: ...


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
            raise ProfileError(f"{where} must offer each choice once, but is {list(setting)}: remove the repetition")
        return CategoricalDistribution(values)
    return knob.check(setting, where)


def _read_range(knob: Knob, setting: Mapping[str, object], where: str) -> BaseDistribution:
    default = knob.distribution
    if not isinstance(default, FloatDistribution | IntDistribution):
        raise ProfileError(f"{where} is a choice, not a number: write a list of choices, e.g. [{knob.default!r}]")
    for key in setting:
        if key not in ("low", "high", "log"):
            raise ProfileError(f"{where} has no key {key!r}: {nearest(key, ('low', 'high', 'log'))}")
    low = typing.cast(float, knob.check(setting.get("low", default.low), f"{where}.low"))
    high = typing.cast(float, knob.check(setting.get("high", default.high), f"{where}.high"))
    log = setting.get("log", default.log and low > 0)
    if not isinstance(log, bool):
        raise ProfileError(f"{where}.log must be true or false, but is {log!r}: choose one")
    if low > high:
        raise ProfileError(f"{where} must have low <= high, but low is {low:g} and high is {high:g}: swap them")
    if log and low <= 0:
        raise ProfileError(f"{where} with log = true must have low > 0, but low is {low:g}: raise it or drop log")
    if isinstance(default, IntDistribution):
        return IntDistribution(int(low), int(high), log=log)
    return FloatDistribution(low, high, log=log)


def _read_layers(table: object) -> list[LayerSpace]:
    if not isinstance(table, list) or not all(isinstance(row, Mapping) for row in table):
        raise ProfileError("spaces.layers must be a list of tables, but is not: write [[spaces.layers]]")
    layers = []
    for row in table:
        match = row.get("match")
        if not isinstance(match, str) or not match:
            raise ProfileError('spaces.layers needs match, a layer name pattern, but has none: match = "layer3.*"')
        for name, settings in row.items():
            if name == "match":
                continue
            if name not in POLICIES:
                raise ProfileError(f"spaces.layers {match!r} names no policy with {name!r}: {nearest(name, POLICIES)}")
            if not isinstance(settings, Mapping):
                raise ProfileError(f"spaces.layers {match!r}.{name} must be a table of knobs, but is {settings!r}")
            layers.append(LayerSpace.of(match, POLICIES[name], settings))
    return layers


def _awaited(policy: type[Policy], waiting: Mapping[str, PolicySpace]) -> set[str]:
    owners = {when.knob.rpartition(".")[0] for knob in policy.knobs().values() for when in knob.when}
    return owners & set(waiting)


def _suggest(trial: Suggests, name: str, distribution: BaseDistribution) -> Value:
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    choice: Value = trial.suggest_categorical(name, typing.cast(CategoricalDistribution, distribution).choices)
    return choice


def _corner(distribution: BaseDistribution, knob: Knob | None, which: str) -> Value:
    if isinstance(distribution, CategoricalDistribution):
        return typing.cast(Value, distribution.choices[0])
    numbers = typing.cast(FloatDistribution | IntDistribution, distribution)
    ends = {"mildest": numbers.low, "harshest": numbers.high}
    if knob and knob.harsher is Harsher.DOWN:
        ends = {"mildest": numbers.high, "harshest": numbers.low}
    middle = (numbers.low * numbers.high) ** 0.5 if numbers.log else (numbers.low + numbers.high) / 2
    value = ends.get(which, middle) if knob and knob.harsher else middle
    return round(value) if isinstance(numbers, IntDistribution) else value


def _canonical(setting: BaseDistribution | Value) -> object:
    return json.loads(distribution_to_json(setting)) if isinstance(setting, BaseDistribution) else setting
