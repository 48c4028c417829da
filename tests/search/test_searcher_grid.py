"""Warm starts and grids: profiles of another study come first, and a grid has every point once."""

from __future__ import annotations

import pytest

from search import grid as grids
from search.grid import GRID_STEPS, grid
from search.result import TrialResult
from spaces.errors import StudyFileError
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from spaces.reconnection import ReconnectionPolicy
from spaces.space import SearchSpace
from tests.search.searchers import Open, opening, step

opened = pytest.fixture(opening)


def test_profiles_of_another_study_are_tried_first(opened: Open) -> None:
    first = CompressionProfile.of(PruningPolicy(sparsity=0.77))
    second = CompressionProfile.of(PruningPolicy(sparsity=0.5, schedule="oneshot"), ReconnectionPolicy(zeta=0.25))
    searcher, results = opened(), dict[int, TrialResult]()
    searcher.enqueue([first, second])
    searcher.enqueue([first, second])
    assert [step(searcher, results).profile for _ in range(2)] == [first, second]
    assert [step(searcher, results).number for _ in range(2)] == [2, 3]


def test_a_profile_outside_of_the_ranges_guides_as_far_as_it_goes(opened: Open) -> None:
    searcher = opened()
    searcher.enqueue([CompressionProfile.of(PruningPolicy(sparsity=0.99, criterion="random"))])
    proposal = searcher.propose()
    assert proposal is not None
    pruning = proposal.profile.policies["pruning"]
    assert isinstance(pruning, PruningPolicy)
    assert pruning.criterion == "random"
    assert pruning.sparsity < 0.99 or pruning.granularity == "nm"


def test_a_grid_has_every_point_once(opened: Open) -> None:
    space = SearchSpace.from_settings(
        {
            "pruning": {
                "sparsity": {"low": 0.1, "high": 0.9},
                "criterion": ["magnitude", "random"],
                "granularity": ["weight", "nm"],
                "pattern": ["2:4", "1:4", "4:8"],
                "allocation": "global",
                "schedule": "oneshot",
                "exclude": "none",
            }
        }
    )
    # Per criterion: the sparsities of single weights, or the patterns of N:M, where no sparsity acts.
    count = 2 * (GRID_STEPS + 3)
    searcher, results = opened("grid", space=space), dict[int, TrialResult]()
    profiles = [step(searcher, results).profile.fingerprint() for _ in range(count)]
    assert len(set(profiles)) == count
    assert searcher.propose() is None
    again = opened("grid", space=space)
    again.recover(results)
    assert again.propose() is None


def test_a_grid_goes_on_where_it_was(opened: Open) -> None:
    space = SearchSpace.from_settings({"pruning": {"granularity": "nm", "schedule": "oneshot", "exclude": "none"}})
    searcher, results = opened("grid", space=space), dict[int, TrialResult]()
    count = len(grid(space, 0))
    found = [step(searcher, results).profile.fingerprint() for _ in range(count // 2)]
    again = opened("grid", space=space)
    again.recover(results)
    found += [step(again, results).profile.fingerprint() for _ in range(count - len(found))]
    assert len(set(found)) == count


def test_a_grid_spreads_over_a_range_as_the_range_is_measured() -> None:
    space = SearchSpace.from_settings(
        {
            "pruning": {
                "granularity": "weight", "criterion": "magnitude", "allocation": "global", "exclude": "none",
                "sparsity": 0.5, "schedule": "gradual", "last_prune": 0.5, "interval": {"low": 0.001, "high": 0.1},
            }
        }
    )  # fmt: skip
    values = sorted(point["pruning.interval"] for point in grid(space, 0))
    assert values == pytest.approx([0.001, 0.001 * 10**0.5, 0.01, 0.01 * 10**0.5, 0.1])


def test_a_grid_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grids, "GRID_LIMIT", 100)
    with pytest.raises(StudyFileError, match="a grid may have 100 points"):
        grid(SearchSpace.from_settings({"pruning": {}, "reconnection": {}}), 0)


def test_a_space_without_a_choice_has_one_point() -> None:
    space = SearchSpace.from_settings({"pruning": {"granularity": "nm", "pattern": "2:4", "criterion": "random",
                                                   "schedule": "oneshot", "exclude": "none"}})  # fmt: skip
    assert grid(space, 0) == [{}]
