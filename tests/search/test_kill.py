"""Power cuts: a study that is killed anywhere loses no decided trial, evaluates none twice, and counts exactly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psutil
import pytest
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.home import Home, driver
from search.study import Study
from tests.search.drive import start, study_of, wait_for

TRIALS = 6


def finish(home: Path, data: Mapping[str, Any], trace: Path) -> dict[str, Any]:
    """Run the study to its end and return what it prints."""
    child = start(home, data, PLEACH_TRACE=str(trace))
    out, err = child.communicate(timeout=240)
    assert child.returncode == 0, err
    summary: dict[str, Any] = json.loads(out)
    return summary


def die(home: Path, data: Mapping[str, Any], trace: Path, fault: str) -> None:
    """Run the study until it dies at a point."""
    child = start(home, data, PLEACH_TRACE=str(trace), PLEACH_FAULT=fault)
    _, err = child.communicate(timeout=240)
    assert child.returncode == -signal.SIGKILL, err


def check(home: Path, summary: Mapping[str, Any], trace: Path, *, interrupted: int, iterations: int = 4) -> None:
    """All three places agree, and nothing was computed twice."""
    trials = summary["trials"]
    assert (trials["complete"], trials["pruned"], trials["failed"]) == (TRIALS, 0, 0)
    assert (trials["evaluated"] + trials["cached"], trials["interrupted"]) == (TRIALS, interrupted)
    study = Study.load("kept", home)
    results = study.books().results
    assert sorted(results) == list(range(TRIALS))

    computed = [tuple(line.split()[:2]) for line in trace.read_text().splitlines()]
    evaluated = [result for result in results.values() if result.cached is None]
    assert sorted(computed) == sorted((r.request.key, str(i)) for r in evaluated for i in range(1, iterations + 1))

    storage = JournalStorage(JournalFileBackend(str(home / "optuna.journal")))
    told = optuna.load_study(study_name="kept", storage=storage).trials
    assert [(t.number, t.state) for t in told] == [(number, TrialState.COMPLETE) for number in range(TRIALS)]
    assert [t.values for t in told] == [
        [results[n].scores["accuracy"], results[n].scores["macs"]] for n in range(TRIALS)
    ]

    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    recorded = [run for run in runs if "trial.number" in run.data.tags]
    assert sorted(int(run.data.tags["trial.number"]) for run in recorded) == list(range(TRIALS))
    assert {run.info.status for run in runs} == {"FINISHED"}
    for run in recorded:
        number = int(run.data.tags["trial.number"])
        assert run.data.metrics["final/accuracy"] == pytest.approx(results[number].scores["accuracy"])


@pytest.mark.slow
def test_a_study_that_dies_between_any_two_writes_is_the_study_that_does_not(tmp_path: Path) -> None:
    home, trace, data = tmp_path / "home", tmp_path / "trace", study_of(TRIALS)
    die(home, data, trace, "before-result:0")  # nothing is written of what was computed
    die(home, data, trace, "after-result:1")  # Optuna does not know
    die(home, data, trace, "after-tell:3")  # MLflow does not know
    die(home, data, trace, "after-record:4")  # all know
    summary = finish(home, data, trace)
    # What was cut off without a result: trial 0 before its first write, and trial 5 where it was proposed already when
    # the writer's thread died.
    check(home, summary, trace, interrupted=summary["trials"]["interrupted"])
    assert 1 <= summary["trials"]["interrupted"] <= 2

    whole = finish(tmp_path / "whole", data, tmp_path / "other-trace")
    for figure in ("best", "front", "baseline", "hypervolume"):
        assert summary[figure] == whole[figure]


@pytest.mark.slow
def test_a_real_trial_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    data = study_of(2, constraints={"accuracy": ">= 0"}, budget={"iterations": 3, "epochs": 4.0})
    data["spaces"]["pruning"]["exclude"] = "none"
    found = []
    for home in (tmp_path / "cut", tmp_path / "whole"):
        if home.name == "cut":
            child = start(home, data, PLEACH_TRIAL="real", PLEACH_FAULT="before-result:1")
            child.communicate(timeout=240)
            assert child.returncode == -signal.SIGKILL
            assert list((home / "studies" / "kept" / "checkpoints").glob("00001-*/reports.json"))
        _, err = start(home, data, PLEACH_TRIAL="real").communicate(timeout=240)
        results = Study.load("kept", home).books().results
        assert sorted(results) == [0, 1], err
        found.append([replace(results[number], seconds=0.0) for number in (0, 1)])
    assert found[0] == found[1]


@pytest.mark.slow
def test_a_journal_that_was_torn_by_the_kill_goes_on(tmp_path: Path) -> None:
    home, trace, data = tmp_path / "home", tmp_path / "trace", study_of(TRIALS)
    die(home, data, trace, "after-tell:2")
    with (home / "optuna.journal").open("ab") as file:
        file.write(b'{"op_code":6,"trial_id":3,"sta')
    check(home, finish(home, data, trace), trace, interrupted=0)
    assert len(list(home.glob("optuna.journal.torn-*"))) == 1
    assert "torn line" in (home / "studies" / "kept" / "log.txt").read_text()


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_study_goes_on_when_there_is_room(tmp_path: Path) -> None:
    home, trace, data = tmp_path / "home", tmp_path / "trace", study_of(TRIALS)
    child = start(home, data, largest_file=9000, PLEACH_TRACE=str(trace))
    _, err = child.communicate(timeout=240)
    assert child.returncode == 1
    assert err.splitlines()[-1] == (
        f"spaces.errors.StorageError: {home}/optuna.journal cannot be written (File too large): "
        "free or permit the space, or choose another --home"
    )
    assert (home / "optuna.journal").read_bytes().endswith(b"\n")
    study = Study.load("kept", home)
    assert (study.summary()["state"], "File too large" in study.summary()["reason"]) == ("interrupted", True)
    decided = study.summary()["trials"]["complete"]
    assert 0 < decided < TRIALS
    summary = finish(home, data, trace)
    check(home, summary, trace, interrupted=summary["trials"]["interrupted"])


@pytest.mark.slow
def test_everything_can_be_read_after_a_kill(tmp_path: Path) -> None:
    home, trace, data = tmp_path / "home", tmp_path / "trace", study_of(TRIALS)
    die(home, data, trace, "after-result:3")
    study = Study.load("kept", home)
    summary = study.summary()
    assert (summary["state"], summary["trials"]["complete"]) == ("interrupted", 4)
    assert summary["best"]["trial"] in range(4)
    assert len(study.trials()) == 4
    assert {member.number for member in study.front()} <= set(range(4))
    assert study.policy().trials == 4
    assert driver(Home(home).study("kept")) is None


def kill(home: Path, data: Mapping[str, Any], trace: Path, after: int, *, whole_tree: bool) -> list[psutil.Process]:
    """Run the study on Ray until a result is there, and kill it while two trials run; returns what must go unasked."""
    child = start(home, data, PLEACH_TRACE=str(trace), PLEACH_PAUSE="0.2")
    wait_for(home / "studies" / "kept" / "results" / f"{after}.json", 120)
    tree = psutil.Process(child.pid).children(recursive=True)
    names = {process.pid: process.name() for process in tree}
    heard = {address for process in tree for address in addresses(process)}
    assert heard <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}
    assert heard
    os.kill(child.pid, signal.SIGKILL)
    if whole_tree:
        for process in tree:
            process.kill()
    child.communicate()
    # Ray's two agents look for their parent once a minute; they hold neither processors nor files of a study.
    return [process for process in tree if "Agent" not in names[process.pid]]


@pytest.mark.slow
def test_ray_and_all_killed_in_the_middle_goes_on(tmp_path: Path) -> None:
    home, trace = tmp_path / "home", tmp_path / "trace"
    data = study_of(TRIALS, runner="tune", concurrent=2)
    orphans = kill(home, data, trace, 1, whole_tree=True)
    private = json.loads((home / "studies" / "kept" / "state.json").read_text())["ray"]
    orphans += kill(home, data, trace, 3, whole_tree=False)
    summary = finish(home, data, trace)
    gone_within(orphans, 60)
    interrupted = summary["trials"]["interrupted"]
    assert 2 <= interrupted <= 4
    computed = [tuple(line.split()[:2]) for line in trace.read_text().splitlines()]
    # An iteration whose checkpoint was not whole at the kill is the only thing that may be computed again.
    assert len(computed) - len(set(computed)) <= interrupted
    trace.write_text("".join(f"{key} {iteration} 0\n" for key, iteration in sorted(set(computed))))
    check(home, summary, trace, interrupted=interrupted)
    assert private is None or not Path(private).exists()


def addresses(process: psutil.Process) -> set[str]:
    """Where a process listens."""
    try:
        found = process.net_connections(kind="inet")
    except psutil.Error:
        return set()
    return {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}


def gone_within(processes: list[psutil.Process], seconds: float) -> None:
    """Wait until processes are gone, each without being asked."""
    limit = time.monotonic() + seconds
    while left := [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < limit, f"left behind: {left}"
        time.sleep(0.2)


@pytest.mark.slow
@pytest.mark.parametrize(("presses", "kept"), [(1, 2), (2, 1)])
def test_ctrl_c_once_finishes_what_runs_and_twice_stops_now(tmp_path: Path, presses: int, kept: int) -> None:
    home, trace = tmp_path / "home", tmp_path / "trace"
    data = study_of(TRIALS, runner="tune")
    child = start(home, data, PLEACH_TRACE=str(trace), PLEACH_PAUSE="0.5")
    wait_for(home / "studies" / "kept" / "results" / "0.json", 120)
    time.sleep(0.7)
    for press in range(presses):
        os.killpg(child.pid, signal.SIGINT)  # as a terminal does: everyone in the foreground hears it
        time.sleep(0.3 * (press + 1))
    out, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    summary = json.loads(out)
    assert (summary["state"], summary["reason"]) == ("stopped", "interrupted")
    assert (summary["trials"]["complete"], summary["trials"]["interrupted"]) == (kept, presses - 1)
    assert "Traceback" not in err


@pytest.mark.slow
def test_two_drivers_are_refused_and_a_third_process_may_stop_the_first(tmp_path: Path) -> None:
    home, data = tmp_path / "home", study_of(100)
    child = start(home, data, PLEACH_PAUSE="0.1")
    wait_for(home / "studies" / "kept" / "results" / "0.json", 120)
    second = subprocess.run(child.args, capture_output=True, text=True)
    assert second.returncode == 1
    assert f"a study has one driver, but process {child.pid} drives 'kept'" in second.stderr.splitlines()[-1]
    study = Study.load("kept", home)
    assert study.summary()["state"] == "running"
    assert study.best() is not None
    study.stop()
    out, _ = child.communicate(timeout=60)
    summary = json.loads(out)
    assert (summary["state"], summary["reason"]) == ("stopped", "asked to stop")
    assert summary["trials"]["complete"] < 100
    assert study.summary() == summary
