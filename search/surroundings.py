"""What surrounds a run while it lasts: the signals that end it, the study's log, and the home that tasks find."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
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


Tell = Callable[[str], None]

FINISHING = "finishing the trials that run: Ctrl-C again stops at once, and nothing that is decided is lost"
STOPPING = "stopping now: what runs is taken up again by the next run"
RECORDING = "writing the study's record: Ctrl-C again stops at once, and the next run writes it"


def _on_standard_error(line: str) -> None:
    # Not by `sys.stderr`: the signal may have come in the middle of a write to it.
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())


@contextlib.contextmanager
def listening(driver: Stoppable, tell: Tell = _on_standard_error) -> Iterator[None]:
    """Ctrl-C once: finish what runs. Twice, or SIGTERM: stop now. A third time: Python's own way. Each is answered."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def heard(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and driver.halted:
            raise KeyboardInterrupt
        driver.stop("interrupted", now=number == signal.SIGTERM or driver.stopped)
        tell(STOPPING if driver.halted else FINISHING)

    for number in before:
        signal.signal(number, heard)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def recording(tell: Tell = _on_standard_error) -> Iterator[None]:
    """Ctrl-C once: say what is still being written. Twice: Python's own way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)

    def heard(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        tell(RECORDING)

    signal.signal(signal.SIGINT, heard)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


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
