"""What holds for every policy: its knobs, its values, and when it acts."""

from __future__ import annotations

import itertools
import json
import math
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spaces import POLICIES
from spaces.errors import PleachError, ProfileError, shown
from spaces.policy import Knob, Limits, Policy, nearest, periodic, step_at
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from spaces.reconnection import ReconnectionPolicy
from tests.spaces import strategies

KNOBS = [
    pytest.param(policy, knob, id=f"{policy.name}.{name}")
    for policy in POLICIES.values()
    for name, knob in policy.knobs().items()
]
COUNT = Knob(name="count", type=int, distribution=IntDistribution(1, 8), default=2, limits=Limits(1, 100))
SHARE = Knob(name="share", type=float, distribution=FloatDistribution(0.1, 0.5), default=0.2, limits=Limits(0, 1))
SWITCH = Knob(name="switch", type=bool, distribution=CategoricalDistribution((False, True)), default=False)
LEVEL = Knob(name="level", type=int, distribution=CategoricalDistribution((0, 1)), default=0)

steps = st.integers(1, 5000)


def raised(knob: Knob, value: object) -> str:
    with pytest.raises(ProfileError) as caught:
        knob.check(value, "policy.knob")
    return str(caught.value)


@pytest.mark.parametrize(("policy", "knob"), KNOBS)
def test_every_knob_searches_within_what_its_mechanism_can_do(policy: type[Policy], knob: Knob) -> None:
    assert policy is POLICIES[policy.name]
    if isinstance(knob.distribution, CategoricalDistribution):
        assert knob.default in knob.distribution.choices
        assert {type(choice) for choice in knob.distribution.choices} == {knob.type}
    else:
        assert isinstance(knob.distribution, FloatDistribution | IntDistribution)
        assert knob.limits is not None
        assert knob.limits.low <= knob.distribution.low <= knob.distribution.high <= knob.limits.high
        assert knob.limits.low <= knob.default <= knob.limits.high  # type: ignore[operator]
    assert type(knob.default) is knob.type
    assert type(knob.neutral) is knob.type


@pytest.mark.parametrize(("policy", "knob"), KNOBS)
def test_every_condition_names_a_knob_and_values_it_has(policy: type[Policy], knob: Knob) -> None:
    for when in knob.when:
        owner, _, other = when.knob.rpartition(".")
        decides = (POLICIES[owner] if owner else policy).knob(other)
        possible = decides.distribution
        if isinstance(possible, CategoricalDistribution):
            assert set(when.values) < set(possible.choices), "a condition that always holds is none"
        else:
            assert isinstance(possible, IntDistribution), "a condition on a fraction would be a matter of luck"
            assert decides.limits is not None
            assert set(when.values) < set(range(int(decides.limits.low), int(decides.limits.high) + 1))


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
def test_every_knob_is_explained(policy: type[Policy]) -> None:
    for name in policy.knobs():
        assert f"\n        {name}: " in (policy.__doc__ or ""), name


@given(st.data())
@pytest.mark.parametrize(("policy", "knob"), KNOBS)
def test_a_valid_value_comes_back_equal_and_in_the_knobs_type(policy: type[Policy], knob: Knob, data: Any) -> None:
    value = data.draw(strategies.values(knob))
    checked = knob.check(value, "here")
    assert checked == value
    assert type(checked) is knob.type
    assert json.dumps(checked) != "-0.0", "equal values must print alike"


@given(value=strategies.json_values | st.binary() | st.complex_numbers() | st.dates())
@pytest.mark.parametrize(("policy", "knob"), KNOBS)
def test_no_value_does_worse_than_a_profile_error_on_one_line(policy: type[Policy], knob: Knob, value: Any) -> None:
    message = strategies.refusal(knob.check, value, f"{policy.name}.{knob.name}")
    if message is None:
        assert knob.check(value, "here") == value
    else:
        assert message.isprintable()
        assert len(message) < 400


