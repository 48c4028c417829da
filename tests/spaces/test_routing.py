"""What may be asked of routing: the ranges, the annealing, and when gates are settled."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution

from spaces import RoutingPolicy
from spaces.errors import ProfileError
from spaces.profile import CompressionProfile


@pytest.mark.parametrize(
    ("knob", "low", "high", "log"),
    [
        ("target_cost", 0.4, 0.95, False),
        ("cost_weight", 0.1, 20, True),
        ("bias", 1, 4, False),
        ("tau_start", 1, 4, False),
        ("lr_factor", 1, 30, True),
        ("confidence", 1e-3, 0.1, True),
        ("l1", 1e-5, 1e-2, True),
        ("anneal", 0.1, 0.5, False),
    ],
)
def test_the_ranges(knob: str, low: float, high: float, log: bool) -> None:
    found = RoutingPolicy.knob(knob).distribution
    assert isinstance(found, FloatDistribution)
    assert (found.low, found.high, found.log) == (low, high, log)


def test_the_choices() -> None:
    choices = {
        name: knob.distribution.choices
        for name, knob in RoutingPolicy.knobs().items()
        if isinstance(knob.distribution, CategoricalDistribution)
    }
    assert choices["mode"] == ("hard", "soft", "static")
    assert choices["unit"] == ("block", "channel_group")
    assert choices["pooling"] == ("average", "attention")
    assert choices["hidden"] == (0, 8, 16)


def test_the_target_falls_on_a_line_and_the_temperature_geometrically() -> None:
    policy = RoutingPolicy(target_cost=0.6, anneal=0.5, tau_start=4.0, tau_end=1.0)
    assert [policy.target_at(step, 100) for step in (0, 25, 50, 99)] == pytest.approx([1.0, 0.8, 0.6, 0.6])
    assert [policy.tau_at(step, 101) for step in (0, 50, 100)] == pytest.approx([4.0, 2.0, 1.0])
    assert RoutingPolicy(anneal=0.0).target_at(0, 10) == pytest.approx(0.7)


@given(st.integers(0, 400))
def test_gates_are_settled_at_the_last_step_too(steps: int) -> None:
    found = RoutingPolicy().decision_steps(steps)
    assert found == () if steps == 0 else found[-1] == steps - 1


def test_knobs_of_another_unit_do_not_act() -> None:
    with pytest.raises(ProfileError, match=r"routing\.groups acts only where unit is channel_group"):
        RoutingPolicy(groups=2)
    with pytest.raises(ProfileError, match=r"routing\.l1 acts only where blocks is all"):
        RoutingPolicy(blocks="residual", l1=0.001)
    assert "l1" not in RoutingPolicy(unit="channel_group").values()


def test_a_profile_with_routing_survives_json() -> None:
    profile = CompressionProfile.of(RoutingPolicy(unit="channel_group", groups=2, hidden=16, mode="soft"))
    assert CompressionProfile.from_json(profile.to_json()) == profile
