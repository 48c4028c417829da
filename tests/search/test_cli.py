"""The command line as people and scripts meet it: answers, JSON, exit codes, and one line for every mistake."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file
from torch import zeros

from search.cli import main
from search.console import stdout_kept_for_json
from search.export import load
from search.study import Study
from spaces.profile import CompressionProfile
from spaces.pruning import PruningPolicy

STUDY = """
[study]
name = "small"
trials = 3
[task]
target = "tests.nets:Blobs"
args = {kind = "mlp"}
[objectives]
accuracy = "maximize"
parameters = "minimize"
[constraints]
accuracy = ">= 0.2 * baseline"
[budget]
epochs = 1
iterations = 2
[resources]
runner = "inline"
[spaces.pruning]
granularity = "channel"
criterion = "magnitude"
schedule = "oneshot"
sparsity = {low = 0.2, high = 0.6}
"""

#: What scripts rely on; more may be added, nothing taken away.
KEYS = {"study", "state", "trials", "baseline", "best", "front", "home", "mlflow_uri", "seconds"}


class Shell:
    """Calls the command line in this process."""

    def __init__(self, capfd: pytest.CaptureFixture[str], home: Path) -> None:
        self._capfd, self.home = capfd, home

    def __call__(self, *arguments: str | Path) -> tuple[int, str, str]:
        """Exit code, standard output, standard error."""
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        said = self._capfd.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    def json(self, *arguments: str | Path, code: int = 0) -> Any:
        """The one JSON value on standard output."""
        ended, out, err = self(*arguments, "--home", self.home, "--json")
        assert ended == code, err
        assert out.count("\n") == 1
        return json.loads(out)


def written(folder: Path, text: str = STUDY) -> Path:
    path = folder / "study.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one study that has run."""
    folder = tmp_path_factory.mktemp("cli")
    before = os.environ.get("PLEACH_HOME")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(written(folder)), "--home", str(folder / "home"), "--quiet"])
    if before is None:
        os.environ.pop("PLEACH_HOME", None)
    assert not ended.value.code
    return folder / "home"


