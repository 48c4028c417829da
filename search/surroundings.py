"""What surrounds a run while it lasts: the signals that end it, the study's log, and the home that tasks find."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Protocol

from search.home import Home, StudyFolder

#: The study's own log: a line per trial goes to the file and to nobody's screen.
LOG = "search.log"


class Stoppable(Protocol):
    """What a signal is passed on to."""

    @property
    def halted(self) -> bool: ...
    @property
    def stopped(self) -> bool: ...
    def stop(self, reason: str, *, now: bool = False) -> None: ...


@contextlib.contextmanager
def listening(driver: Stoppable) -> Iterator[None]:
    """Ctrl-C once: finish what runs. Twice, or SIGTERM: stop now. A third time: Python's own way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def heard(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and driver.halted:
            signal.signal(signal.SIGINT, before[signal.SIGINT])
        driver.stop("interrupted", now=number == signal.SIGTERM or driver.stopped)

    for number in before:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _StudyLog(logging.FileHandler):
    """A file that says nothing where it cannot be written: what matters is raised elsewhere."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802
        pass


@contextlib.contextmanager
def logged(folder: StudyFolder) -> Iterator[None]:
    """What the parts have to say goes to the study's log as well."""
    handler = _StudyLog(folder.log, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    own, parts = logging.getLogger(LOG), logging.getLogger("search")
    own.propagate = False
    own.setLevel(logging.INFO)
    for logger_ in (own, parts):
        logger_.addHandler(handler)
    try:
        yield
    finally:
        for logger_ in (own, parts):
            logger_.removeHandler(handler)
        handler.close()


@contextlib.contextmanager
def home_for_tasks(home: Home) -> Iterator[None]:
    """Tasks keep what takes long to make in the home of the study that they are for."""
    before = os.environ.get("PLEACH_HOME")
    os.environ["PLEACH_HOME"] = str(home.root)
    try:
        yield
    finally:
        if before is None:
            del os.environ["PLEACH_HOME"]
        else:
            os.environ["PLEACH_HOME"] = before
