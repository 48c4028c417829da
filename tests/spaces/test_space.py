"""What holds for every search space: it asks for what acts and nothing else, and never proposes what is not valid."""

from __future__ import annotations

import re
from typing import Any

import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from spaces import POLICIES
from spaces.errors import ProfileError
from spaces.profile import CompressionProfile, LayerOverride
from spaces.pruning import PruningPolicy
from spaces.reconnection import ReconnectionPolicy
from spaces.setting import contains
from spaces.space import LayerSpace, PolicySpace, SearchSpace
from tests.spaces.strategies import EVERYTHING, Drawn, json_values, plain, profiles, refusal, spaces, tables


@given(spaces, st.data())
def test_a_proposal_is_valid_and_asked_for_only_knobs_that_act(space: SearchSpace, data: Any) -> None:
    trial = Drawn(data.draw)
    profile = space.suggest(trial)
    acting = profile.parameters()
    switches = {f"{name}.on" for name, of in space.policies.items() if of.optional}
    assert set(trial.params) == (set(space.distributions()) & set(acting)) | switches
    for name, value in trial.params.items():
        if name in switches:
            assert value == (name.removesuffix(".on") in profile.policies)
        else:
            assert plain(acting[name]) == plain(value)
    assert CompressionProfile.from_json(profile.to_json()) == profile


@given(spaces, st.data())
def test_what_is_fixed_stays_fixed(space: SearchSpace, data: Any) -> None:
    profile = space.suggest(Drawn(data.draw))
    for name, value in profile.parameters().items():
        policy, _, knob = name.partition(".")
        if "@" not in name:
            setting = space.policies[policy].knobs[knob]
            assert value == setting or (not isinstance(setting, float | int | str) and contains(setting, value))


@given(spaces, st.data())
def test_parameters_lead_back_to_the_profile(space: SearchSpace, data: Any) -> None:
    trial = Drawn(data.draw)
    profile = space.suggest(trial)
    assert space.parameters(profile) == trial.params
    assert space.suggest(optuna.trial.FixedTrial(space.parameters(profile))) == profile


@given(spaces, st.data())
@settings(max_examples=25, deadline=None)
def test_an_enqueued_profile_is_the_next_one(space: SearchSpace, data: Any) -> None:
    profile = space.suggest(Drawn(data.draw))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.enqueue_trial(space.parameters(profile))
    assert space.suggest(study.ask()) == profile


@given(spaces, profiles())
def test_a_foreign_profile_guides_as_far_as_it_fits(space: SearchSpace, foreign: CompressionProfile) -> None:
    searched = space.distributions()
    guide = space.parameters(foreign)
    for name, value in guide.items():
        assert contains(searched[name], value)
        assert name.endswith(".on") or foreign.parameters()[name] == value


@given(spaces)
def test_every_proposal_of_a_sampler_is_valid(space: SearchSpace) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(3):
        trial = study.ask()
        profile = space.suggest(trial)
        assert set(trial.params) <= set(space.distributions())
        assert space.parameters(profile) == trial.params


@given(tables())
def test_fingerprints_are_equal_exactly_where_spaces_are(table: dict[str, Any]) -> None:
    space = SearchSpace.from_settings(table)
    reversed_table = dict(reversed([(n, dict(reversed(t.items())) if n != "layers" else t) for n, t in table.items()]))
    assert SearchSpace.from_settings(reversed_table) == space
    assert SearchSpace.from_settings(reversed_table).fingerprint() == space.fingerprint()


@given(spaces, spaces)
def test_different_spaces_have_different_fingerprints(one: SearchSpace, other: SearchSpace) -> None:
    assert (one == other) == (one.fingerprint() == other.fingerprint())


@given(spaces, st.sampled_from(["mildest", "middle", "harshest"]))
def test_every_corner_lies_in_the_space(space: SearchSpace, which: Any) -> None:
    profile = space.corner(which)
    assert space.suggest(optuna.trial.FixedTrial(space.parameters(profile))) == profile


def test_the_corners_run_from_mild_to_harsh() -> None:
    space = SearchSpace.from_settings({"pruning": {"interval": {"low": 0.01, "high": 0.04}}})
    corners = [space.corner(which).get(PruningPolicy) for which in ("mildest", "middle", "harshest")]
    assert [corner.sparsity for corner in corners if corner] == [0.3, pytest.approx(0.64), 0.98]
    assert [corner.interval for corner in corners if corner] == [pytest.approx(0.02)] * 3
    assert [corner.criterion for corner in corners if corner] == ["magnitude"] * 3


def test_a_knob_is_left_out_as_soon_as_it_cannot_act() -> None:
    space = SearchSpace.from_settings({"pruning": {}, "reconnection": {}})
    params = {
        "reconnection.mode": "set",
        "reconnection.granularity": "weight",
        "reconnection.protect": 2,
        "reconnection.zeta": 0.3,
        "reconnection.interval": 0.05,
        "reconnection.t_end": 0.75,
        "pruning.criterion": "gradient",
        "pruning.granularity": "nm",
        "pruning.pattern": "1:4",
        "pruning.exclude": "first",
    }
    profile = space.suggest(optuna.trial.FixedTrial(params))
    assert profile.parameters() == params
    assert space.parameters(profile) == params


