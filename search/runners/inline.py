"""Trials in this process, one after another: for debugging and for tests. Everything else is Ray Tune's."""

from __future__ import annotations

import time
from collections.abc import Generator

from objectives.task import Task
from search.result import Report, TrialRequest
from search.runners.runner import Director, Work

#: Seconds until a director that has nothing to do now is asked again: other drivers of its study are at work.
PAUSE = 0.05


class InlineRunner:
    """Runs each trial to its end before the next one is proposed.

    Args:
        task: The task, already built.
    """

    def __init__(self, task: Task) -> None:
        self._task = task

    def __enter__(self) -> InlineRunner:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def run(self, work: Work, director: Director) -> None:
        """Run trials until none is left or the director halts; a timeout is looked at between iterations."""
        while not director.halted:
            request = director.propose()
            if request is not None:
                self._run(work, director, request)
            elif director.done:
                return
            else:
                time.sleep(PAUSE)

    def _run(self, work: Work, director: Director, request: TrialRequest) -> None:
        director.begun(request)
        events = work.events(request, self._task)
        try:
            for event in events:
                if not isinstance(event, Report):
                    director.decided(event)
                    return
                if not director.reported(request, event) or director.overdue() or director.halted:
                    return
            director.lost(request, "the trial ended without a result")
        finally:
            if isinstance(events, Generator):
                events.close()
