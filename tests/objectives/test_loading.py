"""Every way to name a task, and every way to get it wrong."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from objectives.loading import load_task, task_hash, task_source
from objectives.task import Task
from objectives.tasks import TASKS
from objectives.tasks.digits import Digits
from spaces.errors import StorageError, TaskError

SOURCE = """
from dataclasses import dataclass
import torch
from torch import nn

@dataclass
class Small:
    width: int = 3

    def network(self): return nn.Linear(2, self.width)
    def example_inputs(self): return (torch.zeros(2, 2),)
    def batches(self, split, *, shuffle_seed): return [(torch.zeros(4, 2), torch.zeros(4).long())]
    def loss(self, outputs, targets): return nn.functional.cross_entropy(outputs, targets)
    def score(self, outputs, targets): return (outputs.argmax(1) == targets).float()

def wide(factor): return Small(width=3 * factor)

class Partial:
    def network(self): return None
    def loss(self, outputs, targets): return None

def broken(): raise ValueError("no data\\nfor you")
def anything(**settings): return Small(**settings)
number = 3
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tasks.py"
    path.write_text(SOURCE)
    return path


def refusal(target: str, args: dict[str, object] | None = None, source: str | None = None) -> str:
    with pytest.raises(TaskError) as caught:
        load_task(target, args or {}, source)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_short_name_is_a_module_and_a_class() -> None:
    assert isinstance(load_task("digits", {"seed": 1}), Digits)
    assert isinstance(load_task("objectives.tasks.digits:Digits", {}), Digits)
    assert all(place.startswith("objectives.tasks.") for place in TASKS.values())


def test_a_file_gives_a_class_or_a_function(file: Path) -> None:
    task = load_task(f"{file}:Small", {"width": 5})
    assert isinstance(task, Task)
    assert task.network().out_features == 5
    assert load_task(f"{file}:wide", {"factor": 2}).network().out_features == 6
    assert load_task(f"{file}:anything", {"width": 4}).network().out_features == 4


def test_source_travels_without_its_file(file: Path) -> None:
    target, source = f"{file}:Small", task_source(f"{file}:Small")
    file.unlink()
    task = load_task(target, {"width": 5}, source)
    assert task.network().out_features == 5
    assert "must be readable" in refusal(target)


def test_one_text_is_one_module_wherever_it_lies(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "copy.py"
    other.write_text(SOURCE)
    assert type(load_task(f"{file}:Small")) is type(load_task(f"{other}:Small"))
    other.write_text(SOURCE + "\n")
    assert type(load_task(f"{file}:Small")) is not type(load_task(f"{other}:Small"))


def test_a_module_on_the_path_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_loading.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(load_task("mine_loading:Small"), Task)
    sys.modules.pop("mine_loading")


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("digitz", "did you mean 'digits'?"),
        ("", "a task must be a short name, pkg.module:Name or file.py:Name, but is ''"),
        ("tasks.py", "must name its class, as in file.py:Name"),
        ("tasks.py:", "must be a short name, pkg.module:Name or file.py:Name"),
        (":Small", "must be a short name"),
        ("nowhere/tasks.py:Small", "the task's file nowhere/tasks.py must be readable, but is not (No such file"),
        ("no_such_package.tasks:Small", "there is no module no_such_package: install it"),
        ("objectives.no_such_module:Small", "there is no module objectives.no_such_module"),
        ("objectives.tasks.digits:Digit", "did you mean 'Digits'?"),
    ],
)
def test_a_target_that_names_nothing_is_refused(target: str, message: str) -> None:
    assert message in refusal(target)


def test_a_name_that_the_file_lacks_is_refused_with_the_nearest(file: Path) -> None:
    assert "did you mean 'Small'?" in refusal(f"{file}:Smal")
    assert "must define the class or function number" in refusal(f"{file}:number")


def test_arguments_that_do_not_fit_are_refused(file: Path) -> None:
    assert "takes no argument 'widht': did you mean 'width'?" in refusal(f"{file}:Small", {"widht": 3})
    assert "needs other arguments (missing a required argument: 'factor'): it takes (factor)" in refusal(f"{file}:wide")


def test_what_goes_wrong_while_building_is_told_with_its_type(file: Path) -> None:
    assert "cannot be built (ValueError: no data for you)" in refusal(f"{file}:broken")
    assert "without example_inputs, batches, score: add what is missing" in refusal(f"{file}:Partial")
    # A message that is ours already is passed on as it is.
    assert refusal("cifar10").startswith("cifar10 needs data_dir")


def test_what_goes_wrong_while_importing_is_told_with_its_type(tmp_path: Path) -> None:
    target = f"{tmp_path / 'tasks.py'}:Small"
    assert "cannot be run (SyntaxError" in refusal(target, source="def (")
    assert "cannot be run (ZeroDivisionError: division by zero)" in refusal(target, source="1 / 0")
    assert "cannot be run (SystemExit: 3)" in refusal(target, source="import sys; sys.exit(3)")
    assert "a task's file travels alone" in refusal(target, source="import my_neighbour")
    # A second attempt runs the text again rather than finding half a module.
    assert "ZeroDivisionError" in refusal(target, source="1 / 0")


def test_a_module_that_fails_inside_is_not_called_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "failing_loading.py").write_text("import no_such_dependency")
    monkeypatch.syspath_prepend(str(tmp_path))
    message = refusal("failing_loading:Small")
    assert "cannot be imported (ModuleNotFoundError: No module named 'no_such_dependency')" in message


def test_source_must_be_text(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_bytes(b"\xff\xfe")
    with pytest.raises(TaskError, match="must be text in UTF-8"):
        task_source(f"{tmp_path / 'tasks.py'}:Small")
    assert task_source("digits") is None
    assert task_source("pkg.module:Name") is None


def test_the_hash_follows_what_decides_the_task(file: Path, tmp_path: Path) -> None:
    target, copy = f"{file}:Small", tmp_path / "copy.py"
    copy.write_text(SOURCE)
    assert task_hash(target) == task_hash(f"{copy}:Small") == task_hash(target, {}, SOURCE)
    assert task_hash("digits", {"seed": 1, "batch_size": 2}) == task_hash("digits", {"batch_size": 2, "seed": 1})
    assert task_hash("digits") == task_hash("objectives.tasks.digits:Digits")
    different = {
        task_hash(target),
        task_hash(target, {"width": 4}),
        task_hash(f"{file}:wide"),
        task_hash(target, {}, SOURCE + "#"),
        task_hash("digits"),
    }
    assert len(different) == 5
    with pytest.raises(TaskError, match="must be JSON"):
        task_hash("digits", {"seed": object()})


def test_an_unwritable_cache_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    task = load_task("digits", {"cache_dir": str(tmp_path / "file")})
    with pytest.raises(StorageError, match="must be writable"):
        task.network()
