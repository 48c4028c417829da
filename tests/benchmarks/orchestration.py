"""What the engine costs: a study through Ray, Optuna and MLflow beside bare loops over the same trials.

Real training of the digits network for a fixed number of steps, one thread each. The bare loops have no searcher, no
records and no checkpoints; they run in turn with the studies, so that a busy machine slows both alike. Start-up (of
Ray, of the workers, of the bare processes) is reported apart.

    python -m tests.benchmarks.orchestration --json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from objectives.loading import load_task
from search.books import Books
from search.progress import Silent
from search.result import TrialRequest, TrialResult
from search.scoring import measure_baseline
from search.study import Study
from search.trial import run_trial

MEASURES = ("accuracy", "macs")


class Stopwatch(Silent):
    """Notes when each trial was launched and when it was decided."""

    def __init__(self) -> None:
        self.launches: list[float] = []
        self.spans: list[tuple[float, float]] = []

    def launched(self, request: TrialRequest) -> None:
        self.launches.append(time.monotonic())

    def decided(self, result: TrialResult, books: Books) -> None:
        now = time.monotonic()
        self.spans.append((now - result.seconds, now))

    @property
    def wall(self) -> float:
        """From the first trial's begin to the last one's end."""
        return max(end for _, end in self.spans) - min(begin for begin, _ in self.spans)


def study(home: Path, workers: int, trials: int, epochs: float) -> tuple[float, float, list[TrialResult]]:
    """Run a study; returns seconds from the first trial's begin to the last one's end, seconds before, the results."""
    data: dict[str, Mapping[str, Any]] = {
        "study": {"name": f"workers-{workers}", "trials": trials},
        "task": {"target": "digits"},
        "objectives": {"accuracy": "maximize", "macs": "minimize"},
        "budget": {"epochs": epochs},
        "resources": {"concurrent": workers},
        "spaces": {"pruning": {"granularity": "weight", "criterion": "magnitude"}},
    }
    watch, began = Stopwatch(), time.monotonic()
    run = Study.create(data, home)
    run.run(watch)
    results = [result for _, result in sorted(run.books().results.items())]
    failed = [result.reason for result in results if result.state != "complete"]
    if failed:
        raise SystemExit(f"every trial must be complete to be compared, but one is not: {failed[0]}")
    return watch.wall, min(begin for begin, _ in watch.spans) - began, results


def bare(home: Path, workers: int, requests: Sequence[TrialRequest]) -> float:
    """Run the same trials in bare processes; returns seconds from the first trial's begin to the last one's end."""
    shares = [list(requests)[worker::workers] for worker in range(workers)]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.orchestration", "--bare"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PLEACH_HOME": str(home), "OMP_NUM_THREADS": "1"},
        )
        for _ in shares
    ]
    for child in children:  # all are ready before the first one starts
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
    for child, share in zip(children, shares, strict=True):
        assert child.stdin is not None
        child.stdin.write(json.dumps([request.to_dict() for request in share]) + "\n")
        child.stdin.flush()
    spans: list[tuple[float, float]] = [json.loads(child.communicate()[0]) for child in children]
    return max(end for _, end in spans) - min(begin for begin, _ in spans)


def bare_process() -> None:
    """One bare loop: build the task, wait for the requests, run them, say when it began and ended."""
    torch.set_num_threads(1)
    task = load_task("digits")
    baseline = measure_baseline(task, MEASURES)
    print("ready", flush=True)
    requests = [TrialRequest.from_dict(data) for data in json.loads(sys.stdin.readline())]
    began = time.monotonic()
    for request in requests:
        *_, last = run_trial(request, task, MEASURES, baseline)
        assert isinstance(last, TrialResult)
        assert last.state == "complete", last.reason
    print(json.dumps([began, time.monotonic()]))


def compare(workers: int, trials: int, epochs: float, home: Path, repeats: int) -> dict[str, float]:
    """Studies and bare loops over their trials in turn; the fastest of each counts: a busy moment spoils it least."""
    walls, bares, starts = [], [], []
    for _ in range(repeats):
        again = Path(tempfile.mkdtemp(dir=home))
        wall, start, results = study(again, workers, trials, epochs)
        walls.append(wall)
        starts.append(start)
        bares.append(bare(home, workers, [result.request for result in results]))
    return {
        "ratio": min(walls) / min(bares),
        "study_seconds": min(walls),
        "bare_seconds": min(bares),
        "overhead_per_trial": (min(walls) - min(bares)) * workers / trials,
        "start_seconds": min(starts),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    parser.add_argument("--trials", type=int, default=4, help="trials per worker")
    parser.add_argument("--epochs", type=float, default=40.0, help="of the digits' training split, per trial")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is run")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        bare_process()
        return
    with tempfile.TemporaryDirectory(prefix="pleach-", dir="/tmp") as folder:
        os.environ["PLEACH_HOME"] = folder
        one = compare(1, options.trials, options.epochs, Path(folder), options.repeats)
        two = compare(2, 2 * options.trials, options.epochs, Path(folder), options.repeats)
    found = {
        "one_worker_ratio": one.pop("ratio"),
        "two_workers_of_bare": 1 / two.pop("ratio"),
        "two_workers_of_one": (one["study_seconds"] * 2) / two["study_seconds"],
        "trials": {"one_worker": options.trials, "two_workers": 2 * options.trials},
        "one_worker": one,
        "two_workers": two,
        "load": os.getloadavg()[0],
    }
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        print(f"one worker takes {found['one_worker_ratio']:.3f} of the bare loop's time (at most 1.10)")
        print(f"two workers reach {found['two_workers_of_bare']:.3f} of two bare processes (at least .9)")


if __name__ == "__main__":
    main()
