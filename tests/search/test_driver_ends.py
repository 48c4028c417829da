"""What ends a study: who stops it, a target, a time limit, a trial that takes too long, the last point of a grid."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from search.home import write_text
from search.result import TrialRequest
from tests.search.driving import FIXED, Bench, Trial
from tests.search.quick import quick_trial


def stopping(bench: Bench, at: int, **how: bool) -> Callable[..., Trial]:
    """A trial at whose first report somebody asks for the end."""

    def trial(request: TrialRequest, *args: Any, **kwargs: Any) -> Trial:
        for event in quick_trial(request, *args, **kwargs):
            if request.number == at:
                bench.driver.stop("asked to stop", **how)
            yield event

    return trial


def test_who_stops_waits_for_the_running_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 6)
    assert bench.run(stopping(bench, 2))["complete"] == 3
    assert (bench.driver.stopped, bench.driver.reason()) == (True, "asked to stop")
    assert Bench(tmp_path, 6).run()["complete"] == 6


def test_who_stops_now_drops_the_running_trial_and_loses_nothing_that_was_reported(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 4)
    assert bench.run(stopping(bench, 2, now=True))["complete"] == 2
    bench.searcher.let_go()
    assert bench.searcher.interrupted == 1
    (dropped,) = (bench.folder.root / "checkpoints").glob("00002-*")
    assert json.loads((dropped / "reports.json").read_text()) == 1
    again = Bench(tmp_path, 4)
    assert again.run()["complete"] == 4
    assert again.books.results[2].request.key == dropped.name


@pytest.mark.parametrize(("word", "complete"), [("finish", 3), ("now", 2)])
def test_another_process_may_stop_it(tmp_path: Path, word: str, complete: int) -> None:
    bench = Bench(tmp_path, 6)

    def trial(request: TrialRequest, *args: Any, **kwargs: Any) -> Trial:
        if request.number == 2:
            write_text(bench.folder.stop, word)
        yield from quick_trial(request, *args, **kwargs)

    assert bench.run(trial)["complete"] == complete
    assert bench.driver.stopped
    assert not bench.folder.stop.exists()


def test_a_target_that_is_met_ends_it_and_still_does_in_the_next_run(tmp_path: Path) -> None:
    goal = {"stop_when": "accuracy >= baseline - 0.15 and macs <= 0.6 * baseline"}
    bench = Bench(tmp_path, 40, study=goal)
    counts = bench.run()
    assert 0 < counts["complete"] < 40
    *before, last = [result for _, result in sorted(bench.books.results.items())]
    assert last.feasible
    assert last.scores["accuracy"] >= 0.85
    assert last.scores["macs"] <= 60
    assert not any(r.feasible and r.scores["accuracy"] >= 0.85 and r.scores["macs"] <= 60 for r in before)
    assert bench.driver.reason().startswith("a trial meets accuracy >= baseline - 0.15")
    assert Bench(tmp_path, 40, study=goal).driver.done
    assert not Bench(tmp_path, 41).driver.done


def test_a_target_that_an_infeasible_trial_reaches_is_not_met(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 4, study={"stop_when": "macs <= 1000"}, constraints={"accuracy": ">= 2"})
    assert bench.run()["complete"] == 4


def test_a_time_limit_holds_over_all_runs(tmp_path: Path) -> None:
    def slow(bench: Bench) -> Callable[..., Trial]:
        def trial(request: TrialRequest, *args: Any, **kwargs: Any) -> Trial:
            bench.clock.now += 10
            yield from quick_trial(request, *args, **kwargs)

        return trial

    bench = Bench(tmp_path, 50, study={"time_limit": "25s"})
    assert bench.run(slow(bench))["complete"] == 3
    assert bench.driver.reason() == "the time limit of 25 seconds is reached"
    assert bench.driver.seconds == 30
    assert Bench(tmp_path, 50, study={"time_limit": "25s"}, spent=30).driver.done
    more = Bench(tmp_path, 50, study={"time_limit": "1m"}, spent=30)
    assert more.run(slow(more))["complete"] == 6


def test_a_trial_that_takes_too_long_fails(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3, budget={"timeout": "10s"})

    def trial(request: TrialRequest, *args: Any, **kwargs: Any) -> Trial:
        for event in quick_trial(request, *args, **kwargs):
            bench.clock.now += 4 if request.number == 1 else 1
            yield event

    assert bench.run(trial) == {"complete": 2, "pruned": 0, "failed": 1, "cached": 0, "evaluated": 2}
    assert bench.books.results[1].reason == "it ran longer than 10s"
    assert len(bench.books.results[1].reports) == 3


def test_the_start_of_a_worker_is_not_a_trial_s_time(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 1, budget={"timeout": "10s"})
    request = bench.driver.propose()
    assert request is not None
    bench.clock.now += 8
    bench.driver.begun(request)
    bench.clock.now += 8
    assert bench.driver.overdue() == []
    bench.clock.now += 8
    assert bench.driver.overdue() == [request]
    assert bench.books.results[0].seconds == 16


def test_a_grid_ends_with_its_last_point(tmp_path: Path) -> None:
    space = {"pruning": FIXED["pruning"] | {"sparsity": {"low": 0.1, "high": 0.5}}}
    bench = Bench(tmp_path, 50, study={"sampler": "grid"}, spaces=space)
    assert bench.run()["complete"] == 5
    assert bench.driver.reason() == "every point of the grid is tried"
    assert bench.driver.done
