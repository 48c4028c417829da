"""The record against a real MLflow on SQLite: what is written, that it is written once, and what a kill leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import mlflow
import pandas as pd
import pytest
import torch
from mlflow.tracking import MlflowClient
from torch import nn

from search.record import FrontMember, Record
from search.record.entries import metric_name, param_name
from search.record.store import Store
from search.surgery.granularity_layers import CodedLinear
from spaces import POLICIES
from spaces.profile import CompressionProfile, LayerOverride
from spaces.pruning import PruningPolicy
from tests.search.records import BASELINE, artefact, everything, opened, runs
from tests.search.results import result


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the whole session: creating its tables takes a second."""
    return tmp_path_factory.mktemp("record")


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """A study of its own for every test."""
    return str(request.node.name).replace("[", "-").replace("]", "")


@pytest.fixture
def record(home: Path, name: str) -> Record:
    made = opened(home, name)
    made.start(BASELINE, {"data.hash": "d1"}, "[study]\n")
    return made


def test_a_study_is_two_levels_deep(record: Record) -> None:
    record.write(result(0))
    found = runs(record)
    client = MlflowClient(record.uri)
    assert client.get_experiment(found["parent"].info.experiment_id).name == "digits"
    assert set(found) == {"parent", "baseline", "trial 0"}
    assert found["parent"].info.run_name == record.study
    assert "mlflow.parentRunId" not in found["parent"].data.tags
    assert artefact(found["parent"], "study.toml") == "[study]\n"


def test_every_child_logs_every_knob(record: Record) -> None:
    record.write(result(0, profile=CompressionProfile.of(PruningPolicy(sparsity=0.7))))
    record.write(result(1, profile=CompressionProfile()))
    record.write(result(2, state="failed", reason="NaN"))
    every = {f"{policy.name}.{knob}" for policy in POLICIES.values() for knob in policy.knobs()}
    found = runs(record)
    for child in ("baseline", "trial 0", "trial 1", "trial 2"):
        assert every <= set(found[child].data.params), child
    assert found["trial 0"].data.params["pruning.sparsity"] == "0.7"
    assert found["trial 0"].data.params["reconnection.mode"] == "off"
    assert found["trial 1"].data.params["pruning.sparsity"] == "0.0"
    assert found["trial 1"].data.params["pruning.rounds"] == "0"


def test_knobs_of_single_layers_line_up_too(home: Path, name: str) -> None:
    record = opened(home, name, knobs=("pruning.sparsity@conv*", "pruning.sparsity"))
    record.start(BASELINE, {}, "")
    override = LayerOverride("conv*", "pruning", {"sparsity": 0.25})
    record.write(result(0, profile=CompressionProfile.of(PruningPolicy(), layers=[override])))
    record.write(result(1))
    found = runs(record)
    assert found["trial 0"].data.params["pruning.sparsity at convall"] == "0.25"
    assert found["trial 1"].data.params["pruning.sparsity at convall"] == "0.0"


def test_curves_have_one_point_an_iteration_and_end_at_the_final_figure(record: Record) -> None:
    record.write(result(0))
    run = runs(record)["trial 0"]
    points = MlflowClient(record.uri).get_metric_history(run.info.run_id, "quality/accuracy")
    assert sorted((p.step, p.value) for p in points) == [(1, 0.4), (2, 0.9)]
    assert all(run.info.start_time <= p.timestamp <= run.info.end_time for p in points)
    assert run.info.end_time - run.info.start_time >= 2000


def test_final_figures_only_at_full_budget(record: Record) -> None:
    record.write(result(0))
    record.write(result(1, state="pruned"))
    record.write(result(2, state="failed", reason="loss is not finite"))
    found = runs(record)
    final = {name: value for name, value in found["trial 0"].data.metrics.items() if name.startswith("final/")}
    assert final == {"final/accuracy": 0.9, "final/plasticity": 0.2, "final/macs": 5e5, "final/seconds": 2.0}
    for child in ("trial 1", "trial 2"):
        assert not [metric for metric in found[child].data.metrics if metric.startswith("final/")]


