"""Limits of a study's budget: a trial's numbers are held to them, after an interruption too, and again from the log."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from search.compress import compress
from search.finetune import steps_per_epoch
from search.resources import ResourceBudget, ResourceManager, replaying
from search.result import Budget, TrialRequest, TrialResult
from search.study_file import StudyFile
from search.trial import run_trial
from spaces import GranularityPolicy
from spaces.errors import StudyFileError
from spaces.profile import CompressionProfile
from tests.nets import Blobs
from tests.search.drive import study_of

TASK = Blobs()
PROFILE = CompressionProfile.of(GranularityPolicy(bits=12.0, levels="32-16-8-4", ends="free"))
LIMITS = ResourceBudget(bits=8)


def _request(limits: ResourceBudget | None) -> TrialRequest:
    return TrialRequest(0, "limited", PROFILE, 0, Budget(12 / steps_per_epoch(TASK), 3, limits=limits))


def _result(folder: Path, limits: ResourceBudget | None) -> TrialResult:
    *_, result = run_trial(_request(limits), TASK, ("accuracy",), {"weights": 1.0}, checkpoints=folder)
    assert isinstance(result, TrialResult)
    assert result.state == "complete", result.reason
    return result


def test_no_number_of_a_trial_is_finer_than_its_limit_and_the_log_says_what_was_lowered(tmp_path: Path) -> None:
    free, held = _result(tmp_path / "free", None), _result(tmp_path / "held", LIMITS)
    assert max(row["bits"] for row in free.layers if "bits" in row) > 8
    assert max(row["bits"] for row in held.layers if "bits" in row) <= 8
    log = json.loads((tmp_path / "held" / "resources.json").read_text(encoding="utf-8"))
    assert log["batches"] == 12
    assert len(log["overrides"]) == held.metrics["granularity/overrides"] > 0
    assert all(entry["given"] <= 8 < entry["wanted"] for entry in log["overrides"])
    assert not (tmp_path / "free" / "resources.json").exists()


def test_a_trial_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = _result(tmp_path / "whole", LIMITS)
    events = run_trial(_request(LIMITS), TASK, ("accuracy",), {"weights": 1.0}, checkpoints=tmp_path / "cut")
    assert len(list(itertools.islice(events, 2))) == 2
    again = _result(tmp_path / "cut", LIMITS)
    assert (again.scores, again.layers) == (whole.scores, whole.layers)
    assert json.loads((tmp_path / "cut" / "resources.json").read_text(encoding="utf-8"))["batches"] == 12


def test_a_run_is_repeated_from_its_log() -> None:
    epochs = 12 / steps_per_epoch(TASK)
    manager = ResourceManager(ResourceBudget(memory=1e-6))  # never enough: the coarsest levels, on any machine
    first = compress(TASK.network(), PROFILE, TASK, epochs=epochs, resources=manager)
    log = json.loads(json.dumps(manager.log()))
    again = compress(TASK.network(), PROFILE, TASK, epochs=epochs, resources=replaying(log))
    free = compress(TASK.network(), PROFILE, TASK, epochs=epochs)
    for (name, one), two in zip(first.network.state_dict().items(), again.network.state_dict().values(), strict=True):
        assert torch.equal(one, two), name
    assert first.scores["bops"] < free.scores["bops"]


def test_the_study_file_sets_them_and_they_travel() -> None:
    limits = {"memory": 0.8, "bits": 8}
    data = study_of(1, budget={"limits": limits}, spaces={"granularity": {}})
    budget = StudyFile.of(data).trial_budget
    assert budget.limits == ResourceBudget(memory=0.8, bits=8)
    request = TrialRequest(0, "limited", PROFILE, 0, budget)
    assert TrialRequest.from_dict(json.loads(json.dumps(request.to_dict()))) == request


@pytest.mark.parametrize(
    ("limits", "spaces", "said"),
    [
        ({"memory": 80}, {"granularity": {}}, "budget.limits.memory must be less than or equal to 1, but is 80"),
        ({"memory": 0}, {"granularity": {}}, "budget.limits.memory must be greater than 0"),
        ({"bits": 8.5}, {"granularity": {}}, "budget.limits.bits must be integer"),
        ({"ram": 0.5}, {"granularity": {}}, "there is no key 'ram'"),
        ({"memory": 0.8}, {"pruning": {}}, "[spaces] does not name granularity"),
    ],
)
def test_what_cannot_be_kept_is_said_in_one_line(limits: dict[str, Any], spaces: dict[str, Any], said: str) -> None:
    with pytest.raises(StudyFileError) as error:
        StudyFile.of(study_of(1, budget={"limits": limits}, spaces=spaces))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("limits", [3, {"ram": 1.0}, {"memory": "much"}, {"memory": 2.0}])
def test_a_request_with_other_limits_is_refused(limits: Any) -> None:
    written = _request(LIMITS).to_dict()
    written["budget"]["limits"] = limits
    with pytest.raises(ValueError, match=r"limits|memory"):
        TrialRequest.from_dict(written)
