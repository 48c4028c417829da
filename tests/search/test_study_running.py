"""A study that runs, goes on, starts from another or is refused, with nothing written to MLflow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from search.books import Books
from search.home import read_json, write_json
from search.progress import Silent
from search.result import Report, TrialRequest, TrialResult
from search.study import Study
from search.study_file import StudyFile
from search.trial import run_trial
from spaces.errors import StorageError, StudyError, StudyFileError, TaskError
from spaces.pruning import PruningPolicy
from tests.search.drive import study_of
from tests.search.quick import quick_trial


class Watch(Silent):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any]] = []

    def started(self, summary: Mapping[str, Any]) -> None:
        self.calls.append(("started", summary["state"]))

    def launched(self, request: TrialRequest) -> None:
        self.calls.append(("launched", request.number))

    def reported(self, request: TrialRequest, report: Report) -> None:
        self.calls.append(("reported", (request.number, report.iteration)))

    def decided(self, result: TrialResult, books: Books) -> None:
        self.calls.append(("decided", (result.number, len(books))))

    def finished(self, summary: Mapping[str, Any]) -> None:
        self.calls.append(("finished", summary["state"]))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Replaces the record by a list, where a test is about something else: opening MLflow takes seconds."""
    written: list[Any] = []

    class Unrecorded:
        def __init__(self, *_: object, **__: object) -> None: ...
        def start(self, *_: object) -> None: ...
        def progress(self, *_: object) -> None: ...
        def reconcile(self, among: object = None) -> set[int]:
            return set()

        def recorded(self) -> set[int]:
            return {result.number for result in written}

        def write(self, result: TrialResult, tags: object = None) -> None:
            written.append(result)

        def finish(self, *_: object, **__: object) -> None: ...

    monkeypatch.setattr("search.working.Record", Unrecorded)
    return written


def run(data: Mapping[str, Any], home: Path, **options: Any) -> Study:
    study = Study.create(data, home, **options)
    study.run(trial=quick_trial)
    return study


def test_who_watches_hears_everything_in_order(tmp_path: Path, quiet: list[Any]) -> None:
    watch = Watch()
    Study.create(study_of(2, budget={"iterations": 2}), tmp_path).run(watch, trial=quick_trial)
    assert watch.calls == [
        ("started", "running"),
        ("launched", 0),
        ("reported", (0, 1)),
        ("reported", (0, 2)),
        ("decided", (0, 1)),
        ("launched", 1),
        ("reported", (1, 1)),
        ("reported", (1, 2)),
        ("decided", (1, 2)),
        ("finished", "complete"),
    ]


def test_a_run_comes_back_with_the_best_and_a_policy_that_each_trial_changes(tmp_path: Path, quiet: list[Any]) -> None:
    policies = []
    for trials in (3, 4):
        found = Study.create(study_of(trials), tmp_path).run(trial=quick_trial)
        assert found.best is not None
        assert found.profile == found.best.request.profile
        assert found.summary["best"]["trial"] == found.best.number
        policies.append(found.policy)
    assert policies[0] != policies[1]
    assert [policy.trials for policy in policies] == [3, 4]


def test_a_later_run_goes_on_and_a_smaller_number_runs_nothing(tmp_path: Path, quiet: list[Any]) -> None:
    run(study_of(3), tmp_path)
    run(study_of(5), tmp_path)
    assert [result.number for result in quiet] == [0, 1, 2, 3, 4]
    fewer = run(study_of(2), tmp_path)
    assert len(quiet) == 5
    assert fewer.summary()["reason"] == "5 of 2 trials are decided"
    assert fewer.summary()["trials"]["complete"] == 5


def test_the_first_file_is_kept_and_the_latest_is_loaded(tmp_path: Path, quiet: list[Any]) -> None:
    first = run(study_of(2), tmp_path)
    text = first.folder.file.read_text()
    run(study_of(3), tmp_path)
    assert first.folder.file.read_text() == text
    assert Study.load("kept", tmp_path).file.study.trials == 3
    with pytest.raises(StudyFileError, match=r"study\.seed must stay .* --name NEW --from kept"):
        Study.create(study_of(3, study={"seed": 1}), tmp_path)


def test_other_constraints_judge_old_trials_anew(tmp_path: Path, quiet: list[Any]) -> None:
    before = run(study_of(8), tmp_path).summary()
    strict = run(study_of(8, constraints={"macs": "<= 0.3 * baseline"}), tmp_path)
    summary = strict.summary()
    assert len(quiet) == 8
    assert summary["best"]["scores"]["macs"] <= 0.3 * summary["baseline"]["macs"]
    assert summary["best"]["trial"] != before["best"]["trial"]
    for result in strict.books().results.values():
        assert result.feasible == (
            result.scores["macs"] <= 0.3 * summary["baseline"]["macs"]
            and result.scores["accuracy"] >= 0.8 * summary["baseline"]["accuracy"]
        )
    again = run(study_of(9, constraints={"macs": "<= 0.3 * baseline"}), tmp_path)
    assert again.summary()["trials"]["complete"] == 9


def test_a_study_can_start_from_another(tmp_path: Path, quiet: list[Any]) -> None:
    old = run(study_of(8), tmp_path)
    new = run(study_of(4, study={"seed": 5}, budget={"epochs": 2.0}), tmp_path, name="new", origin="kept")
    assert new.name == "new"
    tried = [result.request.profile for _, result in sorted(new.books().results.items())]
    assert tuple(tried) == old.policy().best[:4]
    assert new.state.origin == "kept"
    with pytest.raises(StudyError, match="no study 'nobody'"):
        Study.create(study_of(), tmp_path, name="other", origin="nobody")


