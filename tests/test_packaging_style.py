"""The code is formatted, linted and typed. The same three commands stand in .pre-commit-config.yaml."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from search.installation import PACKAGES, ROOT

FOLDERS = (*PACKAGES, "tests")


def run(*command: str) -> None:
    done = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_code_is_formatted() -> None:
    run("ruff", "format", "--check", *FOLDERS)


def test_the_code_is_linted() -> None:
    run("ruff", "check", *FOLDERS)


def test_the_code_is_typed() -> None:
    run("mypy")


def test_the_checks_can_fail(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import os\ndef f( a ): return a\n", encoding="utf-8")
    settings = str(ROOT / "pyproject.toml")
    for command in (("ruff", "format", "--check"), ("ruff", "check"), ("mypy",)):
        option = "--config-file" if command[0] == "mypy" else "--config"
        with pytest.raises(AssertionError):
            run(*command, option, settings, str(bad))


def test_pre_commit_runs_the_same_tools() -> None:
    hooks = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))["repos"][0]["hooks"]
    entries = [hook["entry"].removeprefix("python -m ") for hook in hooks]
    assert entries[:3] == ["ruff format", "ruff check", "mypy"]
    assert entries[3].startswith("pytest ")
    assert all((ROOT / path).exists() for path in entries[3].split()[1:])
