"""The home on disk: writes that never tear, one driver at a time, and what is mended after a kill."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.home import (
    LONGEST_RAY_PATH,
    Home,
    driver,
    driver_lock,
    ray_folder,
    read_json,
    repair_journal,
    sweep,
    write_json,
    write_text,
)
from spaces.errors import StorageError, StudyError


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path / "home")


def test_the_home_is_the_one_given_else_the_environment_else_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLEACH_HOME", raising=False)
    assert Home.find().root == tmp_path / ".pleach"
    monkeypatch.setenv("PLEACH_HOME", str(tmp_path / "there"))
    assert Home.find().root == tmp_path / "there"
    assert Home.find(tmp_path / "given").root == tmp_path / "given"
    assert not (tmp_path / "there").exists()


def test_the_layout(home: Home) -> None:
    folder = home.study("r20-edge")
    inside = [
        path.relative_to(home.root)
        for path in (
            home.journal,
            home.artifacts,
            home.cache("abc"),
            folder.file,
            folder.state,
            folder.lock,
            folder.result(7),
            folder.checkpoints("00007-ab"),
            folder.log,
        )
    ]
    assert [str(path) for path in inside] == [
        "optuna.journal",
        "artifacts",
        "cache/abc",
        "studies/r20-edge/study.toml",
        "studies/r20-edge/state.json",
        "studies/r20-edge/driver.lock",
        "studies/r20-edge/results/7.json",
        "studies/r20-edge/checkpoints/00007-ab",
        "studies/r20-edge/log.txt",
    ]
    assert home.mlflow_uri == f"sqlite:///{home.root}/mlflow.db"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a b", "-a", "x" * 65, "a\n"])
def test_a_name_that_is_no_folder_is_refused(home: Home, name: str) -> None:
    with pytest.raises(StudyError, match="letters, digits"):
        home.study(name)


def test_an_unknown_study_names_the_nearest(home: Home) -> None:
    with pytest.raises(StudyError, match="no study has run there"):
        home.existing("edge")
    write_text(home.study("r20-edge").file, "")
    assert home.studies() == ["r20-edge"]
    with pytest.raises(StudyError, match="did you mean 'r20-edge'"):
        home.existing("r20-egde")
    assert home.existing("r20-edge").name == "r20-edge"


def test_results_are_found_by_number_and_nothing_else_is(home: Home) -> None:
    folder = home.study("s")
    for number in (10, 2, 0):
        write_json(folder.result(number), {})
    write_json(folder.confirmation("00002-seed-1"), {})
    (folder.root / "results" / ".3.json.99").touch()
    assert list(folder.results()) == [0, 2, 10]


def test_a_write_leaves_no_other_file(home: Home) -> None:
    path = home.root / "a" / "b.json"
    write_json(path, {"x": 1})
    write_json(path, {"x": 2})
    assert read_json(path) == {"x": 2}
    assert [p.name for p in path.parent.iterdir()] == ["b.json"]


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"x": 1'])
def test_a_file_that_is_no_object_is_one_line(home: Home, text: str) -> None:
    path = home.root / "state.json"
    write_text(path, text)
    with pytest.raises(StorageError) as error:
        read_json(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_in_the_way_of_the_home_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "home").touch()
    home = Home(tmp_path / "home")
    with pytest.raises(StorageError, match="choose another --home"):
        write_text(home.study("s").file, "")
    with pytest.raises(StorageError, match="choose another --home"), driver_lock(home.study("s")):
        pass


def _fill_the_disk() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))


def test_a_full_disk_is_one_line_and_leaves_what_was_there(home: Home) -> None:
    path = home.root / "state.json"
    write_json(path, {"x": 1})
    code = (
        "import sys; from pathlib import Path; from search.home import write_json\n"
        "from spaces.errors import StorageError\n"
        "try: write_json(Path(sys.argv[1]), {'x': 'y' * 1000})\n"
        "except StorageError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=_fill_the_disk,
    )
    assert done.stdout.strip() == (
        f"{path} cannot be written (File too large): free or permit the space, or choose another --home"
    )
    assert read_json(path) == {"x": 1}
    assert [p.name for p in home.root.iterdir()] == ["state.json"]


# -- the lock -------------------------------------------------------------------------------------------------------


def test_a_study_has_one_driver(home: Home) -> None:
    folder = home.study("s")
    assert driver(folder) is None
    with driver_lock(folder):
        assert driver(folder) == os.getpid()
        with pytest.raises(StudyError, match=rf"process {os.getpid()} drives 's'"), driver_lock(folder):
            pass
        with driver_lock(home.study("t")):
            pass
    assert driver(folder) is None
    with driver_lock(folder):
        pass


def test_the_lock_of_a_dead_driver_holds_nobody(home: Home) -> None:
    folder = home.study("s")
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    started = psutil.Process(child.pid).create_time()
    child.wait()
    write_json(folder.lock, {"pid": child.pid, "started": started})
    assert driver(folder) is None
    with driver_lock(folder):
        assert driver(folder) == os.getpid()


def test_a_driver_that_died_and_was_not_waited_for_drives_nothing(home: Home) -> None:
    folder = home.study("s")
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    write_json(folder.lock, {"pid": child.pid, "started": psutil.Process(child.pid).create_time()})
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
    assert driver(folder) is None
    child.wait()


def test_a_process_that_took_the_number_of_a_dead_driver_is_not_it(home: Home) -> None:
    folder = home.study("s")
    write_json(folder.lock, {"pid": os.getpid(), "started": psutil.Process().create_time() - 60})
    assert driver(folder) is None


@pytest.mark.parametrize("text", ["", "garbage", "[]", '{"pid": "x"}', '{"pid": -3, "started": 0}'])
def test_a_damaged_lock_holds_nobody(home: Home, text: str) -> None:
    folder = home.study("s")
    write_text(folder.lock, text)
    assert driver(folder) is None
    with driver_lock(folder):
        assert driver(folder) == os.getpid()


def test_a_killed_driver_lets_go(home: Home) -> None:
    folder = home.study("s")
    code = (
        "import os, sys; from pathlib import Path; from search.home import Home, driver_lock\n"
        "with driver_lock(Home(Path(sys.argv[1])).study('s')): print('in', flush=True); os.kill(os.getpid(), 9)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(home.root)], stdout=subprocess.PIPE, text=True)
    assert child.communicate()[0] == "in\n"
    assert json.loads(folder.lock.read_text())["pid"] == child.pid
    assert driver(folder) is None
    with driver_lock(folder):
        pass


# -- the journal ----------------------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"")), max_size=6), st.data())
def test_a_journal_cut_anywhere_keeps_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], data: st.DataObject
) -> None:
    journal = tmp_path_factory.mktemp("journal") / "optuna.journal"
    whole = b"".join(line + b"\n" for line in lines)
    torn = whole[: data.draw(st.integers(0, len(whole)))]
    journal.write_bytes(torn)
    copy = repair_journal(journal)
    kept = journal.read_bytes()
    assert kept == torn[: torn.rfind(b"\n") + 1]
    if kept == torn:
        assert copy is None
        assert [path.name for path in journal.parent.iterdir()] == ["optuna.journal"]
    else:
        assert copy is not None
        assert copy.read_bytes() == torn
    assert repair_journal(journal) is None


def test_a_torn_line_longer_than_a_block_is_cut(tmp_path: Path) -> None:
    journal = tmp_path / "optuna.journal"
    journal.write_bytes(b"{}\n" + b"x" * 200_000)
    assert repair_journal(journal) is not None
    assert journal.read_bytes() == b"{}\n"


def test_no_journal_needs_no_repair(tmp_path: Path) -> None:
    assert repair_journal(tmp_path / "optuna.journal") is None


# -- Ray's folder ---------------------------------------------------------------------------------------------------


def test_ray_stays_in_the_home_where_its_path_is_short_enough() -> None:
    root = Path("/" + "h" * (LONGEST_RAY_PATH - len("//ray")))
    assert ray_folder(Home(root)) == root / "ray"
    assert len(str(root / "ray")) == LONGEST_RAY_PATH


@pytest.mark.parametrize("temporary", ["short", "long"])
def test_ray_gets_a_private_folder_where_the_path_is_too_long(
    temporary: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if temporary == "long":
        (tmp_path / ("t" * LONGEST_RAY_PATH)).mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / ("t" * LONGEST_RAY_PATH)))
    folder = ray_folder(Home(Path("/" + "h" * LONGEST_RAY_PATH)))
    try:
        assert folder.stat().st_mode & 0o777 == 0o700
        assert len(str(folder)) <= LONGEST_RAY_PATH
        (folder / "session").mkdir()
    finally:
        sweep(folder)
    assert not folder.exists()


def test_a_sweep_takes_what_the_dead_left_and_nothing_of_the_living(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    living = os.getppid()
    (tmp_path / f"session_2026_{child.pid}" / "logs").mkdir(parents=True)
    (tmp_path / f"token_{child.pid}").touch()
    (tmp_path / f"session_2026_{living}").mkdir()
    (tmp_path / f"token_{living}").touch()
    (tmp_path / "something_else").touch()
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [f"session_2026_{living}", f"token_{living}", "something_else"]
    )
