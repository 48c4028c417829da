"""A study's record on SQLite, and what a client of our own finds in it."""

from __future__ import annotations

from pathlib import Path

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from search.record import Record

BASELINE = {"accuracy": 0.97, "plasticity": 0.0, "macs": 1e6, "f1": 0.95, "weights": 100.0}


def opened(home: Path, study: str, *, task: str = "digits", knobs: tuple[str, ...] = ()) -> Record:
    uri = f"sqlite:///{home / 'mlflow.db'}"
    return Record(uri, task=task, study=study, artifacts=home / "artifacts", knobs=knobs)


def runs(record: Record) -> dict[str, Run]:
    """The runs of a study by name, read by a client of our own."""
    client = MlflowClient(record.uri)
    parent = client.get_run(record.parent)
    query = f"tags.`mlflow.parentRunId` = '{record.parent}'"
    children = client.search_runs([parent.info.experiment_id], query)
    return {"parent": parent} | {str(run.info.run_name): run for run in children}


def artefact(run: Run, file: str) -> str:
    return (Path(run.info.artifact_uri.removeprefix("file://")) / file).read_text(encoding="utf-8")


def everything(record: Record) -> dict[str, object]:
    """All that a study's runs hold, curves point by point."""
    client = MlflowClient(record.uri)
    held: dict[str, object] = {}
    for run_name, run in runs(record).items():
        curves = {
            metric: sorted((p.step, p.value) for p in client.get_metric_history(run.info.run_id, metric))
            for metric in run.data.metrics
        }
        held[run_name] = (run.info.status, run.data.params, run.data.tags, curves)
    return held
