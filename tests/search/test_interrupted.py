"""Ctrl-C at every moment of a study: it is answered at once, nothing that is decided is lost, and the study goes on."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from search import launch
from search.progress import Silent
from search.record import study_files
from search.result import Report, TrialRequest, TrialResult
from search.study import Study
from search.surroundings import FINISHING, RECORDING, STOPPING
from tests.search.balance import balanced
from tests.search.drive import study_of
from tests.search.quick import quick_trial

TRIALS = 3
EARLIER: frozenset[threading.Thread] = frozenset()


class Watch(Silent):
    """Notes what the user is told."""

    def __init__(self) -> None:
        self.notices: list[str] = []

    def noticed(self, line: str) -> None:
        self.notices.append(line)


def press(times: int = 1) -> None:
    """As a terminal does."""
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)


def pressed_in(
    when: Callable[[TrialRequest, Report], int], *args: Any, **kwargs: Any
) -> Iterator[Report | TrialResult]:
    """A quick trial in which somebody presses Ctrl-C as often as `when` says at each report."""
    for event in quick_trial(*args, **kwargs):
        if isinstance(event, Report):
            press(when(args[0], event))
        yield event


def study(home: Path, **tables: Any) -> Study:
    return Study.create(study_of(TRIALS, **tables), home)


@pytest.fixture(autouse=True)
def earlier(monkeypatch: pytest.MonkeyPatch) -> None:
    """The threads that other tests have left; nobody waits for them."""
    monkeypatch.setattr("tests.search.test_interrupted.EARLIER", frozenset(threading.enumerate()))


@pytest.fixture(autouse=True)
def in_front() -> Iterator[None]:
    """A process that a shell has put in the background is deaf to Ctrl-C from its start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def goes_on(home: Path, **tables: Any) -> None:
    """The next run comes to the end that the study would have come to, with every book balanced."""
    for thread in threading.enumerate():
        if thread.name == "pleach-writer" and thread not in EARLIER:
            thread.join(60)  # it would have ended with its process
    summary = study(home, **tables).run(trial=quick_trial).summary
    assert (summary["state"], summary["trials"]["complete"]) == ("complete", TRIALS)
    balanced(home, TRIALS)


def test_in_the_baseline_it_ends_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(*args: Any, **kwargs: Any) -> dict[str, float]:
        press()
        raise AssertionError("it went on")

    with monkeypatch.context() as patched:
        patched.setattr(launch, "measure_baseline", measured)
        with pytest.raises(KeyboardInterrupt):
            study(tmp_path).run(trial=quick_trial)
    state = study(tmp_path).state
    assert (state.phase, state.reason) == ("interrupted", "interrupted")
    goes_on(tmp_path)


@pytest.mark.parametrize(("presses", "kept", "cut_off"), [(1, 2, 0), (2, 1, 1)])
def test_in_a_trial_once_finishes_it_and_twice_drops_it(tmp_path: Path, presses: int, kept: int, cut_off: int) -> None:
    watch = Watch()
    trial = partial(pressed_in, lambda r, report: presses if (r.number, report.iteration) == (1, 2) else 0)
    summary = study(tmp_path).run(watch, trial=trial).summary
    assert watch.notices == [FINISHING, STOPPING][:presses]
    assert (summary["state"], summary["reason"]) == ("stopped", "interrupted")
    assert (summary["trials"]["complete"], summary["trials"]["interrupted"]) == (kept, cut_off)
    goes_on(tmp_path)


def test_a_third_one_in_a_trial_is_pythons_own(tmp_path: Path) -> None:
    watch = Watch()
    trial = partial(pressed_in, lambda r, report: 3 if (r.number, report.iteration) == (1, 2) else 0)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path).run(watch, trial=trial)
    assert watch.notices == [FINISHING, STOPPING]
    goes_on(tmp_path)


def test_in_the_confirmation_the_run_is_finished_and_the_others_come_next_time(tmp_path: Path) -> None:
    watch, tables = Watch(), {"budget": {"confirm": {"top": 2, "seeds": 2}}}
    trial = partial(pressed_in, lambda r, report: int("-seed-" in r.key and report.iteration == 1))
    summary = study(tmp_path, **tables).run(watch, trial=trial).summary
    assert watch.notices == [FINISHING]
    assert (summary["state"], summary["trials"]["complete"]) == ("stopped", TRIALS)
    assert sum(len(found["seeds"]) for found in summary["confirmed"]) == 1
    goes_on(tmp_path, **tables)
    assert sum(len(found["seeds"]) for found in study(tmp_path, **tables).summary()["confirmed"]) == 4


@pytest.mark.parametrize("presses", [1, 2])
def test_while_the_record_is_written_once_is_answered_and_twice_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, presses: int
) -> None:
    watch, plain = Watch(), study_files

    def files(*args: Any, **kwargs: Any) -> dict[str, str]:
        press(presses)
        return plain(*args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(launch, "study_files", files)
        if presses == 1:
            assert study(tmp_path).run(watch, trial=quick_trial).summary["state"] == "complete"
        else:
            with pytest.raises(KeyboardInterrupt):
                study(tmp_path).run(watch, trial=quick_trial)
    assert watch.notices == [RECORDING]
    assert study(tmp_path).summary()["trials"]["complete"] == TRIALS
    goes_on(tmp_path)


@pytest.mark.slow
def test_while_ray_starts_it_is_answered_and_no_trial_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from search.runners.environment import settle

    settle(tmp_path / "ray")
    from search.runners import tune
    from search.runners.cluster import start_here

    watch, plain = Watch(), start_here

    def start(*args: Any) -> None:
        press()
        plain(*args)

    monkeypatch.setattr(tune, "start_here", start)
    summary = study(tmp_path, resources={"runner": "tune"}).run(watch, trial=quick_trial).summary
    assert watch.notices == [FINISHING]
    assert (summary["state"], summary["trials"]["complete"]) == ("stopped", 0)
    goes_on(tmp_path)