def test_an_optional_policy_that_is_off_takes_its_overrides_along() -> None:
    space = SearchSpace.from_settings(
        {"pruning": {"optional": True}, "layers": [{"match": "fc", "pruning": {"sparsity": 0.5}}]}
    )
    assert space.suggest(optuna.trial.FixedTrial({"pruning.on": False})) == CompressionProfile()
    on = space.corner("middle")
    assert on.overrides("pruning", "fc.weight") == {"sparsity": 0.5}
    assert space.parameters(on)["pruning.on"] is True


def test_what_a_study_file_says_is_what_is_searched() -> None:
    space = SearchSpace.from_settings(
        {
            "pruning": {
                "sparsity": {"low": 0.3, "high": 0.95},
                "criterion": ["magnitude", "gradient"],
                "rounds": {"low": 2, "high": 9, "log": True},
                "last_prune": 1,
                "interval": {"high": 0.3},
            }
        }
    )
    pruning = space.policies["pruning"]
    assert pruning.knobs["sparsity"] == FloatDistribution(0.3, 0.95)
    assert pruning.knobs["criterion"] == CategoricalDistribution(("magnitude", "gradient"))
    assert pruning.knobs["rounds"] == IntDistribution(2, 9, log=True)
    assert plain(pruning.knobs["last_prune"]) == (float, 1.0)  # type: ignore[arg-type]
    assert pruning.knobs["interval"] == FloatDistribution(0.01, 0.3, log=True)
    assert pruning.knobs["exclude"] == PruningPolicy.knob("exclude").distribution
    assert "pruning.last_prune" not in space.distributions()
    assert not pruning.optional


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prunning": {}}, "there is no policy 'prunning': did you mean 'pruning'?"),
        ({"pruning": 0.9}, "spaces.pruning must be a table of knobs, but is 0.9: use {} for defaults"),
        ({"pruning": {"sparsty": 0.9}}, "pruning has no knob 'sparsty': did you mean 'sparsity'?"),
        ({"pruning": {"optionl": True}}, "pruning has no knob 'optionl': did you mean 'optional'?"),
        ({"pruning": {"optional": 1}}, "pruning.optional must be true or false, but is 1: choose one"),
        (
            {"pruning": {"sparsity": {"low": 0.9, "high": 0.3}}},
            "low <= high, but low is 0.9 and high is 0.3: swap them",
        ),
        ({"pruning": {"sparsity": {"low": 0.99}}}, "low <= high, but low is 0.99 and high is 0.98: swap them"),
        ({"pruning": {"sparsity": {"lo": 0.1}}}, "pruning.sparsity has no key 'lo': did you mean 'low'?"),
        ({"pruning": {"sparsity": {"low": -1}}}, "pruning.sparsity.low must lie in [0, 0.9999], but is -1"),
        ({"pruning": {"sparsity": {"high": True}}}, "pruning.sparsity.high must be a number, but is True"),
        ({"pruning": {"sparsity": {"low": 0, "log": True}}}, "log = true must have low > 0, but low is 0: raise it"),
        ({"pruning": {"sparsity": {"log": "yes"}}}, "pruning.sparsity.log must be true or false, but is 'yes'"),
        ({"pruning": {"rounds": {"low": 1.5}}}, "pruning.rounds.low must be a whole number, but is 1.5"),
        ({"pruning": {"criterion": {"low": 0}}}, "pruning.criterion is a choice, not a number: write a list"),
        ({"pruning": {"criterion": []}}, "pruning.criterion must offer at least one choice, but is empty"),
        ({"pruning": {"criterion": ["random", "random"]}}, "must offer each choice once, but is ['random', 'random']"),
        ({"pruning": {"sparsity": [0.5, 0.50]}}, "pruning.sparsity must offer each choice once, but is [0.5, 0.5]"),
        ({"pruning": {"criterion": [["magnitude"]]}}, "pruning.criterion must be one of magnitude, gradient"),
        ({"pruning": {"criterion": "magnitud"}}, "did you mean 'magnitude'?"),
        ({"layers": {}}, "spaces.layers must be a list of tables, but is not: write [[spaces.layers]]"),
        ({"layers": [3]}, "spaces.layers must be a list of tables"),
        ({"pruning": {}, "layers": [{"pruning": {}}]}, "spaces.layers needs match, a layer name pattern, but has None"),
        ({"pruning": {}, "layers": [{"match": "*"}]}, "spaces.layers '*' must name a policy, but names none"),
        ({"pruning": {}, "layers": [{"match": "*", "pruning": 1}]}, "'*'.pruning must be a table of knobs, but is 1"),
        ({"pruning": {}, "layers": [{"match": "*", "pruning": {}}]}, "'*' names pruning, but none of its knobs"),
        ({"pruning": {}, "layers": [{"match": "*", "prunin": {}}]}, "no policy with 'prunin': did you mean 'pruning'?"),
        ({"layers": [{"match": "*", "pruning": {"sparsity": 0.5}}]}, "but it is off: add [spaces.pruning]"),
        (
            {"pruning": {}, "layers": [{"match": "*", "pruning": {"exclude": "both"}}]},
            "pruning.exclude cannot differ by layer: of this policy only sparsity can",
        ),
        (
            {"pruning": {}, "layers": [{"match": "*", "pruning": {"sparsity": 0.5}}] * 2},
            "spaces.layers names '*' twice for pruning: put the knobs together",
        ),
    ],
)
def test_what_is_wrong_is_named(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(message)):
        SearchSpace.from_settings(table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"pruning": {"granularity": "weight", "pattern": "2:4"}}, "pruning.pattern acts only where granularity is nm"),
        ({"pruning": {"granularity": "nm", "sparsity": 0.9}}, "pruning.sparsity acts only where granularity is weight"),
        (
            {"pruning": {"schedule": "oneshot", "rounds": [3, 4]}},
            "pruning.rounds acts only where schedule is iterative",
        ),
        (
            {"pruning": {"schedule": "iterative"}, "reconnection": {"mode": ["rigl", "set"]}},
            "pruning.schedule acts only where reconnection.mode is gmp_regrow, but it is set: leave it out",
        ),
        (
            {"pruning": {"rounds": 5}, "reconnection": {"mode": "rigl"}},
            "pruning.rounds acts only where schedule is iterative",
        ),
        (
            {"pruning": {"granularity": "nm"}, "layers": [{"match": "*", "pruning": {"sparsity": 0.5}}]},
            "spaces.layers '*': pruning.sparsity acts only where granularity is weight or channel",
        ),
    ],
)
def test_a_knob_that_can_act_nowhere_in_the_space_is_refused(table: dict[str, Any], message: str) -> None:
    with pytest.raises(ProfileError, match=re.escape(message)):
        SearchSpace.from_settings(table)