def test_a_task_that_changed_is_refused(tmp_path: Path, quiet: list[Any]) -> None:
    task = tmp_path / "tasks.py"
    task.write_text("from tests.search.quick import TinyTask as Net\n")
    data = study_of(2, task={"target": "tasks.py:Net"})

    def study() -> Study:
        return Study.create(StudyFile.of(data, tmp_path), tmp_path / "home")

    study().run(trial=quick_trial)
    study().run(trial=quick_trial)
    task.write_text("from tests.search.quick import TinyTask as Net  # other\n")
    with pytest.raises(StudyError, match=r"must stay what it was in the first run.*--name NEW --from kept"):
        study().run(trial=quick_trial)
    assert study().summary()["state"] == "interrupted"
    assert "has changed" in study().summary()["reason"]


def test_relative_paths_still_hold_when_a_study_is_loaded(
    tmp_path: Path, quiet: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "tasks.py").write_text("from tests.search.quick import TinyTask as Net\n")
    Study.create(StudyFile.of(study_of(1, task={"target": "tasks.py:Net"}), tmp_path / "files"), tmp_path / "home").run(
        trial=quick_trial
    )
    monkeypatch.chdir("/")
    assert Study.load("kept", tmp_path / "home").file.task_reference.target == f"{tmp_path}/files/tasks.py:Net"


@pytest.mark.parametrize("target", ["tests.search.quick:Nobody", "nowhere.at:All", "digitz", "none.py:Net"])
def test_a_task_that_cannot_be_loaded_is_one_line(tmp_path: Path, quiet: list[Any], target: str) -> None:
    with pytest.raises(TaskError) as error:
        run(study_of(task={"target": target}), tmp_path)
    assert "\n" not in str(error.value)


def test_an_objective_that_nobody_gives_is_one_line(tmp_path: Path, quiet: list[Any]) -> None:
    with pytest.raises(StudyFileError, match="there is no objective 'acuracy': did you mean 'accuracy'"):
        run(study_of(objectives={"acuracy": "maximize"}), tmp_path)


def test_a_home_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    with pytest.raises(StorageError, match="choose another --home"):
        run(study_of(), tmp_path / "home")


def test_only_a_running_study_can_be_stopped(tmp_path: Path, quiet: list[Any]) -> None:
    study = run(study_of(1), tmp_path)
    with pytest.raises(StudyError, match="only a running study can be stopped"):
        study.stop()
    assert not study.folder.stop.exists()


def test_a_request_to_stop_that_came_too_late_stops_nothing(tmp_path: Path, quiet: list[Any]) -> None:
    study = Study.create(study_of(2), tmp_path)
    study.folder.root.mkdir(parents=True)
    study.folder.stop.write_text("now")
    study.run(trial=quick_trial)
    assert study.summary()["trials"]["complete"] == 2


def test_an_unknown_study_names_the_nearest(tmp_path: Path, quiet: list[Any]) -> None:
    run(study_of(1), tmp_path)
    with pytest.raises(StudyError, match="did you mean 'kept'"):
        Study.load("kpet", tmp_path)


def test_a_result_of_a_later_version_can_be_read(tmp_path: Path, quiet: list[Any]) -> None:
    study = run(study_of(1), tmp_path)
    for path in (study.folder.result(0), study.folder.state):
        write_json(path, read_json(path) | {"unheard": 1})
    assert study.summary()["trials"]["complete"] == 1


def test_the_log_has_a_line_for_every_trial(tmp_path: Path, quiet: list[Any]) -> None:
    study = run(study_of(3), tmp_path)
    lines = study.folder.log.read_text().splitlines()
    assert [line.split("search.log: ")[1][:19] for line in lines] == [f"trial {n} is complete"[:19] for n in range(3)]


def exploding(request: TrialRequest, *args: Any, **kwargs: Any) -> Iterator[Report | TrialResult]:
    """Every second trial ends with an error of the user's own."""
    for event in run_trial(request, *args, **kwargs):
        yield (
            replace(event, state="failed", scores={}, reason="RuntimeError: no")
            if (isinstance(event, TrialResult) and request.number % 2)
            else event
        )


def test_a_study_of_the_real_trial_repeats_itself(tmp_path: Path, quiet: list[Any]) -> None:
    data = study_of(4, budget={"iterations": 2, "epochs": 2.0}, constraints={"accuracy": ">= 0"})
    data["spaces"]["pruning"]["exclude"] = "none"
    tables = []
    for home in ("one", "two"):
        study = Study.create(data, tmp_path / home)
        study.run(trial=exploding)
        tables.append(study.trials().drop(columns="seconds"))
    assert list(tables[0]["state"]) == ["complete", "failed"] * 2
    pd.testing.assert_frame_equal(tables[0], tables[1])


def test_everything_fixed_is_evaluated_once(tmp_path: Path, quiet: list[Any]) -> None:
    pruning = {name: getattr(PruningPolicy(), name) for name in PruningPolicy().values()}
    data = study_of(4) | {"spaces": {"pruning": pruning}}
    assert run(data, tmp_path).summary()["trials"]["cached"] == 3