def test_stopped_trials_end_finished_and_failed_ones_failed_with_their_reason(record: Record) -> None:
    record.write(result(1, state="pruned", reason="stopped at rung 2"))
    record.write(result(2, state="failed", reason="loss is not finite"))
    found = runs(record)
    assert found["trial 1"].info.status == "FINISHED"
    assert found["trial 1"].data.tags["trial.state"] == "pruned"
    assert found["trial 2"].info.status == "FAILED"
    assert found["trial 2"].data.tags["reason"] == "loss is not finite"


def test_tags_say_what_a_trial_was(record: Record) -> None:
    record.write(result(0, cached=7, violation=0.5), {"extra": "x"})
    tags = runs(record)["trial 0"].data.tags
    expected = {
        "study": record.study,
        "trial.number": "0",
        "trial.state": "complete",
        "feasible": "false",
        "pareto": "false",
        "budget": "1 epochs",
        "profile.hash": result(0).request.profile.fingerprint(),
        "data.hash": "d1",
        "cached": "true",
        "cached.from": "7",
        "extra": "x",
    }
    assert {key: tags.get(key) for key in expected} == expected
    assert tags["hardware"]
    assert "git.commit" in tags


def test_files_of_a_trial_are_read_back(record: Record) -> None:
    record.write(result(0))
    run = runs(record)["trial 0"]
    assert CompressionProfile.from_json(artefact(run, "profile.json")) == result(0).request.profile
    layers = pd.read_csv(Path(run.info.artifact_uri.removeprefix("file://")) / "layers.csv")
    assert layers["active"].tolist() == [42, 10]
    assert json.loads(artefact(run, "ledger.json"))["active_at_start"] == {"conv.weight": 80, "linear.weight": 20}


def test_the_baseline_stands_beside_the_trials(record: Record) -> None:
    metrics = runs(record)["baseline"].data.metrics
    assert metrics["quality/accuracy"] == metrics["final/accuracy"] == 0.97
    assert metrics["compute/macs"] == 1e6
    assert metrics["quality/f1"] == 0.95
    assert metrics["size/weights"] == 100.0


def test_writing_twice_changes_nothing(home: Path, record: Record) -> None:
    record.write(result(0))
    record.progress(1, {"hypervolume": 0.25, "feasible_share": 1.0}, front=[0])
    once = everything(record)
    record.write(result(0))
    again = opened(home, record.study)
    again.start(BASELINE, {"data.hash": "d1"}, "[study]\n")
    again.write(result(0))
    again.progress(1, {"hypervolume": 0.25, "feasible_share": 1.0}, front=[0])
    assert everything(again) == once
    assert again.recorded() == {0}


def test_new_constraints_judge_a_written_trial_anew(home: Path, record: Record) -> None:
    record.write(result(0))
    assert runs(record)["trial 0"].data.tags["feasible"] == "true"
    opened(home, record.study).write(result(0, violation=0.2))
    assert runs(record)["trial 0"].data.tags["feasible"] == "false"


def test_progress_follows_the_front(record: Record) -> None:
    for number in range(3):
        record.write(result(number))
    record.progress(2, {"hypervolume": 0.25}, front=[0, 1])
    record.progress(3, {"hypervolume": 0.5}, front=[1, 2])
    found = runs(record)
    assert [found[f"trial {n}"].data.tags["pareto"] for n in range(3)] == ["false", "true", "true"]
    points = MlflowClient(record.uri).get_metric_history(record.parent, "study/hypervolume")
    assert [(p.step, p.value) for p in points] == [(2, 0.25), (3, 0.5)]


KILLED = """
import os, signal, sys
from pathlib import Path
from search.record import Record
from search.record.store import Store
from tests.search.results import result
home, study, call = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
record = Record(f"sqlite:///{home / 'mlflow.db'}", task="digits", study=study, artifacts=home / "artifacts")
record.start({"accuracy": 0.97}, {}, "")
record.write(result(0))
setattr(Store, call, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
record.write(result(1))
"""


@pytest.mark.parametrize("call", ["log", "text", "end"])
def test_a_kill_while_a_trial_is_written_leaves_a_run_that_is_completed(home: Path, name: str, call: str) -> None:
    arguments = [sys.executable, "-c", KILLED, str(home), name, call]
    killed = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    record = opened(home, name)
    torn = runs(record)["trial 1"]
    assert torn.info.status == "RUNNING"
    assert record.recorded() == {0}
    assert record.reconcile() == {1}
    assert runs(record)["trial 1"].info.status == "FAILED"
    assert opened(home, name).recorded() == {0}
    record.start({"accuracy": 0.97}, {}, "")
    record.write(result(1))
    found = runs(record)
    assert found["trial 1"].info.run_id == torn.info.run_id
    assert (found["trial 1"].info.status, found["trial 1"].data.tags["trial.state"]) == ("FINISHED", "complete")
    points = MlflowClient(record.uri).get_metric_history(torn.info.run_id, "quality/accuracy")
    assert sorted((p.step, p.value) for p in points) == [(1, 0.4), (2, 0.9)]
    assert record.recorded() == {0, 1}
    assert record.reconcile() == set()


