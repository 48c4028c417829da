"""Between the driver, which must not wait, and MLflow, which makes it wait: one thread that writes in order.

What cannot be written is not lost: the results are on disk. While a server is gone they wait, and are written when it
is back; what has no run at the end of a run, the next one writes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Protocol

from search.faults import fault
from search.record import FrontMember
from search.result import TrialResult
from spaces.errors import PleachError, UnreachableError

logger = logging.getLogger(__name__)

#: A server that is gone is asked again after so many seconds, then twice as many, up to the longest pause.
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
#: At the end of a study a server that is gone is waited for so many seconds.
PATIENCE = 60.0


class Recorder(Protocol):
    """What is needed of :class:`search.record.Record`."""

    def start(self, baseline: Mapping[str, float], tags: Mapping[str, str], study_file_text: str) -> None: ...
    def write(self, result: TrialResult, tags: Mapping[str, str] | None = None) -> None: ...
    def progress(self, done: int, figures: Mapping[str, float], front: Iterable[int] | None = None) -> None: ...
    def recorded(self) -> set[int]: ...
    def reconcile(self, among: Collection[int] | None = None) -> set[int]: ...
    def refresh(self) -> None: ...
    def finish(
        self, state: str, files: Mapping[str, str], front: Sequence[FrontMember] = (), *, last: bool = True
    ) -> None: ...


class Writer:
    """Writes to a recorder in a thread of its own, in the order in which it is asked.

    A failure that waiting does not mend is logged, and nothing more is written: a database that came back would have a
    gap, which the next run would take for complete.

    Args:
        recorder: Where to.
        mine: Which trials are this driver's to write, where others write to the same recorder; None for all.
        sleep: Waits so many seconds, or until the event is set.
    """

    def __init__(
        self,
        recorder: Recorder,
        mine: Callable[[], set[int]] | None = None,
        *,
        sleep: Callable[[threading.Event, float], object] = threading.Event.wait,
    ) -> None:
        self._recorder, self._mine, self._sleep = recorder, mine, sleep
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failure: PleachError | None = None
        self._gone_since: float | None = None
        self._ending, self._deadline = threading.Event(), float("inf")
        self._thread = threading.Thread(target=self._work, name="pleach-writer", daemon=True)
        self._thread.start()

    @property
    def failure(self) -> PleachError | None:
        """Why nothing is written any more, or None."""
        return self._failure

    def open(
        self, baseline: Mapping[str, float], tags: Mapping[str, str], text: str, results: Iterable[TrialResult]
    ) -> None:
        """Open the study and write every result that has no run yet."""
        decided = list(results)

        def job() -> None:
            self._recorder.start(baseline, tags, text)
            mine = None if self._mine is None else self._mine()
            self._recorder.reconcile(mine)
            self._write_missing([result for result in decided if mine is None or result.number in mine])

        self._jobs.put(job)

    def _write_missing(self, results: Iterable[TrialResult]) -> None:
        known = self._recorder.recorded()
        for result in results:
            if result.number not in known:
                self._recorder.write(result)

    def write(self, result: TrialResult) -> None:
        """Write a decided trial."""

        def job() -> None:
            self._recorder.write(result)
            fault("after-record", result.number)

        self._jobs.put(job)

    def heard(self, result: TrialResult) -> None:
        """Write a trial that another driver decided, unless that one writes to the same recorder."""
        if self._mine is None:
            self.write(result)

    def progress(self, done: int, figures: Callable[[], tuple[Mapping[str, float], Iterable[int]]]) -> None:
        """Write the study's figures after `done` trials, and who is on its front; computed in the thread."""
        self._jobs.put(lambda: self._recorder.progress(done, *figures()))

    def close(
        self,
        state: str,
        files: Mapping[str, str],
        front: Sequence[FrontMember] = (),
        *,
        leave: Callable[[], bool] = lambda: True,
        rest: Callable[[], Iterable[TrialResult]] = tuple,
    ) -> None:
        """Write what is left, end the study's run, and wait for it.

        Args:
            state: How the study ended.
            files: Texts of the study.
            front: The members of the front.
            leave: Called once everything of this driver's is written; says whether it was the study's last driver.
            rest: All that is decided: the last driver writes what those before it left.
        """
        left: list[bool] = []

        def job() -> None:
            if self._mine is None:
                self._recorder.finish(state, files, front)
                return
            if not left:
                self._recorder.refresh()
                self._recorder.finish(state, files, front, last=False)
                left.append(leave())
            if left[0]:
                self._recorder.refresh()
                self._recorder.reconcile()
                self._write_missing(rest())
                self._recorder.finish(state, files, front)

        self._jobs.put(job)
        self._end(PATIENCE)
        self._thread.join()

    def abandon(self) -> None:
        """End the thread after what is left, without waiting: the study broke off."""
        self._end(0.0)

    def _end(self, patience: float) -> None:
        self._jobs.put(None)
        self._deadline = time.monotonic() + patience
        self._ending.set()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._failure is not None:
                continue
            try:
                self._persist(job)
            except PleachError as error:
                self._failure = error
                logger.warning("nothing more is recorded in MLflow in this run: %s", error)

    def _persist(self, job: Callable[[], None]) -> None:
        """Do a job, as often as it takes while a server is gone: writing a trial again completes its run."""
        pause = 0.0
        while True:
            try:
                if pause:
                    self._recorder.refresh()
                job()
            except UnreachableError as error:
                pause = min(2 * pause, LONGEST_PAUSE) or FIRST_PAUSE
                if self._gone_since is None:
                    self._gone_since = time.monotonic()
                    logger.warning(
                        "%s; what is decided is kept in the home meanwhile, and recorded when it is back", error
                    )
                left = self._deadline - time.monotonic()
                if left <= 0:
                    raise
                if self._ending.is_set():
                    time.sleep(min(pause, left))
                else:
                    self._sleep(self._ending, pause)
            else:
                if self._gone_since is not None:
                    seconds, self._gone_since = time.monotonic() - self._gone_since, None
                    logger.warning("MLflow is back after %d s: what was decided meanwhile is recorded", seconds)
                return
