"""What a profile is compared with: each policy left out, and each one's choices replaced."""

from __future__ import annotations

from hypothesis import given

from spaces import FinetuningPolicy, PruningPolicy, ReconnectionPolicy
from spaces.ablation import WHOLE, variants
from spaces.profile import CompressionProfile, LayerOverride
from tests.spaces.strategies import profiles


@given(profiles())
def test_variants_are_profiles_that_a_file_can_hold_and_differ_from_the_whole(profile: CompressionProfile) -> None:
    found = variants(profile)
    assert found[WHOLE] == profile
    for label, variant in found.items():
        assert CompressionProfile.from_json(variant.to_json()) == variant
        assert (variant == profile) == (label == WHOLE)
        assert variant.policies.get("finetuning") == profile.policies.get("finetuning")
    for name in profile.policies:
        if name != "finetuning":
            assert name not in found[f"no {name}"].policies


def test_each_policy_goes_once_and_each_control_comes_once() -> None:
    profile = CompressionProfile.of(
        PruningPolicy(criterion="gradient"), ReconnectionPolicy(), FinetuningPolicy(learning_rate=0.1)
    )
    assert list(variants(profile)) == [
        WHOLE,
        "no pruning",
        "pruning: random",
        "pruning: magnitude",
        "no reconnection",
        "reconnection: random",
    ]


def test_a_control_that_is_the_profile_itself_is_left_out() -> None:
    assert "pruning: magnitude" not in variants(CompressionProfile.of(PruningPolicy(criterion="magnitude")))


def test_knobs_and_layers_that_lose_their_meaning_are_dropped() -> None:
    profile = CompressionProfile.of(
        PruningPolicy(sparsity=0.9),
        ReconnectionPolicy(mode="rigl", distribution="global"),
        layers=[LayerOverride("a.*", "pruning", {"sparsity": 0.5})],
    )
    found = variants(profile)
    at_random = found["reconnection: random"].policies["reconnection"]
    assert at_random == ReconnectionPolicy(mode="set")
    assert found["no reconnection"].layers == profile.layers
    assert found["no pruning"].layers == ()
