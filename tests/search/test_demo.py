"""`pleach demo`, as a newcomer runs it: a real study, whose figures another process finds again in the export."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from search.study import Study

#: Half of what a newcomer's command runs: every step of it is the same.
TRIALS = 12
RECOMPUTE = """
import json, sys
import torch
from objectives.accuracy import mean_score
from objectives.cost import count_macs
from objectives.tasks.digits import Digits
from search.export import load
torch.set_num_threads(1)
task, network = Digits(cache_dir=sys.argv[2]), load(sys.argv[1])
macs = sum(count_macs(network, task.example_inputs()).values())
print(json.dumps({"accuracy": mean_score(network, task, "validation", "cpu"), "macs": macs}))
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """The demonstration's answer."""
    home = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "search.cli", "demo", "--home", str(home), "--trials", str(TRIALS), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False, cwd=home)
    assert done.returncode == 0, done.stderr
    assert f"[{TRIALS}/{TRIALS}]" in done.stderr
    made = {path.name for path in home.iterdir() if not path.name.startswith("optuna.journal")}
    # Ray's folder is elsewhere where this one's path is too long for a socket's.
    assert made - {"ray"} == {"artifacts", "cache", "demo-export", "mlflow.db", "studies"}
    answer: Mapping[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.slow
def test_the_demonstration_is_a_real_study(demo: Mapping[str, Any]) -> None:
    assert demo["state"] == "complete"
    assert demo["trials"]["evaluated"] == TRIALS
    assert demo["best"]["feasible"]
    assert len({tuple(member["scores"].values()) for member in demo["front"]}) >= 3
    results = Study.load("demo", demo["home"]).books().results.values()
    rewoven = [result for result in results if result.ledger.created() > 0 and result.ledger.pruned() > 0]
    assert len(rewoven) >= TRIALS // 2


@pytest.mark.slow
def test_another_process_finds_the_same_scores_in_the_export(demo: Mapping[str, Any]) -> None:
    arguments = [demo["export"], str(Path(demo["home"]) / "cache")]
    done = subprocess.run(
        [sys.executable, "-c", RECOMPUTE, *arguments], capture_output=True, text=True, timeout=120, check=True
    )
    found = json.loads(done.stdout)
    assert found["macs"] == demo["best"]["scores"]["macs"]
    assert found["accuracy"] == pytest.approx(demo["best"]["scores"]["accuracy"], abs=1e-6)


@pytest.mark.slow
def test_mlflow_holds_every_trial_and_the_best_networks(demo: Mapping[str, Any]) -> None:
    client = MlflowClient(demo["mlflow_uri"])
    experiment = client.get_experiment_by_name("digits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], "tags.study = 'demo'", max_results=100)
    assert sorted(run.info.run_name for run in runs) == sorted(
        ["demo", "baseline", *(f"trial {n}" for n in range(TRIALS))]
    )
    assert {run.info.status for run in runs} == {"FINISHED"}
    on_front = {int(run.data.tags["trial.number"]) for run in runs if run.data.tags.get("pareto") == "true"}
    assert on_front == {member["trial"] for member in demo["front"]}
    kept = [run for run in runs if run.outputs and run.outputs.model_outputs]
    assert 1 <= len(kept) <= 4
    champion = client.get_model_version_by_alias("digits-demo", "champion")
    best = next(run for run in runs if run.data.tags.get("trial.number") == str(demo["best"]["trial"]))
    assert champion.run_id == best.info.run_id
    parent = next(run for run in runs if run.info.run_name == "demo")
    files = {file.path for file in client.list_artifacts(parent.info.run_id)}
    figures = {"front.html", "importances.html", "layers.html"}
    assert {"study.toml", "trials.csv", "search_policy.json", *figures} <= files
    assert "layers.html" in {file.path for file in client.list_artifacts(best.info.run_id)}