@pytest.fixture
def shell(capfd: pytest.CaptureFixture[str], home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    monkeypatch.setenv("PLEACH_HOME", str(tmp_path / "default-home"))  # and put back what a verb sets
    monkeypatch.setenv("COLUMNS", "100")
    return Shell(capfd, home)


# -- answers --------------------------------------------------------------------------------------------------------


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


# -- mistakes -------------------------------------------------------------------------------------------------------


def swapped(old: str, new: str) -> Callable[[Path], list[str]]:
    """Run the study with one thing wrong."""

    def arguments(folder: Path) -> list[str]:
        assert old in STUDY
        return ["run", str(written(folder, STUDY.replace(old, new)))]

    return arguments


def of_file(content: str) -> Callable[[Path], list[str]]:
    """Run the study of a task in a file."""

    def arguments(folder: Path) -> list[str]:
        (folder / "mine.py").write_text(content, encoding="utf-8")
        text = STUDY.replace('"tests.nets:Blobs"', '"mine.py:Mine"').replace('args = {kind = "mlp"}', "")
        return ["run", str(written(folder, text))]

    return arguments


def home_under_a_file(folder: Path) -> list[str]:
    (folder / "file").write_text("")
    return ["run", str(written(folder)), "--home", str(folder / "file" / "home")]


def profile_that_is_none(folder: Path) -> list[str]:
    (folder / "p.json").write_text("{}")
    return ["compare", str(folder / "p.json"), str(folder / "p.json")]


NO_LAYERS = """
from tests.nets import Blobs
from torch import nn
class Mine(Blobs):
    def network(self):
        return nn.Flatten()
"""
WRONG_WEIGHTS = """
from pathlib import Path
from safetensors.torch import load_file
from tests.nets import Blobs
class Mine(Blobs):
    def network(self):
        network = super().network()
        network.load_state_dict(load_file(Path("{folder}") / "w.safetensors"))
        return network
"""


def weights_that_do_not_fit(folder: Path) -> list[str]:
    save_file({"0.weight": zeros(3, 3)}, folder / "w.safetensors")
    return of_file(WRONG_WEIGHTS.replace("{folder}", str(folder)))(folder)


MISTAKES: dict[str, tuple[Callable[[Path], list[str]], str]] = {
    "no such file": (lambda folder: ["run", str(folder / "none.toml")], "there is no study file"),
    "broken TOML": (lambda folder: ["check", str(written(folder, "[study\n"))], "no valid TOML"),
    "unknown key": (swapped("trials = 3", "trails = 3"), "did you mean 'trials'"),
    "unknown policy": (swapped("[spaces.pruning]", "[spaces.prunning]"), "did you mean 'pruning'"),
    "unknown knob": (swapped("criterion =", "criterium ="), "did you mean 'criterion'"),
    "range upside down": (swapped("low = 0.2, high = 0.6", "low = 0.6, high = 0.2"), "swap them"),
    "objective without direction": (swapped('parameters = "minimize"', 'parameters = ""'), "minimize"),
    "unknown objective": (swapped('parameters = "minimize"', 'parametres = "minimize"'), "did you mean 'parameters'"),
    "broken constraint": (swapped(">= 0.2 * baseline", "=> 0.2"), "a criterion is made of"),
    "impossible constraint": (
        swapped('accuracy = ">= 0.2 * baseline"', 'parameters = "<= 0.001 * baseline"'),
        "relax it, or widen the space",
    ),
    "budget in which a policy hardly acts": (
        swapped(
            'schedule = "oneshot"',
            'schedule = "gradual"\ninterval = 0.3\nlast_prune = {low = 0.0, high = 0.5}',
        ),
        "pruning must act at least",
    ),
    "no such module": (swapped("tests.nets:Blobs", "tests.no_nets:Blobs"), "there is no module tests.no_nets"),
    "no such class": (swapped("tests.nets:Blobs", "tests.nets:Blob"), "did you mean 'Blobs'"),
    "unknown argument": (swapped('kind = "mlp"', "sort = 1"), "takes no argument 'sort'"),
    "task that does not import": (of_file("import no_such_thing\n"), "no_such_thing"),
    "network without maskable layers": (of_file(NO_LAYERS), "there is nothing to compress"),
    "weights that do not fit": (weights_that_do_not_fit, "network"),
    "home that cannot be written": (home_under_a_file, "--home"),
    "no such study": (lambda folder: ["best", "smal"], "there is no study 'smal'"),
    "no such trial": (lambda folder: ["export", "small", "--out", str(folder / "o"), "--trial", "99"], "trial 99"),
    "where that does not parse": (lambda folder: ["best", "small", "--where", "macs <= and"], "expected a number"),
    "where of an unknown score": (lambda folder: ["best", "small", "--where", "flops <= 0.5 * baseline"], "flops"),
    "profile that is none": (profile_that_is_none, "schema"),
    "one to compare": (lambda folder: ["compare", "small"], "at least two"),
    "unknown option": (lambda folder: ["list", "--bogus"], "bogus"),
    "unknown verb": (lambda folder: ["lisst"], "lisst"),
    "study of another task": (
        swapped('args = {kind = "mlp"}', 'args = {kind = "cnn"}'),
        "task.args.kind must stay as in the first run of 'small'",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_every_mistake_is_one_line_and_exit_code_2(shell: Shell, tmp_path: Path, mistake: str) -> None:
    arguments, expected = MISTAKES[mistake]
    given = arguments(tmp_path)
    uses_the_study = mistake in ("no such study", "no such trial", "study of another task") or "where" in mistake
    if "--home" not in given and given[0] != "lisst" and "--bogus" not in given:
        given += ["--home", str(shell.home if uses_the_study else tmp_path / "home")]
    code, out, err = shell(*given, *(["--quiet"] if given[0] == "run" else []))
    assert (code, out) == (2, ""), err
    assert expected in err
    if mistake not in ("unknown option", "unknown verb"):  # typer frames those
        assert err.startswith("pleach: ")
        assert err.count("\n") == 1
    assert "Traceback" not in err


def test_a_bug_of_ours_is_not_blamed_on_the_user(shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError("no such luck")

    monkeypatch.setattr(Study, "summary", broken)
    code, _, err = shell("best", "small", "--home", shell.home)
    assert code == 70
    assert "bug in pleach (ZeroDivisionError: no such luck)" in err
    assert "no such luck" in (shell.home / "log.txt").read_text(encoding="utf-8")
    (shell.home / "log.txt").unlink()


# -- in a process of its own ----------------------------------------------------------------------------------------


def process(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "search.cli", *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def test_help_is_instant() -> None:
    began = time.monotonic()
    done = process("--help")
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0
    assert "demo" in out
    assert time.monotonic() - began < 5, "a second on an idle machine"
    code = "import sys, search.cli; print(sorted({'torch', 'ray', 'mlflow', 'optuna', 'pandas'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


def test_ctrl_c_keeps_everything_and_ends_with_130(tmp_path: Path) -> None:
    text = STUDY.replace("trials = 3", "trials = 400")
    running = process("run", written(tmp_path, text), "--home", tmp_path / "home", "--json", "--no-check")
    results = tmp_path / "home" / "studies" / "small" / "results"
    deadline = time.monotonic() + 120
    while len(list(results.glob("*.json"))) < 2 and time.monotonic() < deadline and running.poll() is None:
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=120)
    assert running.returncode == 130, err
    summary = json.loads(out)
    assert summary["state"] == "stopped"
    assert 2 <= summary["trials"]["complete"] == len(list(results.glob("*.json"))) < 400
    assert summary["best"] is not None


def test_stop_ends_a_run_in_another_process(shell: Shell, tmp_path: Path) -> None:
    text = STUDY.replace("trials = 3", "trials = 400")
    home = tmp_path / "home"
    running = process("run", written(tmp_path, text), "--home", home, "--json", "--no-check")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and running.poll() is None and shell("stop", "small", "--home", home)[0]:
        time.sleep(0.05)
    out, err = running.communicate(timeout=120)
    assert json.loads(out)["state"] == "stopped", err
    assert running.returncode in (0, 1)


def test_whatever_a_library_prints_does_not_reach_the_json(capfd: pytest.CaptureFixture[str]) -> None:
    with stdout_kept_for_json():
        print("from Python")
        os.write(1, b"from C\n")
        subprocess.run(["echo", "from a child"], check=True)
    print("the answer")
    said = capfd.readouterr()
    assert said.out == "the answer\n"
    assert "from Python" in said.err
    assert "from C" in said.err
    assert "from a child" in said.err
