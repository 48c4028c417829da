"""Two drivers on one study in PostgreSQL: as many trials as asked for, none lost, none doubled, whatever happens."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from search.confirm import confirmed
from search.home import Home
from search.register import Register
from search.result import Report, TrialRequest, TrialResult
from search.study import Study
from spaces.errors import StudyError, StudyFileError
from tests.search.drive import start, wait_for
from tests.search.quick import quick_trial
from tests.search.storage.server import Postgres
from tests.search.storage.together import check_balance, driven, results_in, shared_study, together


def traced(trace: Path) -> Counter[str]:
    """How often each trial was computed, by its key; one iteration a trial."""
    return Counter(line.split()[0] for line in trace.read_text().splitlines())


@pytest.mark.slow
def test_two_drivers_decide_two_hundred_trials_between_them(database: str, tmp_path: Path) -> None:
    homes, trace = [tmp_path / "one", tmp_path / "two"], tmp_path / "trace"
    data = shared_study(database, 200)
    # They start together in an empty database: one of them makes the tables of both.
    children = [start(home, data, PLEACH_TRACE=str(trace), PLEACH_RECORD="none") for home in homes]
    for child in children:
        out, err = child.communicate(timeout=240)
        assert child.returncode == 0, err
        counts = json.loads(out)["trials"]
        assert (counts["complete"], counts["evaluated"], counts["interrupted"]) == (200, 200, 0)
    check_balance(database, homes, 200)
    assert set(traced(trace).values()) == {1}
    shares = Counter(line.split()[2] for line in trace.read_text().splitlines())
    assert sorted(map(int, shares)) == sorted(child.pid for child in children)
    assert min(shares.values()) >= 20


@pytest.mark.slow
def test_a_driver_that_is_killed_leaves_its_trial_to_the_other(
    postgres: Postgres, database: str, tmp_path: Path
) -> None:
    homes, trace = [tmp_path / "one", tmp_path / "two"], tmp_path / "trace"
    record = postgres.database(f"mlflow-{tmp_path.name}")
    storage = {"optuna": database, "mlflow": record, "artifacts": (tmp_path / "store").as_uri(), "takeover": "3s"}
    data = shared_study(database, 14, storage=storage)
    first, second = (start(home, data, PLEACH_TRACE=str(trace), PLEACH_PAUSE="0.8") for home in homes)
    wait_for(Home(homes[0]).study("kept").result(1), 120)
    wait_for(Home(homes[1]).study("kept").result(2), 120)
    time.sleep(0.4)  # in the middle of its next trial
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    out, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    counts = json.loads(out)["trials"]
    assert (counts["complete"], counts["interrupted"]) == (14, 1)
    assert results_in(homes[0]).keys() < set(range(14))

    # The dead one's home, run again, hears what was decided without it, and computes nothing.
    before = trace.read_text()
    assert driven(homes[0], data)["trials"] == counts
    assert trace.read_text() == before
    check_balance(database, homes, 14)

    client = MlflowClient(record)
    experiments = [e for e in client.search_experiments() if e.name != "Default"]
    assert [e.artifact_location for e in experiments] == [(tmp_path / "store").as_uri()]
    runs = client.search_runs([experiments[0].experiment_id])
    assert Counter(run.data.tags.get("trial.number", run.info.run_name) for run in runs) == {
        **{str(number): 1 for number in range(14)}, "kept": 1, "baseline": 1,
    }  # fmt: skip
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert all(run.data.metrics["final/accuracy"] for run in runs if run.info.run_name != "kept")
    front = {member["trial"] for member in json.loads(out)["front"]}
    assert {int(r.data.tags["trial.number"]) for r in runs if r.data.tags.get("pareto") == "true"} == front


class Gate:
    """Trials that wait in one home until they may go on; a copy of this object is what two threads share."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()
        self.calls: list[str] = []

    def trial(self, request: TrialRequest, *args: Any, **kwargs: Any) -> Iterator[Report | TrialResult]:
        self.calls.append(request.key)
        if len(self.calls) == 1:
            self.entered.set()
            assert self.opened.wait(60)
        yield from quick_trial(request, *args, **kwargs)


