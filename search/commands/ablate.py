"""`pleach ablate`: what each policy of the best profile is worth."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from search.study import Study


def ablate_study(study: Study, *, trial: int | None, where: str | None, seeds: int, console: Console) -> dict[str, Any]:
    """Run the variants with the terminal watching; returns the comparison.

    Raises:
        PleachError: If there is no such trial, or the study cannot run now.
    """
    columns = TextColumn("{task.description}"), BarColumn(bar_width=32), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("ablation", total=None)

        def watch(over: int, of: int, what: str) -> None:
            bar.update(task, total=of, completed=over)
            console.print(f"[{over}/{of}] {what}", markup=False)

        return study.ablate(trial=trial, where=where, seeds=seeds, watch=watch)
