"""What holds for everything that a search learns: it lies where the best trials lie, and it survives JSON."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution

from spaces.errors import ProfileError, StorageError
from spaces.policy import Value
from spaces.pruning import PruningPolicy
from spaces.search_policy import BEST, KnobReport, SearchPolicy
from spaces.setting import contains
from spaces.space import SearchSpace
from tests.spaces.strategies import Drawn, json_values, refusal, spaces

Trials = list[tuple[dict[str, Value], int]]


@st.composite
def searches(draw: st.DrawFn) -> tuple[SearchSpace, Trials, dict[str, float]]:
    """A space, trials in it with their ranks, and importances."""
    space = draw(spaces)
    trials = []
    for rank in draw(st.lists(st.integers(0, 3), max_size=14)):
        trial = Drawn(draw)
        space.suggest(trial)
        trials.append((trial.params, rank))
    names = draw(st.lists(st.sampled_from(sorted(space.distributions())), unique=True)) if space.distributions() else []
    return space, trials, {name: draw(st.floats(0, 1)) for name in names}


def learnt(rows: list[tuple[float, int]]) -> SearchPolicy:
    """What is learnt from trials of one number with their ranks."""
    settings = {knob: PruningPolicy.knob(knob).default for knob in PruningPolicy.from_values({}).values()}
    space = SearchSpace.from_settings({"pruning": settings | {"sparsity": {"low": 0.1, "high": 0.9}}})
    return SearchPolicy.learn(space, [({"pruning.sparsity": value}, rank) for value, rank in rows], {})


@given(searches())
def test_reports_lie_in_the_space_and_cover_the_best_trials(
    search: tuple[SearchSpace, Trials, dict[str, float]],
) -> None:
    space, trials, importances = search
    policy = SearchPolicy.learn(space, trials, importances)
    assert policy.space == space.fingerprint()
    assert policy.trials == len(trials)
    assert set(policy.knobs) == set(space.distributions())
    best = min(trials, key=lambda trial: trial[1])[0] if trials else {}
    for name, distribution in space.distributions().items():
        report = policy.knobs[name]
        assert report.importance == importances.get(name, 0.0)
        assert not (report.range and report.frequencies)
        if report.range:
            assert all(contains(distribution, value) for value in report.range)
        if report.frequencies:
            assert isinstance(distribution, CategoricalDistribution)
            assert tuple(choice for choice, _ in report.frequencies) == distribution.choices
            assert math.isclose(sum(share for _, share in report.frequencies), 1)
        if name in best and report.range:
            assert report.range[0] <= best[name] <= report.range[1]  # type: ignore[operator]
        elif name in best:
            assert dict(report.frequencies)[best[name]] > 0


@given(searches())
def test_the_best_profiles_come_first_and_once(search: tuple[SearchSpace, Trials, dict[str, float]]) -> None:
    space, trials, importances = search
    policy = SearchPolicy.learn(space, trials, importances)
    by_rank = [space.profile(params) for params, _ in sorted(trials, key=lambda trial: trial[1])]
    distinct = list({profile.fingerprint(): profile for profile in by_rank}.values())
    assert list(policy.best) == distinct[:BEST]
    for profile in policy.best:
        assert space.profile(space.parameters(profile)) == profile


@given(searches())
def test_a_search_policy_survives_json(search: tuple[SearchSpace, Trials, dict[str, float]]) -> None:
    policy = SearchPolicy.learn(*search)
    again = SearchPolicy.from_json(policy.to_json())
    assert again == policy
    assert again.to_json() == policy.to_json()


@given(searches(), st.data())
def test_every_further_trial_changes_it(search: tuple[SearchSpace, Trials, dict[str, float]], data: Any) -> None:
    space, trials, importances = search
    trial = Drawn(data.draw)
    space.suggest(trial)
    before = SearchPolicy.learn(space, trials, importances)
    assert SearchPolicy.learn(space, [*trials, (trial.params, data.draw(st.integers(0, 3)))], importances) != before


def test_the_top_quarter_is_a_quarter_and_at_least_one() -> None:
    rows = [(0.1, 7), (0.5, 0), (0.3, 1), (0.9, 5), (0.4, 4), (0.8, 6), (0.2, 3), (0.6, 2)]
    assert learnt(rows).knobs["pruning.sparsity"].range == (0.3, 0.5)
    assert learnt(rows[:4]).knobs["pruning.sparsity"].range == (0.5, 0.5)
    assert learnt(rows[:5]).knobs["pruning.sparsity"].range == (0.3, 0.5)
    assert learnt([]).knobs["pruning.sparsity"] == KnobReport()


def test_choices_are_counted_among_those_trials_in_which_they_acted() -> None:
    space = SearchSpace.from_settings({"pruning": {"granularity": ["weight", "nm"], "schedule": "oneshot"}})
    weight: dict[str, Value] = {
        "pruning.criterion": "magnitude",
        "pruning.granularity": "weight",
        "pruning.allocation": "erk",
        "pruning.sparsity": 0.5,
        "pruning.exclude": "none",
    }
    nm = {key: value for key, value in weight.items() if key not in ("pruning.allocation", "pruning.sparsity")}
    nm |= {"pruning.granularity": "nm", "pruning.pattern": "1:4"}
    rows: Trials = [(dict(weight), 0), (dict(nm), 0), (dict(nm), 0), (dict(nm), 0), *[(dict(weight), 9)] * 12]
    policy = SearchPolicy.learn(space, rows, {"pruning.granularity": 0.75})
    assert dict(policy.knobs["pruning.granularity"].frequencies) == {"weight": 0.25, "nm": 0.75}
    assert policy.knobs["pruning.granularity"].importance == 0.75
    assert dict(policy.knobs["pruning.allocation"].frequencies) == {"global": 0, "uniform": 0, "erk": 1}
    assert dict(policy.knobs["pruning.pattern"].frequencies)["1:4"] == 1
    assert policy.knobs["pruning.sparsity"].range == (0.5, 0.5)
    assert [profile.parameters()["pruning.granularity"] for profile in policy.best] == ["weight", "nm"]


def test_a_trial_out_of_the_space_is_refused() -> None:
    with pytest.raises(
        ProfileError, match=re.escape("pruning.sparsity must be a value of the search space, but is 0.95")
    ):
        learnt([(0.95, 0)])
    with pytest.raises(ProfileError, match=r"pruning\.criterion must be a value of the search space, but is None"):
        SearchPolicy.learn(SearchSpace.from_settings({"pruning": {}}), [({}, 0)], {})


def test_it_warm_starts_another_study() -> None:
    policy = learnt([(0.5, 0), (0.3, 1)])
    space = SearchSpace.from_settings({"pruning": {"sparsity": {"low": 0.4, "high": 0.9}}})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for profile in policy.best:
        study.enqueue_trial(space.parameters(profile))
    assert space.suggest(study.ask()) == policy.best[0]
    assert space.suggest(study.ask()).parameters()["pruning.sparsity"] >= 0.4  # type: ignore[operator]


@given(json_values)
def test_no_json_does_worse_than_a_profile_error(value: Any) -> None:
    message = refusal(SearchPolicy.from_json, json.dumps(value))
    assert message is not None
    assert message.isprintable()


@given(
    st.sampled_from(["schema", "space", "trials", "knobs", "best"]),
    json_values | st.dictionaries(st.text(max_size=3), json_values, max_size=2) | st.lists(json_values, max_size=11),
)
def test_no_tampering_does_worse_than_a_profile_error(key: str, value: Any) -> None:
    data = learnt([(0.5, 0)]).to_dict() | {key: value}
    message = refusal(SearchPolicy.from_dict, data)
    assert message is None or message.isprintable()
    if message is None:
        assert SearchPolicy.from_dict(json.loads(SearchPolicy.from_dict(data).to_json())) == SearchPolicy.from_dict(
            data
        )


@given(
    st.fixed_dictionaries(
        {
            "importance": json_values | st.floats(0, 1),
            "range": json_values | st.lists(json_values, min_size=2, max_size=2),
            "frequencies": json_values | st.lists(st.lists(json_values, min_size=2, max_size=2), max_size=2),
        }
    )
)
def test_no_report_of_a_knob_does_worse_than_a_profile_error(data: Any) -> None:
    message = refusal(KnobReport.from_dict, data)
    assert message is None or message.isprintable()
    if message is None:
        assert KnobReport.from_dict(KnobReport.from_dict(data).to_dict()) == KnobReport.from_dict(data)


@pytest.mark.parametrize(
    "wrong",
    [
        {"importance": -0.1},
        {"importance": math.nan},
        {"range": (0.9, 0.1)},
        {"range": (0.1, 0.9), "frequencies": (("a", 1.0),)},
        {"frequencies": (("a", 0.5),)},
        {"frequencies": (("a", 1.5), ("b", -0.5))},
    ],
)
def test_a_report_that_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProfileError, match="export it again"):
        KnobReport(**wrong)


def test_a_saved_search_policy_loads(tmp_path: Path) -> None:
    policy = learnt([(0.5, 0)])
    policy.save(tmp_path / "search_policy.json")
    assert SearchPolicy.load(tmp_path / "search_policy.json") == policy
    with pytest.raises(StorageError, match=r"the search policy .*absent\.json cannot be read"):
        SearchPolicy.load(tmp_path / "absent.json")
    with pytest.raises(StorageError, match="the search policy cannot be written to"):
        policy.save(tmp_path / "nowhere" / "search_policy.json")
