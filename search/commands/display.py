"""A study that runs, on the terminal: live where there is one, sparse lines where the output goes to a file."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table
from rich.text import Text

from search.books import Books
from search.console import duration, score
from search.result import Report, TrialRequest, TrialResult

#: Seconds between two lines of a file, unless something better was found.
SPARSE = 10.0


class Display:
    """Watches a study; see :class:`search.progress.Progress`.

    Args:
        console: Where to draw.
        time_limit: Seconds that the study may take over all runs, or None.
        clock: Seconds that only rise.
    """

    def __init__(
        self, console: Console, time_limit: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._limit, self._clock = console, time_limit, clock
        self._wanted = self._before = self._decided = 0
        self._spent, self._began, self._said = 0.0, clock(), -SPARSE
        self._running: dict[str, tuple[int, str]] = {}
        self._reached = ""
        self._best: int | None = None
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=32), MofNCompleteColumn())
        self._bar_task: TaskID = self._bar.add_task("trials", total=1)
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self.render, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    # -- what the driver tells ------------------------------------------------------------------------------------

    def started(self, summary: Mapping[str, Any]) -> None:
        counts = summary["trials"]
        self._wanted = counts["wanted"]
        self._before = self._decided = counts["complete"] + counts["pruned"] + counts["failed"]
        self._spent, self._began = summary["seconds"], self._clock()
        self._bar.update(self._bar_task, total=self._wanted, completed=self._decided)
        verb = "goes on" if self._before else "begins"
        self._line(f"{summary['study']} {verb}: {self._before} of {self._wanted} trials are decided")

    def launched(self, request: TrialRequest) -> None:
        self._running[request.key] = (request.number, "0")

    def reported(self, request: TrialRequest, report: Report) -> None:
        self._running[request.key] = (request.number, f"{report.iteration}/{report.of}")

    def decided(self, result: TrialResult, books: Books) -> None:
        self._running.pop(result.request.key, None)
        self._decided = len(books)
        self._bar.update(self._bar_task, completed=self._decided)
        best = books.best()
        self._reached = _reached(books, best)
        better = best is not None and best.feasible and best.number != self._best
        self._best = best.number if best is not None and best.feasible else self._best
        if result.state == "failed":
            self._line(f"trial {result.number} failed: {result.reason}", style="red")
        elif self._live is None and (better or self._clock() - self._said >= SPARSE or self._decided == self._wanted):
            self._said = self._clock()
            self._line(f"[{self._decided}/{self._wanted}] {self._sentence()}")

    def finished(self, summary: Mapping[str, Any]) -> None:
        if self._live is not None:
            self._live.refresh()

    # -- what is drawn --------------------------------------------------------------------------------------------

    def render(self) -> RenderableType:
        """The picture of this moment; asked for by a thread that draws, so it only reads what is ready."""
        parts: list[RenderableType] = [self._bar, Text(self._sentence(), style="dim")]
        if self._running:
            table = Table(box=None, show_header=False, padding=(0, 1))
            running = sorted(self._running.values())
            table.add_row(*(f"trial {number}: {at}" for number, at in running[:6]))
            parts.append(table)
        return Group(*parts)

    def _sentence(self) -> str:
        left = self.seconds_left()
        remaining = f"about {duration(left)} left" if left is not None else "warming up"
        return "; ".join(part for part in (self._reached, remaining) if part)

    def seconds_left(self) -> float | None:
        """From this run's rate so far, cut at the time limit; None before its first decided trial."""
        done, elapsed = self._decided - self._before, self._clock() - self._began
        if done < 1:
            return None
        left = elapsed / done * max(0, self._wanted - self._decided)
        return left if self._limit is None else max(0.0, min(left, self._limit - self._spent - elapsed))

    def _line(self, text: str, style: str = "") -> None:
        self._console.print(Text(text, style=style))


def _reached(books: Books, best: TrialResult | None) -> str:
    """What the study has reached so far."""
    if best is None:
        return "no trial is complete yet"
    complete = books.complete()
    scores = ", ".join(f"{name} {score(name, best.scores.get(name))}" for name in books.directions)
    feasible = sum(result.feasible for result in complete) / len(complete)
    named = f"best {best.number}: {scores}" if best.feasible else f"none feasible; nearest {best.number}: {scores}"
    return f"{named}; {feasible:.0%} feasible, front of {len(books.front())}"