@pytest.mark.parametrize(
    "value",
    [True, "1", None, [1], {"low": 1}, math.nan, math.inf, -math.inf, pytest.param(10**5000, id="endless"), 1j],
)
def test_what_is_no_finite_number_is_refused_as_one(value: object) -> None:
    assert "must be a number" in raised(SHARE, value)
    assert "must be a whole number" in raised(COUNT, value)


def test_a_whole_number_may_be_written_as_a_float_but_not_a_fraction() -> None:
    assert strategies.plain(COUNT.check(3.0, "here")) == (int, 3)
    assert "must be a whole number, but is 3.5: use one such as 2" in raised(COUNT, 3.5)


def test_true_is_no_number_and_one_is_no_truth() -> None:
    assert strategies.plain(LEVEL.check(1, "here")) == (int, 1)
    assert strategies.plain(SWITCH.check(True, "here")) == (bool, True)
    assert "must be one of 0, 1, but is True" in raised(LEVEL, True)
    assert "must be one of False, True, but is 1" in raised(SWITCH, 1)


def test_a_value_out_of_bounds_names_the_bounds_the_value_and_the_default_range() -> None:
    assert raised(SHARE, 1.5) == "policy.knob must lie in [0, 1], but is 1.5: the default range is [0.1, 0.5]"


@pytest.mark.parametrize("value", [["magnitude"], {"magnitude": 1}, b"magnitude", None, 0])
def test_only_a_choice_itself_is_a_choice(value: object) -> None:
    assert "must be one of magnitude, gradient" in raised(PruningPolicy.knob("criterion"), value)


def test_a_mistyped_choice_or_knob_names_the_nearest() -> None:
    assert raised(PruningPolicy.knob("criterion"), "magnitud").endswith("did you mean 'magnitude'?")
    with pytest.raises(ProfileError, match="pruning has no knob 'sparsty': did you mean 'sparsity'"):
        PruningPolicy.from_values({"sparsty": 0.5})
    assert nearest("zzz", ["a", "b"]) == "known are a, b"
    assert nearest(["a"], ["a", "b"]) == "known are a, b"


def test_a_knob_that_cannot_act_is_refused_even_at_its_default() -> None:
    rule = re.escape("pruning.pattern acts only where granularity is nm, but it is set: leave it out")
    with pytest.raises(ProfileError, match=rule):
        PruningPolicy(pattern="1:4")
    with pytest.raises(ProfileError, match=rule):
        PruningPolicy.from_values({"pattern": "2:4"})
    with pytest.raises(ProfileError, match=r"pruning\.sparsity acts only where granularity is weight or channel"):
        PruningPolicy(granularity="nm", sparsity=0.5)
    assert PruningPolicy(granularity="nm", pattern="1:4").values()["pattern"] == "1:4"


@given(strategies.profiles())
def test_from_values_builds_what_values_gives(profile: CompressionProfile) -> None:
    for policy in profile.policies.values():
        assert type(policy).from_values(policy.values()) == policy


@given(strategies.profiles(), steps)
def test_decisions_are_steps_of_the_run_in_order(profile: CompressionProfile, of: int) -> None:
    for policy in profile.policies.values():
        decisions = policy.within(profile.policies).decision_steps(of)
        assert list(decisions) == sorted(set(decisions))
        assert all(0 <= step < of for step in decisions)
        assert bool(decisions) or policy.wanted_decisions() == 0


# From the fewest steps on in which the longest history of gradients fits into a quarter of them.
@given(st.data(), st.integers(256, 5000))
def test_the_default_ranges_let_every_policy_act_as_often_as_it_wants(data: Any, of: int) -> None:
    profile = strategies.DEFAULTS.suggest(strategies.Drawn(data.draw))
    for policy in profile.policies.values():
        acting = policy.within(profile.policies)
        assert len(acting.decision_steps(of)) >= acting.wanted_decisions()


@given(st.floats(0.0001, 0.5), st.floats(0, 1), steps)
def test_periodic_steps_start_at_once_are_evenly_spaced_and_stop_at_the_end(every: float, end: float, of: int) -> None:
    found = periodic(of, every, end)
    assert found[0] == 0
    assert found[-1] <= end * of
    assert {b - a for a, b in itertools.pairwise(found)} <= {max(1, round(every * of))}
    assert periodic(0, every, end) == ()


