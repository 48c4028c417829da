"""Nobody computes while somebody measures, and the dead hold no locks."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

from search.latency.slot import Slot

HOLDER = (
    "import sys, time\nfrom pathlib import Path\nfrom search.latency.slot import Slot\n"
    "slot = Slot(Path(sys.argv[1]))\nslot.enter()\nprint('in', flush=True)\ntime.sleep(60)\n"
)


def test_measuring_waits_until_the_last_one_gives_way(tmp_path: Path) -> None:
    ours, other = Slot(tmp_path), Slot(tmp_path)
    other.enter()
    events: list[str] = []

    def measure() -> None:
        with ours.alone():
            events.append("measured")

    thread = threading.Thread(target=measure)
    thread.start()
    time.sleep(0.1)
    events.append("still computing")
    deadline = time.monotonic() + 20
    while "measured" not in events and time.monotonic() < deadline:
        other.give_way()
    events.append("computing again")
    thread.join(20)
    assert events == ["still computing", "measured", "computing again"]
    for slot in (ours, other):
        slot.close()


def test_two_compute_at_once_and_giving_way_to_nobody_keeps_the_place(tmp_path: Path) -> None:
    first, second = Slot(tmp_path), Slot(tmp_path)
    first.enter()
    second.enter()
    first.give_way()
    second.leave()
    first.leave()
    with second.alone():
        pass
    for slot in (first, second):
        slot.close()


def test_who_computed_before_measuring_computes_after_it(tmp_path: Path) -> None:
    ours, other = Slot(tmp_path), Slot(tmp_path)
    ours.enter()
    with ours.alone():
        pass
    done = threading.Event()

    def measure() -> None:
        with other.alone():
            done.set()

    thread = threading.Thread(target=measure)
    thread.start()
    assert not done.wait(0.1)
    ours.leave()
    assert done.wait(20)
    thread.join(20)
    for slot in (ours, other):
        slot.close()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    root = str(Path(__file__).parents[3])
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], cwd=root, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "in\n"
    process.kill()
    process.wait()
    process.stdout.close()
    slot = Slot(tmp_path)
    began = time.monotonic()
    with slot.alone():
        assert time.monotonic() - began < 5
    slot.close()
