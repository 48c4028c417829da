"""Trials in real workers: the same results as in one process, retried when a worker dies, stopped when told to."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from objectives.task import SharesArrays
from search.result import Report, TrialRequest, TrialResult
from search.runners.environment import settle
from search.runners.inline import InlineRunner
from search.runners.runner import Runner
from spaces.errors import StorageError
from tests.search.desk import Desk, request, run, work
from tests.search.quick import TinyTask, quick_trial


@pytest.fixture(scope="module")
def ray_folder() -> Iterator[Path]:
    """One cluster for all tests of this file."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix="ray-", dir="/tmp"))
    settle(folder)
    import ray

    ray.init(
        address="local", num_cpus=2, include_dashboard=False, _temp_dir=str(folder), log_to_driver=False,
        object_store_memory=128 * 1024**2, logging_level=logging.ERROR,
    )  # fmt: skip
    yield folder
    ray.shutdown()
    subprocess.run(["rm", "-rf", str(folder)], check=True)


def tune(folder: Path, concurrent: int = 2) -> Runner:
    from search.runners.tune import TuneRunner

    return TuneRunner(TinyTask(), folder, concurrent=concurrent)


@pytest.mark.slow
def test_workers_give_what_one_process_gives(tmp_path: Path, ray_folder: Path) -> None:
    requests = [request(n, seed=13 if n == 2 else 0) for n in range(5)]
    alone = run(InlineRunner(TinyTask()), work(tmp_path / "alone"), Desk(*requests))
    together = run(tune(ray_folder), work(tmp_path / "together"), Desk(*requests))
    assert together.results == alone.results
    assert sorted(together.reports) == sorted(alone.reports)
    assert together.most == 2
    assert list((ray_folder).glob("tune_*/*/checkpoint*")) == []


def report_of_worker(request: TrialRequest, task: object, *args: object, **kwargs: object) -> Iterator[TrialResult]:
    """Says who ran it and whether the task came with shared arrays."""
    import torch

    assert isinstance(task, SharesArrays)
    metrics = {
        "process": float(os.getpid()),
        "task": float(id(task)),
        "threads": float(torch.get_num_threads()),
        "samples": float(len(task.arrays()["x"])),
    }
    yield TrialResult(request, "complete", {"accuracy": 1.0}, metrics)


@pytest.mark.slow
def test_a_worker_keeps_its_process_its_task_and_its_threads(tmp_path: Path, ray_folder: Path) -> None:
    desk = run(tune(ray_folder, concurrent=1), work(tmp_path, report_of_worker), Desk(*map(request, range(4))))
    rows = [result.metrics for result in desk.results.values()]
    assert len(rows) == 4
    assert {tuple(row.values()) for row in rows} == {tuple(rows[0].values())}
    assert rows[0]["process"] != os.getpid()
    assert rows[0]["threads"] == 1


@pytest.mark.slow
def test_a_stopped_trial_ends_and_its_worker_goes_on(tmp_path: Path, ray_folder: Path) -> None:
    work_ = work(tmp_path)
    desk = run(tune(ray_folder, concurrent=1), work_, Desk(request(0), request(1), stop_at=2))
    assert desk.reports == [("00000-k", 1), ("00000-k", 2), ("00001-k", 1), ("00001-k", 2)]
    assert desk.results == {}


@pytest.mark.slow
def test_a_trial_whose_worker_dies_goes_on_from_its_checkpoint(tmp_path: Path, ray_folder: Path) -> None:
    desk = run(tune(ray_folder), work(tmp_path), Desk(request(0, seed=15), request(1)))
    assert [desk.results[key].state for key in sorted(desk.results)] == ["complete", "complete"]
    assert len(list(tmp_path.glob("died-*"))) == 1
    assert desk.losses == {}
    assert sorted(desk.beginnings) == ["00000-k", "00000-k", "00001-k"]
    # The reports before the death come again; the result has each once.
    assert [key for key, iteration in desk.reports if iteration == 1].count("00000-k") == 2
    assert [report.iteration for report in desk.results["00000-k"].reports] == [1, 2, 3, 4]
    assert desk.results["00000-k"].scores == run(
        InlineRunner(TinyTask()), work(tmp_path / "alone"), Desk(request(0))
    ).results["00000-k"].scores  # fmt: skip


def always_dies(request: TrialRequest, *args: object, **kwargs: object) -> Iterator[Report]:
    yield Report(1, 4, {"accuracy": 0.5})
    os._exit(1)


@pytest.mark.slow
def test_a_trial_whose_worker_always_dies_is_lost_and_the_next_one_runs(tmp_path: Path, ray_folder: Path) -> None:
    desk = run(tune(ray_folder, concurrent=1), work(tmp_path, always_dies), Desk(request(0), stop_at=9))
    assert desk.reports == [("00000-k", 1)] * 3
    assert list(desk.losses) == ["00000-k"]
    assert "its worker died" in desk.losses["00000-k"]
    assert "not taken up again more than 2 times in a row" in desk.losses["00000-k"]
    assert "\n" not in desk.losses["00000-k"]


@pytest.mark.slow
def test_a_task_that_cannot_be_built_fails_the_trial_with_its_reason(tmp_path: Path, ray_folder: Path) -> None:
    desk = run(tune(ray_folder), work(tmp_path, target="tests.search.quick:NoTask"), Desk(request(0)))
    assert desk.results["00000-k"].state == "failed"
    assert "NoTask" in desk.results["00000-k"].reason


def hangs(request: TrialRequest, *args: object, **kwargs: object) -> Iterator[Report]:
    yield Report(1, 4, {"accuracy": 0.5})
    time.sleep(600)


