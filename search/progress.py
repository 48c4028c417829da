"""Who watches a study run: a callback object, which the command line draws and a service streams."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from search.books import Books
from search.result import Report, TrialRequest, TrialResult


class Progress(Protocol):
    """Every call comes from the driver's own thread and must return at once."""

    def started(self, summary: Mapping[str, Any]) -> None:
        """The study begins or goes on; `summary` as :meth:`search.study.Study.summary` gives it."""
        ...

    def launched(self, request: TrialRequest) -> None:
        """A trial is given to a worker."""
        ...

    def reported(self, request: TrialRequest, report: Report) -> None:
        """A trial came through an iteration."""
        ...

    def decided(self, result: TrialResult, books: Books) -> None:
        """A trial is complete, pruned or failed, and entered in the books."""
        ...

    def noticed(self, line: str) -> None:
        """Something that the user should know now; may come from a signal's handler, so it waits for no lock."""
        ...

    def finished(self, summary: Mapping[str, Any]) -> None:
        """The run is over."""
        ...


class Silent:
    """Watches nothing."""

    def started(self, summary: Mapping[str, Any]) -> None: ...
    def launched(self, request: TrialRequest) -> None: ...
    def reported(self, request: TrialRequest, report: Report) -> None: ...
    def decided(self, result: TrialResult, books: Books) -> None: ...
    def noticed(self, line: str) -> None: ...
    def finished(self, summary: Mapping[str, Any]) -> None: ...
