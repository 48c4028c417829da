"""What clients that poll cost a study: its trials per minute with fifty of them, beside those without.

One study of digits runs behind a service; windows with and without pollers take turns, so that a busy machine slows
both alike. Each client asks once a second for the study, and for what it did not change pays nothing.

    python -m tests.benchmarks.service --json
"""

from __future__ import annotations

import argparse
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from search.home import Home
from tests.search.service.live import STUDY, served, tokens

NAME = "polled"
#: Trials of a second or less, so that a window holds many.
BENCHED: dict[str, Any] = {
    **STUDY,
    "study": {"name": NAME, "trials": 4000, "sampler": "random"},
    "budget": {"epochs": 400, "iterations": 2},
}


def poll(address: str, secret: str, every: float, until: float, answered: list[float]) -> None:
    """One client: asks, reads, waits; notes the seconds of each answer."""
    where = urlsplit(address)
    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=30)
    tag = ""
    while time.time() < until:
        began = time.perf_counter()
        headers = {"Authorization": f"Bearer {secret}", "If-None-Match": tag}
        connection.request("GET", f"/v1/studies/{NAME}", headers=headers)
        answer = connection.getresponse()
        answer.read()
        assert answer.status in (200, 304), answer.status
        tag = answer.headers["ETag"]
        took = time.perf_counter() - began
        answered.append(took)
        time.sleep(max(0.0, every - took))


def clients(address: str, secret: str, count: int, every: float, seconds: float) -> None:
    """All clients in one process; prints how many answers they had, and how fast."""
    until, answered = time.time() + seconds, list[float]()
    threads = []
    for index in range(count):
        threads.append(threading.Thread(target=poll, args=(address, secret, every, until, answered)))
        threads[-1].start()
        time.sleep(every / count if index < count - 1 else 0)  # else all would ask at once
    for thread in threads:
        thread.join()
    cpu = psutil.Process().cpu_times()
    print(json.dumps({"answers": len(answered), "times": answered, "cpu": cpu.user + cpu.system}))


def decided(home: Path) -> list[float]:
    """When each trial was decided, in seconds since 1970, in order."""
    return sorted(path.stat().st_mtime for path in Home(home).study(NAME).results().values())


def per_minute(times: Sequence[float], begin: float, end: float) -> float:
    """Trials in a window, the first and the last by the share of them that lies inside."""

    def done(moment: float) -> float:
        before = [time for time in times if time <= moment]
        after = times[len(before)] if len(before) < len(times) else None
        if after is None or not before:
            return float(len(before))
        return len(before) + (moment - before[-1]) / (after - before[-1])

    return 60 * (done(end) - done(begin)) / (end - begin)


def measure(home: Path, count: int, every: float, seconds: float, pairs: int) -> dict[str, Any]:
    """Windows with and without clients in turn; the figures of all of them."""
    secrets = tokens(home)
    windows: list[tuple[bool, float, float]] = []
    asked: list[dict[str, Any]] = []
    service_cpu = 0.0
    with served(home, secrets, "--rate", "10000", trials=4000) as live:
        live.launch(BENCHED)
        live.until(NAME, "running")
        while len(decided(home)) < 3:
            time.sleep(0.1)
        service = psutil.Process(live.process.pid)
        for index in range(2 * pairs):
            polled = index % 4 in (1, 2)  # without, with, with, without: a drift falls on both alike
            before, began = service.cpu_times(), time.time()
            if polled:
                command = [sys.executable, "-m", "tests.benchmarks.service", "--client", live.address, secrets["read"]]
                command += ["--clients", str(count), "--every", str(every), "--seconds", str(seconds)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                asked.append(json.loads(done.stdout))
                began = time.time() - seconds  # without the start of the clients' own process
            else:
                time.sleep(seconds)
            windows.append((polled, began, time.time()))
            after = service.cpu_times()
            service_cpu += polled * (after.user + after.system - before.user - before.system)
        time.sleep(2)
        live.call("POST", f"/v1/studies/{NAME}/stop", params={"now": "true"})
        live.until(NAME, "stopped", "complete")
    times = decided(home)
    rates = {
        polled: [per_minute(times, begin, end) for with_, begin, end in windows if with_ is polled]
        for polled in (False, True)
    }
    answered = sorted(seconds for one in asked for seconds in one["times"])
    return {
        "clients": count,
        "answers_per_second": len(answered) / (seconds * len(asked)),
        "answer_ms_p50": 1e3 * statistics.median(answered),
        "answer_ms_p95": 1e3 * answered[int(0.95 * len(answered))],
        "trials_per_minute_alone": statistics.mean(rates[False]),
        "trials_per_minute_polled": statistics.mean(rates[True]),
        "ratio": statistics.mean(rates[True]) / statistics.mean(rates[False]),
        "windows_alone": rates[False],
        "windows_polled": rates[True],
        "service_cpu_share": service_cpu / (seconds * len(asked)),
        "service_cpu_ms_per_answer": 1e3 * service_cpu / len(answered),
        "load": psutil.getloadavg()[0] / (psutil.cpu_count() or 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two questions of a client")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a window")
    parser.add_argument("--pairs", type=int, default=4, help="windows with clients, and as many without")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--client", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.client:
        address, secret = given.client
        clients(address, secret, given.clients, given.every, given.seconds)
        return
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder) / "home", given.clients, given.every, given.seconds, given.pairs)
    if given.json:
        print(json.dumps(found))
    else:
        for name, value in found.items():
            print(f"{name:28} {value if isinstance(value, list) else round(value, 3)}")


if __name__ == "__main__":
    main()
