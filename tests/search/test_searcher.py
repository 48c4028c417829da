"""Proposals: they depend on seed, number and what was told, and the knobs that decide are known."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from optuna.trial import TrialState

from search.result import State, TrialResult
from spaces.space import SearchSpace
from tests.search.searchers import Open, opening, searcher_in, step, stored

opened = pytest.fixture(opening)


@pytest.mark.parametrize("sampler", ["tpe", "nsga2", "nsga3", "gp", "random"])
def test_every_sampler_proposes_the_same_again_and_goes_on_where_it_was(
    sampler: str, opened: Open, tmp_path: Path
) -> None:
    count, cut = (12, 11) if sampler == "gp" else (25, 22)
    whole: dict[int, TrialResult] = {}
    other = searcher_in(None, sampler)
    expected = [step(other, whole, "pruned" if n % 5 == 4 else "complete") for n in range(count)]

    results: dict[int, TrialResult] = {}
    searcher = opened(sampler)
    found = [step(searcher, results, "pruned" if n % 5 == 4 else "complete") for n in range(cut)]
    searcher = opened(sampler)
    searcher.recover(results)
    found += [step(searcher, results, "pruned" if n % 5 == 4 else "complete") for n in range(cut, count)]
    assert found == expected
    assert [trial.number for trial in stored(tmp_path)] == list(range(count))


def test_another_seed_proposes_something_else(opened: Open) -> None:
    first = opened(seed=0).propose()
    second = opened(seed=1).propose()
    assert first is not None
    assert second is not None
    assert first.profile != second.profile


def test_each_state_is_told_as_what_it_is_with_its_constraints(opened: Open, tmp_path: Path) -> None:
    searcher, results = opened(), dict[int, TrialResult]()
    states: tuple[State, ...] = ("complete", "pruned", "failed")
    for state in states:
        step(searcher, results, state)
    trials = stored(tmp_path)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL]
    assert trials[0].values == [results[0].scores["accuracy"], results[0].scores["macs"]]
    assert [trial.constraints for trial in trials] == [{"accuracy": -1.0}, {"accuracy": -1.0}, {}]
    searcher.update(results[0])
    assert len(stored(tmp_path)) == 3


# -- what was learnt ------------------------------------------------------------------------------------------------


def test_the_knob_that_decides_is_the_important_one(opened: Open) -> None:
    space = SearchSpace.from_settings({"pruning": {"granularity": "weight", "schedule": "oneshot"}, "finetuning": {}})
    searcher, results = opened("random", space=space), dict[int, TrialResult]()
    for _ in range(60):
        step(searcher, results)
    order = sorted(results, key=lambda number: -results[number].scores["accuracy"])
    shares = searcher.importances({number: place for place, number in enumerate(order)})
    assert set(shares) == set(space.distributions())
    assert sum(shares.values()) == pytest.approx(1.0)
    assert max(shares, key=lambda name: shares[name]) == "pruning.sparsity"
    assert shares["pruning.sparsity"] > 0.5


def test_nothing_is_said_of_importances_too_early(opened: Open) -> None:
    searcher, results = opened(), dict[int, TrialResult]()
    for _ in range(3):
        step(searcher, results)
    assert set(searcher.importances({0: 0, 1: 1, 2: 2}).values()) == {0.0}


def test_a_proposal_costs_little(opened: Open) -> None:
    searcher, results = opened(), dict[int, TrialResult]()
    for _ in range(100):
        step(searcher, results)
    began = time.process_time()
    for _ in range(10):
        step(searcher, results)
    # Some 15 ms on an idle machine: bounded so that a quadratic search for duplicates would show.
    assert (time.process_time() - began) / 10 < 0.15
