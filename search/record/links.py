"""Where the runs of a study are in MLflow's pages."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from search.record.server import study_page
from search.record.store import Store
from spaces.errors import StudyError


def run_link(
    uri: str,
    artifacts: Path,
    server: str,
    *,
    task: str,
    study: str,
    objectives: Sequence[str],
    rising: bool,
    knobs: Sequence[str] = (),
    number: int | None = None,
) -> str:
    """The address of a trial's run, or of the list of all of the study's.

    Args:
        uri: The database or server where they are recorded.
        artifacts: Folder of the artefacts.
        server: The address of MLflow's pages, ``http://127.0.0.1:5000``.
        task: The task's name: the experiment.
        study: The study's name.
        objectives: Columns of the list, which is sorted by the first.
        rising: Whether its smallest value comes first.
        knobs: What the study searches.
        number: The trial; None for the list.

    Raises:
        StorageError: If the database cannot be used.
        StudyError: If the trial has no run.
    """
    store, address = Store(uri, task, artifacts), server.rstrip("/")
    if number is None:
        return f"{address}/{study_page(store, study, objectives, rising=rising, knobs=knobs)}"
    found = store.find({"study": study, "trial.number": str(number)})
    if not found:
        raise StudyError(f"trial {number} of {study!r} must have a run in MLflow, but has none yet: ask again later")
    return f"{address}/#/experiments/{store.experiment}/runs/{found[0].info.run_id}"
