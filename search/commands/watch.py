"""`pleach watch`: a running study, read from its files every second, so from any terminal and any user who may read."""

from __future__ import annotations

import sys
import time
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from search.commands.display import worded
from search.console import err, headline, out, score, study_tables
from search.study import Study

#: The latest trials that are shown.
LATEST = 8


def watch_study(study: Study, *, every: float, once: bool) -> dict[str, Any]:
    """Follow a study until nobody drives it; returns its summary then.

    Args:
        study: One that has run or runs.
        every: Seconds between two looks.
        once: Look once.
    """
    if once or not _runs(study):
        return study.summary()
    if sys.stdout.isatty():
        with Live(_picture(study), console=out(), auto_refresh=False, transient=True) as live:
            while _runs(study):
                live.update(_picture(study), refresh=True)
                time.sleep(every)
    else:
        said = ""
        while _runs(study):
            line = headline(study.summary()).plain
            if line.partition(")")[0] != said:
                said = line.partition(")")[0]
                err().print(line, markup=False)
            time.sleep(every)
    return study.summary()


def _runs(study: Study) -> bool:
    return study.state.phase == "running"


def _picture(study: Study) -> RenderableType:
    return Group(study_tables(study.summary()), latest_table(study))


def latest_table(study: Study) -> RenderableType:
    """The trials that were decided last."""
    books = study.books()
    latest = [books.results[number] for number in sorted(books.results)[-LATEST:]]
    if not latest:
        return Text("No trial is decided yet.", style="dim")
    table = Table(title="Latest trials", title_justify="left", title_style="bold", box=None)
    for column in ("trial", "state", *books.directions, ""):
        table.add_column(column, justify="right" if column in ("trial", *books.directions) else "left")
    for result in latest:
        word, style = worded(result)
        cells = [score(name, result.scores.get(name)) for name in books.directions]
        table.add_row(str(result.number), Text(word, style=style), *cells, Text(result.reason[:60], style="dim"))
    return table
