"""The compression profile: which policies are on, with which values, and what differs for some layers."""

from __future__ import annotations

import fnmatch
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from spaces import POLICIES, files
from spaces.errors import ProfileError, shown
from spaces.policy import Policy, Value, nearest

SCHEMA = 1
P = TypeVar("P", bound=Policy)


@dataclass(frozen=True)
class LayerOverride:
    """Values of one policy for the layers whose name matches a shell pattern, e.g. ``layer3.*``.

    Raises:
        ProfileError: If the pattern is no text that could match a name.
    """

    match: str
    policy: str
    values: Mapping[str, Value]

    def __post_init__(self) -> None:
        if not isinstance(self.match, str) or not self.match or not self.match.isprintable():
            raise ProfileError(f"match must be a layer name pattern, but is {shown(self.match)}: write e.g. 'layer3.*'")

    def covers(self, layer: str) -> bool:
        """Whether a layer (``layer3.0.conv1``) or a weight in it (``layer3.0.conv1.weight``) is meant."""
        return fnmatch.fnmatchcase(layer, self.match) or fnmatch.fnmatchcase(layer.rpartition(".")[0], self.match)


@dataclass(frozen=True)
class CompressionProfile:
    """One point of the search space: everything that decides what happens to the network.

    Args:
        policies: The policies that are on, by name. A policy that is not named is off.
        layers: Overrides in order; where two cover a layer the later one holds.

    Raises:
        ProfileError: If a name is unknown, a value is out of range, or a knob is set that cannot act.
    """

    policies: Mapping[str, Policy] = field(default_factory=dict)
    layers: tuple[LayerOverride, ...] = ()

    def __post_init__(self) -> None:
        for name, policy in self.policies.items():
            if not isinstance(policy, _policy_type(name)):
                raise ProfileError(
                    f"{name} must be a {_policy_type(name).__name__}, but is {shown(policy)}: see the docs"
                )
            for knob in policy.knobs().values():
                if getattr(policy, knob.name) != knob.default and not policy.acts(knob.name, self.policies):
                    raise ProfileError(policy.inert(knob))
        ordered = {name: self.policies[name] for name in POLICIES if name in self.policies}
        object.__setattr__(self, "policies", ordered)
        object.__setattr__(self, "layers", tuple(self._checked(override) for override in self.layers))
        seen: set[tuple[str, str]] = set()
        for override in self.layers:
            if (override.match, override.policy) in seen:
                raise ProfileError(
                    f"the layers {override.match!r} override {override.policy} more than once: put the values together"
                )
            seen.add((override.match, override.policy))

    @classmethod
    def of(cls, *policies: Policy, layers: Iterable[LayerOverride] = ()) -> Self:
        """A profile of these policies: ``CompressionProfile.of(PruningPolicy(sparsity=0.9))``."""
        return cls({policy.name: policy for policy in policies}, tuple(layers))

    def get(self, kind: type[P]) -> P | None:
        """The policy of that type as it acts beside the others, or None where it is off."""
        policy = self.policies.get(kind.name)
        return policy.within(self.policies) if isinstance(policy, kind) else None

    def overrides(self, policy: str, layer: str) -> dict[str, Value]:
        """The values that differ for a layer, merged in order."""
        merged: dict[str, Value] = {}
        for override in self.layers:
            if override.policy == policy and override.covers(layer):
                merged.update(override.values)
        return merged

    def parameters(self) -> dict[str, Value]:
        """Flat names as Optuna and MLflow show them: ``pruning.sparsity``, ``pruning.sparsity@layer3.*``."""
        flat = {f"{n}.{k}": v for n, policy in self.policies.items() for k, v in policy.values(self.policies).items()}
        for override in self.layers:
            flat |= {f"{override.policy}.{knob}@{override.match}": value for knob, value in override.values.items()}
        return flat

    def to_dict(self) -> dict[str, Any]:
        """A JSON-able form; the inverse of :meth:`from_dict`."""
        return {
            "schema": SCHEMA,
            "policies": {name: policy.values(self.policies) for name, policy in self.policies.items()},
            "layers": [{"match": o.match, "policy": o.policy, "values": dict(o.values)} for o in self.layers],
        }

    @classmethod
    def from_dict(cls, data: object) -> Self:
        """Read what :meth:`to_dict` wrote.

        Raises:
            ProfileError: If it is not a profile of a schema this version knows, or breaks a rule.
        """
        if not isinstance(data, Mapping) or set(data) - {"schema", "policies", "layers"}:
            raise ProfileError("a profile must be an object with schema, policies and layers, but is not: see the docs")
        schema = data.get("schema")
        if type(schema) is not int or schema != SCHEMA:
            raise ProfileError(f"a profile's schema must be {SCHEMA}, but is {shown(schema)}: export it again")
        policies, layers = data.get("policies", {}), data.get("layers", [])
        if not isinstance(policies, Mapping) or not all(isinstance(v, Mapping) for v in policies.values()):
            raise ProfileError("a profile's policies must map a policy to its knobs: {'pruning': {'sparsity': 0.9}}")
        if not isinstance(layers, list) or not all(
            isinstance(row, Mapping)
            and set(row) == {"match", "policy", "values"}
            and isinstance(row["policy"], str)
            and isinstance(row["values"], Mapping)
            for row in layers
        ):
            raise ProfileError("a profile's layers must be a list of {match, policy, values}, but is not: see the docs")
        built = {str(name): _policy_type(str(name)).from_values(values) for name, values in policies.items()}
        profile = cls(built, tuple(LayerOverride(r["match"], r["policy"], dict(r["values"])) for r in layers))
        for name, values in policies.items():
            for knob in values:
                if not built[name].acts(knob, built):
                    raise ProfileError(built[name].inert(built[name].knob(knob)))
        return profile

    def to_json(self) -> str:
        """Canonical JSON: keys sorted, so that equal profiles are equal texts."""
        return json.dumps(self.to_dict(), sort_keys=True, indent=2)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what :meth:`to_json` wrote.

        Raises:
            ProfileError: If it is not JSON, or not a valid profile.
        """
        return cls.from_dict(files.parse(text, "a profile"))

    def fingerprint(self) -> str:
        """sha256 of the canonical JSON: equal for equal profiles, however they were built."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write the canonical JSON.

        Raises:
            StorageError: If the file cannot be written.
        """
        files.write(path, self.to_json(), "the profile")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a profile from a file.

        Raises:
            StorageError: If the file cannot be read.
            ProfileError: If it is not a valid profile.
        """
        return cls.from_json(files.read(path, "the profile"))

    def _checked(self, override: LayerOverride) -> LayerOverride:
        """The override with each value in its knob's own type, so that equal profiles are equal texts."""
        _policy_type(override.policy)
        if override.policy not in self.policies:
            raise ProfileError(
                f"the layers {override.match!r} override {override.policy}, but it is off: turn it on or leave it out"
            )
        if not override.values:
            raise ProfileError(f"the layers {override.match!r} override nothing of {override.policy}: leave them out")
        policy = self.policies[override.policy]
        values: dict[str, Value] = {}
        for name, value in override.values.items():
            knob = policy.knob(name)
            if not knob.per_layer:
                allowed = ", ".join(k.name for k in policy.knobs().values() if k.per_layer) or "none"
                raise ProfileError(f"{policy.name}.{name} cannot differ by layer: of this policy only {allowed} can")
            if not policy.acts(name, self.policies):
                raise ProfileError(policy.inert(knob))
            values[name] = knob.check(value, f"{policy.name}.{name}@{override.match}")
        return replace(override, values=values)


def _policy_type(name: str) -> type[Policy]:
    if name not in POLICIES:
        raise ProfileError(f"there is no policy {shown(name)}: {nearest(name, POLICIES)}")
    return POLICIES[name]
