"""What a study of thousands of trials on a thousand workers asks of the one process that drives it.

The workers are simulated: each holds a trial for as long as a real one took, in simulated time, and then reports what
that one reported, with scores that follow from the profile. Everything else is the real code: searcher, books,
scheduler, writer, record, result files. What the driver's own work takes is real time, and passes in the simulation as
well: while it answers one worker the others wait. A report of every iteration is handed in, as workers do. Time of the
driver is time of its processor, so that a busy machine does not count; waiting for the disk is shown apart.

    python -m tests.benchmarks.scale --workers 1000 --trials 3000 --lengths 600
    python -m tests.benchmarks.scale --recorded HOME/studies/NAME --mlflow none --profile

``--lengths`` stretches the recorded trials to this median; ``--recorded`` takes another study's results for those of a
digits study that is run first; ``--optuna`` and ``--mlflow`` take addresses.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import itertools
import json
import math
import pstats
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy
from sqlalchemy.engine import Engine

from search import launch
from search.books import read_result
from search.driver import Driver
from search.home import Home
from search.record import Record
from search.result import Report, TrialRequest, TrialResult
from search.runners.runner import Director, Work
from search.searcher import Searcher
from search.study import Study
from spaces.pruning import PruningPolicy
from tests.search.drive import Nothing

STUDY: dict[str, Any] = {
    "study": {"name": "scale", "trials": 1000},
    "task": {"target": "digits"},
    "objectives": {"accuracy": "maximize", "macs": "minimize", "plasticity": "maximize"},
    "constraints": {"accuracy": ">= baseline - 0.05"},
    "budget": {"epochs": 2, "iterations": 6, "scheduler": "none"},
    "resources": {"runner": "inline"},
    "spaces": {
        "pruning": {"sparsity": {"low": 0.1, "high": 0.95}},
        "reconnection": {"optional": True},
        "finetuning": {},
    },
}


@dataclass
class Times:
    """How long calls took, by name."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    wall: dict[str, float] = field(default_factory=dict)
    statements: int = 0

    def around(self, owner: type, method: str) -> None:
        """Time a method of a class from now on."""
        called: Callable[..., Any] = getattr(owner, method)
        name = f"{owner.__name__}.{method}"
        kept = self.seconds.setdefault(name, [])

        def timed(*args: Any, **more: Any) -> Any:
            began, clock = time.thread_time(), time.perf_counter()
            try:
                return called(*args, **more)
            finally:
                kept.append(time.thread_time() - began)
                self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - clock

        setattr(owner, method, timed)

    def rows(self) -> Iterator[dict[str, Any]]:
        """Per method: calls, and milliseconds of the median, the 95th percentile, the first and the last tenth."""
        for name, taken in self.seconds.items():
            if taken:
                tenth = max(1, len(taken) // 10)
                yield {
                    "what": name,
                    "calls": len(taken),
                    "median_ms": 1e3 * statistics.median(taken),
                    "p95_ms": 1e3 * sorted(taken)[int(0.95 * (len(taken) - 1))],
                    "first_tenth_ms": 1e3 * statistics.mean(taken[:tenth]),
                    "last_tenth_ms": 1e3 * statistics.mean(taken[-tenth:]),
                    "total_s": sum(taken),
                    "wall_s": self.wall[name],
                }


class Cluster:
    """Workers that take no time but simulated time; a runner.

    Args:
        workers: How many trials at once.
        recorded: Real results, for lengths, reports, ledgers and layers.
        stretch: Simulated seconds per recorded second.
    """

    def __init__(self, workers: int, recorded: Sequence[TrialResult], stretch: float) -> None:
        self._workers, self._recorded, self._stretch = workers, recorded, stretch
        self._random = random.Random(0)
        self.now = self.idle = self.busy = 0.0
        self.waits: list[float] = []

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, work: Work, director: Director) -> None:
        """Hand out and take back, in the order of simulated time."""
        order = itertools.count()
        ends: list[tuple[float, int, TrialRequest, Report, TrialResult]] = []
        free = [0.0] * self._workers  # since when each worker without a trial waits
        while True:
            while free:
                request = self._real(director.propose)
                if request is None:
                    break
                since = heapq.heappop(free)
                self.waits.append(self.now - since)
                result = self._result(request, work.baseline)
                self._real(director.begun, request)
                for share, report in enumerate(result.reports, 1):
                    at = self.now + result.seconds * self._stretch * share / len(result.reports)
                    heapq.heappush(ends, (at, next(order), request, report, result))
                self.busy += result.seconds * self._stretch
            if not ends:
                return
            at, _, request, report, result = heapq.heappop(ends)
            self.now = max(self.now, at)  # the driver comes to it when it is done with what came before
            goes_on = self._real(director.reported, request, report)
            if goes_on and report.iteration == report.of:
                self._real(director.decided, result)
                heapq.heappush(free, at)

    def _real(self, work: Callable[..., Any], *given: Any) -> Any:
        """Work of the driver, whose real time passes in the simulation."""
        began = time.thread_time()
        found = work(*given)
        self.now += time.thread_time() - began
        return found

    def _result(self, request: TrialRequest, baseline: Mapping[str, float]) -> TrialResult:
        """A recorded result with this trial's profile, and scores that follow from it."""
        like = self._recorded[request.number % len(self._recorded)]
        pruning = request.profile.get(PruningPolicy)
        sparsity = pruning.sparsity if pruning else 0.0
        noise = self._random.gauss(0, 0.004)
        scores = {
            "accuracy": baseline["accuracy"] * (1 - 0.3 * sparsity**3) + noise,
            "macs": baseline["macs"] * (1 - sparsity) * (1 + abs(noise)),
            "plasticity": self._random.random() if "reconnection" in request.profile.policies else 0.0,
        }
        reports = tuple(Report(r.iteration, like.reports[-1].of, scores, r.metrics) for r in like.reports)
        seconds = like.seconds * math.exp(self._random.gauss(0, 0.2))
        return replace(
            like, request=request, scores=scores, reports=reports, seconds=seconds, constraints={}, cached=None
        )


