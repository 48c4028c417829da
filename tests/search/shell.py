"""The command line called in this process, with the study that its tests run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from search.cli import main

STUDY = """
[study]
name = "small"
trials = 3
[task]
target = "tests.nets:Blobs"
args = {kind = "mlp"}
[objectives]
accuracy = "maximize"
parameters = "minimize"
[constraints]
accuracy = ">= 0.2 * baseline"
[budget]
epochs = 1
iterations = 2
[resources]
runner = "inline"
[spaces.pruning]
granularity = "channel"
criterion = "magnitude"
schedule = "oneshot"
sparsity = {low = 0.2, high = 0.6}
"""


class Shell:
    """Calls the command line in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], home: Path) -> None:
        self._capfd, self.home = capfd, home

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = self._capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """The one JSON value on standard output."""
        ended, out, err = self(*arguments, "--home", self.home, "--json")
        assert ended == code, err
        assert out.count("\n") == 1
        return json.loads(out)


def written(folder: Path, text: str = STUDY) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


def home_with_a_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one study that has run."""
    folder = tmp_path_factory.mktemp("cli")
    before = os.environ.get("PLEACH_HOME")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(written(folder)), "--home", str(folder / "home"), "--quiet"])
    if before is None:
        os.environ.pop("PLEACH_HOME", None)
    assert not ended.value.code
    return folder / "home"


def shell_in(capfd: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    """What a test calls, on a fixture named home."""
    monkeypatch.setenv("PLEACH_HOME", str(tmp_path / "default-home"))  # and put back what a verb sets
    monkeypatch.setenv("COLUMNS", "100")
    return Shell(capfd, home)
