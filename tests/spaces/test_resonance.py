"""The resonance policy: schedules as shares of the budget, and what is refused because it could hardly act."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.decisions import decisions
from spaces import ResonancePolicy
from spaces.errors import ProfileError
from spaces.profile import CompressionProfile
from spaces.space import SearchSpace

POLICIES = st.builds(
    ResonancePolicy,
    history=st.sampled_from([16, 32, 64]),
    average=st.sampled_from([1, 2, 4, 8]),
    every=st.floats(0.01, 0.1),
    t_end=st.floats(0.6, 0.9),
)


@given(POLICIES, st.integers(1, 5000))
def test_a_history_takes_at_most_a_quarter_of_the_budget(policy: Any, steps: Any) -> None:
    averaged = policy.averaged(steps)
    assert averaged <= policy.average
    assert 4 * policy.history * averaged <= steps
    if averaged < policy.average:
        assert 4 * policy.history * (averaged + 1) > steps


@given(POLICIES, st.integers(1, 5000))
def test_decisions_begin_with_a_full_history_and_end_at_the_end(policy: Any, steps: Any) -> None:
    found = policy.decision_steps(steps)
    assert list(found) == sorted(set(found))
    assert found[-1] == int(policy.t_end * steps)
    if 4 * policy.history <= steps:
        assert found[0] == policy.history * policy.averaged(steps) - 1
        assert len(found) >= policy.wanted_decisions()
    else:
        assert len(found) == 1


def test_decisions_by_hand() -> None:
    policy = ResonancePolicy(history=16, average=2, every=0.1, t_end=0.75)
    # 16 entries of 2 gradients fill 32 steps, a quarter of 128; then every 13 steps, the last at 96.
    assert policy.decision_steps(128) == (31, 44, 57, 70, 83, 96)
    # One gradient fewer than 16 * 2 * 4 = 128: one per entry, 16 steps.
    assert policy.decision_steps(127)[0] == 15


@pytest.mark.parametrize(("bits", "stretch", "period"), [(2, 1.0, 3), (3, 1.0, 7), (4, 2.0, 30), (6, 0.125, 8)])
def test_more_bits_make_a_longer_wave(bits: Any, stretch: Any, period: Any) -> None:
    assert ResonancePolicy(bits=bits, stretch=stretch).period == period


def test_a_budget_that_is_too_short_for_the_history_is_refused() -> None:
    space = SearchSpace.from_settings({"resonance": {"history": 32}})
    assert not decisions(space, "resonance", 127).enough
    assert decisions(space, "resonance", 128).enough
    # Over the whole default range, the longest history decides.
    assert not decisions(SearchSpace.from_settings({"resonance": {}}), "resonance", 255).enough
    assert decisions(SearchSpace.from_settings({"resonance": {}}), "resonance", 256).enough


def test_controls_differ_in_their_criterion_alone() -> None:
    policy = ResonancePolicy(sparsity=0.9, bits=4)
    controls = policy.controls()
    assert set(controls) == {"magnitude", "random"}
    for name, control in controls.items():
        assert control == dataclasses.replace(policy, criterion=name)


def test_a_profile_keeps_the_policy() -> None:
    profile = CompressionProfile.of(ResonancePolicy(keep="band", resume="stored", significance="off"))
    assert CompressionProfile.from_dict(profile.to_dict()) == profile


@pytest.mark.parametrize(
    ("values", "message"),
    [({"base": 1.0}, "base"), ({"history": 20}, "16, 32, 64"), ({"keep": "hihg"}, "did you mean 'high'")],
)
def test_values_out_of_range_are_refused(values: Any, message: Any) -> None:
    with pytest.raises(ProfileError, match=message):
        ResonancePolicy(**values)
