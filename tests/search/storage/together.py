"""Drivers side by side, in this process, and what must hold of the study that they leave."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import RDBStorage
from optuna.trial import TrialState

from search.home import Home
from search.result import TrialResult
from search.runners.runner import RunTrial
from search.study import Study
from tests.search.drive import study_of
from tests.search.quick import quick_trial


def shared_study(url: str, trials: int = 20, *, takeover: str = "60s", **tables: Mapping[str, Any]) -> dict[str, Any]:
    """A small study in a shared database, which samples few knobs at random to be quick."""
    data = study_of(trials)
    chosen: dict[str, Mapping[str, Any]] = {
        "storage": {"optuna": url, "takeover": takeover},
        "budget": {"iterations": 1},
    }
    for table, keys in {**chosen, **tables}.items():
        data[table] = {**data.get(table, {}), **keys}
    data["study"]["sampler"] = "random"
    fixed = {"criterion": "magnitude", "granularity": "weight", "schedule": "oneshot", "allocation": "global"}
    data["spaces"]["pruning"] |= {**fixed, "exclude": "none"}
    return data


def driven(home: Path, data: Mapping[str, Any], trial: RunTrial = quick_trial) -> dict[str, Any]:
    """Drive a study to its end in this thread; returns its summary."""
    return dict(Study.create(data, home).run(trial=trial).summary)


def together(
    homes: Sequence[Path],
    data: Mapping[str, Any],
    trial: RunTrial = quick_trial,
    meanwhile: Callable[[], object] = lambda: None,
) -> list[dict[str, Any]]:
    """Drive one study from several homes at once, each a driver of its own."""
    with ThreadPoolExecutor(len(homes)) as pool:
        runs: list[Future[dict[str, Any]]] = [pool.submit(driven, home, data, trial) for home in homes]
        meanwhile()
        return [run.result(timeout=120) for run in runs]


def results_in(home: Path, name: str = "kept") -> dict[int, str]:
    """The texts of a study's results as they lie in a home."""
    return {number: path.read_text() for number, path in Home(home).study(name).results().items()}


def check_balance(url: str, homes: Sequence[Path], trials: int, name: str = "kept") -> Mapping[int, TrialResult]:
    """Every number once, the same in every home and in Optuna."""
    first = results_in(homes[0], name)
    assert list(first) == list(range(trials))
    for home in homes[1:]:
        assert results_in(home, name) == first
    results = Study.load(name, homes[0]).books().results
    storage = RDBStorage(url)
    told = optuna.load_study(study_name=name, storage=storage).trials
    storage.engine.dispose()
    assert [(trial.number, trial.state) for trial in told] == [(n, TrialState.COMPLETE) for n in range(trials)]
    assert [trial.values for trial in told] == [
        [results[n].scores["accuracy"], results[n].scores["macs"]] for n in range(trials)
    ]
    return results
