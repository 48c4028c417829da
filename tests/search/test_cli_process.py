"""The command line in a process of its own: how soon it answers, how it is ended, and what its output is kept for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from search.console import stdout_kept_for_json
from tests.search.pristine import with_tables
from tests.search.shell import STUDY, Shell, shell_in, written


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home in which nothing has run."""
    return tmp_path / "home"


shell = pytest.fixture(shell_in)


def process(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "search.cli", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_help_is_instant() -> None:
    began = time.monotonic()
    done = process("--help")
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0
    assert "demo" in out
    assert time.monotonic() - began < 5, "a second on an idle machine"
    code = "import sys, search.cli; print(sorted({'torch', 'ray', 'mlflow', 'optuna', 'pandas'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_ctrl_c_keeps_everything_and_ends_with_130(tmp_path: Path) -> None:
    text = STUDY.replace("trials = 3", "trials = 400")
    running = process("run", written(tmp_path, text), "--home", with_tables(tmp_path / "home"), "--json", "--no-check")
    results = tmp_path / "home" / "studies" / "small" / "results"
    deadline = time.monotonic() + 120
    while len(list(results.glob("*.json"))) < 2 and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    summary = json.loads(out)
    assert summary["state"] == "stopped"
    assert 2 <= summary["trials"]["complete"] == len(list(results.glob("*.json"))) < 400
    assert summary["best"] is not None


def test_stop_ends_a_run_in_another_process(shell: Shell, tmp_path: Path) -> None:
    text = STUDY.replace("trials = 3", "trials = 400")
    home = with_tables(tmp_path / "home")
    running = process("run", written(tmp_path, text), "--home", home, "--json", "--no-check")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None and shell("stop", "small", "--home", home)[0]:
        time.sleep(0.05)
    out, err = running.communicate(timeout=120)
    assert json.loads(out)["state"] == "stopped", err
    assert running.returncode in (0, 1)


def test_whatever_a_library_prints_does_not_reach_the_json(capfd: pytest.CaptureFixture[str]) -> None:
    with stdout_kept_for_json():
        print("from Python")
        os.write(1, b"from C\n")
        subprocess.run(["echo", "from a child"], check=True)
    print("the answer")
    said = capfd.readouterr()
    assert said.out == "the answer\n"
    assert "from Python" in said.err
    assert "from C" in said.err
    assert "from a child" in said.err
