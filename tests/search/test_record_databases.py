"""Where the record lies: databases that are unusable, moved, shared, half made or behind a server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import mlflow
import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

from search.database import without_password
from search.record import FrontMember, Record
from search.record.store import Store
from spaces.errors import StorageError
from spaces.profile import CompressionProfile
from tests.search.records import BASELINE, artefact, opened, runs
from tests.search.results import result

pytestmark = pytest.mark.makes_tables


def test_an_unusable_database_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    record = Record(
        f"sqlite:///{tmp_path / 'file' / 'mlflow.db'}", task="t", study="s", artifacts=tmp_path / "file" / "artifacts"
    )
    with pytest.raises(StorageError, match="choose another --home") as caught:
        record.start({}, {}, "")
    assert "\n" not in str(caught.value)


def test_a_server_that_is_not_there_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(StorageError, match=r"MLflow at http://127\.0\.0\.1:9 must be usable") as caught:
        Record("http://127.0.0.1:9", task="t", study="s", artifacts=tmp_path).start({}, {}, "")
    assert "\n" not in str(caught.value)


WRITTEN_BEFORE = """
import sys
from pathlib import Path
import torch
from search.record import FrontMember, Record
from tests.search.results import result
home = Path(sys.argv[1])
record = Record(f"sqlite:///{home / 'mlflow.db'}", task="digits", study="s", artifacts=home / "artifacts")
record.start({"accuracy": 0.97}, {}, "")
record.write(result(0))
record.finish("complete", {}, [FrontMember(0, True, {}, torch.nn.Linear(3, 2).eval(), (torch.ones(2, 3),))])
"""


def test_a_home_that_was_moved_keeps_its_artefacts(tmp_path: Path) -> None:
    # In another process, because MLflow remembers where the runs it has seen are.
    subprocess.run([sys.executable, "-c", WRITTEN_BEFORE, str(tmp_path / "old")], check=True, timeout=120)
    (tmp_path / "old").rename(tmp_path / "new")
    members = [FrontMember(0, True, {}, nn.Linear(3, 2).eval(), (torch.ones(2, 3),))]
    again = opened(tmp_path / "new", "s")
    again.start(BASELINE, {}, "")
    again.write(result(1))
    again.finish("complete", {"trials.csv": "x"}, members)
    found = runs(again)
    assert set(found) == {"parent", "baseline", "trial 0", "trial 1"}
    assert artefact(found["parent"], "trials.csv") == "x"
    assert CompressionProfile.from_json(artefact(found["trial 0"], "profile.json")) == result(0).request.profile
    version = MlflowClient(again.uri).get_model_version_by_alias("digits-s", "champion")
    assert mlflow.pytorch.load_model(version.source)(torch.ones(5, 3)).shape == (5, 2)
    assert not (tmp_path / "old").exists()


def test_a_database_of_several_homes_is_left_as_it_is(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'shared.db'}"
    for name in ("a", "b"):
        Record(uri, task=name, study=name, artifacts=tmp_path / name / "artifacts").start(BASELINE, {}, "")
    places = {e.name: e.artifact_location for e in MlflowClient(uri).search_experiments()}
    assert places["a"] == (tmp_path / "a" / "artifacts").as_uri()
    assert places["b"] == (tmp_path / "b" / "artifacts").as_uri()


@pytest.mark.slow
def test_a_server_keeps_what_a_study_writes(tmp_path: Path, mlflow_server: str, mlflow_home: Path) -> None:
    uri = mlflow_server
    record = Record(uri, task="digits", study="s", artifacts=tmp_path / "a")
    record.start(BASELINE, {}, "[study]")
    record.write(result(0))
    network = nn.Linear(3, 2).eval()
    record.finish("complete", {}, [FrontMember(0, True, {}, network, (torch.ones(2, 3),))])
    assert Record(uri, task="digits", study="s", artifacts=tmp_path / "a").recorded() == {0}
    # Another home with a study of the same name is another study.
    assert Record(uri, task="digits", study="s", artifacts=tmp_path / "b").recorded() == set()
    client = MlflowClient(uri)
    version = client.get_model_version_by_alias("digits-s", "champion")
    assert version.run_id == runs(record)["trial 0"].info.run_id
    assert Path(client.download_artifacts(record.parent, "study.toml")).read_text() == "[study]"
    # The server shares the home's database, where the same runs are found without it.
    local = Store(f"sqlite:///{mlflow_home / 'mlflow.db'}", "digits", tmp_path / "c")
    assert len(local.children(record.parent)) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]


def test_opening_at_once_from_two_processes_creates_one_database(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from search.record.store import Store; home = Path(sys.argv[1]);"
    code += "Store(f'sqlite:///{home}/mlflow.db', sys.argv[2], home / 'artifacts').create('x', {}, start=0)"
    processes = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), task], stderr=subprocess.PIPE, text=True)
        for task in ("a", "b")
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said


def test_the_database_of_a_server_stands_in_no_command(mlflow_server: str, mlflow_home: Path) -> None:
    """A password may be part of it, and every user of a machine sees the commands of all."""
    commands = [" ".join(process.info["cmdline"] or ()) for process in psutil.process_iter(["cmdline"])]
    assert any("mlflow" in command and " server " in command for command in commands)
    assert not [command for command in commands if str(mlflow_home / "mlflow.db") in command]


def test_passwords_are_not_shown() -> None:
    assert without_password("postgresql+psycopg://me:secret@host/db") == "postgresql+psycopg://me:***@host/db"
    assert without_password("sqlite:////a/b.db") == "sqlite:////a/b.db"
    assert without_password("http://host:5000") == "http://host:5000"


def test_a_database_whose_making_was_cut_off_is_made_again(tmp_path: Path) -> None:
    """Killed while MLflow makes its tables, the next start must not find half of them under the database's name."""
    making = (
        "import sys, os, threading, time; from pathlib import Path; from search.record.store import Store\n"
        "folder = Path(sys.argv[1])\n"
        "def watch():\n"
        "    while not any(p.stat().st_size > 40_000 for p in folder.glob('.mlflow.db.new')): time.sleep(0.001)\n"
        "    os._exit(9)\n"
        "threading.Thread(target=watch, daemon=True).start()\n"
        "Store(f'sqlite:///{folder}/mlflow.db', 'task', folder / 'artifacts')\n"
    )
    killed = subprocess.run([sys.executable, "-c", making, str(tmp_path)], capture_output=True, check=False)
    assert killed.returncode == 9, killed.stderr.decode()
    assert not (tmp_path / "mlflow.db").exists()
    store = Store(f"sqlite:///{tmp_path}/mlflow.db", "task", tmp_path / "artifacts")
    assert store.create("trial 0", {}, start=1)
    assert not list(tmp_path.glob(".mlflow.db.new"))
