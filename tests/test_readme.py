"""What the README shows is what happens: its commands, its example, its table of verbs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import typer.main

from search import cli
from search.installation import ROOT
from search.study import Study
from search.verbs import shared
from spaces import POLICIES
from tests.test_readme_docs import fences, rows, section

README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = [line for block in fences(README, "sh") for line in block.splitlines()]
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}


def shell(command: str, folder: Path, environment: Mapping[str, str] = ENVIRONMENT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["/bin/bash", "-c", command],
        cwd=folder,
        env=dict(environment),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_each_of_the_two_commands_does_everything_alone() -> None:
    install = "python3 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e "
    assert [command for command in COMMANDS if "venv" in command] == [
        f"{install}. && .venv/bin/pleach demo",
        f"{install}'.[test]' && .venv/bin/python -m pytest -n 2 --dist loadfile",
    ]


def test_ci_runs_the_test_command_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "bash").write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$RECORD"\n', encoding="utf-8")
    (tmp_path / "bash").chmod(0o755)
    environment = ENVIRONMENT | {"PATH": f"{tmp_path}:{os.environ['PATH']}", "RECORD": str(tmp_path / "record")}
    done = shell(f"/bin/bash {ROOT / '.ci' / 'run'}", tmp_path, environment)
    assert done.returncode == 0, done.stderr
    *_, command = (tmp_path / "record").read_text(encoding="utf-8").splitlines()
    assert command == next(command for command in COMMANDS if "-m pytest" in command)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


@pytest.mark.parametrize(
    ("block", "code"),
    [
        ("true && echo -m pytest", 0),
        ("false && echo -m pytest", 1),
        ("pip install nowhere-to-be-found --no-index -q && echo -m pytest", 1),
        ("(exit 3) | cat && echo -m pytest", 3),
        ("echo", 2),
        ("echo -m pytest\necho -m pytest", 2),
    ],
)
def test_ci_fails_where_the_command_does_or_is_not_there(tmp_path: Path, block: str, code: int) -> None:
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "run", tmp_path / ".ci" / "run")
    (tmp_path / "README.md").write_text(f"# Example\n\n```sh\n{block}\n```\n", encoding="utf-8")
    done = shell(".ci/run", tmp_path)
    assert done.returncode == code, done.stdout + done.stderr


def test_every_verb_is_in_the_table_and_works_as_written() -> None:
    command = typer.main.get_command(cli.app)
    verbs = set(command.commands)  # type: ignore[attr-defined]
    written = {re.split(" ", name)[1] for name in rows(section(README, "## Commands"))}
    assert written == verbs


def test_the_exit_codes_are_those_of_the_command_line() -> None:
    text = " ".join(section(README, "## Commands").split())
    codes = [int(code) for code in re.findall(r"[:,] (\d+) [a-z]", text.partition("Exit codes")[2])]
    assert codes == sorted([shared.DONE, shared.INFEASIBLE, shared.BAD_INPUT, shared.BUG, shared.INTERRUPTED])


def test_the_words_are_in_order_and_name_every_policy() -> None:
    words = re.findall(r"^\| ([A-Za-z-][A-Za-z -]*) \|", section(README, "## Words"), flags=re.MULTILINE)
    assert words == sorted(words, key=str.lower)
    assert {name.replace("finetuning", "fine-tuning") for name in POLICIES} <= set(words)


@pytest.mark.slow
def test_the_example_runs_as_it_stands(tmp_path: Path) -> None:
    task, load, python = fences(README, "python")
    (tmp_path / "task.py").write_text(task, encoding="utf-8")
    (tmp_path / "study.toml").write_text(fences(README, "toml")[0], encoding="utf-8")
    environment = {name: value for name, value in ENVIRONMENT.items() if name != "PLEACH_HOME"}
    for command in [command for command in COMMANDS if command.startswith("pleach ")]:
        done = shell(command, tmp_path, environment)
        assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    found = Study.load("tumours", tmp_path / ".pleach").summary()
    assert found["trials"]["complete"] + found["trials"]["pruned"] == 12
    assert found["best"]["feasible"]
    assert found["best"]["scores"]["parameters"] < 0.9 * found["baseline"]["parameters"]
    # In a folder where the task's file is not to be found: the export stands alone.
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(tmp_path / "small", tmp_path / "elsewhere" / "small")
    count = "print(sum(parameter.numel() for parameter in network.parameters()))"
    (tmp_path / "elsewhere" / "use.py").write_text(f"{load}\n{count}\n", encoding="utf-8")
    done = shell("python use.py", tmp_path / "elsewhere", environment)
    assert done.stdout.split() == [f"{found['best']['scores']['parameters']:.0f}"], done.stderr
    (tmp_path / "whole.py").write_text(python, encoding="utf-8")
    done = shell("python whole.py", tmp_path, environment)
    assert done.returncode == 0, done.stderr
    assert "'parameters': " in done.stdout
