"""The books of a study balance: what the results say is what Optuna and MLflow say, and nothing is left open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import optuna
from mlflow.tracking import MlflowClient
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from search.study import Study

STATES = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED, "failed": TrialState.FAIL}


def balanced(home: Path, trials: int, name: str = "kept") -> None:
    """Every trial of a study in a home is in all three places, once, in the same state and with the same scores."""
    results = Study.load(name, home).books().results
    assert sorted(results) == list(range(trials))
    storage = JournalStorage(JournalFileBackend(str(home / "optuna.journal")))
    told = optuna.load_study(study_name=name, storage=storage).trials
    assert [(t.number, t.state) for t in told] == [(n, STATES[results[n].state]) for n in range(trials)]
    for trial in told:
        scores = results[trial.number].scores
        if trial.state == TrialState.COMPLETE:
            assert trial.values == [scores[objective] for objective in ("accuracy", "macs")]
    client = MlflowClient(f"sqlite:///{home}/mlflow.db")
    runs: list[Any] = []
    token = None
    while True:
        page = client.search_runs([e.experiment_id for e in client.search_experiments()], page_token=token)
        runs, token = runs + page, page.token
        if not token:
            break
    recorded = {int(r.data.tags["trial.number"]): r for r in runs if "trial.number" in r.data.tags}
    assert sorted(recorded) == list(range(trials))
    assert len([r for r in runs if "trial.number" in r.data.tags]) == trials
    for number, run in recorded.items():
        assert run.data.tags["trial.state"] == results[number].state
        assert run.info.status == ("FAILED" if results[number].state == "failed" else "FINISHED")
