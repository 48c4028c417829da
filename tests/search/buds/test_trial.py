"""A trial of buds from a parent to a system on disk, whole, cut off and taken up again."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from objectives.cost import count_macs
from search.buds.bundle import read_bundle
from search.buds.trial import FOLDER, BudTrial, run_bud_trial
from search.checkpoint import clear
from search.result import Report, TrialResult
from search.study_file import StudyFile
from spaces.errors import ExportError, StudyFileError
from spaces.finetuning import FinetuningPolicy
from spaces.profile import CompressionProfile
from tests.search.buds.nets import Quarters, request
from tests.search.drive import study_of

MEASURES = ("accuracy", "macs", "parameters")


def run(folder: Path | None = None, **knobs: Any) -> tuple[list[Report], TrialResult]:
    *reports, result = run_bud_trial(request(**knobs), Quarters(), MEASURES, {}, checkpoints=folder)
    assert isinstance(result, TrialResult)
    return [report for report in reports if isinstance(report, Report)], result


def test_a_trial_leaves_the_system_that_it_scored(tmp_path: Path) -> None:
    reports, result = run(tmp_path)
    assert result.state == "complete", result.reason
    assert [report.iteration for report in reports] == [1, 2, 3]
    assert [row["layer"] for row in result.layers] == ["bud 0", "bud 1"]
    bundle = read_bundle(tmp_path / FOLDER)
    right = [
        Quarters().score(bundle.system.answer(x).outputs, y)
        for x, y in Quarters().batches("validation", shuffle_seed=None)
    ]
    assert float(torch.cat(right).mean()) == pytest.approx(result.scores["accuracy"])
    assert result.ledger.pruned() > 0
    assert result.metrics["budding/asked"] <= 1
    # A second reading gives the same network, number by number.
    again, x = read_bundle(tmp_path / FOLDER), Quarters().example_inputs()[0]
    assert torch.equal(again.system.answer(x).outputs, bundle.system.answer(x).outputs)
    assert again.identity == bundle.identity == bundle.buds[0].parent
    clear(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [FOLDER]


def test_without_training_and_with_all_channels_the_system_is_its_parent() -> None:
    _, result = run(keep=1.0, pruning=0.0, epochs=1e-9, assurance=0.0, confidence=0.0)
    task = Quarters()
    accuracy = [task.score(task.network()(x), y) for x, y in task.batches("validation", shuffle_seed=None)]
    # One step of the plasticity layers, whose `up` was 0, moves no answer over an edge.
    assert result.scores["accuracy"] == pytest.approx(float(torch.cat(accuracy).mean()), abs=0.02)
    assert result.scores["macs"] > sum(count_macs(task.network(), task.example_inputs()).values())


def test_a_trial_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    _, whole = run(tmp_path / "whole")
    events = run_bud_trial(request(), Quarters(), MEASURES, {}, checkpoints=tmp_path / "cut")
    next(events)
    events.close()  # type: ignore[attr-defined]
    reports, resumed = run(tmp_path / "cut")
    assert len(reports) == 3
    assert resumed.scores == whole.scores
    assert [report.scores for report in reports] == [report.scores for report in whole.reports]
    names = [Path("buds/0/model.safetensors"), Path("router/router.safetensors")]
    for name in names:
        assert (tmp_path / "whole" / FOLDER / name).read_bytes() == (tmp_path / "cut" / FOLDER / name).read_bytes()


def test_a_bud_answers_with_the_statistics_that_it_has_learnt_with() -> None:
    """Its batches hold samples of others: statistics of its own ones alone would be those of another network."""
    asked = request(epochs=15.0, stem=0.0, keep=1.0, pruning=0.0, plastic=0.0, outside=0.4, matching=0.0)
    still = CompressionProfile.of(*asked.profile.policies.values(), FinetuningPolicy(learning_rate=1e-6))
    trial = BudTrial(replace(asked, profile=still), Quarters(), MEASURES)
    list(trial.iterations())
    learnt = [growth.network.get_buffer("norm.running_mean").clone() for growth in trial.growing.growths]
    apart = float((learnt[0] - learnt[1]).norm())
    system = trial.system([copy.deepcopy(growth.network) for growth in trial.growing.growths])
    for index, bud in system.buds.items():
        used = bud.get_buffer("norm.running_mean")
        assert float((used - learnt[index]).norm()) < 0.1 * apart


@pytest.mark.parametrize(("slope", "kept"), [(1.0, (1, 8)), (-1.0, (6, 1))])
def test_a_trial_cuts_as_steeply_as_it_is_told(slope: float, kept: tuple[int, int]) -> None:
    trial = BudTrial(request(stem=0.0, keep=0.5, slope=slope), Quarters(), MEASURES)
    for growth in trial.growing.growths:
        inner = growth.network.get_parameter("inner.weight")
        assert (inner.shape[1], inner.shape[0]) == kept
        assert [block.parent for block in growth.held] == ["relu", "mean"]


@pytest.mark.parametrize(
    "knobs", [{"matching": 0.0}, {"clusters": "hdbscan"}, {"router": "centroid"}, {"subtasks": 4, "diverse": True}]
)
def test_every_way_of_budding_comes_to_its_end(knobs: dict[str, Any]) -> None:
    _, result = run(**knobs)
    assert result.state == "complete", result.reason
    assert result.scores["accuracy"] > 0.5


def test_a_measure_that_buds_have_not_fails_with_the_nearest() -> None:
    *_, result = run_bud_trial(request(), Quarters(), ("acuracy",), {})
    assert isinstance(result, TrialResult)
    assert (result.state, "did you mean 'accuracy'" in result.reason) == ("failed", True)


def test_what_was_changed_on_disk_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    system = tmp_path / FOLDER
    file = system / "buds" / "0" / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))
    with pytest.raises(ExportError, match="is not what was exported"):
        read_bundle(system)


def test_a_bud_of_another_parent_is_refused(tmp_path: Path) -> None:
    run(tmp_path / "a")
    run(tmp_path / "b", router="centroid")
    place = Path(FOLDER) / "buds" / "0"
    shutil.rmtree(tmp_path / "a" / place)
    shutil.copytree(tmp_path / "b" / place, tmp_path / "a" / place)
    with pytest.raises(ExportError, match="grown from the parent beside it"):
        read_bundle(tmp_path / "a" / FOLDER)
    assert json.loads((tmp_path / "b" / place / "bud.json").read_text())["subtask"] == 0


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"spaces": {"budding": {}}}, "searches budding and finetuning alone, but .* names pruning"),
        ({"spaces": {"budding": {"optional": True}, "pruning": None}}, "cannot be optional"),
        (
            {"spaces": {"budding": {}, "pruning": None}, "objectives": {"plasticity": "maximize"}},
            "cannot measure plasticity",
        ),
    ],
)
def test_a_study_file_that_buds_cannot_meet_is_refused(tables: dict[str, Any], said: str) -> None:
    data = study_of(**tables)
    data["spaces"] = {name: table for name, table in data["spaces"].items() if table is not None}
    with pytest.raises(StudyFileError, match=said):
        StudyFile.of(data)
