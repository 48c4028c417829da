"""`pleach doctor`: what works on this machine, found out by trying it."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

import torch

from search.home import Home
from search.machine import accelerators, cores, memory_bytes, processor
from search.study import Study
from spaces.errors import PleachError

#: What every study needs, as packages are called.
NEEDED = ("torch", "optuna", "ray", "mlflow", "torch-pruning", "safetensors", "pandas", "scikit-learn", "plotly")
#: What some studies need, and what for.
OPTIONAL = {
    "onnx": "ONNX export",
    "onnxruntime": "latency measured in ONNX Runtime",
    "transformers": "Hugging Face models as tasks",
    "psycopg": "PostgreSQL as shared storage",
    "fastapi": "the HTTP service",
}
LEAST_DISK, LEAST_MEMORY = 2 * 2**30, 3 * 2**30


@dataclass(frozen=True)
class Check:
    """One thing that was tried.

    Args:
        what: The thing.
        verdict: ``ok``; ``missing`` where only some studies need it; ``broken`` where none runs without it.
        found: What there is.
        remedy: What to do; "" where nothing is wrong.
    """

    what: str
    verdict: Literal["ok", "missing", "broken"]
    found: str
    remedy: str = ""


def examine(home: Home, *, full: bool = False) -> dict[str, Any]:
    """Try everything; returns the checks and whether this machine is ``fit`` for a study.

    Args:
        home: The folder that must be writable.
        full: Run a study of two trials on Ray as well.
    """
    checks = [*_machine(home), *_packages(), *_accelerator(), *_writing(home)]
    if full:
        checks.append(_small_study())
    return {"fit": all(check.verdict != "broken" for check in checks), "checks": [asdict(check) for check in checks]}


def _machine(home: Home) -> Iterator[Check]:
    python = ".".join(map(str, sys.version_info[:3]))
    good = sys.version_info >= (3, 11)
    yield Check("Python", "ok" if good else "broken", python, "" if good else "use Python 3.11 or later")
    yield Check("processor", "ok", f"{cores()} x {processor()}")
    memory = memory_bytes()
    yield Check(
        "memory",
        "ok" if memory >= LEAST_MEMORY else "missing",
        f"{memory / 2**30:.1f} GiB",
        "" if memory >= LEAST_MEMORY else "run one trial at a time: resources.concurrent = 1",
    )
    free = shutil.disk_usage(_existing(home.root)).free
    yield Check(
        "free disk",
        "ok" if free >= LEAST_DISK else "missing",
        f"{free / 2**30:.1f} GiB at {home.root}",
        "" if free >= LEAST_DISK else "make room, or choose another --home",
    )


def _packages() -> Iterator[Check]:
    for name in NEEDED:
        try:
            yield Check(name, "ok", version(name))
        except PackageNotFoundError:
            yield Check(name, "broken", "not installed", f"pip install {name}")
    for name, purpose in OPTIONAL.items():
        there = importlib.util.find_spec(name) is not None
        try:
            found = version(name) if there else "not installed"
        except PackageNotFoundError:
            found = "installed"
        yield Check(name, "ok" if there else "missing", found, "" if there else f"only for {purpose}")


def _accelerator() -> Iterator[Check]:
    names = accelerators()
    if torch.cuda.is_available():
        value = float((torch.ones(2, 2, device="cuda") @ torch.ones(2, 2, device="cuda")).sum())
        good = value == 8.0
        yield Check("GPU", "ok" if good else "broken", torch.cuda.get_device_name(0), "" if good else "it miscounts")
    elif names:
        remedy = f"torch {torch.__version__} was built without CUDA, or does not fit the driver"
        yield Check("GPU", "missing", f"{names[0]}, but torch cannot use it", remedy)
    else:
        yield Check("GPU", "missing", "none", "only for resources.gpu")


def _writing(home: Home) -> Iterator[Check]:
    place = _existing(home.root)
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".pleach-doctor-") as folder:
            database = sqlite3.connect(Path(folder) / "test.db")
            database.execute("create table test (x)")
            database.commit()
            database.close()
    except (OSError, sqlite3.Error) as error:
        yield Check("home", "broken", f"{home.root}: {error}", "choose a folder with --home or $PLEACH_HOME")
        return
    yield Check("home", "ok", f"{home.root} (SQLite {sqlite3.sqlite_version})")


def _small_study() -> Check:
    """Two trials in a home that is thrown away: Ray, Optuna, MLflow and torch at once."""
    study = {
        "study": {"name": "doctor", "trials": 2},
        "task": {"target": "digits"},
        "objectives": {"accuracy": "maximize"},
        "budget": {"epochs": 0.5, "iterations": 1},
        "spaces": {"pruning": {"granularity": "weight", "schedule": "oneshot"}},
    }
    with tempfile.TemporaryDirectory(prefix="pleach-") as folder:
        try:
            summary = Study.create(study, folder).run().summary
        except (PleachError, OSError, RuntimeError) as error:
            return Check("a small study on Ray", "broken", " ".join(str(error).split())[:120], "see the message")
        reasons = [result.reason for result in Study.load("doctor", folder).books().results.values() if result.reason]
    complete = summary["trials"]["complete"]
    good = complete == 2
    found = f"{complete} of 2 trials complete in {summary['seconds']:.0f} s"
    return Check("a small study on Ray", "ok" if good else "broken", found, "; ".join(reasons)[:120])


def _existing(path: Path) -> Path:
    """The nearest parent that is there."""
    while not path.is_dir() and path != path.parent:
        path = path.parent
    return path
