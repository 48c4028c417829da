"""What the trials and the record of a study are given: the same for its runs and for what is run again of it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from objectives.loading import task_hash
from search.database import is_shared
from search.latency.wanted import clocked_for
from search.record import Record
from search.runners.runner import RunTrial, Work
from search.state import State
from search.trial import run_trial
from spaces.errors import StudyError

if TYPE_CHECKING:
    from search.study import Study


def same_task(study: Study, state: State) -> str:
    """What the study's task is made of.

    Raises:
        StudyError: If that has changed since the study's first run.
    """
    reference = study.file.task_reference
    made_of = task_hash(reference.target, reference.args, reference.source)
    if state.task_hash and state.task_hash != made_of:
        raise StudyError(
            f"the task of {study.name!r} must stay what it was in the first run, but {reference.target} has "
            f"changed: undo it, or start another study with --name NEW --from {study.name}"
        )
    return made_of


def work_for(study: Study, trial: RunTrial = run_trial) -> Work:
    """What all trials of a study share, but for the baseline."""
    resources = study.file.resources
    if study.file.buds and trial is run_trial:
        from search.buds.trial import run_bud_trial  # brings scikit-learn, which nobody else needs

        trial = run_bud_trial
    return Work(
        study.file.task_reference,
        study.file.measures,
        {},
        study.folder.root / "checkpoints",
        device="cuda" if resources.gpu > 0 else "cpu",
        threads=max(1, int(resources.cpu)),
        home=study.home.root,
        clocked=clocked_for(study.file, study.home),
        run_trial=trial,
    )


def record_of(
    study: Study, state: State, turn: Callable[[], contextlib.AbstractContextManager[object]] = contextlib.nullcontext
) -> Record:
    """The study in MLflow; it opens in the background."""
    return Record(
        study.mlflow_uri,
        task=study.task_name,
        study=study.name,
        artifacts=study.home.artifacts,
        knobs=study.file.space.distributions(),
        location=study.file.storage.artifacts,
        origin=state.identity if is_shared(study.file.storage.optuna) else None,
        turn=turn,
    )
