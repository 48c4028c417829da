"""`pleach run --submit ADDRESS`: a study goes to a Ray cluster as a job."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from search.runners.environment import settle
from search.study_file import StudyFile


def submit_file(
    path: Path, address: str, *, home: str | None, name: str | None, origin: str | None, checked: bool
) -> dict[str, Any]:
    """Submit the study of a file; returns the job and what to do next.

    Raises:
        PleachError: If the file is broken, or the cluster does not take it.
    """
    file = StudyFile.load(path)
    settle(None)
    from search.runners.jobs import HOME, submit

    job = submit(file, address, home=home or HOME, name=name, origin=origin, checked=checked)
    return asdict(job) | {"commands": job.commands()}
