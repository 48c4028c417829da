"""Who may import whom: `spaces <- objectives <- dashboards <- search`, and one home for each heavy tool."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from search.installation import ROOT

#: Each package, and what it may import of ours: itself and what stands to its left.
ORDER = ("spaces", "objectives", "dashboards", "search")

#: Where a tool may be imported: files, or folders that end with a slash. `optuna` is the whole of Optuna but for its
#: distributions and the importances' plain data, which `spaces` is made of.
HOMES = {
    "optuna": ("search/searcher.py", "search/samplers.py", "search/optuna_storage.py", "search/shared_searcher.py"),
    "ray": ("search/runners/", "search/buds/replicas.py"),
    "mlflow": ("search/record.py", "search/record/"),
    "plotly": ("dashboards/",),
    "typer": ("search/cli.py", "search/verbs/"),
    "torch": ("objectives/", "search/"),
}
#: What may be imported anywhere all the same.
FREE = ("optuna.distributions",)

#: Imports inside of a function, each with the reason why it cannot stand at the top.
INSIDE: dict[tuple[str, str], str] = {
    **{
        (f"search/verbs/{file}.py", "search"): "`pleach --help` must not wait for torch, Ray and MLflow"
        for file in ("studies", "results", "places", "shared", "buds", "devices", "service")
    },
    ("search/verbs/studies.py", "spaces.errors"): "a verb loads what it needs",
    ("search/cli.py", "spaces.errors"): "imported once the installation is checked",
    ("search/cli.py", "importlib.metadata"): "only `--version` needs it",
    ("search/runners/choice.py", "search.runners"): "Ray reads its settings when it is imported",
    ("search/commands/submit.py", "search.runners.jobs"): "Ray reads its settings when it is imported",
    ("search/service/processes.py", "search.runners"): "Ray reads its settings when it is imported",
    ("search/commands/buds.py", "search.buds.replicas"): "Ray reads its settings when it is imported",
    ("search/record/runs.py", "search.record.store"): "MLflow takes seconds to import, which happens in the background",
    ("search/record/runs.py", "search.record.models"): "it imports MLflow",
    ("search/commands/dashboard.py", "search.record.links"): "it imports MLflow, and few links are followed",
    ("search/ablation.py", "scipy.stats"): "half a second to import, for whoever looks at a study",
    ("search/searcher.py", "optuna.importance"): "it imports scikit-learn, and a run needs it once, at its end",
    ("search/working.py", "search.buds.trial"): "it imports scikit-learn, and few studies are of buds",
}


@dataclass(frozen=True)
class Import:
    """One import statement's module, where it stands, and whether it stands inside of a function."""

    file: str
    line: int
    module: str
    level: int
    inside: bool


def imports(file: str, text: str) -> Iterator[Import]:
    """All imports of a file, ``from a import b`` as ``a.b`` so that a submodule cannot hide."""
    tree = ast.parse(text)
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        for node in ast.walk(function)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(file, node.lineno, alias.name, 0, id(node) in inside)
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield Import(file, node.lineno, f"{node.module or ''}.{alias.name}", node.level, id(node) in inside)


def begins(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(f"{prefix}.")


def faults(found: Import) -> Iterator[str]:
    """What is wrong with an import, in words."""
    package, top = found.file.partition("/")[0], found.module.partition(".")[0]
    if found.level:
        yield "is relative: write the full name"
    if top in ORDER and package in ORDER and ORDER.index(top) > ORDER.index(package):
        yield f"points to the right: {' <- '.join(ORDER)}"
    if top == "tests" and package in ORDER:
        yield "points to the tests"
    homes = HOMES.get(top)
    at_home = homes is None or any(
        found.file == home or (home[-1] == "/" and found.file.startswith(home)) for home in homes
    )
    if not at_home and not any(begins(found.module, free) for free in FREE):
        yield f"is away from its home: {' or '.join(homes or ())}"
    if found.inside and not any(found.file == file and begins(found.module, name) for file, name in INSIDE):
        yield "stands inside of a function: put it at the top"


def report(file: str, text: str) -> list[str]:
    return [f"{file}:{i.line} {i.module} {fault}" for i in imports(file, text) for fault in faults(i)]


FILES = sorted(file.relative_to(ROOT).as_posix() for package in ORDER for file in (ROOT / package).rglob("*.py"))


def test_the_files_are_found() -> None:
    assert {"spaces/profile.py", "objectives/task.py", "search/result.py", "search/surgery/mechanism.py"} <= set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_imports_point_to_the_left_and_tools_stay_at_home(file: str) -> None:
    assert report(file, (ROOT / file).read_text(encoding="utf-8")) == []


def test_every_exception_is_in_use() -> None:
    found = [i for file in FILES for i in imports(file, (ROOT / file).read_text(encoding="utf-8")) if i.inside]
    for file, name in INSIDE:
        assert any(i.file == file and begins(i.module, name) for i in found), f"{file} no longer imports {name} inside"


@pytest.mark.parametrize(
    ("file", "text", "fault"),
    [
        ("spaces/a.py", "import torch", "torch is away from its home: objectives/ or search/"),
        ("spaces/a.py", "from torch import nn", "torch.nn is away from its home"),
        ("dashboards/a.py", "import torch.nn.functional as F", "torch.nn.functional is away from its home"),
        ("spaces/a.py", "from objectives.task import Task", "points to the right"),
        ("objectives/a.py", "import search", "points to the right"),
        ("objectives/tasks/a.py", "from search.result import Report", "points to the right"),
        ("dashboards/a.py", "if True:\n    import search.record", "points to the right"),
        ("search/a.py", "from tests.nets import Tiny", "points to the tests"),
        ("search/a.py", "from . import result", ".result is relative"),
        ("search/surgery/a.py", "from ..result import Report", "result.Report is relative"),
        ("search/study.py", "import optuna", "optuna is away from its home: search/searcher.py"),
        ("spaces/a.py", "from optuna import create_study", "optuna.create_study is away from its home"),
        ("search/study.py", "from optuna.samplers import TPESampler", "is away from its home"),
        ("search/study.py", "try:\n    import ray\nexcept ImportError:\n    ray = None", "ray is away from its home"),
        ("search/runners.py", "import ray.tune", "ray.tune is away from its home: search/runners/"),
        ("search/cli.py", "from mlflow import MlflowClient", "is away from its home: search/record.py"),
        ("search/study.py", "def f():\n    import json", "stands inside of a function"),
        (
            "search/study.py",
            "class A:\n    async def f(self):\n        from pathlib import Path",
            "inside of a function",
        ),
    ],
)
def test_a_fault_is_found(file: str, text: str, fault: str) -> None:
    found = report(file, text)
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("spaces/a.py", "from optuna.distributions import FloatDistribution\nimport optuna.distributions"),
        ("search/searcher.py", "import optuna\nfrom optuna.samplers import TPESampler"),
        ("search/samplers.py", "import optuna"),
        ("search/runners/tune.py", "import ray\nfrom ray import tune"),
        ("search/record/store.py", "import mlflow.entities"),
        ("search/record.py", "from dashboards.pareto import front"),
        ("dashboards/a.py", "from objectives.pareto import front\nimport rayon, torchless, optunahub"),
        ("objectives/a.py", "import torch\nfrom spaces.profile import CompressionProfile\nfrom objectives import task"),
    ],
)
def test_what_is_allowed_passes(file: str, text: str) -> None:
    assert report(file, text) == []
