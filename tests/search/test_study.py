"""A study from its file to its answer, with the real trial and the real record: what a user and a script rely on."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient

from objectives.pareto import front
from search.export import load
from search.study import Study
from spaces.errors import CriterionError, StudyError
from spaces.profile import CompressionProfile
from tests.search.drive import study_of
from tests.search.quick import TinyTask


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A study of the real trial on the tiny task, run once for all tests that only read it."""
    home = tmp_path_factory.mktemp("real")
    spaces = {
        "pruning": {"sparsity": {"low": 0.1, "high": 0.9}, "granularity": "weight"},
        "reconnection": {"radius": 0},
    }
    data = study_of(6, budget={"iterations": 2, "epochs": 4.0}, constraints={"accuracy": ">= 0"}) | {"spaces": spaces}
    study = Study.create(data, home)
    study.run()
    return study


def test_the_summary_has_the_promised_shape(real: Study) -> None:
    summary = real.summary()
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    promised = ("study", "state", "trials", "baseline", "best", "front", "home", "mlflow_uri", "seconds")
    assert list(summary) == [name for name in summary if name in promised or name not in promised]
    assert set(promised) <= set(summary)
    assert (summary["study"], summary["state"], summary["home"]) == ("kept", "complete", str(real.home.root))
    trials = summary["trials"]
    assert trials["complete"] + trials["pruned"] + trials["failed"] == 6
    assert trials["cached"] + trials["evaluated"] == trials["complete"]
    assert trials["interrupted"] == 0
    assert {"accuracy", "macs", "plasticity"} <= set(summary["baseline"])
    assert set(summary["best"]) == {"trial", "feasible", "scores", "profile"}
    assert summary["best"]["feasible"] is True
    assert all(set(member) == {"trial", "scores"} for member in summary["front"])
    assert summary["best"]["trial"] in [member["trial"] for member in summary["front"]]
    assert summary["mlflow_uri"] == f"sqlite:///{real.home.root}/mlflow.db"
    assert summary["seconds"] > 0
    profile = CompressionProfile.from_dict(summary["best"]["profile"])
    assert profile == real.books().results[summary["best"]["trial"]].request.profile


def test_the_front_is_the_front_of_the_trials_table(real: Study) -> None:
    table = real.trials()
    assert list(table["number"]) == list(range(6))
    complete = table[(table["state"] == "complete") & table["cached"].isna()]
    rows = [{name: float(complete[name].iloc[i]) for name in ("accuracy", "macs")} for i in range(len(complete))]
    expected = [int(complete["number"].iloc[i]) for i in front(rows, real.file.directions)]
    assert [member.number for member in real.front()] == expected
    assert sorted(table[table["front"]]["number"]) == expected
    assert "pruning.sparsity" in table.columns
    assert "violation.accuracy" in table.columns


def test_a_condition_narrows_the_best(real: Study) -> None:
    least = min(real.books().complete(), key=lambda result: result.scores["macs"])
    best = real.best(where=f"macs <= {least.scores['macs']}")
    assert best is not None
    assert best.scores["macs"] == least.scores["macs"]
    assert real.summary(where="macs <= 0.0")["best"]["feasible"] is False
    with pytest.raises(CriterionError):
        real.best(where="macs < 3")


def test_everything_is_in_mlflow_once_with_the_networks_of_the_front(real: Study) -> None:
    client = MlflowClient(real.summary()["mlflow_uri"])
    (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
    assert experiment.name == "tiny"
    runs = client.search_runs([experiment.experiment_id])
    numbers = [int(run.data.tags["trial.number"]) for run in runs if "trial.number" in run.data.tags]
    assert sorted(numbers) == list(range(6))
    (parent,) = [run for run in runs if run.data.tags.get("pleach.role") == "study"]
    assert parent.data.tags["study.state"] == "complete"
    curve = client.get_metric_history(parent.info.run_id, "study/hypervolume")
    assert [point.step for point in curve] == [1, 2, 3, 4, 5, 6]
    assert curve[-1].value == pytest.approx(real.summary()["hypervolume"])
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    assert {"study.toml", "trials.csv", "search_policy.json"} <= files
    champion = client.get_model_version_by_alias("tiny-kept", "champion")
    assert int(champion.version) == 1


def test_the_best_is_exported_and_computes_what_was_scored(real: Study, tmp_path: Path) -> None:
    best = real.best()
    assert best is not None
    folder = real.export(tmp_path / "out")
    network, task = load(folder), TinyTask()
    with torch.no_grad():
        scores = [task.score(network(x), y) for x, y in task.batches("validation", shuffle_seed=None)]
    assert float(torch.cat(scores).mean()) == pytest.approx(best.scores["accuracy"])
    with pytest.raises(StudyError, match="not decided"):
        real.export(tmp_path / "other", trial=99)


def test_the_policy_is_learnt_from_the_complete_trials(real: Study) -> None:
    policy, best = real.policy(), real.best()
    assert best is not None
    assert policy.trials == real.summary()["trials"]["evaluated"]
    assert set(policy.knobs) == set(real.file.space.distributions())
    places = real.books().places()
    assert policy.best[0] == real.books().results[min(places, key=lambda number: places[number])].request.profile


@pytest.mark.parametrize("runner", ["inline", pytest.param("tune", marks=pytest.mark.slow)])
def test_nothing_but_the_home_is_written(tmp_path: Path, runner: str) -> None:
    """With the temporary folder, the user's own and the working one watched."""
    for name in ("user", "temporary", "here", "home"):
        (tmp_path / name).mkdir()
    (tmp_path / "study.json").write_text(json.dumps(study_of(2, runner=runner)))
    code = (
        "import json, sys; from search.study import Study; from tests.search.quick import quick_trial\n"
        "Study.create(json.load(open(sys.argv[1])), sys.argv[2]).run(trial=quick_trial)\n"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "study.json"), str(tmp_path / "home")],
        check=True,
        cwd=tmp_path / "here",
        env={
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path / "user"),
            "TMPDIR": str(tmp_path / "temporary"),
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
    )
    for name in ("user", "temporary", "here"):
        assert [str(path) for path in (tmp_path / name).rglob("*") if path.is_file()] == []
        assert not list((tmp_path / name).glob("pleach*"))
    assert {path.name for path in (tmp_path / "home").iterdir()} <= {
        "artifacts",
        "mlflow.db",
        "optuna.journal",
        "ray",
        "studies",
    }
