"""What a runner is given and whom it answers to. It runs trials; it proposes, decides, records and counts nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from objectives.loading import load_task
from objectives.task import Task
from search.latency.stopwatch import Clocked
from search.result import Report, TaskReference, TrialRequest, TrialResult
from search.trial import run_trial

RunTrial = Callable[..., Iterator[Report | TrialResult]]


@dataclass(frozen=True)
class Work:
    """What all trials of a study share. It is sent to every worker once, and holds no arrays.

    Args:
        task: Where the task comes from.
        measures: Every name that is to be measured.
        baseline: The measures of the network before compression.
        checkpoints: Folder of the trials' own folders, one per key.
        device: Where to train.
        threads: How many threads a trial computes with.
        home: Where tasks keep what takes long to make.
        clocked: What is to be timed, and how; None where nothing is.
        run_trial: The trial itself, a function of a module.
    """

    task: TaskReference
    measures: tuple[str, ...]
    baseline: Mapping[str, float]
    checkpoints: Path
    device: str = "cpu"
    threads: int = 1
    home: Path | None = None
    clocked: Clocked | None = None
    run_trial: RunTrial = run_trial

    def load_task(self) -> Task:
        """Build the task.

        Raises:
            TaskError: If it cannot be loaded.
        """
        if self.home is not None:
            os.environ["PLEACH_HOME"] = str(self.home)
        return load_task(self.task.target, self.task.args, self.task.source)

    def events(self, request: TrialRequest, task: Task) -> Iterator[Report | TrialResult]:
        """Run one trial; it goes on where a trial with the same key was cut off."""
        timed: dict[str, Any] = {} if self.clocked is None else {"clocked": self.clocked}
        return self.run_trial(
            request,
            task,
            self.measures,
            self.baseline,
            device=self.device,
            checkpoints=self.checkpoints / request.key,
            **timed,
        )


class Director(Protocol):
    """Whom a runner answers to: the driver."""

    def propose(self) -> TrialRequest | None:
        """A trial to start now, or None; see `done`."""
        ...

    @property
    def done(self) -> bool:
        """Whether `propose` will never give another trial."""
        ...

    @property
    def halted(self) -> bool:
        """Whether running trials are to be dropped where they are."""
        ...

    @property
    def stopped(self) -> bool:
        """Whether somebody asked for the end: what runs is finished, what still waits for a worker is let go."""
        ...

    def begun(self, request: TrialRequest) -> None:
        """A worker took a trial up, for the first time or again: from now on its time counts."""
        ...

    def reported(self, request: TrialRequest, report: Report) -> bool:
        """Take a report; False where the trial is over. One that came before may come again after a retry."""
        ...

    def decided(self, result: TrialResult) -> None:
        """Take the result of a trial that came to its end."""
        ...

    def lost(self, request: TrialRequest, reason: str) -> None:
        """A trial whose worker died more often than it is retried."""
        ...

    def overdue(self) -> list[TrialRequest]:
        """Trials that have run too long; each is named once and counts as failed from then on."""
        ...


class Runner(AbstractContextManager["Runner"], Protocol):
    """Runs what a director proposes until it is done or halts; as a context, it holds the machines meanwhile."""

    def run(self, work: Work, director: Director) -> None:
        """Run trials; returns when none is left or the director halts."""
        ...
