"""`pleach sensitivity`: how much each layer can bear, before anything is searched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from objectives.loading import load_task, task_hash
from search.home import Home
from search.latency.sensitivity import LEVELS, by_layer, sensitivities, to_rows
from search.study_file import StudyFile
from spaces.errors import StudyFileError


def look(file: Path, home: Home, *, levels: Sequence[float] = LEVELS, console: Console) -> dict[str, Any]:
    """Compress one layer at a time and look at the score.

    Args:
        file: A study file; its task is looked at.
        home: Its cache keeps the answer.
        levels: Shares of a layer that are switched off.
        console: For progress.

    Raises:
        PleachError: If the file or the task cannot be used.
    """
    for level in levels:
        if not 0 < level < 1:
            raise StudyFileError(f"a level must be a share between 0 and 1, but is {level}: write e.g. 0.5")
    reference = StudyFile.load(file).task_reference
    task = load_task(reference.target, reference.args, reference.source)
    cache = home.cache(task_hash(reference.target, reference.args, reference.source))
    with Progress(console=console, transient=True) as bar:
        line = bar.add_task("layers", total=None)
        baseline, rows = sensitivities(
            task, levels=levels, cache=cache, told=lambda done, of: bar.update(line, completed=done, total=of)
        )
    return {
        "task": str(getattr(task, "name", reference.target)),
        "baseline": baseline,
        "levels": [f"{level:g}" for level in levels],
        "layers": to_rows(by_layer(rows)),
    }
