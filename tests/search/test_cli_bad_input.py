"""Mistakes on the command line: one line that names the remedy and exit code 2, which no bug of ours comes out as."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file
from torch import zeros

from search.study import Study
from tests.search.shell import STUDY, Shell, home_with_a_study, shell_in, written

home = pytest.fixture(scope="module")(home_with_a_study)
shell = pytest.fixture(shell_in)


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
