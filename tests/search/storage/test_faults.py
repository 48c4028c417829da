"""Servers that go away in the middle of a study, and addresses that lead nowhere."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from search import launch
from search.database import Patience, explained, without_password
from search.home import Home
from search.record.ports import answers, free_port
from search.record.server import server_command, server_environment
from search.result import Report, TrialRequest, TrialResult
from search.study import Study
from search.writer import Writer
from spaces.errors import StorageError, UnreachableError
from tests.search.drive import wait_for
from tests.search.quick import quick_trial
from tests.search.results import result
from tests.search.serving import ended
from tests.search.storage.server import SECRET, Postgres
from tests.search.storage.together import check_balance, driven, results_in, shared_study, together

LINE = re.compile(r"^[^\n]+$")


def slow_trial(request: TrialRequest, *args: Any, **kwargs: Any) -> Iterator[Report | TrialResult]:
    """One that leaves time for something to happen."""
    time.sleep(0.1)
    yield from quick_trial(request, *args, **kwargs)


# -- PostgreSQL -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.usefixtures("unrecorded")
def test_a_database_that_restarts_in_the_middle_costs_nothing(
    postgres: Postgres, database: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    homes, trials = [tmp_path / "one", tmp_path / "two"], 40

    def restarts() -> None:
        for number, how in ((5, signal.SIGINT), (20, signal.SIGQUIT)):
            wait_for(Home(homes[0]).study("kept").result(number), 60)
            postgres.stop(how)
            time.sleep(1.5)
            postgres.start()

    with caplog.at_level(logging.WARNING, "search"):
        summaries = together(homes, shared_study(database, trials), slow_trial, restarts)
    assert [summary["trials"]["complete"] for summary in summaries] == [trials, trials]
    assert {summary["trials"]["interrupted"] for summary in summaries} == {0}
    check_balance(database, homes, trials)
    said = [record.message for record in caplog.records if record.name == "search.database"]
    assert any("does not answer" in line and "it is asked again for 10 minutes" in line for line in said)
    assert any(line.startswith("the database is back after") for line in said)
    assert all(LINE.match(line) for line in said)


@pytest.mark.usefixtures("unrecorded")
def test_a_database_that_stays_away_ends_the_run_with_one_line_and_the_next_goes_on(
    postgres: Postgres, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "PATIENCE", 1.0)
    home, data = tmp_path / "one", shared_study(database, 8)

    def stops(request: TrialRequest, *args: Any, **kwargs: Any) -> Iterator[Report | TrialResult]:
        if request.number == 3:
            postgres.stop()
        yield from quick_trial(request, *args, **kwargs)

    try:
        with pytest.raises(UnreachableError, match=r"does not answer .*start it, or correct storage\.optuna") as error:
            driven(home, data, stops)
    finally:
        postgres.start()
    assert LINE.match(str(error.value))
    state = Study.load("kept", home).summary()
    assert (state["state"], state["trials"]["complete"]) == ("interrupted", 4)  # the last one has its file
    counts = driven(home, data)["trials"]
    assert (counts["complete"], counts["interrupted"]) == (8, 0)
    check_balance(database, [home], 8)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda server: server.url("none"), "it has no database 'none': create it with createdb none"),
        (lambda server: server.url("x", "nobody"), "it has no user 'nobody': create it with createuser nobody"),
        (lambda server: server.url("postgres", "guarded:wrong"), "the password of guarded is refused"),
        (lambda server: server.url("postgres", "guarded"), "it wants a password: put it into ~/.pgpass"),
        (lambda server: "postgresql+psycopg://me:wrong@127.0.0.1:9/x", "does not answer (connection"),
        (lambda server: "postgresql+psycopg://me:wrong@nowhere.invalid/x", "does not answer ("),
        (lambda server: "postgresql+pg8000://me:wrong@127.0.0.1/x", "needs the package pg8000, which is not installed"),
    ],
)
@pytest.mark.usefixtures("unrecorded")
def test_a_database_that_cannot_be_used_is_one_line_without_the_password(
    postgres: Postgres, tmp_path: Path, make: Any, said: str
) -> None:
    with pytest.raises(StorageError) as error:
        driven(tmp_path, shared_study(make(postgres)))
    line = str(error.value)
    assert said in line
    assert "storage.optuna" in line
    assert LINE.match(line)
    assert "wrong" not in line


def test_the_drivers_package_is_named_with_its_remedy() -> None:
    error = explained("postgresql+psycopg://x/y", ModuleNotFoundError("No module", name="psycopg"))
    assert str(error).endswith("needs the package psycopg, which is not installed: pip install 'pleach[postgres]'")


@pytest.mark.parametrize("key", ["optuna", "mlflow"])
@pytest.mark.parametrize("url", ["postgres://me:wrong@host/x", "not a url", "redis://me:wrong@host"])
def test_a_url_of_something_else_is_refused_in_the_file(tmp_path: Path, key: str, url: str) -> None:
    data = shared_study("postgresql://host/one")
    data["storage"] = {key: url}
    with pytest.raises(ValueError, match=f"storage.{key}: must be a database's URL") as error:
        Study.create(data, tmp_path)
    assert "wrong" not in str(error.value)


def test_one_database_cannot_be_both() -> None:
    data = shared_study("postgresql+psycopg://me@host/one")
    data["storage"]["mlflow"] = "postgresql://other@host:5432/one"
    with pytest.raises(ValueError, match="must be two databases, but are one"):
        Study.create(data)


@pytest.mark.slow
def test_a_password_is_nowhere_but_in_the_file_that_nobody_else_may_read(postgres: Postgres, tmp_path: Path) -> None:
    login, store = f"guarded:{SECRET}", tmp_path / "store"
    postgres.database("p-optuna"), postgres.database("p-mlflow")
    urls = {"optuna": postgres.url("p-optuna", login), "mlflow": postgres.url("p-mlflow", login)}
    home = tmp_path / "home"
    data = shared_study("", 2, storage={**urls, "artifacts": store.as_uri()})
    summary = driven(home, data)
    assert SECRET not in json.dumps(summary)
    assert summary["mlflow_uri"] == without_password(urls["mlflow"])
    holders = [path for path in tmp_path.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert sorted(path.name for path in holders) == ["state.json", "study.toml"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in holders)
    client = MlflowClient(postgres.url("p-mlflow"))
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert len(runs) == 4
    assert not [run for run in runs if SECRET in json.dumps(run.to_dictionary())]
    assert "***@127.0.0.1" in next(store.rglob("study.toml")).read_text()


# -- MLflow ---------------------------------------------------------------------------------------------------------


class Server:
    """An MLflow server that can be killed, and comes back at the same address."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port(0)
        self.address = f"http://127.0.0.1:{self._port}"
        folder.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = server_environment(f"sqlite:///{self._folder}/mlflow.db")
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*server_command(self._port), "--artifacts-destination", str(self._folder / "artifacts")],
                env=environment, cwd=self._folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        limit = time.monotonic() + 120
        while not answers(self.address):
            assert time.monotonic() < limit, (self._folder / "log").read_text()
            time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def end(self) -> None:
        if self._process is not None:
            ended(self._process)