@pytest.mark.usefixtures("unrecorded")
def test_who_was_thought_dead_and_comes_back_finds_its_trial_decided(
    database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine that sleeps: no sign of life, its trial is taken up, and then it wakes up with a result."""
    homes, gate, data = [tmp_path / "one", tmp_path / "two"], Gate(), shared_study(database, 6, takeover="1s")

    sign_of_life = Register._beat

    def second() -> None:
        assert gate.entered.wait(60)
        with monkeypatch.context() as patched:
            patched.setattr(Register, "_beat", lambda self, c: self._grace == 1 or sign_of_life(self, c))
            time.sleep(1.2)
            counts = driven(homes[1], {**data, "storage": {"optuna": database, "takeover": "60s"}})["trials"]
        assert (counts["complete"], counts["interrupted"]) == (6, 1)
        gate.opened.set()

    (counts,) = (summary["trials"] for summary in together(homes[:1], data, gate.trial, second))
    assert (counts["complete"], counts["evaluated"]) == (6, 6)
    check_balance(database, homes, 6)
    assert len(gate.calls) == 1  # it had computed one trial, for nothing


@pytest.mark.usefixtures("unrecorded")
def test_a_finalist_is_confirmed_once_with_each_seed(database: str, tmp_path: Path) -> None:
    homes, calls = [tmp_path / "one", tmp_path / "two"], list[tuple[str, int]]()

    def counted(request: TrialRequest, *args: Any, **kwargs: Any) -> Iterator[Report | TrialResult]:
        calls.append((request.key, request.seed))
        yield from quick_trial(request, *args, **kwargs)

    data = shared_study(database, 8, budget={"iterations": 1, "confirm": {"top": 2, "seeds": 3}})
    together(homes, data, counted)
    check_balance(database, homes, 8)
    assert set(Counter(calls).values()) == {1}
    assert len(calls) == 8 + 6
    found = [confirmed(Home(home).study("kept")) for home in homes]
    assert found[0] == found[1]
    assert [row["seeds"] for row in found[0]] == [[1, 2, 3], [1, 2, 3]]


@pytest.mark.usefixtures("unrecorded")
def test_what_one_driver_finds_ends_the_others_too(database: str, tmp_path: Path) -> None:
    homes = [tmp_path / "one", tmp_path / "two"]
    data = shared_study(database, 500)
    data["study"]["stop_when"] = "macs <= 0.5 * baseline"
    for summary in together(homes, data):
        assert summary["reason"] == "a trial meets macs <= 0.5 * baseline"
        assert summary["trials"]["complete"] < 500


# -- joining --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("unrecorded")
def test_an_empty_home_gets_all_that_is_decided(database: str, tmp_path: Path) -> None:
    driven(tmp_path / "one", shared_study(database, 5))
    summary = driven(tmp_path / "two", shared_study(database, 5))
    assert (summary["trials"]["complete"], summary["state"]) == (5, "complete")
    check_balance(database, [tmp_path / "one", tmp_path / "two"], 5)
    # The networks stay where they were trained.
    with pytest.raises(StudyError, match=rf"export it where it was trained, in \S+:{tmp_path / 'one'}"):
        Study.load("kept", tmp_path / "two").export(tmp_path / "out", trial=2)
    with pytest.raises(StudyError, match="run its profile again"):
        Study.load("kept", tmp_path / "one").export(tmp_path / "out", trial=2)
    # And can go on with it.
    assert driven(tmp_path / "two", shared_study(database, 7))["trials"]["complete"] == 7
    assert driven(tmp_path / "one", shared_study(database, 5))["trials"]["complete"] == 7
    check_balance(database, [tmp_path / "one", tmp_path / "two"], 7)


@pytest.mark.usefixtures("unrecorded")
def test_a_study_that_began_in_a_home_moves_into_a_database(database: str, tmp_path: Path) -> None:
    local = shared_study(database, 4)
    del local["storage"]
    driven(tmp_path / "one", local)
    before = results_in(tmp_path / "one")
    driven(tmp_path / "one", shared_study(database, 5))
    summaries = together([tmp_path / "one", tmp_path / "two"], shared_study(database, 9))
    assert [summary["trials"]["evaluated"] for summary in summaries] == [9, 9]
    check_balance(database, [tmp_path / "one", tmp_path / "two"], 9)
    assert {number: results_in(tmp_path / "two")[number] for number in before} == before


@pytest.mark.usefixtures("unrecorded")
def test_another_study_of_that_name_is_refused(database: str, tmp_path: Path) -> None:
    driven(tmp_path / "one", shared_study(database, 3))
    before = results_in(tmp_path / "one")
    other = shared_study(database, 3)
    other["objectives"]["plasticity"] = "maximize"
    with pytest.raises(StudyFileError, match=r"objectives\.plasticity.*start another study with --name NEW"):
        driven(tmp_path / "two", other)
    longer = shared_study(database, 3, task={"args": {"samples": 96}})
    with pytest.raises(StudyFileError, match=r"task\.args"):
        driven(tmp_path / "three", longer)
    local = shared_study(database, 3)
    del local["storage"]
    driven(tmp_path / "four", local)
    with pytest.raises(StudyError, match="the database has another study 'kept': use another name with --name"):
        driven(tmp_path / "four", shared_study(database, 5))
    check_balance(database, [tmp_path / "one"], 3)
    assert results_in(tmp_path / "one") == before


@pytest.mark.usefixtures("unrecorded")
def test_other_constraints_judge_anew_once_nobody_else_drives(database: str, tmp_path: Path) -> None:
    homes, gate = [tmp_path / "one", tmp_path / "two"], Gate()
    data = shared_study(database, 4)
    stricter = {**data, "constraints": {"accuracy": ">= 1.01 * baseline"}}

    def refused() -> None:
        assert gate.entered.wait(60)
        with pytest.raises(StudyError, match="while others drive it"):
            driven(homes[1], stricter)
        gate.opened.set()

    together(homes[:1], data, gate.trial, refused)
    was = Study.load("kept", homes[0]).summary()["best"]["feasible"]
    assert driven(homes[1], stricter)["best"]["feasible"] is not was
    check_balance(database, homes, 4)
