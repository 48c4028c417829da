"""A study that runs, on the terminal: live where there is one, sparse lines where the output goes to a file."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.text import Text

from search.books import Books
from search.console import duration, score
from search.result import Report, TrialRequest, TrialResult

#: In a study of more trials not every one has its line,
MANY = 100
#: but one comes after so many seconds, or when something better is found.
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
        self._reached: tuple[str, ...] = ()
        self._best: int | None = None
        self._bar = Progress(TextColumn("{task.description}"), BarColumn(bar_width=32), MofNCompleteColumn())
        self._bar_task: TaskID = self._bar.add_task("trials", total=1)
        self._live: Live | None = None
        self._warnings = _Warnings(console)
        self._notice = ""

    def __enter__(self) -> Display:
        logging.getLogger("search").addHandler(self._warnings)
        if self._console.is_terminal:
            self._live = Live(console=self._console, get_renderable=self.render, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger("search").removeHandler(self._warnings)
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
        self._console.print(
            f"{summary['study']} {verb}: {self._before} of {self._wanted} trials are decided", markup=False
        )

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
        if self._wanted <= MANY or better or self._clock() - self._said >= SPARSE or self._decided == self._wanted:
            self._said = self._clock()
            self._console.print(
                _decided_line(result, books, f"[{self._decided}/{self._wanted}]", self._best if better else None)
            )

    def noticed(self, line: str) -> None:
        # Printing takes locks that the interrupted code may hold: the picture shows the line with its next frame.
        self._notice = line
        if self._live is None and not self._console.quiet:
            with contextlib.suppress(OSError, ValueError):
                os.write(self._console.file.fileno(), f"{line}\n".encode())

    def finished(self, summary: Mapping[str, Any]) -> None:
        if self._live is not None:
            self._live.refresh()

    # -- what is drawn --------------------------------------------------------------------------------------------

    def render(self) -> RenderableType:
        """The picture of this moment; asked for by a thread that draws, so it only reads what is ready."""
        parts: list[RenderableType] = [self._bar, *(Text(line) for line in self._reached)]
        running = "   ".join(f"trial {number} {at}" for number, at in sorted(self._running.values())[:6])
        parts.append(Text("   ".join(part for part in (self._remaining(), running) if part), style="dim"))
        if self._notice:
            parts.append(Text(self._notice, style="yellow"))
        return Group(*parts)

    def _remaining(self) -> str:
        if self._decided >= self._wanted > 0:
            return "writing what is left"
        left = self.seconds_left()
        return f"about {duration(left)} left" if left is not None else "warming up"

    def seconds_left(self) -> float | None:
        """From this run's rate so far, cut at the time limit; None before its first decided trial."""
        done, elapsed = self._decided - self._before, self._clock() - self._began
        if done < 1:
            return None
        left = elapsed / done * max(0, self._wanted - self._decided)
        return left if self._limit is None else max(0.0, min(left, self._limit - self._spent - elapsed))


class _Warnings(logging.Handler):
    """What the parts warn of, a server that is gone above all, between the lines of the trials."""

    def __init__(self, console: Console) -> None:
        super().__init__(logging.WARNING)
        self._console = console

    def emit(self, record: logging.LogRecord) -> None:
        self._console.print(record.getMessage(), style="yellow", markup=False)


def _decided_line(result: TrialResult, books: Books, place: str, best: int | None) -> Text:
    """A trial that was decided, in one line; `best` is the best trial where it is another one than before.

    That need not be this trial: a new member of the front moves the ideal point that all are measured from.
    """
    line = Text.assemble((place, "dim"), f" trial {result.number} ")
    word, style = worded(result)
    line.append(word, style=style)
    if result.state == "failed":
        return line.append(f": {result.reason}")
    line.append(": " + ", ".join(f"{name} {score(name, result.scores.get(name))}" for name in books.directions))
    if best is None:
        return line
    return line.append("  best so far" if best == result.number else f"  best is now trial {best}", style="bold")


def worded(result: TrialResult) -> tuple[str, str]:
    """What became of a trial, in words and in colour."""
    if result.state == "complete":
        return ("feasible", "green") if result.feasible else ("infeasible", "yellow")
    return ("stopped early", "dim") if result.state == "pruned" else ("failed", "red")


def _reached(books: Books, best: TrialResult | None) -> tuple[str, ...]:
    """What the study has reached so far, in two lines."""
    if best is None:
        return ("no trial is complete yet",)
    complete = books.complete()
    scores = ", ".join(f"{name} {score(name, best.scores.get(name))}" for name in books.directions)
    feasible = sum(result.feasible for result in complete) / len(complete)
    named = f"best is trial {best.number}: {scores}"
    if not best.feasible:
        named = f"none feasible yet; trial {best.number} misses least: {scores}"
    return named, f"{feasible:.0%} feasible, front of {len(books.front())}"