@pytest.mark.parametrize(
    ("share", "of", "step"), [(0.0, 10, 0), (0.5, 10, 5), (0.75, 10, 7), (1.0, 10, 9), (1.0, 1, 0)]
)
def test_a_share_of_the_budget_is_a_step_that_is_taken(share: float, of: int, step: int) -> None:
    assert step_at(share, of) == step


def test_the_last_cut_falls_when_it_was_asked_for() -> None:
    assert PruningPolicy(last_prune=0.7, interval=0.2).decision_steps(100) == (0, 20, 40, 60, 70)
    assert PruningPolicy(last_prune=1.0, interval=0.5).decision_steps(100) == (0, 50, 99)
    assert PruningPolicy(schedule="iterative", rounds=3, last_prune=0.8).decision_steps(100) == (0, 40, 80)
    assert PruningPolicy(schedule="iterative", rounds=1, last_prune=0.8).decision_steps(100) == (80,)
    assert PruningPolicy(schedule="oneshot").decision_steps(100) == (0,)


@given(strategies.profiles(), st.integers(1, 50))
def test_cuts_only_grow_and_the_last_one_is_whole(profile: CompressionProfile, of: int) -> None:
    policy = profile.get(PruningPolicy)
    if policy is not None:
        shares = [policy.sparsity_at(decision, of) for decision in range(of)]
        assert all(0 < share <= 1 for share in shares)
        assert shares == sorted(shares)
        assert shares[-1] == 1


def test_the_gradual_schedule_is_cubic_and_the_iterative_one_leaves_equal_shares() -> None:
    gradual = PruningPolicy(sparsity=0.8)
    assert [gradual.sparsity_at(i, 2) for i in range(2)] == [1 - 0.5**3, 1]
    iterative = PruningPolicy(schedule="iterative", rounds=3, sparsity=0.875)
    left = [1 - 0.875 * iterative.sparsity_at(i, 3) for i in range(3)]
    assert left == pytest.approx([0.5, 0.25, 0.125], abs=1e-12)


def test_starting_sparse_fixes_the_pruning_schedule() -> None:
    asked = PruningPolicy(sparsity=0.9)
    assert asked.within({"reconnection": ReconnectionPolicy(mode="rigl")}).decision_steps(100) == (0,)
    assert asked.within({"reconnection": ReconnectionPolicy()}) == asked
    assert asked.within({}) == asked


@given(strategies.values(ReconnectionPolicy.knob("zeta")), strategies.values(ReconnectionPolicy.knob("t_end")), steps)
def test_the_share_that_is_dropped_falls_from_zeta_to_nothing(zeta: float, t_end: float, of: int) -> None:
    policy = ReconnectionPolicy(zeta=zeta, t_end=t_end)
    shares = [policy.zeta_at(step, of) for step in range(0, of, max(1, of // 50))]
    assert shares[0] == pytest.approx(zeta, abs=1e-300)
    assert shares == sorted(shares, reverse=True)
    assert all(0 <= share <= zeta for share in shares)
    assert policy.zeta_at(math.floor(max(1, t_end * of)) + 1, of) == 0
    assert ReconnectionPolicy(zeta=0.4, t_end=0.5).zeta_at(25, 100) == pytest.approx(0.2)


@given(strategies.json_values)
def test_a_quoted_value_is_one_short_line(value: Any) -> None:
    assert shown(value).isprintable()
    assert len(shown(value)) <= 80


def test_a_quoted_value_may_be_as_deep_or_as_long_as_it_likes() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    assert shown(deep) == "[[[[[[[...]]]]]]]"
    assert len(shown("x" * 100_000)) <= 60
    assert shown([10**5000]) == "<list too long to print>"
    assert shown("two\nlines") == "'two\\nlines'"


def test_every_error_is_one_that_a_user_can_catch() -> None:
    pending = [PleachError]
    while pending:
        kind = pending.pop()
        assert issubclass(kind, PleachError)
        assert kind.__doc__
        pending.extend(kind.__subclasses__())
    assert issubclass(ProfileError, ValueError)
