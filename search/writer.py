"""Between the driver, which must not wait, and MLflow, which makes it wait: one thread that writes in order.

What cannot be written is not lost: the results are on disk, and the next run writes what has no run.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol

from search.faults import fault
from search.record import FrontMember
from search.result import TrialResult
from spaces.errors import PleachError

logger = logging.getLogger(__name__)


class Recorder(Protocol):
    """What is needed of :class:`search.record.Record`."""

    def start(self, baseline: Mapping[str, float], tags: Mapping[str, str], study_file_text: str) -> None: ...
    def write(self, result: TrialResult, tags: Mapping[str, str] | None = None) -> None: ...
    def progress(self, done: int, figures: Mapping[str, float], front: Iterable[int] | None = None) -> None: ...
    def recorded(self) -> set[int]: ...
    def reconcile(self) -> set[int]: ...
    def finish(self, state: str, files: Mapping[str, str], front: Sequence[FrontMember] = ()) -> None: ...


class Writer:
    """Writes to a recorder in a thread of its own, in the order in which it is asked.

    The first failure is logged, and nothing more is written: a database that came back would have a gap, which the
    next run would take for complete.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failure: PleachError | None = None
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
            self._recorder.reconcile()
            known = self._recorder.recorded()
            for result in decided:
                if result.number not in known:
                    self._recorder.write(result)

        self._jobs.put(job)

    def write(self, result: TrialResult) -> None:
        """Write a decided trial."""

        def job() -> None:
            self._recorder.write(result)
            fault("after-record", result.number)

        self._jobs.put(job)

    def progress(self, done: int, figures: Callable[[], tuple[Mapping[str, float], Iterable[int]]]) -> None:
        """Write the study's figures after `done` trials, and who is on its front; computed in the thread."""
        self._jobs.put(lambda: self._recorder.progress(done, *figures()))

    def close(self, state: str, files: Mapping[str, str], front: Sequence[FrontMember] = ()) -> None:
        """Write what is left, end the study's run, and wait for it."""
        self._jobs.put(lambda: self._recorder.finish(state, files, front))
        self._jobs.put(None)
        self._thread.join()

    def abandon(self) -> None:
        """End the thread after what is left, without waiting: the study broke off."""
        self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if self._failure is not None:
                continue
            try:
                job()
            except PleachError as error:
                self._failure = error
                logger.warning("nothing more is recorded in MLflow in this run: %s", error)
