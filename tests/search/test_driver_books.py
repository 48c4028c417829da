"""The books: counts that add up, and what is best by hand arithmetic."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objectives.criterion import Criterion, parse, parse_bound
from objectives.objective import Direction
from search.books import Books, read_result, write_result
from search.home import Home, write_text
from search.result import Budget, Report, State, TrialRequest, TrialResult
from spaces.errors import StorageError
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy

TWO: dict[str, Direction] = {"accuracy": "maximize", "macs": "minimize"}
BASELINE = {"accuracy": 1.0, "macs": 100.0}


def result(
    number: int, accuracy: float = 0.5, macs: float = 50.0, state: State = "complete", cached: int | None = None
) -> TrialResult:
    profile = CompressionProfile.of(PruningPolicy(sparsity=0.3 + number / 1000))
    request = TrialRequest(number, f"{number:05d}", profile, 0, Budget())
    scores = {"accuracy": accuracy, "macs": macs} if state != "failed" else {}
    return TrialResult(request, state, scores=scores, cached=cached)


def books(*results: TrialResult, criteria: tuple[Criterion, ...] = ()) -> Books:
    kept = Books(TWO, criteria, BASELINE)
    for one in results:
        kept.add(one)
    return kept


def numbers(results: list[TrialResult]) -> list[int]:
    return [one.number for one in results]


@given(st.lists(st.tuples(st.sampled_from(["complete", "pruned", "failed"]), st.booleans()), max_size=12))
def test_the_counts_add_up(kinds: list[tuple[State, bool]]) -> None:
    results = [
        result(n, state=state, cached=0 if state == "complete" and cached else None)
        for n, (state, cached) in enumerate(kinds)
    ]
    counts = books(*results).counts()
    assert counts["complete"] + counts["pruned"] + counts["failed"] == len(kinds)
    assert counts["cached"] + counts["evaluated"] == counts["complete"]
    assert counts["cached"] == sum(one.cached is not None for one in results)


def test_the_front_and_the_best_by_hand() -> None:
    kept = books(
        result(0, 0.90, 80.0),
        result(1, 0.80, 40.0),  # (0.2 / 0.4, 20 / 60) from the ideal (0.9, 20): 0.36 squared
        result(2, 0.50, 20.0),
        result(3, 0.70, 60.0),  # dominated by 1
        result(4, 1.00, 10.0, state="pruned"),  # not at full budget
        result(5, state="failed"),
    )
    assert numbers(kept.front()) == [0, 1, 2]
    best = kept.best()
    assert best is not None
    assert best.number == 1


def test_of_equal_trials_the_first_is_best_and_a_cached_one_is_no_member() -> None:
    kept = books(result(2), result(1), result(3, cached=1))
    best = kept.best()
    assert best is not None
    assert best.number == 1
    assert numbers(kept.front()) == [1, 2]


def test_where_nothing_is_feasible_the_smallest_violation_is_best_and_the_front_is_empty() -> None:
    criteria = (parse_bound("accuracy", ">= baseline - 0.1"), parse_bound("macs", "<= 0.4 * baseline"))
    kept = books(
        result(0, 0.45, 40.0),  # misses 0.9 by a half
        result(1, 0.90, 56.0),  # misses 40 by 0.4
        result(2, 0.72, 48.0),  # misses by a fifth each: 0.4 in all
        criteria=criteria,
    )
    assert kept.front() == []
    best = kept.best()
    assert best is not None
    assert (best.number, best.feasible) == (1, False)
    assert best.constraints == {"accuracy": 0.0, "macs": pytest.approx(0.4)}
    assert kept.hypervolume() == 0.0


def test_a_condition_narrows_the_best() -> None:
    kept = books(result(0, 0.90, 80.0), result(1, 0.80, 40.0), result(2, 0.50, 20.0))
    where = parse("macs <= 30")
    best = kept.best(where)
    assert best is not None
    assert best.number == 2
    assert kept.holds(best, where)
    none = kept.best(parse("macs <= 10"))
    assert none is not None
    assert none.number == 2
    assert not kept.holds(none, parse("macs <= 10"))


def test_no_complete_trial_is_no_best() -> None:
    assert books(result(0, state="pruned")).best() is None
    assert books().figures() == {"hypervolume": 0.0, "feasible_share": 0.0}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_objective_that_is_no_number_fails_the_trial(value: float) -> None:
    judged = books().judge(result(0, accuracy=value))
    assert (judged.state, judged.scores, judged.reason) == ("failed", {}, "accuracy is not a finite number")


def test_an_objective_that_is_missing_fails_the_trial() -> None:
    judged = Books({"plasticity": "maximize"}, (), {}).judge(result(0))
    assert (judged.state, judged.reason) == ("failed", "plasticity is not a finite number")


def test_a_constraint_whose_score_is_missing_is_missed() -> None:
    judged = books(criteria=(parse_bound("latency_ms", "<= 5"),)).judge(result(0))
    assert not judged.feasible
    assert json.dumps(judged.constraints, allow_nan=False) == '{"latency_ms": 1000000000000.0}'


def test_places_put_the_feasible_first() -> None:
    kept = books(
        result(0, 0.9, 60.0),  # misses 50 by a fifth
        result(1, 0.2, 50.0),
        result(2, 0.5, 40.0),
        result(3, 0.9, 55.0),  # misses 50 by a tenth
        criteria=(parse_bound("macs", "<= 50"),),
    )
    assert kept.places() == {2: 0, 1: 1, 3: 2, 0: 3}


_ROWS = st.lists(st.tuples(st.integers(0, 10), st.integers(0, 10)), max_size=8)


@given(_ROWS)
def test_the_hypervolume_never_falls_and_places_are_a_ranking(rows: list[tuple[int, int]]) -> None:
    kept, last = books(), 0.0
    for number, (accuracy, macs) in enumerate(rows):
        kept.add(result(number, accuracy / 10, macs * 10.0))
        assert kept.hypervolume() >= last - 1e-12
        last = kept.hypervolume()
    assert sorted(kept.places().values()) == list(range(len(rows)))
    best = kept.best()
    if best is not None:
        assert best.number in numbers(kept.front())


def test_the_hypervolume_by_hand() -> None:
    # One point: accuracy 0.5 of the baseline's 1, half of the macs saved.
    assert books(result(0, 0.5, 50.0)).hypervolume() == pytest.approx(0.25)


def test_an_evaluated_profile_is_known_again() -> None:
    kept = books(result(0), result(1, state="pruned"), result(2, state="failed"))
    assert kept.same(result(0).request.profile) == kept.results[0]
    assert kept.same(result(1).request.profile) is None
    assert kept.same(result(2).request.profile) is None


def test_the_books_of_an_earlier_moment_hold_what_was_decided_first() -> None:
    kept = books(result(3), result(1))
    kept.add(result(0))
    assert list(kept.first(2).results) == [3, 1]
    assert kept.first(2).figures() == books(result(3), result(1)).figures()
    assert len(kept) == 3


def test_a_result_is_written_without_what_json_does_not_know(tmp_path: Path) -> None:
    report = Report(1, 2, {"accuracy": math.nan, "macs": 1.0}, {"quality/accuracy": math.inf, "compute/macs": 2.0})
    given_ = TrialResult(result(0).request, "pruned", scores={"accuracy": 0.5}, reports=(report,))
    write_result(tmp_path / "0.json", given_)
    json.loads((tmp_path / "0.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    read = read_result(tmp_path / "0.json")
    assert read.reports == (Report(1, 2, {"macs": 1.0}, {"compute/macs": 2.0}),)
    assert read.request == given_.request


@pytest.mark.parametrize("text", ["", "{}", '{"request": 3}', "[]"])
def test_a_file_that_is_no_result_is_one_line(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "0.json", text)
    with pytest.raises(StorageError) as error:
        read_result(tmp_path / "0.json")
    assert "0.json" in str(error.value)
    assert "\n" not in str(error.value)


def test_books_are_read_while_they_are_written(tmp_path: Path) -> None:
    folder = Home(tmp_path).study("s")
    write_result(folder.result(1), result(1))
    kept = books()
    kept.read(folder)
    write_result(folder.result(0), result(0))
    kept.read(folder)
    assert sorted(kept.results) == [0, 1]
