"""Reading study files: what they say, and one clear line for everything that is wrong with one."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.study_file import StudyFile
from search.study_tables import seconds
from search.toml import to_toml
from spaces.errors import StudyFileError
from tests.search.drive import study_of

FULL = """
[study]
name = "r20-edge"   # a comment stays with the file
seed = 3
trials = 200
time_limit = "4h"
sampler = "nsga2"
stop_when = "accuracy >= baseline - 0.01 and macs <= 0.5 * baseline"
[task]
target = "tasks.py:Net"
args = {data_dir = "data/cifar10", weights = "w/net.safetensors", model = "org/name", validation = "test"}
[objectives]
accuracy = "maximize"
f1 = "maximize"
latency_ms = {direction = "minimize", batch = 64, threads = 1, runtime = "onnxruntime"}
[constraints]
accuracy = ">= baseline - 0.01"
latency_ms = "<= 0.6 * baseline"
[budget]
epochs = 3
scheduler = "mo-asha"
confirm = {top = 5, seeds = 3}
[resources]
concurrent = 4
gpu = 0.25
address = "auto"
[storage]
mlflow = "http://mlflow:5000"
[spaces.pruning]
sparsity = {low = 0.3, high = 0.95}
criterion = ["magnitude", "gradient"]
[spaces.reconnection]
zeta = 0.2
[[spaces.layers]]
match = "layer3.*"
pruning = {sparsity = {low = 0.0, high = 0.5}}
"""

SAME_IN_YAML = """
study: {name: r20-edge, seed: 3, trials: 200, time_limit: 4h, sampler: nsga2,
        stop_when: accuracy >= baseline - 0.01 and macs <= 0.5 * baseline}
task:
  target: tasks.py:Net
  args: {data_dir: data/cifar10, weights: w/net.safetensors, model: org/name, validation: test}
objectives:
  accuracy: maximize
  f1: maximize
  latency_ms: {direction: minimize, batch: 64, threads: 1, runtime: onnxruntime}
constraints: {accuracy: ">= baseline - 0.01", latency_ms: "<= 0.6 * baseline"}
budget: {epochs: 3, scheduler: mo-asha, confirm: {top: 5, seeds: 3}}
resources: {concurrent: 4, gpu: 0.25, address: auto}
storage: {mlflow: "http://mlflow:5000"}
spaces:
  pruning:
    sparsity: {low: 0.3, high: 0.95}
    criterion: [magnitude, gradient]
  reconnection: {zeta: 0.2}
  layers:
    - match: layer3.*
      pruning: {sparsity: {low: 0.0, high: 0.5}}
