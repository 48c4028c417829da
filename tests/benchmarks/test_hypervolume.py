"""The two sides of the comparison get the same epochs, and what is compared is what was left by each."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from objectives.cost import count_macs
from objectives.loading import load_task
from search.study_file import StudyFile
from tests.benchmarks.found import SEARCHES, study_of
from tests.benchmarks.hypervolume import CASES, compare, worth
from tests.benchmarks.rival import pruned


def test_the_front_is_chosen_on_validation_and_worth_what_it_is_on_test() -> None:
    baseline = {"validation": 1.0, "test": 0.8, "macs": 100.0}
    found = {
        "good": {"validation": 0.9, "test": 0.6, "macs": 50.0},
        "chosen by luck": {"validation": 0.95, "test": 0.4, "macs": 75.0},
        "dominated, though best on test": {"validation": 0.8, "test": 0.8, "macs": 60.0},
    }
    report = worth(found, baseline)
    # Accuracy 0.6 / 0.8 over the half of the MACs that it saves; the other adds nothing below it.
    assert report["hypervolume"] == pytest.approx(0.75 * 0.5)
    assert report["on_validation"] == pytest.approx(0.9 * 0.5 + 0.05 * 0.25)
    assert report["front"] == [[0.75, 0.4], [0.5, 0.6]]


def test_the_rival_gets_smaller_along_its_ladder() -> None:
    task = load_task("digits")
    costs = [sum(count_macs(pruned(task, ratio), task.example_inputs()).values()) for ratio in (0.2, 0.5, 0.8)]
    assert costs == sorted(costs, reverse=True)
    # Half of the inputs and half of the outputs of every layer between; only the stem and the end keep one side.
    assert 0.25 < costs[1] / sum(count_macs(task.network(), task.example_inputs()).values()) < 0.3


def test_a_comparison_of_two_trials_holds_together(tmp_path: Path, monkeypatch: Any) -> None:
    report = compare(CASES["digits"], 2, 0.1, tmp_path)
    assert next(iter(report)) == "ratio"
    assert report["complete"] == 2
    assert report["ratio"] == pytest.approx(report["ours"]["hypervolume"] / report["uniform"]["hypervolume"])
    assert all(0 < report[side]["hypervolume"] < 1 for side in ("ours", "uniform"))
    again = compare(CASES["digits"], 2, 0.1, tmp_path)  # the study is not run twice
    assert again["ours"] == report["ours"]
    assert math.isclose(again["ratio"], report["ratio"])


@pytest.mark.parametrize("name", SEARCHES)
def test_the_search_for_a_contender_is_a_study_whose_recipe_is_fixed(name: str) -> None:
    file = StudyFile.of(study_of(name, trials=20, epochs=1.0, precision="bf16"))
    assert len(file.criteria) == 1
    assert file.budget.scheduler == "mo-asha"
    assert not any(knob.startswith("finetuning") for knob in file.space.distributions())
    at = SEARCHES[name].at
    if SEARCHES[name].kind == "weights":
        assert file.spaces["pruning"]["sparsity"] == at
