"""`pleach export`: a trial's network as a folder that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from search.export_trial import SECONDS, export_trial
from search.study import Study


def export_best(
    study: Study,
    out: Path,
    *,
    trial: int | None,
    where: str | None,
    force: bool,
    formats: Sequence[str] | None = None,
    timing: bool = True,
) -> dict[str, Any]:
    """Export, and say what was written.

    Raises:
        PleachError: If there is no such trial, or the folder cannot be written.
    """
    timed = SECONDS if timing else 0.0
    folder, result = export_trial(study, out, trial=trial, where=where, overwrite=force, formats=formats, timed=timed)
    return {
        "study": study.name,
        "trial": result.number,
        "feasible": result.feasible,
        "scores": dict(result.scores),
        "out": str(folder),
        "files": sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()),
    }
