"""A long study of tiny trials whose workers and driver are killed at random: ``python -m tests.benchmarks.soak``.

What must hold in the end: exactly as many trials as asked for in every book, no process left, a driver whose memory
does not grow with the study, and proposals that take no longer at its end than at its begin. ``--trials 2000`` takes
more than twenty minutes on two idle cores; the kills follow from ``--seed``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

from search.books import Books
from search.home import Home
from search.machine import hardware
from search.progress import Silent
from search.result import TrialResult
from search.searcher import Proposal, Searcher
from search.study import Study
from tests.search.balance import balanced
from tests.search.drive import study_of
from tests.search.quick import quick_trial

NAME = "kept"
#: Trials between two kills of a worker, on average.
WORKER_EVERY = 40
#: Seconds that processes may outlive the driver.
GONE_WITHIN = 60.0
#: What of Ray looks for the driver once a minute or half, and holds nothing meanwhile: left out.
IDLE = ("Agent", "log_monitor")


# -- the driver that is killed --------------------------------------------------------------------------------------


class Gauge(Silent):
    """Writes a line per decided trial: how many there are, the driver's memory, seconds of the last proposals."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("a", encoding="utf-8")
        self.proposals: list[float] = []

    def decided(self, result: TrialResult, books: Books) -> None:
        rss = psutil.Process().memory_info().rss
        line = {"decided": len(books), "pid": os.getpid(), "rss": rss, "proposals": self.proposals, "at": time.time()}
        self.proposals = []
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


def drive(home: Path, trials: int, gauges: Path) -> None:
    """Run the study, or go on with it, and measure every proposal by the processor time that it takes."""
    gauge, plain = Gauge(gauges), Searcher.propose

    def propose(self: Searcher) -> Proposal | None:
        began = time.thread_time()
        found = plain(self)
        gauge.proposals.append(time.thread_time() - began)
        return found

    Searcher.propose = propose  # type: ignore[method-assign]
    data = study_of(trials, name=NAME, runner="tune", concurrent=2, budget={"iterations": 2})
    print(json.dumps(Study.create(data, home).run(gauge, trial=quick_trial).summary["trials"]))


# -- who kills ------------------------------------------------------------------------------------------------------


def soak(home: Path, trials: int, seed: int, driver_kills: int) -> dict[str, Any]:
    """Run it; returns the figures.

    Args:
        home: A new folder.
        trials: How many.
        seed: Of the moments of the kills.
        driver_kills: How often the driver dies.
    """
    dice, gauges, began = random.Random(seed), home.parent / "gauges", time.monotonic()
    deaths = sorted(dice.sample(range(trials // 10, trials * 9 // 10), driver_kills))
    workers_killed = drivers_killed = 0
    ended: list[psutil.Process] = []
    child, next_worker = _start(home, trials, gauges), dice.randint(3, min(WORKER_EVERY, trials // 4))
    while child.poll() is None:
        time.sleep(0.2)
        decided = _decided(gauges)
        if decided >= next_worker and (victim := _worker(child.pid, dice)) is not None:
            victim.kill()
            workers_killed += 1
            next_worker = decided + dice.randint(WORKER_EVERY // 2, WORKER_EVERY * 3 // 2)
        if deaths and decided >= deaths[0]:
            deaths.pop(0)
            ended += [process for process in _tree(child.pid) if not any(_names(process, idle) for idle in IDLE)]
            child.send_signal(signal.SIGKILL)
            child.communicate()
            drivers_killed += 1
            child = _start(home, trials, gauges)
    out, err = child.communicate()
    assert child.returncode == 0, f"the driver ended with {child.returncode}: {err[-2000:]}"
    wall = time.monotonic() - began
    balanced(home, trials, NAME)
    _gone([*ended, *_of_home(home)])
    return _figures(gauges, json.loads(out), wall, workers_killed, drivers_killed)


def _start(home: Path, trials: int, gauges: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.benchmarks.soak", "--drive", str(home), str(trials), str(gauges)]
    return subprocess.Popen(
        command,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _decided(gauges: Path) -> int:
    return len(_lines(gauges))


def _lines(gauges: Path) -> list[dict[str, Any]]:
    """The whole lines; a kill may have torn one."""
    if not gauges.exists():
        return []
    lines = gauges.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def _tree(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.Error:
        return []


def _worker(pid: int, dice: random.Random) -> psutil.Process | None:
    """One of the driver's workers that has a trial."""
    found = []
    for process in _tree(pid):
        try:
            title = " ".join(process.cmdline())
        except psutil.Error:
            continue
        # An agent of Ray takes the whole of it along.
        if title.startswith("ray::") and "IDLE" not in title and "Agent" not in title:
            found.append(process)
    return dice.choice(sorted(found, key=lambda process: process.pid)) if found else None


def _of_home(home: Path) -> list[psutil.Process]:
    """Processes whose command line names the home."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and _names(process, str(home)) and not _names(process, "agent")
    ]


def _names(process: psutil.Process, text: str) -> bool:
    try:
        return any(text in part for part in process.cmdline())
    except psutil.Error:
        return False


def _gone(processes: list[psutil.Process]) -> None:
    limit = time.monotonic() + GONE_WITHIN
    while left := [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]:
        assert time.monotonic() < limit, f"left behind: {left}"
        time.sleep(0.5)


# -- figures --------------------------------------------------------------------------------------------------------


def _figures(
    gauges: Path, counts: Mapping[str, int], wall: float, workers_killed: int, drivers_killed: int
) -> dict[str, Any]:
    lines = _lines(gauges)
    tenth = max(1, min(100, len(lines) // 4))
    first = [seconds for line in lines[:tenth] for seconds in line["proposals"]]
    last = [seconds for line in lines[-tenth:] for seconds in line["proposals"]]
    # Memory is compared within one driver: the one that lived longest, once it has warmed up.
    drivers: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        drivers.setdefault(line["pid"], []).append(line)
    longest = max(drivers.values(), key=len)
    warm = longest[len(longest) // 5 :]
    growth = (warm[-1]["rss"] - warm[0]["rss"]) / max(1, len(warm))
    return {
        "proposal_ratio": statistics.median(last) / statistics.median(first),
        "memory_kib_per_trial": growth / 1024,
        "proposal_ms": [1e3 * statistics.median(first), 1e3 * statistics.median(last)],
        "memory_mib": [[line["decided"], line["rss"] >> 20] for line in longest[:: max(1, len(longest) // 8)]],
        "trials": dict(counts),
        "workers_killed": workers_killed,
        "drivers_killed": drivers_killed,
        "seconds": wall,
        "hardware": hardware(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--driver-kills", type=int, default=4)
    parser.add_argument("--json", action="store_true", help="One JSON object, the ratio first.")
    parser.add_argument("--drive", nargs=3, metavar=("HOME", "TRIALS", "GAUGES"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.drive:
        home, trials, gauges = given.drive
        drive(Path(home), int(trials), Path(gauges))
        return
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        found = soak(Home(Path(folder) / "home").root, given.trials, given.seed, given.driver_kills)
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:22} {value}")


if __name__ == "__main__":
    main()