def test_two_studies_in_one_process_do_not_meet(home: Path, name: str) -> None:
    made = [opened(home, f"{name}-{suffix}") for suffix in "ab"]

    def work(record: Record) -> None:
        record.start(BASELINE, {}, "")
        for number in range(4):
            record.write(result(number))
        record.finish("complete", {})

    threads = [threading.Thread(target=work, args=(record,)) for record in made]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for record in made:
        found = runs(record)
        assert set(found) == {"parent", "baseline", *(f"trial {n}" for n in range(4))}
        assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert mlflow.active_run() is None


def test_the_champion_loads_without_pickle_for_any_batch(
    record: Record, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 3)).eval() for _ in range(5)]
    few_bits = CodedLinear(72, 3, False, ((4, 3),), "dynamic", "bf16")
    few_bits.hold(torch.randn(3, 72), None, None)
    networks[4][2] = few_bits
    inputs = (torch.randn(2, 1, 8, 8),)
    members = [FrontMember(n, n == 4, {"layers.html": "<p>"}, net, inputs) for n, net in enumerate(networks)]
    for number in range(5):
        record.write(result(number))
    record.finish("complete", {"trials.csv": "number\n0\n"}, members)
    record.finish("complete", {"trials.csv": "number\n0\n"}, members)
    found = runs(record)
    assert artefact(found["parent"], "trials.csv") == "number\n0\n"
    assert artefact(found["trial 1"], "layers.html") == "<p>"
    kept = [n for n in range(5) if (outputs := found[f"trial {n}"].outputs) and outputs.model_outputs]
    assert kept == [0, 1, 2, 4]
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    client = MlflowClient(record.uri)
    version = client.get_model_version_by_alias(f"digits-{record.study}", "champion")
    assert str(version.version) == "1"
    assert version.run_id == found["trial 4"].info.run_id
    loaded = mlflow.pytorch.load_model(version.source)
    batch = torch.randn(7, 1, 8, 8)
    torch.testing.assert_close(loaded(batch), networks[4](batch), rtol=1e-4, atol=1e-4)
    assert list(tmp_path.iterdir()) == [], "MLflow wrote into the working folder"


class Branching(nn.Module):
    """Torch cannot export it: which way it goes depends on the numbers."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if float(x.sum()) > 0 else -x


def test_a_network_that_cannot_be_exported_does_not_spoil_the_end(record: Record) -> None:
    record.write(result(0))
    record.finish("complete", {}, [FrontMember(0, True, {}, Branching().eval(), (torch.ones(2, 3),))])
    found = runs(record)
    assert found["trial 0"].data.tags["model"].startswith("torch.export must take the network, but does not")
    assert found["parent"].info.status == "FINISHED"


def test_names_fit_mlflows_alphabet(record: Record) -> None:
    assert param_name("pruning.sparsity@layer3.*") == "pruning.sparsity at layer3.all"
    assert param_name("pruning.sparsity@a[0]") == "pruning.sparsity at a-5b0-5d"
    assert metric_name("accuracy") == "quality/accuracy"
    assert metric_name("my_f1") == "quality/my_f1"


def test_a_long_trial_exceeds_one_batch(record: Record) -> None:
    store: Store = record.store
    run = store.create("many", {}, start=1000)
    points = [(f"m/{metric}", step, float(step), 1000 + step) for metric in range(30) for step in range(50)]
    store.log(run, points=points, params={f"p{n}": "1" for n in range(250)}, tags={f"t{n}": "1" for n in range(120)})
    data = store.client.get_run(run).data
    assert len(data.metrics) == 30
    assert len(data.params) == 250
    assert set(data.metrics.values()) == {49.0}
    assert os.environ["MLFLOW_DISABLE_TELEMETRY"] == "true"
