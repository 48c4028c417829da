"""The driver: exactly as many decided trials as asked for, written in order, each with the reports that it made."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from search.books import read_result
from search.result import Report, TrialRequest, TrialResult
from spaces.errors import StorageError
from tests.search.driving import BASELINE, FIXED, Bench, Trial, finished
from tests.search.quick import quick_trial

# -- counting and writing -------------------------------------------------------------------------------------------


def mixed(request: TrialRequest, *args: Any, **kwargs: Any) -> Trial:
    """Every third trial fails, every fifth gives no number."""
    kind = 13 if request.number % 3 == 2 else 14 if request.number % 5 == 0 else request.seed
    for event in quick_trial(replace(request, seed=kind), *args, **kwargs):
        yield event if isinstance(event, Report) else replace(event, request=request)


def test_as_many_are_decided_as_were_asked_for_whatever_becomes_of_them(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 20, budget={"scheduler": "mo-asha"})
    counts = bench.run(mixed)
    assert counts["complete"] + counts["pruned"] + counts["failed"] == 20
    assert min(counts["complete"], counts["pruned"], counts["failed"]) > 0
    assert list(bench.folder.results()) == list(range(20))
    assert bench.driver.reason() == "20 of 20 trials are decided"
    reasons = {result.reason for result in bench.books.results.values() if result.state == "failed"}
    assert reasons <= {"ValueError: the seed is 13", "accuracy is not a finite number"}
    assert len(reasons) == 2


def test_everything_is_written_once_in_order(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 5)
    bench.run()
    assert bench.notes.written == list(range(5))
    assert bench.notes.steps == [1, 2, 3, 4, 5]
    assert bench.notes.on_disk_first
    again = Bench(tmp_path, 5)
    assert again.driver.done
    assert again.searcher.propose() is not None  # it was told of all five: the sixth is next
    assert sorted(again.books.results) == list(range(5))


def test_what_lies_on_disk_is_what_was_decided(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 4, budget={"scheduler": "mo-asha"})
    bench.run()
    for number, path in bench.folder.results().items():
        assert read_result(path) == bench.books.results[number]


def test_more_trials_go_on_and_fewer_run_nothing(tmp_path: Path) -> None:
    Bench(tmp_path, 4).run()
    more = Bench(tmp_path, 6)
    assert not more.driver.done
    assert more.run()["complete"] == 6
    assert more.notes.written == [4, 5]
    fewer = Bench(tmp_path, 2)
    assert fewer.driver.done
    assert fewer.driver.propose() is None


def test_a_study_in_two_runs_is_the_study_in_one(tmp_path: Path) -> None:
    whole = Bench(tmp_path / "one", 14, budget={"scheduler": "mo-asha"})
    whole.run()
    Bench(tmp_path / "two", 9, budget={"scheduler": "mo-asha"}).run()
    parts = Bench(tmp_path / "two", 14, budget={"scheduler": "mo-asha"})
    parts.run()

    def told(bench: Bench) -> list[tuple[str, str, Mapping[str, float]]]:
        return [(r.request.key, r.state, r.scores) for _, r in sorted(bench.books.results.items())]

    assert told(parts) == told(whole)


def test_a_failure_of_the_recorder_loses_no_trial(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        bench = Bench(tmp_path, 3, broken=True)
        assert bench.run()["complete"] == 3
    assert isinstance(bench.writer.failure, StorageError)
    assert [record.message for record in caplog.records] == [
        "nothing more is recorded in MLflow in this run: the database is gone: bring it back"
    ]
    later = Bench(tmp_path, 3)
    later.writer.open(BASELINE, {}, "", later.books.results.values())
    later.run()
    assert later.notes.written == [0, 1, 2]


# -- duplicates -----------------------------------------------------------------------------------------------------


def test_a_profile_is_evaluated_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 5, spaces=FIXED)
    assert bench.run() == {"complete": 5, "pruned": 0, "failed": 0, "cached": 4, "evaluated": 1}
    first, *others = [bench.books.results[number] for number in range(5)]
    assert first.cached is None
    for other in others:
        assert (other.cached, other.scores, other.reports) == (0, first.scores, first.reports)
        assert other.request.key != first.request.key


def test_a_twin_waits_for_its_double_and_shares_its_result(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 3, spaces=FIXED)
    driver = bench.driver
    first = driver.propose()
    assert first is not None
    assert [driver.propose(), driver.propose()] == [None, None]
    before = driver.done
    driver.decided(finished(first))
    assert driver.propose() is None
    assert (before, driver.done) == (False, True)
    assert bench.books.counts() == {"complete": 3, "pruned": 0, "failed": 0, "cached": 2, "evaluated": 1}


def test_a_twin_runs_where_its_double_came_to_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2, spaces=FIXED)
    driver = bench.driver
    first = driver.propose()
    assert first is not None
    assert driver.propose() is None
    driver.decided(TrialResult(first, "failed", reason="bad luck"))
    twin = driver.propose()
    assert twin is not None
    assert twin.number == 1
    driver.decided(finished(twin))
    assert driver.done
    assert bench.books.counts() == {"complete": 1, "pruned": 0, "failed": 1, "cached": 0, "evaluated": 1}


# -- reports --------------------------------------------------------------------------------------------------------


def test_a_stopped_trial_has_the_scores_of_its_last_report(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 12, budget={"scheduler": "mo-asha"})
    bench.run()
    pruned = [result for result in bench.books.results.values() if result.state == "pruned"]
    assert pruned
    for result in pruned:
        assert result.scores == result.reports[-1].scores
        assert result.metrics == result.reports[-1].metrics
        assert result.reason == f"stopped after iteration {len(result.reports)} of 4"
        assert not bench.folder.checkpoints(result.request.key).exists()


def test_a_complete_trial_keeps_its_network_and_no_checkpoint(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 1)
    folder = bench.folder.root / "checkpoints"

    def left_by(request: TrialRequest, *args: Any, checkpoints: Path, **kwargs: Any) -> Trial:
        checkpoints.mkdir(parents=True)
        (checkpoints / "final.safetensors").touch()
        yield from quick_trial(request, *args, checkpoints=checkpoints, **kwargs)

    bench.run(left_by)
    (kept,) = folder.iterdir()
    assert [path.name for path in kept.iterdir()] == ["final.safetensors"]


def test_reports_that_come_again_after_a_retry_are_passed_over(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 1)
    request = bench.driver.propose()
    assert request is not None
    reports = [Report(i, 4, {"accuracy": i / 10, "macs": 1.0}) for i in (1, 2, 1, 2, 3)]
    assert all(bench.driver.reported(request, report) for report in reports)
    bench.driver.lost(request, "its worker\ndied")
    result = bench.books.results[0]
    assert [report.iteration for report in result.reports] == [1, 2, 3]
    assert (result.state, result.reason, result.scores) == ("failed", "its worker died", {})


def test_what_comes_after_the_end_is_not_heard(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2)
    request = bench.driver.propose()
    assert request is not None
    bench.driver.decided(finished(request, accuracy=0.9))
    bench.driver.decided(finished(request, accuracy=0.1))
    bench.driver.lost(request, "too late")
    assert not bench.driver.reported(request, Report(1, 4, {}))
    assert bench.books.results[0].scores["accuracy"] == 0.9
    assert len(bench.books) == 1


def test_a_trial_without_a_result_is_a_failed_one(tmp_path: Path) -> None:
    def silent(request: TrialRequest, *args: Any, **kwargs: Any) -> Trial:
        yield Report(1, 4, {"accuracy": 0.5, "macs": 1.0})

    bench = Bench(tmp_path, 2)
    assert bench.run(silent)["failed"] == 2
    assert bench.books.results[0].reason == "the trial ended without a result"