@pytest.mark.slow
def test_an_mlflow_server_that_is_gone_for_a_while_misses_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server, trials = Server(tmp_path / "server"), 12
    server.start()
    data = shared_study("", trials)
    data["storage"] = {"mlflow": server.address}
    home = tmp_path / "home"

    def goes() -> None:
        wait_for(Home(home).study("kept").result(2), 120)
        server.kill()
        wait_for(Home(home).study("kept").result(trials - 2), 120)
        server.start()

    with caplog.at_level(logging.WARNING, "search"):
        together([home], data, slow_trial, goes)
    try:
        said = [record.message for record in caplog.records if record.name == "search.writer"]
        assert len(said) == 2
        assert "what is decided is kept in the home meanwhile, and recorded when it is back" in said[0]
        assert re.fullmatch(r"MLflow is back after \d+ s: what was decided meanwhile is recorded", said[1])
        client = MlflowClient(server.address)
        runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        assert Counter(run.data.tags.get("trial.number", run.info.run_name) for run in runs) == {
            **{str(number): 1 for number in range(trials)}, "kept": 1, "baseline": 1,
        }  # fmt: skip
        assert {run.info.status for run in runs} == {"FINISHED"}
        parent = next(run for run in runs if run.info.run_name == "kept")
        points = client.get_metric_history(parent.info.run_id, "study/hypervolume")
        assert sorted(point.step for point in points) == list(range(1, trials + 1))
        in_order = sorted((r for r in runs if "trial.number" in r.data.tags), key=lambda r: r.info.end_time)
        assert [int(run.data.tags["trial.number"]) for run in in_order] == list(range(trials))
    finally:
        server.end()


