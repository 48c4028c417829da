"""What the terminal shows: numbers that can be read, a study that can be followed, in a window and in a file."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from search.books import Books
from search.commands.answers import exit_code
from search.commands.display import MANY, Display
from search.commands.init import knob_meanings
from search.console import against, duration, print_json, score, value
from search.progress import Progress
from search.result import Report, TrialResult
from spaces import POLICIES
from tests.search.results import result


@pytest.mark.parametrize(
    ("name", "number", "shown"),
    [
        ("accuracy", 0.9725, "97.2 %"),
        ("plasticity", 0.0, "0.0 %"),
        ("accuracy", 31.5, "31.5"),  # a score that is no share
        ("macs", 673088, "673 k"),
        ("macs", 40_813_184, "40.8 M"),
        ("parameters", 86, "86"),
        ("size_bytes", 117824, "115 KiB"),
        ("size_bytes", 512, "512 B"),
        ("latency_ms", 3.2149, "3.21 ms"),
        ("perplexity", 12.3456, "12.35"),
        ("macs", None, "-"),
        ("macs", math.nan, "-"),
    ],
)
def test_scores_have_their_unit(name: str, number: float | None, shown: str) -> None:
    assert score(name, number) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0 s"), (59.6, "1 min 00 s"), (75, "1 min 15 s"), (3660, "1 h 01 min"), (200_000, "2 d 7 h")],
)
def test_durations(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown


def test_a_score_beside_the_baseline() -> None:
    assert against("accuracy", 0.96, 0.98).plain == "-2.0 pt"
    assert against("macs", 5e5, 1e6).plain == "x 0.50"
    assert against("macs", 2e3, 1e6).plain == "x 0.002"
    assert against("macs", 5e5, 0.0).plain == ""
    assert against("macs", None, 1e6).plain == ""


def test_values_of_knobs() -> None:
    assert (value(True), value(0.123456), value("global"), value(3)) == ("yes", "0.1235", "global", "3")


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": math.nan, "b": [math.inf, 1.5], "c": {"d": (1, True, None, "x")}})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [None, 1.5], "c": {"d": [1, True, None, "x"]}}


def test_exit_codes() -> None:
    good, bad = {"trial": 1, "feasible": True}, {"trial": 1, "feasible": False}
    assert exit_code("run", {"state": "complete", "reason": "", "best": good}) == 0
    assert exit_code("run", {"state": "complete", "reason": "", "best": bad}) == 1
    assert exit_code("run", {"state": "complete", "reason": "", "best": None}) == 1
    assert exit_code("run", {"state": "stopped", "reason": "interrupted", "best": good}) == 130
    assert exit_code("run", {"state": "stopped", "reason": "asked to stop", "best": good}) == 0
    assert exit_code("best", {"state": "stopped", "reason": "interrupted", "best": good}) == 0
    assert exit_code("check", {"refusals": ["no"]}) == 2
    assert exit_code("list", {}) == 0


# -- a study that runs ------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def summary(wanted: int, seconds: float = 0.0, complete: int = 0) -> dict[str, object]:
    counts = {"complete": complete, "pruned": 0, "failed": 0, "cached": 0, "interrupted": 0, "wanted": wanted}
    return {"study": "s", "state": "running", "reason": "", "trials": counts, "seconds": seconds}


def books_of(*results: TrialResult) -> Books:
    books = Books({"accuracy": "maximize", "macs": "minimize"}, (), {"accuracy": 0.98, "macs": 1e6})
    for decided in results:
        books.add(decided)
    return books


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200, soft_wrap=True)


def test_a_file_gets_a_line_for_every_trial(console: Console, clock: Clock) -> None:
    with Display(console, clock=clock) as display:
        watcher: Progress = display
        watcher.started(summary(3))
        first = result(0, scores={"accuracy": 0.95, "macs": 5e5})
        watcher.launched(first.request)
        watcher.reported(first.request, Report(1, 2, {}))
        watcher.decided(first, books_of(first))
        second = result(1, state="failed", reason="the loss became nan")
        watcher.decided(second, books_of(first, second))
        third = result(2, scores={"accuracy": 0.90, "macs": 6e5}, state="pruned")
        watcher.decided(third, books_of(first, second, third))
        watcher.finished(summary(3))
    assert shown(console).splitlines() == [
        "s begins: 0 of 3 trials are decided",
        "[1/3] trial 0 feasible: accuracy 95.0 %, macs 500 k  best so far",
        "[2/3] trial 1 failed: the loss became nan",
        "[3/3] trial 2 stopped early: accuracy 90.0 %, macs 600 k",
    ]


def test_a_large_study_writes_sparsely(console: Console, clock: Clock) -> None:
    display = Display(console, clock=clock)
    display.started(summary(MANY + 1))
    decided = [result(number, scores={"accuracy": 0.9, "macs": 5e5 + number}) for number in range(40)]
    for count in range(1, 41):
        clock.now += 1.0
        display.decided(decided[count - 1], books_of(*decided[:count]))
    lines = shown(console).splitlines()
    assert 4 <= len(lines) <= 7
    assert "best so far" in lines[1]


def test_the_time_left_follows_the_rate_of_this_run_and_the_limit(console: Console, clock: Clock) -> None:
    display = Display(console, time_limit=1000.0, clock=clock)
    display.started(summary(24, seconds=400.0, complete=4))
    assert display.seconds_left() is None
    clock.now += 30.0
    before = [result(number) for number in range(4)]
    display.decided(result(4), books_of(*before, result(4)))
    assert display.seconds_left() == pytest.approx(19 * 30.0)
    clock.now += 60.0
    display.decided(result(5), books_of(*before, result(4), result(5)))
    assert display.seconds_left() == pytest.approx(1000.0 - 400.0 - 90.0)  # 18 * 45 s would be beyond the limit


def test_a_window_shows_the_best_the_share_and_what_runs(clock: Clock) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None)
    display = Display(console, clock=clock)
    display.started(summary(4))
    feasible, missed = (
        result(0, scores={"accuracy": 0.95, "macs": 5e5}),
        result(1, scores={"accuracy": 0.9, "macs": 4e5}),
    )
    books = books_of(feasible)
    clock.now += 10.0
    display.decided(feasible, books)
    display.launched(missed.request)
    display.reported(missed.request, Report(1, 2, {}))
    with console.capture() as captured:
        console.print(display.render())
    picture = captured.get()
    assert "1/4" in picture
    assert "best is trial 0: accuracy 95.0 %, macs 500 k" in picture
    assert "100% feasible, front of 1" in picture
    assert "about 30 s left" in picture
    assert "trial 1 1/2" in picture


def test_every_knob_of_a_study_file_is_explained() -> None:
    for policy in POLICIES.values():
        meanings = knob_meanings(policy)
        assert set(meanings) == set(policy.knobs()), policy.name
        assert all(10 < len(meaning) < 200 for meaning in meanings.values()), meanings
