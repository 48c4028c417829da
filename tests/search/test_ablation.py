"""What each policy is worth: the comparison's figures by hand, and the whole way with real trials."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from search.ablation import cells_of, compared, markdown
from search.cli import main
from search.home import driver_lock
from search.result import Budget, TrialRequest, TrialResult
from search.study import Study
from spaces.ablation import WHOLE
from spaces.errors import StudyError
from spaces.profile import CompressionProfile
from tests.search.drive import study_of


def results(*accuracies: float | None) -> Sequence[TrialResult]:
    """One result per seed; None failed."""
    requests = [TrialRequest(0, str(s), CompressionProfile(), s, Budget()) for s in range(len(accuracies))]
    return [
        TrialResult(request, "failed", reason="too hot")
        if accuracy is None
        else TrialResult(request, "complete", scores={"accuracy": accuracy}, metrics={"pruning/decisions": 4.0})
        for request, accuracy in zip(requests, accuracies, strict=True)
    ]


def test_differences_are_paired_by_seed_and_judged_by_the_t_distribution() -> None:
    rows = compared({WHOLE: results(0.90, 0.92, 0.94), "no pruning": results(0.93, 0.96, 0.99)}, ["accuracy"])
    difference = rows[1]["difference"]["accuracy"]
    # Differences .03, .04, .05: mean .04, standard deviation .01; t(.975, 2) = 4.302653.
    assert difference["mean"] == pytest.approx(0.04)
    assert difference["half_width"] == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-5)
    assert not difference["noise"]
    assert rows[0]["difference"]["accuracy"]["mean"] == 0.0
    assert rows[1]["decisions"] == {"pruning": 4.0}


def test_a_difference_that_seeds_scatter_more_than_is_noise() -> None:
    rows = compared({WHOLE: results(0.90, 0.92, 0.94), "no pruning": results(0.95, 0.91, 0.95)}, ["accuracy"])
    assert rows[1]["difference"]["accuracy"]["noise"]
    assert cells_of(rows[1], "accuracy")[1].startswith("(")


def test_failed_runs_are_left_out_of_both_sides_and_named() -> None:
    rows = compared({WHOLE: results(0.90, 0.92, 0.94), "hot": results(None, 0.93, 0.95)}, ["accuracy"])
    assert (rows[1]["seeds"], rows[1]["failed"], rows[1]["reasons"]) == ([1, 2], 1, ["too hot"])
    assert rows[1]["difference"]["accuracy"]["mean"] == pytest.approx(0.01)
    assert compared({WHOLE: results(0.9), "hot": results(None)}, ["accuracy"])[1]["scores"]["accuracy"] is None


def test_one_seed_says_nothing_about_noise() -> None:
    row = compared({WHOLE: results(0.90), "no pruning": results(0.99)}, ["accuracy"])[1]
    assert row["difference"]["accuracy"] == {"mean": pytest.approx(0.09), "half_width": None, "noise": True}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A real study of two policies on the tiny task."""
    data = study_of(3, budget={"iterations": 2, "epochs": 20.0}, constraints={"accuracy": ">= 0"})
    data["spaces"] = {"pruning": {"criterion": "gradient", "granularity": "weight"}, "reconnection": {"radius": 0}}
    study = Study.create(data, tmp_path_factory.mktemp("ablation"))
    study.run()
    return study


def test_every_variant_runs_with_every_seed_and_is_recorded_once(study: Study) -> None:
    seen: list[str] = []
    answer = study.ablate(seeds=2, watch=lambda over, of, what: seen.append(f"{over}/{of}"))
    rows = {row["label"]: row for row in answer["rows"]}
    assert seen == [f"{i}/{2 * len(rows)}" for i in range(1, 2 * len(rows) + 1)]
    assert all(row["seeds"] == [1, 2] and not row["failed"] for row in rows.values())
    assert rows["no pruning"]["scores"]["macs"]["mean"] >= rows[WHOLE]["scores"]["macs"]["mean"]
    assert rows["no reconnection"]["decisions"].keys() == {"pruning"}

    again: list[str] = []
    assert study.ablate(seeds=2, watch=lambda *_: again.append("")) == answer
    assert not again, "what has run is kept"

    client = MlflowClient(study.home.mlflow_uri)
    (experiment,) = (e for e in client.search_experiments() if e.name == "tiny")
    runs = client.search_runs([experiment.experiment_id], "tags.`trial.state` = 'ablation'")
    assert sorted(run.data.tags["ablation"] for run in runs) == sorted(rows)
    assert all("quality/accuracy" in run.data.metrics for run in runs)
    assert not list(study.folder.root.glob("checkpoints/*-seed-*")), "networks of variants are not kept"


def test_the_command_prints_a_row_per_variant(study: Study, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["ablate", study.name, "--home", str(study.home.root), "--seeds", "2", "-q"])
    printed = capsys.readouterr().out
    assert end.value.code == 0
    for label in ("as found", "no pruning", "pruning: random", "no reconnection", "reconnection: random"):
        assert re.search(rf"^\s*{label} +\d", printed, re.MULTILINE), label


def test_the_table_in_markdown_has_as_many_cells_in_every_row(study: Study) -> None:
    table = [line for line in markdown(study.ablate(seeds=2)).splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert len(table) == 2 + 6


def test_a_study_that_runs_is_not_ablated(study: Study) -> None:
    with driver_lock(study.folder), pytest.raises(StudyError, match="one driver"):
        study.ablate(seeds=1)


def test_bad_seeds_are_one_clear_line(study: Study) -> None:
    with pytest.raises(StudyError, match="seeds must be at least 1, but is 0"):
        study.ablate(seeds=0)


def test_nothing_is_left_in_the_home_but_results(study: Study) -> None:
    kept = sorted(path.name for path in Path(study.folder.ablation(study.best().number)).iterdir())  # type: ignore[union-attr]
    assert len(kept) == 12
    assert all(name.endswith(".json") for name in kept)
