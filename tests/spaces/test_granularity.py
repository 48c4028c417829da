"""When granularity decides, for any values that a study may propose."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from spaces import GranularityPolicy


@given(st.floats(0.01, 0.2), st.floats(0.2, 0.7), st.integers(30, 5000))
def test_every_point_of_the_default_space_decides_often_enough(interval: float, settle: float, steps: int) -> None:
    policy = GranularityPolicy(interval=interval, settle=settle)
    decisions = policy.decision_steps(steps)
    assert len(decisions) >= policy.wanted_decisions()
    assert decisions[-1] == int(settle * steps)


@given(st.integers(0, 100))
def test_a_share_of_nothing_is_one_decision_at_the_start(steps: int) -> None:
    assert GranularityPolicy(settle=0.0).decision_steps(steps) == (0,)