"""


def read(text: str, folder: Path = Path("/nowhere")) -> StudyFile:
    return StudyFile.parse(text, folder)


def test_a_full_file_is_read_as_written() -> None:
    file = read(FULL)
    assert (file.name, file.study.seed, file.study.trials, file.time_limit) == ("r20-edge", 3, 200, 14400.0)
    assert file.directions == {"accuracy": "maximize", "f1": "maximize", "latency_ms": "minimize"}
    assert file.objectives["latency_ms"].batch == 64
    assert file.measures == ("accuracy", "f1", "latency_ms", "macs")
    assert [str(criterion) for criterion in file.stop_criteria] == [
        "accuracy >= baseline - 0.01",
        "macs <= 0.5 * baseline",
    ]
    assert file.trial_budget.epochs == 3.0
    assert (file.budget.confirm.top, file.budget.confirm.seeds) == (5, 3) if file.budget.confirm else False
    assert set(file.space.policies) == {"pruning", "reconnection"}
    assert "pruning.sparsity@layer3.*" in file.space.distributions()
    assert "a comment stays" in file.text


def test_what_is_left_out_has_a_default() -> None:
    file = StudyFile.of({k: v for k, v in study_of().items() if k in ("study", "task", "objectives", "spaces")})
    assert (file.study.sampler, file.budget.scheduler, file.resources.concurrent) == ("tpe", "none", 1)
    assert (file.trial_budget.iterations, file.time_limit, file.timeout) == (6, None, None)
    assert (file.criteria, file.stop_criteria) == ((), ())


def test_yaml_says_the_same_as_toml() -> None:
    yaml = StudyFile.parse(SAME_IN_YAML, Path("/nowhere"), syntax="yaml")
    assert yaml.model_dump() == read(FULL).model_dump()
    assert read(yaml.text).model_dump() == yaml.model_dump()


def test_paths_of_the_task_start_at_the_study_file(tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("class Net: ...\n")
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "net.safetensors").touch()
    (tmp_path / "test").mkdir()
    (tmp_path / "study.toml").write_text(FULL)
    reference = StudyFile.load(tmp_path / "study.toml").task_reference
    assert reference.target == f"{tmp_path}/tasks.py:Net"
    assert reference.source == "class Net: ...\n"
    assert reference.args == {
        "data_dir": f"{tmp_path}/data/cifar10",
        "weights": f"{tmp_path}/w/net.safetensors",
        "model": "org/name",
        "validation": "test",
    }


BAD: list[tuple[str, dict[str, Any], str]] = [
    ("unknown key", {"study": {"trails": 3}}, "study: there is no key 'trails': did you mean 'trials'?"),
    ("unknown table", {"objectivs": {}}, "there is no key 'objectivs': did you mean 'objectives'?"),
    ("unknown policy", {"spaces": {"prunning": {}}}, "there is no policy 'prunning': did you mean 'pruning'?"),
    ("unknown knob", {"spaces": {"pruning": {"sparcity": 0.5}}}, "did you mean 'sparsity'?"),
    (
        "range upside down",
        {"spaces": {"pruning": {"sparsity": {"low": 0.9, "high": 0.3}}}},
        "low is 0.9 and high is 0.3",
    ),
    ("objective without direction", {"objectives": {"latency_ms": {"batch": 4}}}, "latency_ms.direction is missing"),
    ("direction misspelt", {"objectives": {"f1": "maximise"}}, "did you mean 'maximize'?"),
    ("direction of another type", {"objectives": {"f1": True}}, "must be one of maximize, minimize, but is true"),
    ("direction turned round", {"objectives": {"macs": "maximize"}}, 'objectives.macs must be "minimize"'),
    ("options of an unclocked objective", {"objectives": {"macs": {"direction": "minimize", "batch": 2}}}, "macs"),
    ("bad constraint", {"constraints": {"macs": "< 3"}}, "'<'"),
    ("constraint that is no text", {"constraints": {"macs": 3}}, "constraints.macs must be string, but is 3"),
    ("bad stop_when", {"study": {"stop_when": "accuracy > 3"}}, "'>'"),
    ("no trials", {"study": {"trials": 0}}, "study.trials must be greater than or equal to 1, but is 0"),
    ("half a trial", {"study": {"trials": 2.5}}, "study.trials must be integer, but is 2.5"),
    ("trials as text", {"study": {"trials": "3"}}, 'study.trials must be integer, but is "3"'),
    ("bad time limit", {"study": {"time_limit": "4 hours"}}, 'write "30s", "90m" or "4h"'),
    ("bad sampler", {"study": {"sampler": "tpee"}}, "did you mean 'tpe'?"),
    ("bad name", {"study": {"name": "a/b"}}, "letters, digits"),
    ("negative seed", {"study": {"seed": -1}}, "study.seed must be greater than or equal to 0"),
    ("no epochs", {"budget": {"epochs": 0}}, "budget.epochs must be greater than 0"),
    ("asha on two objectives", {"budget": {"scheduler": "asha"}}, 'use "mo-asha"'),
    ("empty task", {"task": {"target": ""}}, "task.target"),
]


@pytest.mark.parametrize(("tables", "said"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_what_is_wrong_is_said_in_one_line(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyFileError) as error:
        StudyFile.of(study_of(**tables))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["study", "task", "objectives", "spaces"])
def test_a_table_that_is_missing_is_named(missing: str) -> None:
    data = study_of()
    del data[missing]
    with pytest.raises(StudyFileError, match=f"{missing} is missing: add it"):
        StudyFile.of(data)


@pytest.mark.parametrize("empty", ["objectives", "spaces"])
def test_an_empty_table_is_named(empty: str) -> None:
    with pytest.raises(StudyFileError, match=f"{empty} must name at least one"):
        StudyFile.of(study_of() | {empty: {}})


def test_a_table_that_is_none_is_named() -> None:
    with pytest.raises(StudyFileError, match="study: it must be a table of keys"):
        StudyFile.of(study_of() | {"study": 3})


def test_a_space_of_layers_only_is_refused() -> None:
    with pytest.raises(StudyFileError, match="at least one policy"):
        StudyFile.of(study_of() | {"spaces": {"layers": []}})


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("broken.toml", "[study]\nname = \n", "line 2"),
        ("broken.yaml", "study:\n  name: [\n", "line 3"),
        ("list.yaml", "- 1\n", "must be a table"),
        ("empty.yaml", "", "must be a table"),
        ("code.yaml", "!!python/object/apply:os.system ['true']\n", "no valid YAML"),
        ("empty.toml", "", "study is missing"),
    ],
)
def test_a_file_that_does_not_parse_names_the_place(tmp_path: Path, name: str, text: str, said: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(StudyFileError) as error:
        StudyFile.load(tmp_path / name)
    assert said in str(error.value)
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_or_folder_is_one_line(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(StudyFileError) as error:
            StudyFile.load(path)
        assert str(path) in str(error.value)
        assert "\n" not in str(error.value)


def test_bytes_that_are_no_text_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "study.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(StudyFileError, match="cannot be read"):
        StudyFile.load(tmp_path / "study.toml")


@pytest.mark.parametrize(
    "tables",
    [
        {"study": {"trials": 9, "time_limit": "1h", "stop_when": "accuracy >= 0.5"}},
        {"resources": {"concurrent": 7, "runner": "inline"}},
        {"storage": {"optuna": "sqlite:///x.db", "mlflow": "http://localhost:1"}},
        {"constraints": {"accuracy": ">= 0.5 * baseline", "macs": "<= 100"}},
    ],
)
def test_what_may_change_may_change(tables: dict[str, Any]) -> None:
    StudyFile.of(study_of(**tables)).check_continues(StudyFile.of(study_of()))


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"study": {"seed": 1}}, "study.seed must stay as in the first run of 'kept', 0, but is now 1"),
        ({"study": {"sampler": "random"}}, "study.sampler must stay as in the first run of 'kept', \"tpe\""),
        ({"task": {"args": {"samples": 3}}}, "task.args.samples"),
        ({"objectives": {"plasticity": "maximize"}}, "objectives.plasticity.direction"),
        ({"budget": {"epochs": 2}}, "budget.epochs must stay as in the first run of 'kept', 1.0, but is now 2.0"),
        ({"budget": {"scheduler": "mo-asha"}}, "budget.scheduler"),
        ({"spaces": {"pruning": {"sparsity": 0.5}}}, "spaces.pruning.sparsity"),
        ({"spaces": {"reconnection": {}}}, "spaces.reconnection"),
    ],
)
def test_what_would_change_results_names_key_values_and_remedy(tables: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyFileError) as error:
        StudyFile.of(study_of(**tables)).check_continues(StudyFile.of(study_of()))
    assert said in str(error.value)
    assert "--name NEW --from kept" in str(error.value)


def test_a_default_that_is_written_out_is_no_change() -> None:
    spelt = StudyFile.of(study_of(study={"seed": 0, "sampler": "tpe"}, budget={"epochs": 1.0, "scheduler": "none"}))
    spelt.check_continues(StudyFile.of(study_of()))


def test_renaming_changes_the_name_alone(tmp_path: Path) -> None:
    file = StudyFile.parse(FULL, tmp_path)
    other = file.renamed("other")
    assert (other.name, other.folder) == ("other", tmp_path)
    assert other.model_dump() == file.model_dump() | {"study": file.study.model_dump() | {"name": "other"}}


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("90m", 5400), ("1.5h", 5400), ("2d", 172800)])
def test_durations_in_seconds(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "4", "h", "-3s", "0s", "3 weeks", "1e3s", "nan s"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="number and a unit"):
        seconds(text)


_TEXT = st.text(st.characters(codec="utf-8"))
_VALUES = st.recursive(
    st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False) | _TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_TEXT, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(_TEXT, st.dictionaries(_TEXT, _VALUES, max_size=4), max_size=4))
def test_toml_that_is_written_is_read_back(data: dict[str, dict[str, Any]]) -> None:
    assert tomllib.loads(to_toml(data)) == data


def test_no_message_runs_over_its_line() -> None:
    with pytest.raises(StudyFileError) as error:
        StudyFile.of(study_of(study={"trials": -1, "seed": -1}, budget={"epochs": -2}))
    assert re.search(r"\(and 2 more\)$", str(error.value))
