"""The command line as people and scripts meet it: answers, JSON and exit codes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from search.export import load
from search.study import Study
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy
from tests.search.shell import STUDY, Shell, home_with_a_study, shell_in, written

#: What scripts rely on; more may be added, nothing taken away.
KEYS = {"study", "state", "trials", "baseline", "best", "front", "home", "mlflow_uri", "seconds"}

home = pytest.fixture(scope="module")(home_with_a_study)
shell = pytest.fixture(shell_in)


def test_the_json_of_a_study_is_what_scripts_rely_on(shell: Shell) -> None:
    best = shell.json("best", "small")
    assert set(best) >= KEYS
    assert best["state"] == "complete"
    assert {"complete", "pruned", "failed", "cached"} <= set(best["trials"])
    assert best["trials"]["complete"] == 3
    assert set(best["best"]) == {"trial", "feasible", "scores", "profile"}
    assert set(best["best"]["scores"]) >= {"accuracy", "parameters"}
    assert CompressionProfile.from_dict(best["best"]["profile"])
    assert best["front"]
    assert set(best["front"][0]) == {"trial", "scores"}
    assert best["home"] == str(shell.home)
    assert shell.json("list") == [best]
    assert shell.json("watch", "small") == best


def test_running_the_same_file_again_runs_nothing_and_answers_the_same(shell: Shell, tmp_path: Path) -> None:
    before = shell.json("best", "small")
    again = shell.json("run", written(tmp_path), code=0)
    assert {k: v for k, v in again.items() if k != "seconds"} == {k: v for k, v in before.items() if k != "seconds"}


def test_resume_goes_on_to_more_trials(shell: Shell, tmp_path: Path) -> None:
    shell.home = tmp_path / "home"
    assert shell.json("run", written(tmp_path, STUDY.replace("trials = 3", "trials = 1")))["trials"]["complete"] == 1
    assert shell.json("resume", "small", "--trials", "2")["trials"]["complete"] == 2
    assert shell.json("resume", "small")["trials"]["complete"] == 2


def test_best_where_narrows_the_choice(shell: Shell) -> None:
    parameters = sorted(member["scores"]["parameters"] for member in shell.json("best", "small")["front"])
    narrow = shell.json("best", "small", "--where", f"parameters <= {parameters[0]}")
    assert narrow["best"]["scores"]["parameters"] == parameters[0]
    assert shell.json("best", "small", "--where", "parameters <= 1", code=1)["best"]["feasible"] is False


def test_tables_name_what_matters(shell: Shell) -> None:
    code, out, _ = shell("best", "small", "--home", shell.home)
    assert code == 0
    assert "3/3 trials" in out
    assert "granularity channel" in out
    code, out, _ = shell("list", "--home", shell.home)
    assert code == 0
    assert "small" in out
    assert "complete" in out


def test_an_empty_home_says_how_to_begin(shell: Shell, tmp_path: Path) -> None:
    code, out, _ = shell("list", "--home", tmp_path)
    assert code == 0
    assert "pleach demo" in out
    shell.home = tmp_path
    assert shell.json("list") == []


def test_a_study_that_cannot_be_read_does_not_hide_the_others(shell: Shell, tmp_path: Path) -> None:
    shutil.copytree(shell.home / "studies", tmp_path / "studies")
    shutil.copytree(tmp_path / "studies" / "small", tmp_path / "studies" / "torn")
    (tmp_path / "studies" / "torn" / "state.json").write_text("{")
    code, out, err = shell("list", "--home", tmp_path, "--json")
    assert code == 0
    assert [summary["study"] for summary in json.loads(out)] == ["small"]
    assert "torn" in err


def test_the_home_comes_from_the_environment(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLEACH_HOME", str(shell.home))
    code, out, _ = shell("list", "--json")
    assert code == 0
    assert [summary["study"] for summary in json.loads(out)] == ["small"]


def test_an_export_loads(shell: Shell, tmp_path: Path) -> None:
    answer = shell.json("export", "small", "--out", tmp_path / "out")
    assert set(answer["files"]) >= {"model.safetensors", "architecture.json", "profile.json", "manifest.json"}
    network = load(tmp_path / "out")
    trial = Study.load("small", shell.home).books().results[answer["trial"]]
    assert sum(p.numel() for p in network.parameters()) == trial.scores["parameters"]
    code, _, err = shell("export", "small", "--out", tmp_path / "out", "--home", shell.home)
    assert code == 2
    assert err.count("\n") == 1
    assert shell.json("export", "small", "--out", tmp_path / "out", "--trial", "1", "--force")["trial"] == 1


def test_compare_shows_what_differs(shell: Shell, tmp_path: Path) -> None:
    CompressionProfile.of(PruningPolicy(sparsity=0.25)).save(tmp_path / "mine.json")
    found = shell.json("compare", "small:0", "small:1", tmp_path / "mine.json")
    assert [item["name"] for item in found["items"]] == ["small:0", "small:1", "mine"]
    assert "pruning.sparsity" in found["different"]
    assert found["items"][2]["parameters"]["pruning.sparsity"] == 0.25
    same = shell.json("compare", "small:0", "small:0")
    assert same["different"] == same["knobs"] == []
    code, out, _ = shell("compare", "small:0", "small:0", "--all", "--home", shell.home)
    assert code == 0
    assert "pruning.granularity" in out


def test_check_tells_what_to_expect(shell: Shell, tmp_path: Path) -> None:
    found = shell.json("check", written(tmp_path))
    assert found["refusals"] == []
    assert found["corners"]["mildest"]["parameters"] > found["corners"]["harshest"]["parameters"]
    code, out, _ = shell("check", written(tmp_path), "--home", tmp_path)
    assert code == 0
    assert "The study can run." in out


def test_init_writes_a_file_that_can_be_checked(shell: Shell, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    options = ["--task", "tests.nets:Blobs", "--objective", "accuracy", "--objective", "macs"]
    options += ["--constraint", "macs <= 0.9 * baseline", "--policy", "pruning", "--trials", "2", "--epochs", "0.5"]
    assert shell("init", path, *options, "--yes")[0] == 0
    found = shell.json("check", path)
    assert found["study"] == "mine"
    assert [limit["text"] for limit in found["limits"]] == ["macs <= 0.9 * baseline"]
    code, _, err = shell("init", path, "--yes")
    assert code == 2
    assert "--force" in err


def test_doctor_says_that_this_machine_is_fit(shell: Shell) -> None:
    found = shell.json("doctor")
    verdicts = {check["what"]: check["verdict"] for check in found["checks"]}
    assert found["fit"]
    assert verdicts["torch"] == verdicts["home"] == "ok"


def test_stopping_what_does_not_run_is_refused(shell: Shell) -> None:
    code, _, err = shell("stop", "small", "--home", shell.home)
    assert code == 2
    assert "is not" in err
