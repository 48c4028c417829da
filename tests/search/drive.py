"""Runs a study in a process of its own that tests may kill: ``python -m tests.search.drive HOME 'STUDY AS JSON'``.

With ``PLEACH_TRIAL=real`` its trials really train; otherwise they take no time. With ``PLEACH_RECORD=none`` nothing is
recorded in MLflow and no figure is drawn, which would take most of the time.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from search import launch
from search.study import Study
from search.trial import run_trial
from tests.search.pristine import with_tables
from tests.search.quick import quick_trial


def study_of(
    trials: int = 6, *, name: str = "kept", runner: str = "inline", concurrent: int = 1, **tables: Mapping[str, Any]
) -> dict[str, Any]:
    """A small study of the tiny task, as a mapping; `tables` replace or add keys of its tables."""
    data: dict[str, dict[str, Any]] = {
        "study": {"name": name, "trials": trials},
        "task": {"target": "tests.search.quick:TinyTask"},
        "objectives": {"accuracy": "maximize", "macs": "minimize"},
        "constraints": {"accuracy": ">= 0.8 * baseline"},
        "budget": {"iterations": 4},
        "resources": {"runner": runner, "concurrent": concurrent},
        "spaces": {"pruning": {"sparsity": {"low": 0.1, "high": 0.95}}},
    }
    for table, keys in tables.items():
        data[table] = {**data.get(table, {}), **keys}
    return data


def start(
    home: Path, data: Mapping[str, Any], *, largest_file: int | None = None, **environment: str
) -> subprocess.Popen[str]:
    """Start a driver at the head of a process group of its own; no file may outgrow `largest_file` bytes."""

    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, resource.RLIM_INFINITY))

    if largest_file is None and "mlflow" not in data.get("storage", {}):
        with_tables(home)
    return subprocess.Popen(
        [sys.executable, "-m", "tests.search.drive", str(home), json.dumps(data)],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=limit,
    )


def wait_for(path: Path, seconds: float = 60.0) -> None:
    """Wait until a file is there."""
    limit = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < limit, f"{path} did not appear"
        time.sleep(0.02)


class Nothing:
    """A recorder that does not record."""

    def __getattr__(self, name: str) -> Callable[..., set[int]]:
        return lambda *_, **__: set()


def main() -> None:
    home, data = sys.argv[1:]
    if os.environ.get("PLEACH_RECORD") == "none":
        vars(launch).update(record_of=lambda *_: Nothing(), study_files=lambda *_: {}, member_files=lambda *_: {})
    trial = run_trial if os.environ.get("PLEACH_TRIAL") == "real" else quick_trial
    print(json.dumps(Study.create(json.loads(data), home).run(trial=trial).summary))


if __name__ == "__main__":
    main()
