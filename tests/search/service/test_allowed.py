"""Nothing runs that the operator did not list, with no argument that the operator did not offer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.service.allowed import Allowed
from search.study_file import StudyFile
from spaces.errors import RequestError, StudyFileError
from tests.search.service.live import STUDY

OPERATOR = """
address = "ray://head:10001"
[limits]
trials = 10
concurrent = 2
cpu = 1.5
[storage]
optuna = "postgresql://there/optuna"
[tasks.own]
target = "own.py:Task"
args = {data_dir = "data", mode = "fast"}
[tasks.own.choices]
depth = [20, 32]
share = {low = 0.0, high = 0.5}
steps = {low = 1, high = 9}
[tasks.digits]
target = "digits"
"""


@pytest.fixture(scope="module")
def allowed(tmp_path_factory: pytest.TempPathFactory) -> Allowed:
    folder = tmp_path_factory.mktemp("operator")
    (folder / "own.py").write_text("class Task: ...\n", encoding="utf-8")
    (folder / "operator.toml").write_text(OPERATOR, encoding="utf-8")
    return Allowed.load(folder / "operator.toml")


def asked(**tables: Any) -> dict[str, Any]:
    return {**STUDY, "task": {"target": "own"}, **tables}


def test_the_study_is_the_clients_and_the_rest_the_operators(allowed: Allowed) -> None:
    file = allowed.admitted(asked(task={"target": "own", "args": {"depth": 32}}))
    assert file.task.target == f"{allowed.folder}/own.py:Task"
    assert file.task.args == {"data_dir": f"{allowed.folder}/data", "mode": "fast", "depth": 32}
    assert file.storage.optuna == "postgresql://there/optuna"
    assert file.resources.address == "ray://head:10001"
    assert file.resources.runner == "inline"
    assert file.study.trials == 3
    assert StudyFile.parse(file.text, Path("/")).task == file.task  # as its process reads it


@given(st.text())
def test_a_task_that_is_not_listed_is_never_admitted(allowed: Allowed, target: str) -> None:
    if target not in allowed.file.tasks:
        with pytest.raises(RequestError, match="operator's list"):
            allowed.admitted(asked(task={"target": target}))


values = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.lists(st.integers())


@given(st.sampled_from(["depth", "share", "steps", "data_dir", "mode", "other"]), values)
def test_an_argument_is_one_that_is_offered_or_none(allowed: Allowed, name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    whole = number and isinstance(value, int)
    offered = {
        "depth": whole and value in (20, 32),
        "share": number and 0 <= value <= 0.5,
        "steps": whole and 1 <= value <= 9,
    }
    data = asked(task={"target": "own", "args": {name: value}})
    if offered.get(name, False):
        assert allowed.admitted(data).task.args[name] == value
    else:
        with pytest.raises(RequestError, match=f"task.args.{name}"):
            allowed.admitted(data)


@pytest.mark.parametrize("value", [20, 32, 9, 0.5, True, 20.0, "20"])
def test_true_is_no_number_and_a_share_no_whole_one(allowed: Allowed, value: Any) -> None:
    for name, good in (("depth", value in (20, 32) and type(value) is int), ("steps", value == 9)):
        data = asked(task={"target": "own", "args": {name: value}})
        if good:
            allowed.admitted(data)
        else:
            with pytest.raises(RequestError):
                allowed.admitted(data)


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({"storage": {"mlflow": "http://elsewhere"}}, "has storage: leave it out"),
        ({"storage": None}, "has storage: leave it out"),
        ({"resources": {"address": "auto"}}, "has resources.address: leave it out"),
        ({"resources": {"address": None}}, "has resources.address: leave it out"),
        ({"resources": {"concurrent": 3}}, "resources.concurrent may be at most 2 here, but is 3: lower it"),
        ({"resources": {"cpu": 2.0}}, "resources.cpu may be at most 1.5 here, but is 2: lower it"),
        ({"resources": {"gpu": 0.5}}, "resources.gpu may be at most 0 here, but is 0.5: lower it"),
        ({"study": {"name": "x", "trials": 11}}, "study.trials may be at most 10 here, but is 11: lower it"),
        ({"resources": []}, "resources must be an object"),
        ({"task": "own"}, "task must be an object with a target"),
        ({"task": {"target": "own", "args": []}}, "task.args must be an object"),
    ],
)
def test_what_is_the_operators_is_refused(allowed: Allowed, tables: dict[str, Any], says: str) -> None:
    with pytest.raises(RequestError) as refused:
        allowed.admitted(asked(**tables))
    assert says in str(refused.value)


def test_a_study_goes_on_if_its_task_is_still_listed(allowed: Allowed) -> None:
    listed = allowed.admitted(asked(task={"target": "own", "args": {"depth": 32, "share": 0.25}}))
    allowed.check_listed(listed)
    for args in ({**listed.task.args, "depth": 56}, {**listed.task.args, "data_dir": "/etc"}, {"depth": 32}):
        other = StudyFile.of({**STUDY, "task": {"target": listed.task.target, "args": args}}, allowed.folder)
        with pytest.raises(RequestError, match="operator's list"):
            allowed.check_listed(other)
    elsewhere = StudyFile.of({**STUDY, "task": {"target": "cifar10"}}, allowed.folder)
    with pytest.raises(RequestError, match="operator's list"):
        allowed.check_listed(elsewhere)


def test_tasks_that_come_along_are_listed_by_name() -> None:
    few = Allowed.of(["digits"])
    assert few.admitted({**STUDY, "task": {"target": "digits"}}).task.target == "digits"
    assert few.described() == [{"task": "digits", "choices": {}}]
    with pytest.raises(StudyFileError, match="did you mean 'digits'"):
        Allowed.of(["digit"])
    with pytest.raises(RequestError, match="the list is empty"):
        Allowed.of([]).admitted({**STUDY, "task": {"target": "digits"}})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[tasks]", "tasks must name at least one"),
        ("[tasks.a]\ntarget = 1", "tasks.a.target"),
        ("[tasks.a]\ntarget = 'x'\nchoice = {}", "did you mean 'choices'"),
        ("[tasks", "no valid TOML"),
    ],
)
def test_an_operators_file_that_breaks_a_rule_is_said(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "operator.toml").write_text(text, encoding="utf-8")
    with pytest.raises(StudyFileError, match=says):
        Allowed.load(tmp_path / "operator.toml")