def recorded_study(place: Path) -> list[TrialResult]:
    """The complete results of a digits study."""
    data = {**STUDY, "study": {"name": "recorded", "trials": 6}}
    study = Study.create(data, Home(place / "recorded"))
    study.run()
    return list(study.books().complete())


def results_of(folder: Path) -> list[TrialResult]:
    """The complete results in another study's folder."""
    found = [read_result(path) for path in sorted((folder / "results").glob("*.json"))]
    return [result for result in found if result.state == "complete" and result.cached is None and result.reports]


def figures(
    cluster: Cluster, times: Times, home: Home, study: Study, wall: float, memory: tuple[int, int]
) -> dict[str, Any]:
    """What was found."""
    decided = len(study.books())
    waits = sorted(cluster.waits[len(cluster.waits) // 10 :])
    driving = sum(sum(times.seconds.get(name, [])) for name in ("Driver.propose", "Driver.reported", "Driver.decided"))
    results = sum(path.stat().st_size for path in study.folder.results().values())
    database = home.root / "mlflow.db"
    return {
        "decided": decided,
        "simulated_hours": cluster.now / 3600,
        "workers_busy": cluster.busy / (cluster.now * cluster._workers),
        "wait_for_proposal_s": {"median": statistics.median(waits), "p95": waits[int(0.95 * (len(waits) - 1))]},
        "driver_ms_per_trial": 1e3 * driving / decided,
        "most_trials_per_second": decided / driving,
        "wall_s": wall,
        "memory_MB": {"before": memory[0] / 2**20, "after": memory[1] / 2**20},
        "results_KB_per_trial": results / decided / 1024,
        "journal_KB_per_trial": home.journal.stat().st_size / decided / 1024 if home.journal.exists() else None,
        "mlflow_KB_per_trial": database.stat().st_size / decided / 1024 if database.exists() else None,
        "statements_per_trial": times.statements / decided,
        "calls": list(times.rows()),
    }


def measure(given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Run the simulated study."""
    recorded = results_of(given.recorded) if given.recorded else recorded_study(place)
    stretch = given.lengths / statistics.median(result.seconds for result in recorded)
    home = Home(place / "home")
    data = {**STUDY, "study": {"name": "scale", "trials": given.trials, "sampler": given.sampler}}
    storage = {"optuna": given.optuna, "mlflow": None if given.mlflow == "none" else given.mlflow}
    data["storage"] = {name: address for name, address in storage.items() if address}
    cluster, times = Cluster(given.workers, recorded, stretch), Times()
    vars(launch)["runner_for"] = lambda *_, **__: cluster
    if given.mlflow == "none":
        vars(launch)["record_of"] = lambda *_: Nothing()
    for owner, methods in ((Driver, ("propose", "reported", "decided")), (Searcher, ("propose", "update"))):
        for method in methods:
            times.around(owner, method)
    for method in ("write", "progress", "finish"):
        times.around(Record, method)

    def counted(*_: Any) -> None:
        times.statements += 1

    sqlalchemy.event.listen(Engine, "before_cursor_execute", counted)
    study = Study.create(data, home)
    before, began = psutil.Process().memory_info().rss, time.perf_counter()
    study.run()
    wall = time.perf_counter() - began
    return figures(cluster, times, home, study, wall, (before, psutil.Process().memory_info().rss))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.scale", description=__doc__.partition("\n")[0])
    parser.add_argument("--workers", type=int, default=1000)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--lengths", type=float, default=600.0, help="median seconds of a trial")
    parser.add_argument("--recorded", type=Path, help="a study's folder")
    parser.add_argument("--sampler", default="tpe")
    parser.add_argument("--optuna", help="a database's address; else the journal")
    parser.add_argument("--mlflow", help="an address, or none; else the home's SQLite")
    parser.add_argument("--profile", action="store_true", help="say where the time goes")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory(prefix="pleach-scale-") as place:
        found = profile.runcall(measure, given, Path(place)) if given.profile else measure(given, Path(place))
    calls = found.pop("calls")
    if given.json:
        print(json.dumps(found | {"calls": calls}))
    else:
        print(json.dumps(found, indent=1))
        for row in calls:
            print(
                "  ".join(
                    f"{key} {value:.4g}" if isinstance(value, float) else f"{value}" for key, value in row.items()
                )
            )
    if given.profile:
        pstats.Stats(profile).sort_stats("cumulative").print_stats(45)


if __name__ == "__main__":
    main()