class Flaky:
    """A recorder whose server is away for some calls, and does some things before it says so."""

    def __init__(self, away: set[int]) -> None:
        self.away, self.calls = away, 0
        self.written: list[int] = []
        self.refreshed = 0

    def write(self, decided: TrialResult, tags: object = None) -> None:
        self.calls += 1
        if self.calls in self.away:
            raise UnreachableError("MLflow must be usable, but is not: wait")
        self.written.append(decided.number)

    def refresh(self) -> None:
        self.refreshed += 1

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: set()


def test_what_waits_for_a_server_is_written_in_order() -> None:
    recorder, pauses = Flaky({2, 3, 4, 7}), list[float]()
    writer = Writer(recorder, sleep=lambda event, seconds: pauses.append(seconds))
    for number in range(6):
        writer.write(result(number))
    limit = time.monotonic() + 10
    while len(recorder.written) < 6 and time.monotonic() < limit:
        time.sleep(0.01)
    writer.close("complete", {})
    assert recorder.written == list(range(6))
    assert recorder.refreshed == 4
    assert pauses == [0.5, 1.0, 2.0, 0.5]
    assert writer.failure is None


def test_a_server_that_does_not_come_back_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("search.writer.PATIENCE", 0.2)
    writer = Writer(Flaky(set(range(1000))))
    writer.write(result(0))
    began = time.monotonic()
    writer.close("complete", {})
    assert time.monotonic() - began < 5
    assert isinstance(writer.failure, UnreachableError)
    assert "nothing more is recorded in MLflow in this run" in caplog.records[-1].message


# -- waiting --------------------------------------------------------------------------------------------------------


def test_patience_ends_and_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    now, pauses = [0.0], list[float]()

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    def never() -> None:
        raise UnreachableError("gone")

    with pytest.raises(UnreachableError):
        Patience(60.0, sleep=sleep, clock=lambda: now[0])(never)
    assert pauses == [0.05, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0]
    assert [record.message for record in caplog.records] == ["gone; it is asked again for 1 minutes"]
    with pytest.raises(UnreachableError):
        Patience(0.0, sleep=sleep)(never)
    assert len(pauses) == 9


# -- the disk -------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one and a half megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1536k", "tmpfs", place], capture_output=True)
    if made.returncode:
        pytest.skip("only root may make a small file system here")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_the_command_s_exit_code_says_bad_input(small_disk: Path, tmp_path: Path) -> None:
    """A real full disk, where the test of the same name limits the size of files."""
    code = "import sys; from search.cli import main; main(sys.argv[1:])"
    study = tmp_path / "study.toml"
    home = small_disk / "home"
    study.write_text(
        '[study]\nname = "kept"\ntrials = 30\n[task]\ntarget = "tests.search.quick:TinyTask"\n'
        '[objectives]\naccuracy = "maximize"\n[resources]\nrunner = "inline"\n'
        f'[storage]\nmlflow = "sqlite:///{tmp_path}/mlflow.db"\nartifacts = "{(tmp_path / "store").as_uri()}"\n'
        '[spaces.pruning]\ngranularity = "weight"\nschedule = "oneshot"\nexclude = "none"\n'
    )
    fill = small_disk / "fill"

    def run() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "run", str(study), "--home", str(home), "--no-check"]
        return subprocess.run(command, capture_output=True, text=True, timeout=240)

    threading.Thread(target=_fill_once, args=(Home(home).study("kept").result(1), fill), daemon=True).start()
    done = run()
    assert done.returncode == 2, done.stderr
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(rf"pleach: {small_disk}\S* cannot be written \(No space left on device\): .*", last), (
        done.stderr
    )
    assert set(results_in(home)) < set(range(30))
    fill.unlink()
    assert run().returncode == 0
    assert set(results_in(home)) == set(range(30))


def _fill_once(after: Path, fill: Path) -> None:
    """Leave no room once something is there."""
    wait_for(after, 120)
    with fill.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
