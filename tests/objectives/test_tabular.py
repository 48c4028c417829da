"""Tables: columns become numbers learnt from training rows alone, scores are what they say, and the network shrinks."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes

from objectives.accuracy import mean_score
from objectives.checking import check_task
from objectives.loading import load_task
from objectives.task import Evaluates, Labels, SharesArrays, Task
from objectives.tasks.tables import Encoder, read_splits, split_rows
from objectives.tasks.tabular import Tabular
from search.surgery.graph import trace
from spaces.errors import TaskError
from tests.objectives.compressing import PRUNINGS, compressed


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def task(cache: str) -> Tabular:
    return Tabular(cache_dir=cache)


@pytest.fixture(scope="module")
def regression(cache: str) -> Tabular:
    return Tabular("diabetes", cache_dir=cache)


def table(rows: int = 60) -> pd.DataFrame:
    """A class that follows from a number and a word, among columns that say nothing."""
    generator = np.random.default_rng(0)
    number, word = generator.normal(50, 10, rows), generator.choice(["red", "green", "blue"], rows)
    frame = pd.DataFrame({"number": number, "word": word, "constant": 7, "flag": generator.random(rows) < 0.5})
    frame["gap"] = np.where(generator.random(rows) < 0.3, np.nan, generator.normal(size=rows))
    frame["kind"] = np.where((number > 50) ^ (word == "red"), "high", "low")
    return frame


@pytest.mark.parametrize("data", ["breast-cancer", "wine", "diabetes"])
def test_the_shipped_sets_are_tasks(data: str, cache: str) -> None:
    task = Tabular(data, cache_dir=cache)
    assert isinstance(task, Task)
    assert isinstance(task, SharesArrays)
    assert isinstance(task, Evaluates)
    assert isinstance(task, Labels)
    check_task(task)
    trace(task.network(), task.example_inputs())


def test_classes_are_told_apart(task: Tabular) -> None:
    network = task.network()
    for split in ("validation", "test"):
        assert mean_score(network, task, split) > 0.9
        assert task.evaluate(network, split)["balanced_accuracy"] > 0.88
    shares = [np.mean(task.labels(split)) for split in ("train", "validation", "test")]
    assert shares == pytest.approx([load_breast_cancer().target.mean()] * 3, abs=0.01)


def test_a_number_is_told_better_than_by_its_mean(regression: Tabular) -> None:
    network = regression.network()
    assert network(*regression.example_inputs()).shape == (2, 1)
    explained = mean_score(network, regression, "validation")
    assert explained > 0.2
    # In the target's own units: sqrt(1 - explained) of the training rows' deviation.
    deviation = load_diabetes().target[split_rows(442, None)["train"]].std()
    rmse = regression.evaluate(network, "validation")["rmse"]
    assert rmse == pytest.approx(math.sqrt(1 - explained) * deviation, rel=1e-4)
    assert list(regression.labels("test")) == []


def test_scores_are_what_hand_arithmetic_gives(task: Tabular, regression: Tabular) -> None:
    outputs, targets = torch.tensor([[2.0, 1.0], [0.0, 3.0], [1.0, 0.0]]), torch.tensor([0, 1, 1])
    assert task.score(outputs, targets).tolist() == [1.0, 1.0, 0.0]
    outputs, values = torch.tensor([[1.0], [-1.0]]), torch.tensor([1.0, 1.0])
    assert regression.score(outputs, values).tolist() == [1.0, -3.0]
    assert float(regression.loss(outputs, values)) == 2.0


def test_balanced_accuracy_is_the_mean_over_classes(task: Tabular) -> None:
    class Always(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bias = torch.nn.Parameter(torch.tensor([0.0, 1.0]))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.bias.expand(len(x), 2)

    assert task.evaluate(Always(), "test") == {"balanced_accuracy": 0.5}


def test_a_file_is_read_cut_and_learnt(tmp_path: Path) -> None:
    frame = table(400)
    frame.to_csv(tmp_path / "table.csv", index=False)
    frame.to_parquet(tmp_path / "table.parquet")
    made: list[Any] = []
    for name in ("table.csv", "table.parquet"):
        task = Tabular(str(tmp_path / name), "kind", "classification", cache_dir=str(tmp_path / "cache"))
        made.append(task.data())
        # number, flag and gap, whether gap is missing, three words; the constant is left out.
        assert task.example_inputs()[0].shape == (2, 7)
        assert task.data()["classes"].tolist() == ["high", "low"]
        assert [len(task.labels(split)) for split in ("train", "validation", "test")] == [240, 80, 80]
    assert all(np.array_equal(made[0][name], made[1][name]) for name in made[0])
    check_task(task)
    assert mean_score(task.network(), task, "test") > 0.85


def test_a_folder_gives_the_splits_itself(tmp_path: Path) -> None:
    frame = table(60)
    for split, part in (("train", frame[:40]), ("validation", frame[40:50]), ("test", frame[50:])):
        part.to_csv(tmp_path / f"{split}.csv", index=False)
    task = Tabular(str(tmp_path), "number", "regression", cache_dir=str(tmp_path / "cache"), epochs=1)
    targets = torch.cat([y for _, y in task.batches("validation", shuffle_seed=None)])
    mean, deviation = frame["number"][:40].mean(), frame["number"][:40].std(ddof=0)
    assert targets.numpy() == pytest.approx(((frame["number"][40:50] - mean) / deviation).to_numpy(), abs=1e-5)
    check_task(task)


def test_a_whole_number_is_the_same_class_in_every_file(tmp_path: Path) -> None:
    # A gap makes pandas read a column of whole numbers as decimal ones.
    for split in ("train", "validation", "test"):
        gap = "" if split == "test" else "9,\n"
        (tmp_path / f"{split}.csv").write_text("x,y\n" + "1,0\n2,1\n3,0\n4,1\n" + gap, encoding="utf-8")
    task = Tabular(str(tmp_path), "y", "classification", cache_dir=str(tmp_path / "cache"), epochs=1)
    assert task.data()["classes"].tolist() == ["0", "1"]
    assert list(task.labels("test")) == list(task.labels("train")) == [0, 1, 0, 1]


def test_a_missing_value_is_the_mean_and_a_new_word_is_nothing() -> None:
    train = pd.DataFrame({"a": [1.0, 3.0, np.nan], "b": ["x", "y", "x"], "c": [0.0, 0.0, 1.0]})
    encoder = Encoder.of(train)
    assert encoder.numbers["a"] == (2.0, 1.0)
    assert list(encoder.gaps) == ["a"]
    found = encoder.features(pd.DataFrame({"a": [np.nan, 5.0, np.inf], "b": ["z", None, "y"], "c": [1.0, np.nan, 0.0]}))
    third = math.sqrt(2) / 3
    expected = [[0, (1 - 1 / 3) / third, 1, 0, 0], [3, 0, 0, 0, 0], [0, -(1 / 3) / third, 1, 0, 1]]
    assert found == pytest.approx(np.array(expected), rel=1e-6)


@given(values=st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=40))
def test_training_rows_have_mean_0_and_deviation_1(values: list[float]) -> None:
    frame = pd.DataFrame({"x": values, "y": range(len(values))})
    if np.ptp(frame["x"]) < 1e-3 * max(1.0, np.abs(frame["x"]).max()):
        return
    features = Encoder.of(frame).features(frame)
    np.testing.assert_allclose(features.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(features.std(axis=0), 1, atol=1e-4)


@given(count=st.integers(10, 300), classes=st.integers(2, 4))
def test_the_splits_are_disjoint_whole_and_always_the_same(count: int, classes: int) -> None:
    labels = np.arange(count) % classes if count >= 5 * classes + classes else None
    parts = split_rows(count, labels)
    rows = np.concatenate(list(parts.values()))
    assert sorted(rows.tolist()) == list(range(count))
    assert len(parts["train"]) >= len(parts["validation"]) >= 1
    assert all(np.array_equal(part, split_rows(count, labels)[split]) for split, part in parts.items())


def test_another_instance_takes_everything_from_shared_arrays(task: Tabular, tmp_path: Path) -> None:
    shared = task.arrays()
    for array in shared.values():
        array.flags.writeable = False
    other = Tabular(cache_dir=str(tmp_path / "empty"))
    other.use(shared)
    assert mean_score(other.network(), other, "test") == mean_score(task.network(), task, "test")
    check_task(other)
    assert not (tmp_path / "empty").exists()


def test_a_last_row_alone_does_not_stop_training(tmp_path: Path, cache: str) -> None:
    frame = table(55)
    frame.to_csv(tmp_path / "odd.csv", index=False)
    task = Tabular(str(tmp_path / "odd.csv"), "kind", "classification", batch_size=16, epochs=1, cache_dir=cache)
    sizes = [len(y) for _, y in task.batches("train", shuffle_seed=0)]
    assert len(task.labels("train")) == 33
    assert sizes == [16, 16]
    assert [len(y) for _, y in task.batches("train", shuffle_seed=None)] == [16, 16, 1]
    task.network()


def refusal(**args: object) -> str:
    with pytest.raises(TaskError) as caught:
        load_task("tabular", args).network()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_missing_or_breaks_a_rule_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "t.csv")
    table(60).to_csv(path, index=False)
    assert "must be a file, a folder or one of breast-cancer, wine, diabetes, but is 'iris'" in refusal(data="iris")
    assert "target goes with a file" in refusal(data="wine", target="x")
    assert "diabetes is for regression" in refusal(data="diabetes", kind="classification")
    assert "needs target" in refusal(data=path)
    assert "needs kind with a file" in refusal(data=path, target="kind")
    assert "kind must be classification or regression, but is 'ranking'" in refusal(kind="ranking")
    assert "must have a column 'knd', but has none: did you mean 'kind'" in refusal(
        data=path, target="knd", kind="regression"
    )
    assert "must be numbers" in refusal(data=path, target="kind", kind="regression")
    assert "batch_size must be a whole number of at least 2, but is 1" in refusal(batch_size=1)
    assert "data must be a readable file, but" in refusal(data="none.csv", target="x", kind="regression")
    assert "data must be a .csv or .parquet file" in refusal(data="t.xlsx", target="x", kind="regression")
    (tmp_path / "torn.parquet").write_bytes(b"PAR1")
    (tmp_path / "empty.csv").write_text("", encoding="utf-8")
    for name in ("torn.parquet", "empty.csv"):
        assert "must be a table, but is not" in refusal(data=str(tmp_path / name), target="x", kind="regression")
    (tmp_path / "few.csv").write_text("x,y\n1,2\n", encoding="utf-8")
    assert "at least 10 rows" in refusal(data=str(tmp_path / "few.csv"), target="y", kind="regression")
    (tmp_path / "rare.csv").write_text("x,y\n" + "1,a\n" * 20 + "2,b\n", encoding="utf-8")
    assert "'b' has 1: add rows" in refusal(data=str(tmp_path / "rare.csv"), target="y", kind="classification")
    (tmp_path / "dull.csv").write_text("x,y\n" + "1,1\n1,2\n" * 20, encoding="utf-8")
    assert "whose values differ" in refusal(data=str(tmp_path / "dull.csv"), target="y", kind="classification")
    assert "has no validation: add it" in _folder_refusal(tmp_path / "folder", ["train"])
    pd.DataFrame({"when": pd.date_range("2020", periods=20), "y": range(20)}).to_parquet(tmp_path / "dates.parquet")
    assert "'when' holds datetime64" in refusal(data=str(tmp_path / "dates.parquet"), target="y", kind="regression")


def _folder_refusal(folder: Path, splits: list[str]) -> str:
    folder.mkdir()
    for split in splits:
        table(20).to_csv(folder / f"{split}.csv", index=False)
    return refusal(data=str(folder), target="kind", kind="classification")


def test_a_class_or_a_column_that_training_lacks_is_named(tmp_path: Path) -> None:
    for split, rows in (("train", "1,a\n2,b\n"), ("validation", "1,a\n2,c\n"), ("test", "1,a\n2,b\n")):
        (tmp_path / f"{split}.csv").write_text(f"x,y\n{rows}", encoding="utf-8")
    assert "'c' is only in validation" in refusal(data=str(tmp_path), target="y", kind="classification")
    (tmp_path / "validation.csv").write_text("z,y\n1,a\n", encoding="utf-8")
    assert "column 'x' must hold numbers in every split" in refusal(
        data=str(tmp_path), target="y", kind="classification"
    )
    assert set(read_splits(str(tmp_path), ["y"])) == {"train", "validation", "test"}


@pytest.mark.parametrize("data", ["breast-cancer", "diabetes"])
@pytest.mark.parametrize("granularity", PRUNINGS)
def test_it_is_compressed(data: str, granularity: str, cache: str) -> None:
    task = Tabular(data, cache_dir=cache)
    result = compressed(task, PRUNINGS[granularity], epochs=4)
    assert result.scores["accuracy"] > result.baseline["accuracy"] - 0.25
    assert set(task.evaluate(result.network, "validation")) <= set(result.scores)
    if granularity == "channel":
        assert result.scores["macs"] < 0.6 * result.baseline["macs"]


def test_a_residual_network_is_compressed(cache: str) -> None:
    task = Tabular(depth=3, width=24, residual=True, epochs=10, cache_dir=cache)
    result = compressed(task, PRUNINGS["channel"], epochs=2)
    assert result.scores["macs"] < result.baseline["macs"]
