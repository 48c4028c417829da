"""What a profile is compared with to see what each of its policies is worth."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from spaces.finetuning import FinetuningPolicy
from spaces.policy import Policy
from spaces.profile import CompressionProfile

#: The profile itself, with which every other variant is compared.
WHOLE = "as found"


def variants(profile: CompressionProfile) -> Mapping[str, CompressionProfile]:
    """The profile, then each policy left out, then each one's choices replaced by those of a control, by label.

    The recipe of training is the same for all. Knobs that no longer act once another policy is gone are dropped, and a
    control that is what the profile does anyway is left out.
    """
    found = {WHOLE: profile}
    for name, policy in profile.policies.items():
        if name == FinetuningPolicy.name:
            continue
        rest = [other for other in profile.policies.values() if other is not policy]
        found[f"no {name}"] = _together(rest, profile)
        for control, replaced in policy.controls().items():
            found[f"{name}: {control}"] = _together([*rest, replaced], profile)
    return {label: each for label, each in found.items() if label == WHOLE or each != profile}


def _together(policies: Iterable[Policy], of: CompressionProfile) -> CompressionProfile:
    """A profile of these policies, with the overrides by layer that still mean something."""
    beside = {policy.name: policy for policy in policies}
    # A knob that hung on another one's value may itself have been another's condition: until nothing changes.
    while (settled := {name: policy.changed({}, beside) for name, policy in beside.items()}) != beside:
        beside = settled
    layers = [
        override
        for override in of.layers
        if override.policy in beside and all(beside[override.policy].acts(knob, beside) for knob in override.values)
    ]
    return CompressionProfile.of(*beside.values(), layers=layers)
