"""`pleach run` and `pleach resume`: look first, then run with the terminal watching."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from search.commands.answers import check_answer
from search.commands.display import Display
from search.home import Home
from search.preflight import check
from search.study import Study
from search.study_file import StudyFile


def run_file(
    path: Path, home: Home, *, name: str | None, origin: str | None, checked: bool, console: Console
) -> dict[str, Any]:
    """Launch the study of a file, or continue it; returns its summary.

    Raises:
        PleachError: If it cannot run: a broken file, a task that cannot be used, constraints out of reach.
    """
    study = Study.create(StudyFile.load(path), home, name=name, origin=origin)
    new = dict(study.state.judged) != study.file.constraints  # or judged otherwise from now on
    return run_study(study, console, look_first(study, console) if checked and new else None)


def look_first(study: Study, console: Console) -> Mapping[str, float]:
    """Show the pre-flight of a study; returns the measures of its baseline.

    Raises:
        PleachError: If the task cannot be used, or the study cannot succeed.
    """
    with console.status("measuring the baseline"):
        found = check(study.file, study.home)
    console.print(check_answer(found.to_dict()))
    found.refuse()
    return found.baseline


def resume_study(name: str, home: Home, *, trials: int | None, console: Console) -> dict[str, Any]:
    """Continue a study by its name, up to `trials` in all if given; returns its summary.

    Raises:
        PleachError: If there is no such study, or it cannot run.
    """
    study = Study.load(name, home)
    if trials is not None:
        data = tomllib.loads(study.file.text)
        data["study"]["trials"] = trials
        study = Study.create(StudyFile.of(data, study.file.folder), home)
    return run_study(study, console)


def run_study(study: Study, console: Console, baseline: Mapping[str, float] | None = None) -> dict[str, Any]:
    """Run a study with the terminal watching; returns its summary."""
    with Display(console, study.file.time_limit) as display:
        return dict(study.run(display, baseline=baseline).summary)