@pytest.mark.slow
def test_a_hanging_trial_is_ended_in_the_middle_of_a_step(tmp_path: Path, ray_folder: Path) -> None:
    desk = Desk(request(0))
    desk.at_report.append(lambda request, report: desk.late.add(request.key))
    began = time.monotonic()
    run(tune(ray_folder), work(tmp_path, hangs), desk)
    assert time.monotonic() - began < 60
    assert desk.reports == [("00000-k", 1)]
    assert (desk.results, desk.losses) == ({}, {})


@pytest.mark.slow
def test_halting_drops_what_runs_at_once(tmp_path: Path, ray_folder: Path) -> None:
    began = time.monotonic()
    desk = run(tune(ray_folder), work(tmp_path, hangs), Desk(request(0), request(1), request(2), halt_after=2))
    assert time.monotonic() - began < 60
    assert len(desk.reports) == 2
    assert (desk.results, desk.losses) == ({}, {})


def tells_its_process(request: TrialRequest, *args: object, **kwargs: object) -> Iterator[Report | TrialResult]:
    """A quick trial whose reports say who ran them."""
    for event in quick_trial(request, *args, **kwargs):  # type: ignore[arg-type]
        yield replace(event, metrics={"process": float(os.getpid())}) if isinstance(event, Report) else event


@pytest.mark.slow
def test_a_worker_that_is_killed_from_outside_is_replaced(tmp_path: Path, ray_folder: Path) -> None:
    desk = Desk(request(0), request(1))
    victims: list[int] = []

    def kill(request: TrialRequest, report: Report) -> None:
        if report.iteration == 2 and not victims:
            victims.append(int(report.metrics["process"]))
            os.kill(victims[0], signal.SIGKILL)

    desk.at_report.append(kill)
    run(tune(ray_folder), work(tmp_path, tells_its_process), desk)
    assert {key: result.state for key, result in desk.results.items()} == {
        "00000-k": "complete",
        "00001-k": "complete",
    }
    assert not psutil.pid_exists(victims[0]) or psutil.Process(victims[0]).status() == psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_what_the_director_raises_comes_out_as_it_was(tmp_path: Path, ray_folder: Path) -> None:
    desk = Desk(request(0), request(1))

    def full(request: TrialRequest, report: Report) -> None:
        raise StorageError("the disk is full: make room")

    desk.at_report.append(full)
    with pytest.raises(StorageError, match=r"^the disk is full: make room$"):
        run(tune(ray_folder), work(tmp_path), desk)


# -- faults ---------------------------------------------------------------------------------------------------------


def stuck(request: TrialRequest, *args: object, **kwargs: object) -> Iterator[Report]:
    """Says who it is, then sits in a C call that holds Python's lock, with every signal blocked that can be."""
    yield Report(1, 4, {"accuracy": 0.5}, {"process": float(os.getpid())})
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    ctypes.PyDLL(None).sleep(600)


@pytest.mark.slow
def test_a_trial_that_hangs_in_c_and_hears_nothing_is_ended_and_the_next_one_runs(
    tmp_path: Path, ray_folder: Path
) -> None:
    desk, victims = Desk(request(0)), list[int]()

    def note(request: TrialRequest, report: Report) -> None:
        victims.append(int(report.metrics["process"]))
        desk.late.add(request.key)

    desk.at_report.append(note)
    run(tune(ray_folder, concurrent=1), work(tmp_path, stuck), desk)
    assert (desk.results, desk.losses) == ({}, {})
    limit = time.monotonic() + 30
    while psutil.pid_exists(victims[0]) and psutil.Process(victims[0]).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < limit, "the worker that hangs still lives"
        time.sleep(0.1)
    after = run(tune(ray_folder, concurrent=1), work(tmp_path / "after"), Desk(request(1)))
    assert after.results["00001-k"].state == "complete"


def greedy(request: TrialRequest, *args: object, **kwargs: object) -> Iterator[Report | TrialResult]:
    """The first trial takes what it may not, in torch's way or in numpy's, the others next to nothing."""
    import torch

    wanted = 0 if request.seed == 0 else 8 * 2**30
    try:
        if request.seed == 1:
            torch.ones(wanted, dtype=torch.uint8)
        else:
            np.ones(wanted, dtype=np.uint8)
    except Exception as error:  # as a trial does
        yield TrialResult(request, "failed", reason=f"{type(error).__name__}: {error}")
        return
    yield TrialResult(request, "complete", {"accuracy": 1.0, "macs": 1.0}, {"process": float(os.getpid())})


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can refuse a process memory")
def test_a_trial_that_takes_too_much_memory_fails_by_the_limits_name_and_its_worker_goes_on(
    tmp_path: Path, ray_folder: Path
) -> None:
    from search.runners.cluster import Share
    from search.runners.tune import TuneRunner

    runner = TuneRunner(TinyTask(), ray_folder, concurrent=1, share=Share(memory=2 * 2**30), allowed="2GiB")
    requests = [request(0), request(1, seed=1), request(2, seed=2), request(3)]
    desk = run(runner, work(tmp_path, greedy), Desk(*requests))
    assert [desk.results[r.key].state for r in requests] == ["complete", "failed", "failed", "complete"]
    for r in requests[1:3]:
        assert desk.results[r.key].reason.startswith(
            "it needed more memory than resources.memory, 2GiB, allows: give more, or smaller batches ("
        )
    assert desk.results["00000-k"].metrics == desk.results["00003-k"].metrics  # nobody had to die
    assert desk.losses == {}
