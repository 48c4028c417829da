"""The driver: exactly as many decided trials as asked for, written in order, ended by whatever ends a study."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from search.books import Books, read_result
from search.confirm import confirmed
from search.driver import Driver
from search.home import Home, StudyFolder, write_text
from search.progress import Silent
from search.record import FrontMember
from search.result import Report, TaskReference, TrialRequest, TrialResult
from search.runners.inline import InlineRunner
from search.runners.runner import RunTrial, Work
from search.scheduler import Scheduler
from search.searcher import Searcher
from search.study_file import StudyFile
from search.writer import Writer
from spaces.errors import StorageError
from tests.search.drive import study_of
from tests.search.quick import TinyTask, quick_trial

BASELINE = {"accuracy": 1.0, "macs": 100.0, "plasticity": 0.0}
Trial = Iterator[Report | TrialResult]
FIXED = {
    "pruning": {
        "criterion": "magnitude",
        "granularity": "channel",
        "allocation": "global",
        "schedule": "oneshot",
        "sparsity": 0.5,
        "exclude": "none",
        "align": 1,
        "merge": False,
    }
}


@dataclass
class Notes:
    """A recorder that remembers what it was told, and when."""

    folder: StudyFolder
    written: list[int] = field(default_factory=list)
    steps: list[int] = field(default_factory=list)
    on_disk_first: bool = True
    broken: bool = False

    def start(self, baseline: Mapping[str, float], tags: Mapping[str, str], study_file_text: str) -> None: ...

    def write(self, result: TrialResult, tags: Mapping[str, str] | None = None) -> None:
        if self.broken:
            raise StorageError("the database is gone: bring it back")
        self.on_disk_first &= self.folder.result(result.number).exists()
        self.written.append(result.number)

    def progress(self, done: int, figures: Mapping[str, float], front: Iterable[int] | None = None) -> None:
        self.steps.append(done)

    def recorded(self) -> set[int]:
        return set(self.written)

    def reconcile(self, among: Collection[int] | None = None) -> set[int]:
        return set()

    def refresh(self) -> None: ...

    def finish(
        self, state: str, files: Mapping[str, str], front: Sequence[FrontMember] = (), *, last: bool = True
    ) -> None: ...


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Bench:
    """A driver with everything around it, but for MLflow; made anew it goes on like a new process."""

    def __init__(self, home: Path, trials: int = 6, *, broken: bool = False, spent: float = 0.0, **tables: Any) -> None:
        data = study_of(trials, **{k: v for k, v in tables.items() if k != "spaces"})
        data |= {"spaces": tables["spaces"]} if "spaces" in tables else {}
        self.file = StudyFile.of(data)
        self.folder = Home(home).study(self.file.name)
        self.books = Books(self.file.directions, self.file.criteria, BASELINE)
        self.books.read(self.folder)
        self.searcher = Searcher(
            self.file.name,
            self.file.space,
            self.file.directions,
            sampler=self.file.study.sampler,
            seed=self.file.study.seed,
            storage=home / "optuna.journal",
        )
        self.searcher.recover(self.books.results)
        self.notes, self.clock = Notes(self.folder, broken=broken), Clock()
        self.writer = Writer(self.notes)
        budget = self.file.budget
        self.driver = Driver(
            self.file,
            self.folder,
            self.searcher,
            self.books,
            Scheduler(
                self.file.directions,
                self.file.criteria,
                BASELINE,
                eta=0 if budget.scheduler == "none" else budget.eta,
                grace=budget.grace,
            ),
            self.writer,
            progress=Silent(),
            keep=lambda seconds: None,
            spent=spent,
            clock=self.clock,
        )

    def run(self, trial: RunTrial = quick_trial) -> dict[str, int]:
        """Run it in this process; returns the counts."""
        checkpoints = self.folder.root / "checkpoints"
        work = Work(TaskReference("tiny"), self.file.measures, BASELINE, checkpoints, run_trial=trial)
        InlineRunner(TinyTask()).run(work, self.driver)
        self.writer.close("complete", {})
        return self.books.counts()


def finished(request: TrialRequest, accuracy: float = 0.9, macs: float = 50.0) -> TrialResult:
    return TrialResult(request, "complete", scores={"accuracy": accuracy, "macs": macs})


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


# -- what ends a study ----------------------------------------------------------------------------------------------


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


# -- confirmation ---------------------------------------------------------------------------------------------------


def seeded(request: TrialRequest, *args: Any, **kwargs: Any) -> Trial:
    """A trial whose accuracy depends on its seed as well."""
    for event in quick_trial(request, *args, **kwargs):
        if isinstance(event, TrialResult):
            event = replace(event, scores={**event.scores, "accuracy": event.scores["accuracy"] - request.seed / 100})
        yield event


def test_finalists_run_again_with_fresh_seeds_and_count_for_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 5, budget={"confirm": {"top": 2, "seeds": 3}, "scheduler": "mo-asha"})
    counts = bench.run(seeded)
    assert sum(counts[state] for state in ("complete", "pruned", "failed")) == 5
    places = bench.books.places()
    finalists = sorted(sorted(places, key=lambda number: places[number])[:2])
    found = confirmed(bench.folder)
    assert [row["trial"] for row in found] == finalists
    for row in found:
        first = bench.books.results[row["trial"]].scores
        assert row["seeds"] == [1, 2, 3]
        assert row["scores"]["accuracy"]["mean"] == pytest.approx(first["accuracy"] - 0.02)
        assert row["scores"]["accuracy"]["deviation"] == pytest.approx(0.01 * math.sqrt(2 / 3))
        assert row["scores"]["macs"] == {"mean": first["macs"], "deviation": 0.0}
    assert bench.notes.written == list(range(5))
    assert Bench(tmp_path, 5, budget={"confirm": {"top": 2, "seeds": 3}, "scheduler": "mo-asha"}).driver.done


def test_a_confirmation_that_was_cut_short_goes_on(tmp_path: Path) -> None:
    plan = {"confirm": {"top": 1, "seeds": 3}}
    bench = Bench(tmp_path, 2, budget=plan)

    def trial(request: TrialRequest, *args: Any, **kwargs: Any) -> Trial:
        if request.seed == 2:
            bench.driver.stop("asked to stop", now=True)
        yield from seeded(request, *args, **kwargs)

    bench.run(trial)
    assert [row["seeds"] for row in confirmed(bench.folder)] == [[1]]
    again = Bench(tmp_path, 2, budget=plan)
    assert not again.driver.done
    again.run(seeded)
    assert [row["seeds"] for row in confirmed(bench.folder)] == [[1, 2, 3]]


def test_finalists_wait_for_the_last_trial(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2, budget={"confirm": {"top": 1, "seeds": 1}})
    first, second = bench.driver.propose(), bench.driver.propose()
    assert first is not None
    assert second is not None
    bench.driver.decided(finished(first, accuracy=0.5))
    assert (bench.driver.propose(), bench.driver.done) == (None, False)
    bench.driver.decided(finished(second, accuracy=0.9))
    again = bench.driver.propose()
    assert again is not None
    assert (again.number, again.seed, again.profile) == (second.number, 1, second.profile)
    assert (bench.driver.propose(), bench.driver.done) == (None, True)


def test_nothing_is_confirmed_after_the_time_limit(tmp_path: Path) -> None:
    bench = Bench(tmp_path, 2, study={"time_limit": "1s"}, budget={"confirm": {}}, spent=5)
    assert bench.driver.propose() is None
    assert bench.driver.done
