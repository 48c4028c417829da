"""The search space: which knobs are searched over which ranges, which are fixed, which layers differ."""

from __future__ import annotations

import hashlib
import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from spaces import POLICIES
from spaces.errors import ProfileError, shown
from spaces.policy import Harsher, Knob, Policy, Value, nearest
from spaces.profile import CompressionProfile, LayerOverride
from spaces.setting import canonical, contains, may_be, read_setting


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
            raise ProfileError(f"{policy.name}.optional must be true or false, but is {shown(optional)}: choose one")
        knobs: dict[str, BaseDistribution | Value] = {k.name: k.distribution for k in policy.knobs().values()}
        for name, setting in settings.items():
            if name not in knobs:
                known = nearest(name, [*knobs, "optional"])
                raise ProfileError(f"{policy.name} has no knob {shown(name)}: {known}")
            knobs[name] = read_setting(policy.knob(name), setting, f"{policy.name}.{name}")
        return cls(policy, knobs, optional)


@dataclass(frozen=True)
class LayerSpace:
    """What is searched separately for the layers that match a pattern.

    Raises:
        ProfileError: If nothing is.
    """

    match: str
    policy: type[Policy]
    knobs: Mapping[str, BaseDistribution | Value]

    def __post_init__(self) -> None:
        if not self.knobs:
            raise ProfileError(
                f"spaces.layers {self.match!r} names {self.policy.name}, but none of its knobs: add one or leave it out"
            )

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

    Raises:
        ProfileError: If a name is unknown, or a knob is set that can act nowhere in the space.
    """

    policies: Mapping[str, PolicySpace] = field(default_factory=dict)
    layers: tuple[LayerSpace, ...] = ()

    def __post_init__(self) -> None:
        for name, space in self.policies.items():
            if name not in POLICIES:
                raise ProfileError(f"there is no policy {shown(name)}: {nearest(name, POLICIES)}")
            if space.policy is not POLICIES[name]:
                raise ProfileError(
                    f"{name} must be a space of {POLICIES[name].__name__}, but is of {space.policy.__name__}"
                )
            for knob in space.policy.knobs().values():
                if space.knobs[knob.name] != knob.distribution and not self._may_act(space.policy, knob.name):
                    raise ProfileError(space.policy.inert(knob))
        ordered = {name: self.policies[name] for name in POLICIES if name in self.policies}
        object.__setattr__(self, "policies", ordered)
        seen: set[tuple[str, str]] = set()
        for layer in self.layers:
            self._check_layer(layer)
            if (layer.match, layer.policy.name) in seen:
                raise ProfileError(
                    f"spaces.layers names {layer.match!r} twice for {layer.policy.name}: put the knobs together"
                )
            seen.add((layer.match, layer.policy.name))

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
                raise ProfileError(f"there is no policy {shown(name)}: {nearest(name, [*POLICIES, 'layers'])}")
            if not isinstance(table, Mapping):
                raise ProfileError(
                    f"spaces.{name} must be a table of knobs, but is {shown(table)}: use {{}} for defaults"
                )
            policies[name] = PolicySpace.of(POLICIES[name], table)
        return cls(policies, tuple(layers))

    def suggest(self, trial: Suggests) -> CompressionProfile:
        """One profile, sampled knob by knob; knobs that cannot act under what was already chosen are not asked for."""
        return self._walk(lambda name, distribution, knob: _suggest(trial, name, distribution))

    def profile(self, parameters: Mapping[str, Value]) -> CompressionProfile:
        """The profile that searched names and values lead to; the inverse of :meth:`parameters`.

        Raises:
            ProfileError: If a value that is needed is missing, or is not one of this space.
        """

        def choose(name: str, distribution: BaseDistribution, knob: Knob | None) -> Value:
            value = parameters.get(name)
            if value is None or not contains(distribution, value):
                raise ProfileError(f"{name} must be a value of the search space, but is {shown(value)}: {distribution}")
            return value

        return self._walk(choose)

    def corner(self, which: Literal["mildest", "middle", "harshest"]) -> CompressionProfile:
        """The profile at one end of every knob that has a harsher end; the others stay at their middle."""
        return self._walk(lambda name, distribution, knob: _corner(distribution, knob, which))

    def parameters(self, profile: CompressionProfile) -> dict[str, Value]:
        """The searched names and values that lead to `profile`, as `enqueue` wants them.

        Values outside of this space's ranges are left out, so that a profile of another study still guides this one.
        """
        flat = profile.parameters() | {f"{name}.on": name in profile.policies for name in self.policies}
        searched = self.distributions()
        return {name: value for name, value in flat.items() if name in searched and contains(searched[name], value)}

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
            name: {knob: canonical(setting) for knob, setting in space.knobs.items()} | {"optional": space.optional}
            for name, space in self.policies.items()
        }
        text["layers"] = [
            [layer.match, layer.policy.name, {knob: canonical(setting) for knob, setting in layer.knobs.items()}]
            for layer in self.layers
        ]
        return hashlib.sha256(json.dumps(text, sort_keys=True).encode()).hexdigest()

    def _check_layer(self, layer: LayerSpace) -> None:
        name = layer.policy.name
        if name not in self.policies:
            raise ProfileError(f"spaces.layers {layer.match!r} names {name}, but it is off: add [spaces.{name}]")
        for knob in layer.knobs:
            if not self._may_act(layer.policy, knob):
                raise ProfileError(f"spaces.layers {layer.match!r}: {layer.policy.inert(layer.policy.knob(knob))}")

    def _may_act(self, policy: type[Policy], name: str) -> bool:
        """Whether any profile of this space lets the knob act."""
        for when in policy.knob(name).when:
            owner, _, other = when.knob.rpartition(".")
            if not owner:
                setting = self.policies[policy.name].knobs[other]
                holds = may_be(setting, when.values) and (when.inert or self._may_act(policy, other))
            elif owner not in self.policies:
                holds = when.absent
            else:
                holds = may_be(self.policies[owner].knobs[other], when.values)
                holds = holds or (self.policies[owner].optional and when.absent)
            if not holds:
                return False
        return True

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
            if space.policy.would_act(knob.name, values, chosen):
                values[knob.name] = self._choose_value(f"{name}.{knob.name}", space.knobs[knob.name], knob, choose)
        return space.policy.from_values(values)

    @staticmethod
    def _choose_value(name: str, setting: BaseDistribution | Value, knob: Knob, choose: _Choose) -> Value:
        return choose(name, setting, knob) if isinstance(setting, BaseDistribution) else setting


class _Choose(Protocol):
    def __call__(self, name: str, distribution: BaseDistribution, knob: Knob | None) -> Value: ...


def _read_layers(table: object) -> list[LayerSpace]:
    if not isinstance(table, list) or not all(isinstance(row, Mapping) for row in table):
        raise ProfileError("spaces.layers must be a list of tables, but is not: write [[spaces.layers]]")
    layers = []
    for row in table:
        match = row.get("match")
        if not isinstance(match, str) or not match or not match.isprintable():
            raise ProfileError(
                f'spaces.layers needs match, a layer name pattern, but has {shown(match)}: match = "layer3.*"'
            )
        if len(row) == 1:
            raise ProfileError(f"spaces.layers {match!r} must name a policy, but names none: {nearest('', POLICIES)}")
        for name, settings in row.items():
            if name == "match":
                continue
            if name not in POLICIES:
                known = nearest(name, [*POLICIES, "match"])
                raise ProfileError(f"spaces.layers {match!r} names no policy with {shown(name)}: {known}")
            if not isinstance(settings, Mapping):
                raise ProfileError(
                    f"spaces.layers {match!r}.{name} must be a table of knobs, but is {shown(settings)}: "
                    f"write {name} = {{ knob = ... }}"
                )
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
    middle = math.sqrt(numbers.low) * math.sqrt(numbers.high) if numbers.log else (numbers.low + numbers.high) / 2
    middle = min(max(middle, numbers.low), numbers.high)
    value = ends.get(which, middle) if knob and knob.harsher else middle
    return round(value) if isinstance(numbers, IntDistribution) else value