def test_a_knob_that_acts_somewhere_in_the_space_is_kept() -> None:
    table = {"pruning": {"schedule": "iterative"}, "reconnection": {"mode": "rigl", "optional": True}}
    space = SearchSpace.from_settings(table)
    off = space.suggest(
        optuna.trial.FixedTrial(space.parameters(CompressionProfile.of(PruningPolicy(schedule="iterative"))))
    )
    assert off.parameters()["pruning.schedule"] == "iterative"
    assert "pruning.schedule" not in space.corner("middle").parameters()


@given(st.dictionaries(st.sampled_from([*POLICIES, "layers", "other"]), json_values))
def test_no_table_does_worse_than_a_profile_error(table: dict[str, Any]) -> None:
    message = refusal(SearchSpace.from_settings, table)
    assert message is None or message.isprintable()


@given(st.sampled_from([knob for policy in POLICIES.values() for knob in policy.knobs()]), json_values, st.booleans())
def test_no_setting_of_a_knob_does_worse_than_a_profile_error(knob: str, value: Any, as_range: bool) -> None:
    for name, policy in POLICIES.items():
        if knob in policy.knobs():
            setting = {"low": value, "high": value} if as_range else value
            message = refusal(SearchSpace.from_settings, {name: {knob: setting}})
            assert message is None or message.isprintable()


def test_a_space_names_policies_that_exist_under_their_own_names() -> None:
    pruning = PolicySpace.of(PruningPolicy)
    with pytest.raises(ProfileError, match="there is no policy 'prunning': did you mean 'pruning'"):
        SearchSpace({"prunning": pruning})
    with pytest.raises(
        ProfileError, match="reconnection must be a space of ReconnectionPolicy, but is of PruningPolicy"
    ):
        SearchSpace({"reconnection": pruning})
    with pytest.raises(ProfileError, match="none of its knobs"):
        LayerSpace("*", PruningPolicy, {})


def test_a_profile_out_of_the_space_still_guides_it() -> None:
    space = SearchSpace.from_settings({"pruning": {"criterion": ["magnitude"], "sparsity": {"low": 0.3, "high": 0.6}}})
    elsewhere = CompressionProfile.of(
        PruningPolicy(criterion="random", sparsity=0.95, exclude="both"),
        ReconnectionPolicy(),
        layers=[LayerOverride("fc", "pruning", {"sparsity": 0.1})],
    )
    assert space.parameters(elsewhere) == {
        "pruning.granularity": "weight",
        "pruning.allocation": "global",
        "pruning.schedule": "gradual",
        "pruning.last_prune": 0.7,
        "pruning.interval": 0.03,
        "pruning.exclude": "both",
    }


def test_every_knob_can_be_searched_over_all_its_mechanism_can_do() -> None:
    searched = EVERYTHING.distributions()
    for name, policy in POLICIES.items():
        assert {f"{name}.{knob}" for knob in policy.knobs()} <= set(searched)
